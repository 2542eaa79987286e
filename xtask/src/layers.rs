//! The house rule: a module of memtrace uses its own layer or lower ones, and unsafe code has two homes.
//!
//! Input: the sources of `memtrace` and `memtrace-ebpf`, as tokens, so that comments and strings do not count.
//! Source: the table in `ARCHITECTURE.md`.
//! Not here: imports from other crates; cargo's features guard those.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

use crate::workspace;

/// The modules of memtrace, lowest layer first; those of one row may use one another.
const LAYERS: [&[&str]; 13] = [
    &["units"],
    &["pagemap"],
    &["select"],
    &["event"],
    &["census"],
    &["decode", "unwind"],
    &["order", "region", "timeline"],
    &["pipeline"],
    &["record", "export", "report", "snapshot"],
    &["sys"],
    &["live", "probe", "host", "symbolize"],
    &["session"],
    &["cli"],
];

/// How many of [`LAYERS`] are core and codec: no kernel, no clock, and unsafe code forbidden by the compiler.
const PURE_LAYERS: usize = 9;

/// Where unsafe code may stand, below the root of the work tree.
const UNSAFE_HOMES: [&str; 5] = [
    "memtrace/src/sys.rs",
    "memtrace/src/sys/",
    "memtrace-ebpf/src/prog.rs",
    "memtrace-ebpf/src/prog/",
    "memtrace-ebpf/src/main.rs",
];

/// Fails with every breach in the work tree, one a line.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut breaches = Vec::new();
    for package in ["memtrace", "memtrace-ebpf"] {
        let src = workspace::root().join(package).join("src");
        for path in rust_files(&src)? {
            let name = path.strip_prefix(workspace::root())?.to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {name}"))?;
            breaches.extend(breaches_of(&name, &text)?);
        }
    }
    if breaches.is_empty() {
        eprintln!("layers: every module uses its own layer or lower ones");
        return Ok(());
    }
    bail!("the layers are broken:\n  {}", breaches.join("\n  "))
}

/// Every breach in the file `name`, a path below the root of the work tree, whose content is `text`.
fn breaches_of(name: &str, text: &str) -> anyhow::Result<Vec<String>> {
    let tokens = text.parse().map_err(|cause| anyhow::anyhow!("cannot read {name} as Rust: {cause}"))?;
    let mut breaches = breaches_of_safety(name, &tokens);
    if let Some(inner) = name.strip_prefix("memtrace/src/") {
        breaches.extend(breaches_of_layers(name, inner, text, &tokens));
    }
    Ok(breaches)
}

/// Uses of higher or unknown modules, and a missing `forbid(unsafe_code)`; `inner` is the path below `src`.
fn breaches_of_layers(name: &str, inner: &str, text: &str, tokens: &TokenStream) -> Vec<String> {
    let is_top_level = !inner.contains('/');
    let module = inner.split(['/', '.']).next().unwrap_or(inner);
    if module == "lib" || module == "main" {
        return Vec::new();
    }
    let Some(own) = layer(module) else {
        return vec![format!("{name}: module `{module}` is not in the table of layers")];
    };
    let mut breaches = Vec::new();
    if own < PURE_LAYERS && is_top_level && !text.contains("#![forbid(unsafe_code)]") {
        breaches.push(format!("{name}: a pure module says `#![forbid(unsafe_code)]`"));
    }
    for Use { root, name: used, line } in uses(tokens) {
        // `super` is the crate in a file that stands directly in src; a name unknown there is an item
        // seen from a test.
        match (root, layer(&used)) {
            (Root::Super, _) if !is_top_level => {}
            (_, Some(layer)) if layer > own => {
                breaches.push(format!("{name}:{line}: `{module}` uses `{used}` of a higher layer"));
            }
            (Root::Crate, None) => {
                breaches.push(format!("{name}:{line}: `{used}` is not in the table of layers"));
            }
            (Root::Crate, Some(_)) | (Root::Super, _) => {}
        }
    }
    breaches
}

/// Unsafe code outside its homes in the file `name`.
fn breaches_of_safety(name: &str, tokens: &TokenStream) -> Vec<String> {
    if UNSAFE_HOMES.iter().any(|home| name.starts_with(home)) {
        return Vec::new();
    }
    let mut lines = Vec::new();
    walk(tokens, &mut |tokens| {
        lines.extend(tokens.iter().filter_map(as_ident).filter(|ident| *ident == "unsafe").map(line));
    });
    lines
        .into_iter()
        .map(|line| format!("{name}:{line}: unsafe code outside {}", UNSAFE_HOMES.join(", ")))
        .collect()
}

/// The position of `module` in [`LAYERS`].
fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// One path that begins at the crate root, or at `super`.
#[derive(Debug, PartialEq, Eq)]
struct Use {
    root: Root,
    /// The first name after the root.
    name: String,
    /// Line in the file, from 1.
    line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    Crate,
    Super,
}

/// Every `crate::name` and `super::name`, and the names of `crate::{…}` and `super::{…}`, in order.
fn uses(tokens: &TokenStream) -> Vec<Use> {
    let mut found = Vec::new();
    walk(tokens, &mut |tokens| {
        for window in tokens.windows(4) {
            let [first, colon, second_colon, next] = window else {
                continue;
            };
            let root = match as_ident(first) {
                Some(ident) if ident == "crate" => Root::Crate,
                Some(ident) if ident == "super" => Root::Super,
                _ => continue,
            };
            if !is_punct(colon, ':') || !is_punct(second_colon, ':') {
                continue;
            }
            found.extend(leading_names(next).iter().map(|name| Use {
                root,
                name: name.to_string(),
                line: line(name),
            }));
        }
    });
    found
}

/// The name that a path goes on with, or those that its braces begin with; not `self`, `super` and `*`.
fn leading_names(next: &TokenTree) -> Vec<Ident> {
    let names = match next {
        TokenTree::Ident(ident) => vec![ident.clone()],
        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
            let tokens: Vec<_> = group.stream().into_iter().collect();
            tokens
                .split(|token| is_punct(token, ','))
                .filter_map(|item| as_ident(item.first()?))
                .cloned()
                .collect()
        }
        TokenTree::Group(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => Vec::new(),
    };
    names.into_iter().filter(|name| *name != "self" && *name != "super").collect()
}

/// Calls `visit` with the tokens of each nesting level.
fn walk(tokens: &TokenStream, visit: &mut impl FnMut(&[TokenTree])) {
    let tokens: Vec<_> = tokens.clone().into_iter().collect();
    visit(&tokens);
    for token in &tokens {
        if let TokenTree::Group(group) = token {
            walk(&group.stream(), visit);
        }
    }
}

fn as_ident(token: &TokenTree) -> Option<&Ident> {
    match token {
        TokenTree::Ident(ident) => Some(ident),
        TokenTree::Group(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => None,
    }
}

fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

fn line(ident: &Ident) -> usize {
    ident.span().start().line
}

/// Every Rust file below `directory`, in order of name.
fn rust_files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(name: &str, text: &str) -> Vec<String> {
        breaches_of(name, text).expect("the literal is Rust")
    }

    #[test]
    fn a_lower_layer_and_the_same_row_may_be_used() {
        let text = "#![forbid(unsafe_code)] use crate::{event::Loss, order::Window, units};";

        assert_eq!(breaches("memtrace/src/timeline.rs", text), [""; 0]);
    }

    #[test]
    fn an_upward_import_names_file_line_and_modules() {
        let text = "#![forbid(unsafe_code)]\nuse crate::{\n    units::PageSize,\n    pipeline::Pipeline,\n};";

        assert_eq!(
            breaches("memtrace/src/event.rs", text),
            ["memtrace/src/event.rs:4: `event` uses `pipeline` of a higher layer"]
        );
    }

    #[test]
    fn an_upward_path_inside_a_macro_call_is_found() {
        let text = "fn f() { assert!(matches!(x, crate::session::End::Done)); }";

        assert_eq!(
            breaches("memtrace/src/probe/scan.rs", text),
            ["memtrace/src/probe/scan.rs:1: `probe` uses `session` of a higher layer"]
        );
    }

    #[test]
    fn super_is_the_crate_in_a_top_level_file_only() {
        assert_eq!(
            breaches("memtrace/src/host.rs", "use super::cli;"),
            ["memtrace/src/host.rs:1: `host` uses `cli` of a higher layer"]
        );
        assert_eq!(breaches("memtrace/src/host/kernel.rs", "use super::cli;"), [""; 0]);
    }

    #[test]
    fn comments_and_strings_are_not_uses() {
        let text =
            "/// See [`crate::cli`].\nfn f() { let _ = \"crate::cli unsafe\"; /* unsafe crate::cli */ }";

        assert_eq!(breaches("memtrace/src/host.rs", text), [""; 0]);
    }

    #[test]
    fn a_module_outside_the_table_is_a_breach() {
        assert_eq!(
            breaches("memtrace/src/helpers.rs", ""),
            ["memtrace/src/helpers.rs: module `helpers` is not in the table of layers"]
        );
        assert_eq!(
            breaches("memtrace/src/host.rs", "use crate::helpers::f;"),
            ["memtrace/src/host.rs:1: `helpers` is not in the table of layers"]
        );
    }

    #[test]
    fn a_pure_module_forbids_unsafe_code() {
        assert_eq!(
            breaches("memtrace/src/record.rs", ""),
            ["memtrace/src/record.rs: a pure module says `#![forbid(unsafe_code)]`"]
        );
    }

    #[test]
    fn unsafe_code_stands_in_sys_and_in_the_programs_only() {
        let text = "fn f() { unsafe { g() } }";

        assert_eq!(breaches("memtrace/src/sys/clock.rs", text), [""; 0]);
        assert_eq!(breaches("memtrace-ebpf/src/prog/emit.rs", text), [""; 0]);
        assert_eq!(breaches("memtrace/src/live.rs", text).len(), 1);
        assert_eq!(breaches("memtrace-ebpf/src/abi/heat.rs", text).len(), 1);
    }
}

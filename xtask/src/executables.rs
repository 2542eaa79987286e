//! Executables that cargo built.
//!
//! Input: what cargo prints with [`MESSAGES`]. Output: [`Executable`]s.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The option of cargo by which it prints what is read here.
pub(crate) const MESSAGES: [&str; 2] = ["--message-format", "json-render-diagnostics"];

/// An executable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Executable {
    /// The name of its target.
    pub(crate) name: String,
    /// What cargo calls its kind: `lib`, `bin`, `test`.
    pub(crate) kind: String,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// The directory of its package, which tests start in.
    pub(crate) package: PathBuf,
    /// Whether it runs tests, be they those of a library or a program.
    pub(crate) is_test: bool,
}

impl Executable {
    /// Finds all in what cargo printed.
    pub(crate) fn parse(messages: &str) -> Vec<Self> {
        let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
        artifacts
            .filter_map(|Artifact { target, profile, executable, manifest_path }| {
                Some(Self {
                    path: executable?,
                    kind: target.kind.into_iter().next()?,
                    package: manifest_path.parent().map(Path::to_owned)?,
                    name: target.name,
                    is_test: profile.test,
                })
            })
            .collect()
    }
}

/// The part of cargo's messages that names executables.
#[derive(Deserialize)]
struct Artifact {
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_distinguished_from_libraries() {
        let messages = r#"{"reason":"compiler-artifact","manifest_path":"/p/memtrace/Cargo.toml","target":{"kind":["lib"],"name":"memtrace"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/p/tests/Cargo.toml","target":{"kind":["test"],"name":"kernel"},"profile":{"test":true},"executable":"/t/deps/kernel-1"}
{"reason":"build-finished","success":true}"#;

        let kernel = Executable {
            name: "kernel".to_owned(),
            kind: "test".to_owned(),
            path: "/t/deps/kernel-1".into(),
            package: "/p/tests".into(),
            is_test: true,
        };
        assert_eq!(Executable::parse(messages), [kernel]);
    }
}

//! What the host can record: the verdict, and the README's table of facilities. Needs no privileges.

use std::{env, fs, path::Path};

use memtrace::host::{Description, Facility};
use memtrace_tests::memtrace;

#[test]
fn doctor_prints_a_verdict() {
    let run = memtrace!().run(["doctor", "--json"]).finish();
    let json: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");

    assert!(json.is_object());
    assert!(matches!(run.code(), Some(0 | 1)), "{run:#?}");
    assert!(!memtrace!().run(["doctor"]).finish().stdout.is_empty());
}

/// The README's table of facilities, from the one in the program.
fn facilities() -> String {
    let rows = Facility::ALL.map(|facility| {
        let Description { name, purpose, since, without } = facility.describe();
        format!("| `{name}` | {purpose} | {since} | {without} |\n")
    });
    format!("| Facility | For | Kernel | Without it |\n|---|---|---|---|\n{}", rows.concat())
}

/// With `MEMTRACE_BLESS` set the README is corrected: `cargo xtask bless`.
#[test]
fn readme_has_the_facilities_of_the_program() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(&path).expect("the README");
    let (head, rest) = readme.split_once("by `cargo xtask bless` -->\n").expect("a mark");
    let (table, tail) = rest.split_once("<!-- end of facilities -->").expect("an end mark");

    if env::var_os("MEMTRACE_BLESS").is_some() {
        let blessed =
            format!("{head}by `cargo xtask bless` -->\n{}<!-- end of facilities -->{tail}", facilities());
        fs::write(&path, blessed).expect("the README can be written");
    } else {
        assert_eq!(table, facilities(), "run `cargo xtask bless`");
    }
}

//! Recordings that earlier builds made are read by this one, by every verb, without privileges; and what a later build adds costs
//! itself alone.
//!
//! `fixtures/facts.csv` has what the build that recorded them said of each, when it had been compared with the kernel's counters.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use memtrace_tests::{directory, memtrace};
use serde::Deserialize;
use serde_json::Value;

#[path = "fuzz/container.rs"]
mod container;
#[expect(dead_code, reason = "the fuzzer changes more of it")]
#[path = "fuzz/fields.rs"]
mod fields;

use container::{Container, FRAMES};
use fields::{Item, Payload};

/// What `memtrace::record` calls chunks with names of code.
const SYMBOLS: u32 = 4;

/// What is in one of the recordings; `None` what could not be known.
#[derive(Debug, Deserialize)]
struct Facts {
    recording: String,
    complete: bool,
    minor: u64,
    major: u64,
    uncounted_minor: Option<u64>,
    uncounted_major: Option<u64>,
    kernel_minor: Option<u64>,
    kernel_major: Option<u64>,
    // Rows of tables.
    timeline: usize,
    faults: usize,
    maps: usize,
    regions: usize,
    pages: usize,
    losses: usize,
}

impl Facts {
    /// Of all recordings; at least one.
    fn all() -> Vec<Self> {
        let mut reader = csv::Reader::from_path(fixtures().join("facts.csv")).expect("it is in the tree");
        let all: Vec<_> = reader.deserialize().map(|row| row.expect("a row of facts")).collect();
        assert!(!all.is_empty());
        all
    }

    fn path(&self) -> PathBuf {
        fixtures().join(&self.recording).with_extension("mtrace")
    }

    /// Checks the tables of the recording at `path`, in which `losses` more are missing.
    #[track_caller]
    fn expect_rows(&self, path: &Path, losses: usize) {
        for (table, rows) in [
            ("timeline", self.timeline),
            ("faults", self.faults),
            ("maps", self.maps),
            ("regions", self.regions),
            ("pages", self.pages),
            ("losses", self.losses + losses),
        ] {
            let found = rows_of(table, path);
            if losses > 0 && table == "timeline" {
                // What a loss puts in doubt has rows of its own.
                assert_eq!(sums(&found), sums(&rows_of(table, &self.path())), "{self:?}");
                continue;
            }
            assert_eq!(found.len(), rows, "{table} of {self:?}");
        }
    }
}

type CsvRow = BTreeMap<String, String>;

fn rows_of(table: &str, path: &Path) -> Vec<CsvRow> {
    let csv = output(&["export", "-f", "csv", "--table", table], path);
    csv::Reader::from_reader(csv.as_bytes()).deserialize().map(|row| row.expect("a row")).collect()
}

/// Faults and calls by kind, of all rows of the timeline together.
fn sums(rows: &[CsvRow]) -> BTreeMap<&str, u64> {
    const CALLS: [&str; 7] = ["mmaps", "munmaps", "mremaps", "mprotects", "madvises", "brks", "other_maps"];
    let is_count = |column: &str| column.ends_with("_faults") || CALLS.contains(&column);
    let counts = rows.iter().flatten().filter(|(column, count)| is_count(column) && !count.is_empty());
    counts.fold(BTreeMap::new(), |mut sums, (column, count)| {
        *sums.entry(column.as_str()).or_default() += count.parse::<u64>().expect("a number");
        sums
    })
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// What a verb says of the recording at `path`.
#[track_caller]
fn output(verb: &[&str], path: &Path) -> String {
    memtrace!().run(verb).arg(path).finish().expect_code(0).stdout
}

#[track_caller]
fn json(verb: &[&str], path: &Path) -> Value {
    serde_json::from_str(&output(verb, path)).expect("JSON")
}

#[test]
fn recordings_of_earlier_builds_say_what_they_said() {
    for facts in Facts::all() {
        let path = facts.path();
        let report = json(&["report", "--json"], &path);
        let number = |pointer| report.pointer(pointer).and_then(Value::as_u64);

        assert_eq!(report["complete"], facts.complete, "{facts:?}");
        assert_eq!(number("/faults/minor"), Some(facts.minor), "{facts:?}");
        assert_eq!(number("/faults/major"), Some(facts.major), "{facts:?}");
        assert_eq!(number("/uncounted/minor"), facts.uncounted_minor, "{facts:?}");
        assert_eq!(number("/uncounted/major"), facts.uncounted_major, "{facts:?}");
        assert_eq!(number("/kernel_counted/minor"), facts.kernel_minor, "{facts:?}");
        assert_eq!(number("/kernel_counted/major"), facts.kernel_major, "{facts:?}");
        facts.expect_rows(&path, 0);
        assert!(output(&["report"], &path).contains("faults"));
        assert!(output(&["info"], &path).contains("format 6"));
        assert_eq!(json(&["info", "--json"], &path)["recovery"]["complete"], true);
    }
}

/// The workload touched 1 MiB, which was scanned, and then moved it; no scan saw where it went.
#[test]
fn region_that_moved_has_the_pages_that_were_seen_of_it() {
    let path = fixtures().join("moved.mtrace");
    let maps = output(&["export", "-f", "csv", "--table", "maps"], &path);
    let mut maps = csv::Reader::from_reader(maps.as_bytes());
    let rows = maps.deserialize().map(|row| row.expect("a row of maps"));
    let calls = rows.filter(|row: &BTreeMap<String, String>| row["action"] == "mremap");
    let place = calls.last().expect("it moved")["start_addr"].clone();

    let report = json(&["report", "--json"], &path);
    let mut regions = report["regions"].as_array().expect("regions").iter();
    let moved = regions.find(|region| region["start_addr"] == *place).expect("it had faults");
    assert_eq!((&moved["minor_faults"], &moved["pages"]["present"]), (&256.into(), &256.into()));
}

/// A shell ran `ls`. Names stand behind the end mark, where earlier builds do not read.
#[test]
fn code_has_the_names_that_the_recording_has() {
    let path = fixtures().join("stacks.mtrace");
    let frames = output(&["export", "-f", "csv", "--table", "frames"], &path);
    let mut frames = csv::Reader::from_reader(frames.as_bytes());
    let rows = frames.deserialize().map(|row| row.expect("a row of frames"));
    let rows: Vec<BTreeMap<String, String>> = rows.collect();
    let named = |name: &str| rows.iter().filter(|row| row["function"] == name).count();

    assert_eq!((rows.len(), named(""), named("_dl_relocate_object")), (1363, 156, 22));
    let mut recording = Container::parse(&fs::read(&path).expect("it is in the tree"));
    recording.chunks.retain(|chunk| chunk.kind != SYMBOLS);
    let scratch = directory();
    let without = scratch.path().join("without.mtrace");
    fs::write(&without, recording.to_bytes()).expect("there is room");
    let frames = output(&["export", "-f", "csv", "--table", "frames"], &without);
    assert!(!frames.contains("_dl_relocate_object"));
}

#[test]
fn what_a_later_build_adds_is_one_loss_and_the_rest_is_read() {
    for facts in Facts::all() {
        let mut recording = Container::parse(&fs::read(facts.path()).expect("it is in the tree"));
        let chunk = recording.chunks.iter_mut().find(|chunk| chunk.kind == FRAMES).expect("frames");
        let mut payload = Payload::parse(&chunk.plain, chunk.items).expect("items");
        payload
            .items
            .insert(1, Item { kind: 9_999, fields: vec![b"what this is nobody knows".to_vec()], ring: None });
        chunk.items += 1;
        chunk.plain = payload.to_bytes();
        let scratch = directory();
        let path = scratch.path().join("later.mtrace");
        fs::write(&path, recording.to_bytes()).expect("there is room");

        assert_eq!(json(&["report", "--json"], &path)["losses"]["unknown_kind"], 1, "{facts:?}");
        facts.expect_rows(&path, 1);
    }
}

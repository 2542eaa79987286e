//! What stands behind memory, whatever its path is called: against a program that knows what it mapped.

use std::path::Path;

use memtrace_tests::{
    directory_on_disk,
    ledger::{Kinds, Stretch},
    made, memtrace,
    mounted::Mounted,
    program,
    recording::Recording,
    require,
    requirement::{self, skip},
    rows::RegionRow,
    run::Run,
    setting::HugePages,
    turn,
};
use serde_json::Value;
use tempfile::TempDir;

/// Where the workload finds file systems; what this machine lacks is left out.
struct Places {
    disk: Option<TempDir>,
    tmpfs: Mounted,
    huge: Option<(Mounted, HugePages)>,
}

impl Places {
    fn new() -> Self {
        let huge = HugePages::add(4).and_then(|pages| {
            let mounted = Mounted::new("hugetlbfs", "pagesize=2M").map_err(|error| error.to_string())?;
            Ok((mounted, pages))
        });
        Self {
            disk: directory_on_disk().inspect_err(|reason| skip(reason)).ok(),
            tmpfs: Mounted::new("tmpfs", "").expect("root may"),
            huge: huge.inspect_err(|reason| skip(reason)).ok(),
        }
    }

    /// The workload's command line.
    fn command(&self) -> Vec<String> {
        let options = [
            ("--disk", self.disk.as_ref().map(TempDir::path)),
            ("--tmpfs", Some(self.tmpfs.path())),
            ("--hugetlbfs", self.huge.as_ref().map(|(mounted, _)| mounted.path())),
        ];
        let options = options.into_iter().filter_map(|(option, path)| Some([option.into(), text(path?)]));
        [program!("kinds").to_owned()].into_iter().chain(options.flatten()).collect()
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// The region that held all of `place` at last.
#[track_caller]
fn region(rows: &[RegionRow], pid: u32, place: Stretch) -> &RegionRow {
    let holds =
        |row: &&RegionRow| row.tgid == pid && row.start_addr <= place.start && place.end <= row.end_addr;
    let last = rows.iter().filter(holds).max_by_key(|row| row.death_ns.unwrap_or(u64::MAX));
    last.unwrap_or_else(|| panic!("{place:x?} in {rows:#x?}"))
}

/// Checks that each thing is called what it is, but for those in `unknown`.
#[track_caller]
fn expect_kinds(recording: &Recording, kinds: &Kinds, unknown: &[&str]) {
    recording.expect_map_identity(1);
    let rows = recording.regions();
    for (what, kind) in kinds.things.iter().filter(|(what, _)| !unknown.contains(&what.as_str())) {
        let row = region(&rows, kinds.pid, kind.place);
        assert_eq!(row.backing, kind.backing, "{what}: {row:#x?}");
        assert!(row.name.ends_with(&kind.name), "{what}: {row:#x?}");
    }
}

/// Checks that each mapped file lies where `maps` of the process says; a VMA may be a part of a region.
#[track_caller]
fn expect_file_offsets(recording: &Recording, maps: &str) {
    let rows = recording.regions();
    let number = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
    let mut files = 0;
    for line in maps.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let &[range, _, offset, _, inode, ..] = &words[..] else { panic!("{line}") };
        let start = number(range.split_once('-').expect("a range").0);
        let row = rows.iter().find(|row| (row.start_addr..row.end_addr).contains(&start));
        let row = row.unwrap_or_else(|| panic!("{line} in {rows:#x?}"));
        let found = row.file_offset_bytes.map(|first| first + (start - row.start_addr));
        if inode == "0" {
            assert_eq!(found, None, "{line}: {row:#x?}");
        } else {
            assert_eq!(found, Some(number(offset)), "{line}: {row:#x?}");
            files += 1;
        }
    }
    assert!(files > 4, "{maps}");
}

#[test]
fn recorded_memory_is_what_the_program_mapped() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let places = Places::new();
    let command = places.command();
    let command: Vec<_> = command.iter().map(String::as_str).collect();

    let recording = memtrace!().record(&["--verify"], &command).expect_code(0);

    let kinds: Kinds = recording.run.last_line();
    let unknown: &[&str] = if requirement::btf().is_none() { &[] } else { &["node_on_tmpfs"] };
    expect_kinds(&recording, &kinds, unknown);
    // perf did not say which file these are of; what maps says of them then is the same region.
    assert!(recording.regions().iter().all(|row| row.name != "//toolong"), "{:#x?}", recording.regions());
}

#[test]
fn memory_of_a_running_program_is_what_it_mapped() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let places = Places::new();
    let command = places.command();
    let mut running = Run::new(&command[0]).args(&command[1..]).with_stdin().start();
    let kinds: Kinds = serde_json::from_str(&running.first_line()).expect("a ledger");
    let pid = kinds.pid.to_string();

    let recording = memtrace!().record(&["-p", &pid, "--duration", "1s"], &[]).expect_code(0);
    let snapshot = memtrace!().census(&["-p", &pid]);
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
    running.send("\n");
    let _end = running.finish().expect_code(0);

    // Only its inode says that it is a device, and nobody asks for that after it was mapped.
    expect_kinds(&recording, &kinds, &["node_on_tmpfs"]);
    expect_file_offsets(&recording, &maps);
    let regions = snapshot["regions"].as_array().expect("regions");
    for (what, kind) in kinds.things.iter().filter(|(what, _)| *what != "node_on_tmpfs") {
        let address = |row: &Value, key: &str| {
            let text = row[key].as_str().and_then(|text| text.strip_prefix("0x")).expect("an address");
            u64::from_str_radix(text, 16).expect("hexadecimal")
        };
        // A VMA may be a part of a region.
        let holds = |row: &&Value| (address(row, "start")..address(row, "end")).contains(&kind.place.start);
        let row = regions.iter().find(holds).unwrap_or_else(|| panic!("{what} in {regions:#?}"));
        assert_eq!(row["backing"], kind.backing, "{what}: {row:#}");
    }
}

#[test]
fn heap_with_a_named_part_is_one_region() {
    require!(root);
    require!(bpf);
    let recording = memtrace!().record(&["--verify"], &[program!("kinds")]).expect_code(0);
    let kinds: Kinds = recording.run.last_line();
    let heap = made!(kinds.things.get("heap").ok_or("needs CONFIG_ANON_VMA_NAME"));

    expect_kinds(&recording, &kinds, &[]);
    let parts = recording.regions().into_iter().filter(|row| {
        row.tgid == kinds.pid && row.start_addr < heap.place.end && heap.place.start < row.end_addr
    });
    assert_eq!(parts.count(), 1);
}

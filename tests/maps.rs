//! The address space over time against the kernel's own maps, and against programs that know what they mapped.

use std::collections::BTreeMap;

use memtrace_tests::{
    backing_of_files,
    ledger::{Ledger, Stretch, Zoo},
    memtrace, program, require,
    rows::{MapRow, RegionRow},
    setting::HugePages,
};

/// A recorded zoo.
struct Visit {
    zoo: Zoo,
    regions: Vec<RegionRow>,
    maps: Vec<MapRow>,
    /// What stands behind its files.
    files: &'static str,
}

impl Visit {
    #[track_caller]
    fn new() -> Self {
        let recording = memtrace!().record(&["--verify"], &[program!("mapzoo")]).expect_code(0);
        recording.expect_map_identity(1);
        let zoo = recording.run.last_line();
        Self {
            zoo,
            regions: recording.regions(),
            maps: recording.maps(),
            files: backing_of_files(recording.directory()),
        }
    }

    /// Where a thing is; `None` where this kernel does not allow it.
    #[track_caller]
    fn place(&self, what: &str) -> Option<Stretch> {
        let place = self.zoo.things.get(what).copied();
        assert!(place.is_some() || self.zoo.missing.contains_key(what), "{what} in {:#?}", self.zoo);
        place
    }

    /// The region that held all of a thing when the program ended.
    #[track_caller]
    fn region(&self, place: Stretch) -> &RegionRow {
        let holds = |row: &&RegionRow| {
            row.tgid == self.zoo.pid && row.start_addr <= place.start && place.end <= row.end_addr
        };
        let last = self.regions.iter().filter(holds).max_by_key(|row| row.death_ns);
        last.unwrap_or_else(|| panic!("{place:x?} in {:#x?}", self.regions))
    }

    /// Checks what a thing is, and that its name holds each of `parts`.
    #[track_caller]
    fn expect(&self, what: &str, backing: &str, parts: &[&str]) {
        let Some(place) = self.place(what) else { return };
        let row = self.region(place);
        assert_eq!(row.backing, backing, "{what}: {row:#x?}");
        assert!(parts.iter().all(|part| row.name.contains(part)), "{what}: {row:#x?}");
    }
}

#[test]
fn regions_are_called_what_they_are() {
    require!(root);
    require!(bpf);
    let visit = Visit::new();
    let file = visit.files;

    visit.expect("thread_stack", "thread-stack", &[]);
    visit.expect("stack", "stack", &["[stack]"]);
    visit.expect("heap", "heap", &["[heap]"]);
    visit.expect("memfd", "memfd", &["zoo-memfd"]);
    visit.expect("sysv", "sysv", &["SYSV"]);
    visit.expect("shared_anon", "shmem", &[]);
    visit.expect("named_anon", "anon", &["zoo"]);
    visit.expect("jit", "anon", &[]);
    visit.expect("file", file, &["/zoo-file"]);
    visit.expect("deleted_file", file, &["/zoo-deleted (deleted)"]);
    visit.expect("odd_name", file, &["/zoo", "odd"]);
}

#[test]
fn hugetlb_mapping_is_hugetlb() {
    require!(root);
    require!(bpf);
    let _pool = HugePages::add(4).expect("memory in one piece");
    let visit = Visit::new();

    assert!(visit.place("hugetlb").is_some(), "{:#?}", visit.zoo);
    visit.expect("hugetlb", "hugetlb", &[]);
}

#[test]
fn stack_grows_as_one_region() {
    require!(root);
    require!(bpf);
    let visit = Visit::new();
    let grown = visit.region(visit.zoo.things["stack"]);

    // The process was another program before, whose regions were gone when this one was born.
    let overlaps = |row: &&RegionRow| {
        row.tgid == visit.zoo.pid
            && row.start_addr < grown.end_addr
            && grown.start_addr < row.end_addr
            && row.death_ns.is_none_or(|death| Some(death) > grown.birth_ns)
    };
    let stacks: Vec<_> = visit.regions.iter().filter(overlaps).collect();
    assert_eq!(stacks.len(), 1, "{stacks:#x?}");
    // A stack is limited to 8 MiB by default.
    assert!((4 << 20..=8 << 20).contains(&(grown.end_addr - grown.start_addr)), "{grown:#x?}");
}

#[test]
fn moved_region_keeps_its_number() {
    require!(root);
    require!(bpf);
    let visit = Visit::new();
    let (from, to) = (visit.zoo.things["moved_from"], visit.zoo.things["moved"]);

    let moved = visit.region(to);
    // Its memory became writable where it was at first.
    let is_first = |row: &&MapRow| {
        row.tgid == visit.zoo.pid && row.action == "mprotect" && row.start_addr == Some(from.start)
    };
    let first = visit.maps.iter().find(is_first).expect("the mprotect at the first place");
    assert_eq!(first.region, Some(moved.region));
    assert_eq!((moved.start_addr, moved.end_addr), (to.start, to.end));
}

#[test]
fn munmap_in_the_middle_leaves_two_related_regions() {
    require!(root);
    require!(bpf);
    let visit = Visit::new();
    let [low, high] = ["split_low", "split_high"].map(|what| {
        let place = visit.zoo.things[what];
        let row = visit.region(place);
        assert_eq!((row.start_addr, row.end_addr), (place.start, place.end), "{what}");
        row
    });

    assert_ne!(low.region, high.region);
    assert!(high.parent_region == Some(low.region) || low.parent_region == Some(high.region));
}

#[test]
fn each_flip_of_a_page_of_code_is_a_row() {
    require!(root);
    require!(bpf);
    let visit = Visit::new();
    let page = visit.zoo.things["jit"];

    let to_code = |row: &&MapRow| {
        row.tgid == visit.zoo.pid
            && row.action == "mprotect"
            && row.start_addr == Some(page.start)
            && row.perms == "r-xp"
    };
    assert_eq!(visit.maps.iter().filter(to_code).count() as u64, visit.zoo.jit_flips);
    assert_eq!(visit.region(page).perms, "rw-p");
}

#[test]
fn fork_copies_the_map_but_for_what_is_kept_from_it() {
    require!(root);
    require!(bpf);
    let visit = Visit::new();
    let child = visit.zoo.child.expect("the zoo forks");
    let is_copied = |what: &str| {
        let Stretch { start, end } = visit.zoo.things[what];
        let holds =
            |row: &&RegionRow| row.tgid == child.pid && row.start_addr <= start && end <= row.end_addr;
        visit.regions.iter().any(|row| holds(&row))
    };

    assert_eq!(is_copied("dontfork"), child.has_dontfork);
    assert!(is_copied("wipeonfork"), "wiped, but there");
}

#[test]
fn every_fault_knows_its_region_and_offset() {
    require!(root);
    require!(bpf);
    let recording = memtrace!().record(&[], &[program!("touch"), "write"]).expect_code(0);
    let _complete = recording.expect_complete();
    let ledger: Ledger = recording.run.last_line();
    let regions: BTreeMap<_, _> = recording.regions().into_iter().map(|row| (row.region, row)).collect();

    let faults = recording.faults();
    let completed = |kind: &str| kind == "minor" || kind == "major";
    for fault in faults.iter().filter(|fault| completed(&fault.kind)) {
        assert!(fault.region.is_some() && fault.offset_bytes.is_some(), "{fault:x?}");
    }
    let area = &ledger.areas[0];
    // The kernel puts a mapping below those that it has, so that it is the start of its region.
    for fault in area.rows_of(&faults) {
        assert_eq!(fault.offset_bytes, Some(fault.addr - area.start), "{fault:x?}");
        let region = &regions[&fault.region.expect("checked above")];
        assert_eq!((region.perms.as_str(), region.backing.as_str()), ("rw-p", "anon"), "{region:x?}");
    }
}

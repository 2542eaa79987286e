//! Address spaces that change without a call that says so, against what their program reads of its own maps.

use memtrace_tests::{
    ledger::{Spaces, Stretch},
    memory::page_bytes,
    memtrace, program,
    recording::Recording,
    require,
    rows::{MapRow, RegionRow},
    run::Run,
};

/// Records `spaces` doing `kind`, with its maps compared at its end.
#[track_caller]
fn record(kind: &str) -> (Recording, Spaces) {
    let recording = memtrace!().record(&["--verify"], &[program!("spaces"), kind]).expect_code(0);
    recording.expect_map_identity(1);
    let spaces = recording.run.last_line();
    (recording, spaces)
}

/// The regions of `pid` that overlap `place`, but for those of the program that it was before.
fn regions_of(recording: &Recording, pid: u32, place: Stretch) -> Vec<RegionRow> {
    let regions = recording.regions();
    let last = regions.iter().filter(|row| row.tgid == pid).filter_map(|row| row.death_ns).max();
    let is_there = |row: &RegionRow| {
        let overlaps = row.start_addr < place.end && place.start < row.end_addr;
        row.tgid == pid && overlaps && (row.death_ns.is_none() || row.death_ns == last)
    };
    regions.into_iter().filter(is_there).collect()
}

/// Checks that what grew to `place` is one region, that each step is a row, and that nothing is called unexplained.
#[track_caller]
fn expect_growth(recording: &Recording, spaces: &Spaces) -> RegionRow {
    let place = spaces.place.expect("it grew");
    let regions = regions_of(recording, spaces.pid, place);
    let [region] = &regions[..] else { panic!("one region at {place:x?}: {regions:#x?}") };
    assert_eq!((region.start_addr, region.end_addr), (place.start, place.end), "{region:x?}");
    let rows = recording.maps();
    let of_growth = |row: &&MapRow| row.action == "stack" && row.region == Some(region.region);
    assert!(rows.iter().filter(of_growth).count() as u64 >= 2 * spaces.steps, "{rows:#x?}");
    assert!(!rows.iter().any(|row| row.action == "unexplained"), "{rows:#x?}");
    region.clone()
}

#[test]
fn mapping_that_grows_down_is_one_region_and_each_step_a_row() {
    require!(root);
    require!(bpf);
    let (recording, spaces) = record("grows-down");

    let region = expect_growth(&recording, &spaces);

    let pages = 4 + 2 * spaces.steps;
    assert_eq!(region.end_addr - region.start_addr, pages * page_bytes() as u64);
}

#[test]
fn stack_that_a_system_call_makes_grow_is_no_unexplained_change() {
    require!(root);
    require!(bpf);
    let (recording, spaces) = record("stack");

    assert_eq!(expect_growth(&recording, &spaces).backing, "stack");
}

#[test]
fn ring_of_perf_events_is_not_in_the_child() {
    require!(root);
    require!(bpf);
    let (recording, spaces) = record("perf-ring");
    let ring = spaces.place.expect("it is mapped");
    let &[(child, rows)] = &spaces.children[..] else { panic!("one child: {spaces:?}") };
    assert_eq!(rows, 0, "the kernel does not copy it");

    assert_eq!(regions_of(&recording, spaces.pid, ring).len(), 1);
    let copied = recording.regions();
    let is_copy = |row: &&RegionRow| row.tgid == child && row.start_addr == ring.start;
    assert_eq!(copied.iter().filter(is_copy).count(), 0, "{copied:#x?}");
}

#[test]
fn heap_that_is_set_to_be_elsewhere_is_there() {
    require!(root);
    require!(bpf);
    let alone = Run::new(program!("spaces")).arg("other-heap").finish();
    let lacks = format!("needs CONFIG_CHECKPOINT_RESTORE: {}", alone.stderr.trim());
    require!(@ (alone.code() != Some(0)).then_some(lacks));
    let (recording, spaces) = record("other-heap");
    let heap = spaces.place.expect("it is mapped");
    assert_eq!(spaces.heap, [heap], "as maps calls it");

    let regions = regions_of(&recording, spaces.pid, heap);

    assert_eq!(regions.iter().map(|row| row.backing.as_str()).collect::<Vec<_>>(), ["heap"], "{regions:x?}");
    assert!(recording.maps().iter().any(|row| row.action == "prctl" && row.result == "0"));
}

#[test]
fn every_piece_of_the_heap_of_a_running_process_is_heap() {
    require!(root);
    require!(bpf);
    let mut target = Run::new(program!("spaces")).arg("heap-in-pieces").with_stdin().start();
    let before: Spaces = serde_json::from_str(&target.first_line()).expect("the workload says where");
    let mut recording = memtrace!().start(&["--verify", "-p", &before.pid.to_string()], &[]);
    recording.wait_for_report("/map_identity/resyncs", 1);
    target.send("\n");
    let after: Spaces = target.finish().expect_code(0).last_line();
    let recording = recording.finish().expect_code(0);

    recording.expect_map_identity(1);
    let gone = before.heap.last().expect("a heap").end;
    let kept = after.heap.last().expect("a heap").end;
    assert_eq!(gone - kept, 16 * page_bytes() as u64, "the last piece shrank by what it was told to");
    assert!(after.heap.len() > 2, "{after:?}");
    for piece in &after.heap {
        let regions = regions_of(&recording, after.pid, *piece);
        let [region] = &regions[..] else { panic!("one region at {piece:x?}: {regions:#x?}") };
        assert_eq!((region.start_addr, region.end_addr), (piece.start, piece.end));
        assert_eq!((region.backing.as_str(), region.name.as_str()), ("heap", "[heap]"));
    }
    let rows = recording.maps();
    let shrinks =
        |row: &&MapRow| row.action == "brk" && (row.start_addr, row.end_addr) == (Some(kept), Some(gone));
    assert_eq!(rows.iter().filter(shrinks).count(), 1, "{rows:#x?}");
}

//! What is scanned while a trace runs: what happens, what the user names, and in the end everything.

use std::{fs::File, os::unix::fs::FileExt as _};

use memtrace::{
    decode::Frame,
    event::{Observation, ScanReason, Seen},
};
use memtrace_tests::{
    frozen::Frozen,
    ledger::{Layout, Stretch},
    memory::page_bytes,
    memtrace,
    oracle::Rollup,
    program,
    recording::{InProgress, Recording},
    require,
    rows::TimelineRow,
    turn, wait_until,
};
use rustix::process::Signal;

/// Rows of regions that hold `stretch`.
fn rows_of(rows: Vec<TimelineRow>, stretch: &Stretch) -> Vec<TimelineRow> {
    let holds = |row: &TimelineRow| {
        row.start_addr.is_some_and(|start| start <= stretch.start)
            && row.end_addr.is_some_and(|end| stretch.end <= end)
    };
    rows.into_iter().filter(holds).collect()
}

/// Waits until as many pages as `pages` were seen in the region of `stretch`.
#[track_caller]
fn wait_for_pages(recording: &InProgress, stretch: &Stretch, pages: u64) {
    let rows = || rows_of(recording.timeline_so_far(), stretch);
    let is_seen = |row: &TimelineRow| row.present_pages.is_some_and(|present| present >= pages);
    assert!(wait_until(|| rows().iter().any(is_seen)), "{pages} pages of {stretch:x?} in {:#?}", rows());
}

/// Waits for the end of the first visit to all of an address space: an interval without a scan for it. How many it took.
#[track_caller]
fn wait_for_visit(recording: &mut InProgress) -> u64 {
    let (mut scans, mut before) = (0, 0);
    recording.wait_for_frame("end of a visit", |frame| match frame {
        Frame::Observation(Observation { seen: Seen::Pages(scan), .. }) => {
            scans += u64::from(scan.reason == ScanReason::Population);
            None
        }
        Frame::Heat(_) => {
            let is_over = scans > 0 && scans == before;
            before = scans;
            is_over.then_some(scans)
        }
        _ => None,
    })
}

/// Stops memtrace as ^C does.
#[track_caller]
fn stop(recording: InProgress) -> Recording {
    recording.running.signal(Signal::INT);
    let recording = recording.finish();
    assert_eq!(recording.run.signal(), Some(Signal::INT), "{:#?}", recording.run);
    recording
}

#[test]
fn process_that_does_nothing_is_seen_as_smaps_counts_it() {
    require!(root);
    require!(bpf);
    for kind in ["small", "huge", "cow", "file", "shmem"] {
        let _turn = turn();
        let frozen = Frozen::start(program!("layout"), kind, 8);
        let pids: Vec<_> = frozen.pids().map(|pid| pid.to_string()).collect();

        let options = ["-p", &pids.join(","), "--duration", "300ms"];
        let recording = memtrace!().record(&options, &[]).expect_code(0);

        let report = recording.report();
        for pid in frozen.pids() {
            let process = report.processes().into_iter().find(|process| process.tgid == pid);
            let pages = process.and_then(|process| process.pages).expect("it was scanned");
            let resident = pages.resident_kib();
            require!(@ resident.is_none().then(|| "needs Linux 6.7 (PAGEMAP_SCAN)".to_owned()));
            assert_eq!(resident, Some(Rollup::of(pid).rss), "{kind}: {pages:?}");
        }
        assert_eq!(report.number("/faults/minor"), 0, "{kind}");
        assert!(report.number("/scans/by/full/scans") > 0, "{}", report.at("/scans"));
    }
}

#[test]
fn memory_that_a_call_populates_is_seen_without_a_fault() {
    require!(root);
    require!(bpf);
    let command = [program!("layout"), "populated", "--mib", "5"];
    let mut recording = memtrace!().start(&["--interval", "50ms", "--max-cpu", "100%"], &command);
    let layout: Layout = serde_json::from_str(&recording.running.first_line()).expect("a ledger");
    let stretch = &layout.stretches[0];
    wait_for_pages(&recording, stretch, layout.touched_pages);
    let recording = recording.finish().expect_code(0);

    let faults = recording.faults();
    assert_eq!(faults.iter().filter(|row| (stretch.start..stretch.end).contains(&row.addr)).count(), 0);
    // By its number: the program ends as soon as the pages were seen, and rows have the addresses that are left of a region then.
    let maps = recording.maps();
    let mapped = maps.iter().find(|row| row.action == "mmap" && row.start_addr == Some(stretch.start));
    let region = mapped.expect("it was mapped").region;
    let rows: Vec<_> = recording.timeline().into_iter().filter(|row| row.region == region).collect();
    let present = rows.iter().filter_map(|row| row.present_pages).max().unwrap_or_default();
    // The kernel may have merged it with a neighbour, which has some pages too.
    assert!((layout.touched_pages..layout.touched_pages + 64).contains(&present), "{rows:#?}");
    let scans = recording.report().number("/scans/by/call/scans");
    assert!(scans > 0, "the call that mapped it asked for a scan");
}

#[test]
fn memory_that_another_process_populates_is_found() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let frozen = Frozen::start(program!("layout"), "untouched", 8);
    let stretch = &frozen.layout.stretches[0];
    let pid = frozen.layout.pid.to_string();
    // With all of a CPU, so that one interval has time for all slots, however slow the machine is.
    let mut recording = memtrace!().start(&["-p", &pid, "--interval", "50ms", "--max-cpu", "100%"], &[]);
    let visited = wait_for_visit(&mut recording);
    let memory = File::options().write(true).open(format!("/proc/{pid}/mem")).expect("it may be traced");
    // More than what is not worth a visit.
    let pages = 700;
    for page in 0..pages {
        memory.write_at(&[1], stretch.start + page * page_bytes() as u64).expect("it is mapped");
    }
    // While it runs: not by the scan at the end.
    wait_for_pages(&recording, stretch, pages);
    let recording = stop(recording);

    let rows = rows_of(recording.timeline(), stretch);
    assert!(rows.iter().any(|row| row.present_pages == Some(pages)), "{rows:#?}");
    assert_eq!(rows.iter().map(|row| row.minor_faults).sum::<u64>(), 0, "{rows:#?}");
    let report = recording.report();
    assert!(report.number("/scans/by/population/scans") > visited, "{visited}: {}", report.at("/scans"));
}

#[test]
fn address_space_without_pages_is_one_scan_however_large() {
    require!(root);
    require!(bpf);
    for kind in ["reserved", "sparse"] {
        let _turn = turn();
        let half_a_tebibyte = 512 << 10;
        let frozen = Frozen::start(program!("layout"), kind, half_a_tebibyte);
        let pid = frozen.layout.pid.to_string();

        let options = ["-p", &pid, "--duration", "300ms"];
        let recording = memtrace!().record(&options, &[]).expect_code(0);

        let rows = rows_of(recording.timeline(), &frozen.layout.stretches[0]);
        // The kernel may have merged it with a neighbour, which has some pages too.
        let is_seen = |row: &TimelineRow| row.present_pages.is_some_and(|pages| (1..65).contains(&pages));
        assert!(rows.iter().any(is_seen), "{kind}: {rows:#?}");
        // One for each of some dozens of regions; in pieces of 64 MiB it would be thousands.
        let scans = recording.report().number("/scans/by/full/scans");
        assert!((1..200).contains(&scans), "{kind}: {scans}");
        let file = recording.path().metadata().expect("it was written").len();
        assert!(file < 64 << 10, "{kind}: {file} bytes");
    }
}

#[test]
fn what_the_user_names_is_scanned_in_each_interval() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let frozen = Frozen::start(program!("layout"), "small", 8);
    let stretch = &frozen.layout.stretches[0];
    let (pid, range) = (frozen.layout.pid.to_string(), format!("{:#x}+1M", stretch.start));
    let watch = |focus: &[&str]| {
        let options = [&["-p", &pid, "--interval", "50ms", "--max-cpu", "100%"], focus];
        let mut recording = memtrace!().start(&options.concat(), &[]);
        // From when its regions are known.
        let is_scan = |frame: &Frame| {
            matches!(frame, Frame::Observation(Observation { seen: Seen::Pages(_), .. })).then_some(())
        };
        recording.wait_for_frame("scan", is_scan);
        let mut intervals = 0;
        recording.wait_for_frame("end of the 20th interval", |frame| {
            intervals += u64::from(matches!(frame, Frame::Heat(_)));
            (intervals == 20).then_some(())
        });
        stop(recording)
    };
    let scanned = |recording: &Recording, backing: &str| {
        let rows = recording.timeline();
        rows.iter().filter(|row| row.backing == backing && row.present_pages.is_some()).count()
    };

    let [hot, heap, some] =
        [&["--focus", "hot"], &["--focus", "[heap]"], &["--focus", &range]].map(|focus| watch(focus));

    // At first and at last at least, and in rotation; after each interval where that was asked for.
    assert!((1..=4).contains(&scanned(&hot, "heap")), "{:#?}", hot.timeline());
    assert!(scanned(&heap, "heap") >= 19, "{:#?}", heap.timeline());
    assert!(rows_of(heap.timeline(), stretch).len() <= 4, "{:#?}", heap.timeline());
    assert!(rows_of(some.timeline(), stretch).len() >= 19, "{:#?}", some.timeline());
    assert!(scanned(&some, "heap") <= 4, "{:#?}", some.timeline());
    assert!(heap.report().number("/scans/by/asked/scans") >= 19);
}

#[test]
fn last_scan_before_an_exit_sees_what_the_process_had() {
    require!(root);
    require!(bpf);
    let command = ["cat", "/proc/self/smaps_rollup"];
    let recording = memtrace!().record(&["--verify"], &command).expect_code(0);

    let process = &recording.report().processes()[0];
    let pages = process.pages.as_ref().expect("it was scanned");
    let resident = pages.resident_kib();
    require!(@ resident.is_none().then(|| "needs Linux 6.7 (PAGEMAP_SCAN)".to_owned()));
    let known = Rollup::parse(&recording.run.stdout).rss;
    let difference = resident.map(|resident| resident.abs_diff(known));
    assert!(difference.is_some_and(|kib| kib <= 256), "{known} KiB, but for printing and exiting: {pages:?}");
}

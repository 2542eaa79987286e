//! The kernel's counters of resident memory: what was recorded is what another reader of `/proc/PID/status` sees.

use memtrace::{
    decode::Frame,
    event::{Observation, Seen, Tgid},
    sys::clock,
};
use memtrace_tests::{
    directory,
    ledger::{Gifts, Testimony},
    memtrace, program, require,
    rows::{ProcessRow, RssRow},
};

/// The counters of a process that stands still: anonymous, of files, of shared memory, in swap, and the most that were resident.
fn shown(pid: u32) -> [u64; 5] {
    let process = procfs::process::Process::new(pid.try_into().expect("small")).expect("it waits");
    let status = process.status().expect("it waits");
    let page_kib = rustix::param::page_size() as u64 >> 10;
    [status.rssanon, status.rssfile, status.rssshmem, status.vmswap, status.vmhwm]
        .map(|kib| kib.expect("it has memory") / page_kib)
}

fn counters(row: &RssRow) -> [u64; 5] {
    [row.anon_pages, row.file_pages, row.shmem_pages, row.swap_pages, row.peak_pages]
}

/// Records the workload, which stops again and again until it has been read: its rows, and at each stop what another reader sees.
fn recorded() -> (Vec<RssRow>, Vec<[u64; 5]>) {
    let mut recording = memtrace!().start(&["--interval", "50ms"], &[program!("outcome")]);
    let mut expected = Vec::new();
    let mut pid = 0;
    for line in 0.. {
        let Gifts { gifts, are_all } = serde_json::from_str(&recording.running.line(line)).expect("a ledger");
        // Its children touch some of it.
        pid = if line == 0 { gifts["small"].pid } else { pid };
        let now = clock::boottime();
        recording.wait_for_frame("reading of counters", |frame| {
            let Frame::Observation(Observation { time, tgid: Tgid(tgid), seen: Seen::Resident(_), .. }) =
                frame
            else {
                return None;
            };
            (*tgid == pid && *time >= now).then_some(())
        });
        expected.push(shown(pid));
        if are_all {
            break;
        }
        recording.running.send("\n");
    }
    let recording = recording.finish().expect_code(0);

    let rows: Vec<_> = recording.rss().into_iter().filter(|row| row.tgid == pid).collect();
    assert!(rows.is_sorted_by_key(|row| row.time_ns));
    (rows, expected)
}

#[test]
fn counters_are_those_that_another_reader_sees() {
    require!(root);
    require!(bpf);
    let (rows, expected) = recorded();
    let mut rest = rows.iter().map(counters);
    for expected in expected {
        assert!(rest.any(|row| row == expected), "{expected:?} in this order in {rows:#?}");
    }
}

#[test]
fn what_regions_have_together_is_what_the_kernel_counts() {
    require!(root);
    require!(bpf);
    // Before, its counters lack what threads or CPUs have not added up.
    require!(kernel "6.16");
    let (rows, expected) = recorded();
    let mut rest = rows.iter();
    for expected in expected {
        let row = rest.find(|row| counters(row) == expected);
        let row = row.unwrap_or_else(|| panic!("{expected:?} in this order in {rows:#?}"));
        let [anon, file, shmem, ..] = expected;
        let counted = anon + file + shmem;
        let (Some(resident), Some(unknown)) = (row.resident_pages, row.resident_unknown_pages) else {
            panic!("what regions have is followed: {row:?}")
        };
        assert!((resident..=resident + unknown).contains(&counted), "{counted} in {row:?}");
    }
}

#[test]
fn process_that_is_held_at_its_exit_has_a_row_however_short_it_lives() {
    require!(root);
    require!(bpf);
    require!(btf);
    let recording = memtrace!().record(&["--verify", "--interval", "10s"], &["sh", "-c", "(exit 3); exit 0"]);

    let processes = recording.report().processes();
    assert_eq!(processes.len(), 2);
    let (rows, peaks) = (recording.rss(), recording.process_rows());
    for process in processes {
        let last = rows.iter().rfind(|row| row.tgid == process.tgid).expect("a row at its exit");
        let resident = last.anon_pages + last.file_pages + last.shmem_pages;
        assert!(resident > 0 && last.peak_pages >= resident, "{last:?}");
        let row = peaks.iter().find(|row| row.tgid == process.tgid).expect("a row of the table `processes`");
        assert!(row.peak_rss_pages >= Some(last.peak_pages), "{row:?} {last:?}");
    }
}

/// What `witness` testified of `command`, and the row of that process.
fn testified(command: &[&str]) -> (Testimony, ProcessRow) {
    let scratch = directory();
    let out = scratch.path().join("testimony");
    let witness = [program!("witness"), "--out", out.to_str().expect("a temporary path is text"), "--"];
    // None of its readings comes before its end.
    let recording = memtrace!().record(&["--interval", "10s"], &[&witness, command].concat());

    let text = std::fs::read_to_string(out).expect("witness wrote it");
    let testimony: Testimony = serde_json::from_str(&text).expect("a testimony");
    let rows = recording.process_rows();
    let row = rows.iter().find(|row| row.tgid == testimony.pid).expect("it was traced");
    let parent = rows.iter().find(|parent| Some(parent.tgid) == row.parent_tgid).expect("witness was, too");
    assert!(parent.program.ends_with("/witness") && parent.birth_ns < row.birth_ns, "{parent:?} {row:?}");
    assert!(row.death_ns > Some(row.birth_ns) && row.death_ns < parent.death_ns, "{parent:?} {row:?}");
    (testimony, row.clone())
}

#[test]
fn process_has_the_peak_and_the_end_that_its_parent_sees() {
    require!(root);
    require!(bpf);
    require!(btf);

    let (testimony, row) = testified(&[program!("touch"), "write", "--pages", "20000"]);
    let page_bytes = rustix::param::page_size() as u64;
    assert_eq!(row.peak_rss_pages.map(|pages| pages * page_bytes), Some(testimony.peak_bytes), "{row:?}");
    assert!(row.program.ends_with("/touch"), "{row:?}");
    assert_eq!((row.exit_status, row.exit_signal), (Some(0), None));

    for (end, expected) in [("exit 3", (Some(3), None)), ("kill -9 $$", (None, Some(9)))] {
        let (_, row) = testified(&["sh", "-c", end]);
        assert_eq!((row.exit_status, row.exit_signal), expected, "{end}");
    }
}

//! What is said to have mapped, unmapped and taken away memory, against programs that know it.

use std::{collections::BTreeMap, fs, fs::File, os::unix::fs::FileExt as _};

use memtrace_tests::{
    cgroup::{Cgroup, of_memory},
    file_on_disk,
    ledger::{Advised, Stretch, Turnover, Vanishing},
    made,
    memory::page_bytes,
    memtrace, program,
    recording::InProgress,
    require, requirement,
    rows::{MapRow, PageRow},
    setting::number,
    swap::Swap,
    turn, wait_until,
};

#[test]
fn bytes_that_calls_mapped_and_unmapped_are_those_that_came_and_went() {
    require!(root);
    require!(bpf);
    // Without it what exec maps is known from maps alone, and so is what a child has of it: the bytes are lower bounds.
    require!(btf);
    let recording = memtrace!().record(&["--verify"], &[program!("turnover")]).expect_code(0);
    recording.expect_map_identity(1);
    let Turnover { pid, mapped, unmapped, grown } = recording.run.last_line();
    assert_eq!(mapped.cast_signed() - unmapped.cast_signed(), grown, "the workload knows what it does");

    let report = recording.report();
    let mapping = report.at("/mapping").as_array().expect("calls were followed");
    let child = mapping.iter().find(|one| one["tgid"] == pid).expect("the child maps memory");
    let bytes = |key: &str| child[key].as_u64();
    assert_eq!((bytes("mapped_bytes"), bytes("unmapped_bytes")), (Some(mapped), Some(unmapped)), "{child}");
    assert_eq!(child["lower_bound"], false);
}

/// Number of pages in `stretch`.
fn pages_of(stretch: Stretch) -> u64 {
    (stretch.end - stretch.start) / page_bytes() as u64
}

/// What was not present any more in `stretch`: how many pages by the state that they are in, and the cause.
fn gone(rows: &[PageRow], pid: u32, stretch: Stretch) -> BTreeMap<(String, String), u64> {
    let is_in = |row: &&PageRow| row.tgid == pid && (stretch.start..stretch.end).contains(&row.addr);
    let is_gone = |row: &&PageRow| ["absent", "swapped"].contains(&row.state.as_str());
    let mut gone = BTreeMap::new();
    for row in rows.iter().filter(is_in).filter(is_gone) {
        *gone.entry((row.state.clone(), row.cause.clone())).or_default() += row.pages;
    }
    gone
}

/// A recording of `vanish` in which all its memory was seen.
#[track_caller]
fn start(command: &[&str]) -> (InProgress, Vanishing) {
    let options = ["--interval", "100ms", "--focus", "all", "--max-cpu", "100%"];
    let mut recording = memtrace!().start(&options, command);
    let vanishing: Vanishing = serde_json::from_str(&recording.running.first_line()).expect("a ledger");
    let is_seen = |stretch: &Stretch| {
        let rows = recording.timeline_so_far();
        let mut here = rows.iter().filter(|row| {
            row.tgid == vanishing.pid
                && row.start_addr.is_some_and(|start| start <= stretch.start)
                && row.end_addr.is_some_and(|end| stretch.end <= end)
        });
        here.any(|row| row.present_pages.is_some_and(|pages| pages >= pages_of(*stretch)))
    };
    assert!(wait_until(|| vanishing.stretches.values().all(is_seen)), "{vanishing:?} is not all seen");
    (recording, vanishing)
}

/// Waits until pages of each of `names` are said to be gone, and ends the recording; what was gone.
#[track_caller]
fn finish(
    recording: InProgress,
    vanishing: &Vanishing,
    names: &[&str],
) -> Vec<BTreeMap<(String, String), u64>> {
    let stretches: Vec<_> = names.iter().map(|name| vanishing.stretches[*name]).collect();
    let gone_from = |rows: &[PageRow], stretch: &Stretch| gone(rows, vanishing.pid, *stretch);
    let is_complete = || {
        let rows = recording.pages_so_far();
        stretches.iter().all(|stretch| gone_from(&rows, stretch).values().sum::<u64>() >= pages_of(*stretch))
    };
    assert!(wait_until(is_complete), "{names:?} in {:#?}", recording.pages_so_far());
    let rows = recording.finish().expect_code(0).pages();
    stretches.iter().map(|stretch| gone_from(&rows, stretch)).collect()
}

/// How many pages of anonymous and of shared memory the kernel has reclaimed; `None` if it does not count that
/// (`CONFIG_VM_EVENT_COUNTERS`).
fn reclaimed_memory() -> Option<u64> {
    let counters = fs::read_to_string("/proc/vmstat").expect("there is always one");
    let row = counters.lines().find_map(|row| row.strip_prefix("pgsteal_anon "))?;
    Some(row.parse().expect("a number"))
}

#[test]
fn memory_that_a_program_cut_out_of_a_file_was_not_reclaimed() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let before = reclaimed_memory();
    let (mut recording, vanishing) = start(&[program!("vanish")]);
    recording.running.send("\n");
    let names = ["punched", "cut", "removed"];
    let gone = finish(recording, &vanishing, &names);
    require!(@ (reclaimed_memory() != before).then(|| "needs a machine that swaps nothing out".to_owned()));

    for (name, gone) in names.iter().zip(gone) {
        let expected = [(("absent".to_owned(), "unknown".to_owned()), 64)];
        assert_eq!(gone, expected.into(), "{name}");
    }
}

/// How many pages of `stretch` the process has in memory, by its page table.
fn present(pid: u32, stretch: Stretch) -> u64 {
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).expect("root may");
    let mut words = vec![0; usize::try_from(pages_of(stretch)).expect("few") * 8];
    pagemap.read_exact_at(&mut words, stretch.start / page_bytes() as u64 * 8).expect("it is mapped");
    words.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word) >> 63).sum()
}

#[test]
fn memory_that_the_kernel_took_from_a_cgroup_was_reclaimed() {
    require!(root);
    require!(bpf);
    let _turn = turn();
    let _disk = made!(file_on_disk());
    let (top, own) = made!(of_memory());
    let cgroup = Cgroup::below(&top.join(own.strip_prefix('/').expect("absolute")), "reclaim");
    let reclaim = match ["memory.reclaim", "memory.force_empty"].map(|name| cgroup.dir.join(name)) {
        [new, _] if new.exists() => (new, "4M"),
        [_, old] if old.exists() => (old, "0"),
        _ => return requirement::skip("needs memory.reclaim (Linux 5.19) or the first version of cgroups"),
    };
    let _swap = made!(Swap::on(16 << 20));
    let script = r#"echo $$ >"$1/cgroup.procs" && exec "$0" --dir /var/tmp"#;
    let (recording, vanishing) = start(&["sh", "-c", script, program!("vanish"), cgroup.path()]);
    let names = ["private", "file"];
    let is_empty = || {
        // It fails if less can be reclaimed than asked for.
        let _less = fs::write(&reclaim.0, reclaim.1);
        names.iter().all(|name| present(vanishing.pid, vanishing.stretches[*name]) == 0)
    };
    assert!(wait_until(is_empty), "the kernel reclaims what nobody uses");
    let [private, file] = &finish(recording, &vanishing, &names)[..] else { panic!("two stretches") };

    assert_eq!(*private, [(("swapped".to_owned(), "reclaim".to_owned()), 64)].into());
    assert_eq!(*file, [(("absent".to_owned(), "reclaim".to_owned()), 64)].into());
}

#[test]
fn advice_by_io_uring_has_a_row_that_tells_what_came_of_it() {
    require!(root);
    require!(bpf);
    require!(btf);
    require!(kernel "6.0");
    let disabled = number("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    require!(@ (disabled != 0).then(|| "needs io_uring: sysctl kernel.io_uring_disabled=0".to_owned()));
    let mut recording = memtrace!().start(&["--verify"], &[program!("advise")]);
    let vanishing: Vanishing = serde_json::from_str(&recording.running.first_line()).expect("a ledger");
    recording.running.send("\n");
    let recording = recording.finish().expect_code(0);
    recording.expect_map_identity(1);
    let Advised { advised } = recording.run.last_line();
    let results: Vec<_> = advised.iter().map(|advised| advised.result).collect();
    assert_eq!(results, [0, 0, 0, -12], "of the last stretch half is mapped");

    let maps = recording.maps();
    let of_it = |row: &&MapRow| row.tgid == vanishing.pid;
    let known: Vec<_> = maps
        .iter()
        .filter(of_it)
        .filter(|row| row.action == "madvise")
        .map(|row| (row.start_addr, row.end_addr, row.flags.as_str(), row.result.as_str()))
        .collect();
    let names = ["MADV_DONTNEED", "MADV_DONTDUMP", "MADV_DONTFORK", "MADV_DONTNEED"];
    let results = ["0", "0", "0", "-12"];
    for ((advised, name), result) in advised.iter().zip(names).zip(results) {
        let Stretch { start, end } = advised.stretch;
        assert!(known.contains(&(Some(start), Some(end), name, result)), "{name} in {known:x?}");
    }
    // What a fork copies depends on the third, whose completion may come after a fork: the maps are read anew.
    let unexplained = maps.iter().filter(of_it).filter(|row| row.action == "unexplained").count();
    assert_eq!(unexplained, 1, "{maps:#x?}");
}

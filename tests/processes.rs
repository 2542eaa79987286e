//! Processes that come and go, and have the IDs of others that went; and CPUs that go and come.

use memtrace_tests::{
    ledger::Namesake,
    memtrace, program,
    recording::{Process, Recording},
    require,
    task::Usage,
    turn,
};

/// What the report says of each process with the ID of the `namesakes`, in order of birth.
fn told_of(recording: &Recording, namesakes: &[Namesake]) -> Vec<(String, Option<Usage>)> {
    let mut processes: Vec<Process> = recording.report().processes();
    processes.retain(|process| process.tgid == namesakes[0].pid);
    processes.sort_by_key(|process| process.birth_ns);
    processes.into_iter().map(|process| (process.comm, process.kernel_counted)).collect()
}

#[test]
fn processes_with_the_same_id_are_counted_apart() {
    require!(root);
    require!(bpf);
    require!(btf);
    require!(kernel "5.5");
    let _turn = turn();

    let recording = memtrace!().record(&[], &[program!("namesakes"), "300", "20", "7"]).expect_code(0);

    let namesakes: Vec<Namesake> = recording.run.last_line();
    assert!(namesakes.iter().all(|one| one.pid == namesakes[0].pid), "{namesakes:?}");
    assert!(namesakes[0].charged.minor >= 280 + namesakes[1].charged.minor, "{namesakes:?}");
    let charged: Vec<_> = namesakes.iter().map(|one| (one.name.clone(), Some(one.charged))).collect();
    assert_eq!(told_of(&recording, &namesakes), charged);
    let _report = recording.expect_complete();
}

#[test]
fn rows_name_the_process_that_had_the_id_at_that_time() {
    require!(root);
    require!(bpf);
    require!(btf);
    require!(kernel "5.5");
    let _turn = turn();

    let recording = memtrace!().record(&[], &[program!("namesakes"), "300", "20"]).expect_code(0);

    let namesakes: Vec<Namesake> = recording.run.last_line();
    let timeline = recording.timeline();
    for (one, pages) in namesakes.iter().zip([300, 20]) {
        let rows = timeline.iter().filter(|row| row.tgid == one.pid && row.comm == one.name);
        let minor: u64 = rows.map(|row| row.minor_faults).sum();
        assert!((pages..=one.charged.minor).contains(&minor), "{minor} in rows of {one:?}");
    }
}

/// A CPU goes and comes under a recording of the whole system. That is done to everybody, so only on a machine that is thrown away.
#[cfg(feature = "disposable")]
mod cpus {
    use std::{fs, path::Path};

    use memtrace_tests::{
        directory, ledger::Ledger, made, memtrace, program, require, rows::TimelineRow, run::Run,
        setting::Setting, turn, wait_until,
    };
    use rustix::{
        process::Signal,
        thread::{CpuSet, sched_setaffinity},
    };

    const CPU: usize = 1;

    /// Writes to fresh memory on the CPU of the calling thread.
    fn touch() -> Ledger {
        Run::new(program!("touch")).args(["write", "--pages", "64"]).finish().expect_code(0).last_line()
    }

    /// Processes of which faults stand in the rows that the file has by now.
    fn faulted(timeline: &Path) -> Vec<u32> {
        let text = fs::read_to_string(timeline).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let rows = csv::Reader::from_reader(whole.as_bytes()).into_deserialize();
        let rows = rows.map(|row: Result<TimelineRow, _>| row.expect("a row of the timeline"));
        rows.filter(|row| row.minor_faults > 0).map(|row| row.tgid).collect()
    }

    #[test]
    fn cpu_that_goes_and_comes_is_a_loss_and_is_followed_again() {
        require!(root);
        require!(bpf);
        require!(btf);
        let _turn = turn();
        let scratch = directory();
        let timeline = scratch.path().join("timeline.csv");
        let mut attached = memtrace!().start(&["-a", "--csv", timeline.to_str().expect("text")], &[]);
        attached.wait_until_armed();
        let online = format!("/sys/devices/system/cpu/cpu{CPU}/online");

        let gone = Setting::change(&online, "0");
        drop(made!(gone.map_err(|error| format!("needs a CPU that may go: {error}"))));
        let mut cpus = CpuSet::new();
        cpus.set(CPU);
        sched_setaffinity(None, &cpus).expect("the CPU has come back");
        let mut touched = Vec::new();
        let is_followed = wait_until(|| {
            touched.push(touch().pid);
            faulted(&timeline).iter().any(|pid| touched.contains(pid))
        });
        assert!(is_followed, "of none of {} processes a fault was recorded", touched.len());
        let ledger = touch();
        attached.running.signal(Signal::INT);
        let recording = attached.finish();

        assert_eq!(ledger.areas[0].found_in(&recording.faults()), ledger.areas[0]);
        let losses = recording.losses();
        let gaps: Vec<_> = losses.iter().filter(|loss| loss.cause == "cpu_offline").collect();
        assert!(
            !gaps.is_empty()
                && gaps.iter().all(|gap| gap.cpu.is_some_and(|cpu| usize::try_from(cpu) == Ok(CPU))),
            "{losses:?}"
        );
        assert!(gaps.iter().all(|gap| gap.end_ns.is_some_and(|end| gap.start_ns < end)), "{losses:?}");
        let report = recording.report();
        assert_eq!(report.at("/complete"), false);
        assert!(report.at("/losses/cpu_offline").is_null(), "how many were missed nobody knows");
    }
}

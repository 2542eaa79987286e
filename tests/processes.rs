//! Processes that come and go, and have the IDs of others that went.

use memtrace_tests::{
    ledger::Namesake,
    memtrace, program,
    recording::{Process, Recording},
    require,
    task::Usage,
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

    let recording = memtrace!().record(&[], &[program!("namesakes"), "300", "20"]).expect_code(0);

    let namesakes: Vec<Namesake> = recording.run.last_line();
    let timeline = recording.timeline();
    for (one, pages) in namesakes.iter().zip([300, 20]) {
        let rows = timeline.iter().filter(|row| row.tgid == one.pid && row.comm == one.name);
        let minor: u64 = rows.map(|row| row.minor_faults).sum();
        assert!((pages..=one.charged.minor).contains(&minor), "{minor} in rows of {one:?}");
    }
}

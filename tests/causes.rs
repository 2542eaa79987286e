//! What is said to have mapped, unmapped and taken away memory, against programs that know it.

use memtrace_tests::{ledger::Turnover, memtrace, program, require};

#[test]
fn bytes_that_calls_mapped_and_unmapped_are_those_that_came_and_went() {
    require!(root);
    require!(bpf);
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

//! Which code faulted, by where its instructions lie.

use super::*;
use crate::timeline::{CodeTotals, Module};

/// A process with a program at 0x400000, memory without a name at 0x500000, and memory to fault in.
fn begin() -> Vec<Record> {
    let program =
        Vma { perms: *b"r-xp", inode: 5, name: b"/bin/prog".to_vec(), ..anon((0x40_0000, 0x41_0000)) };
    let seen = Seen::Maps(MapsReading {
        began: at(2).before(Nanos::new(MS / 2)),
        vmas: vec![anon((0x1000, 0x9000)), program, anon((0x50_0000, 0x51_0000))],
        landmarks: Landmarks::default(),
        devices: Vec::new(),
        at_exit: false,
    });
    vec![join(1), Record::Observation(Observation { time: at(2), tgid: TGID, space: SPACE, seen })]
}

/// A fault of this kind by the instruction at `ip`, which took a microsecond.
fn by(millis: u64, ip: u64, mode: Mode, kind: FaultKind) -> Record {
    let Record::Fault(fault) = fault(millis, 0x1000) else { panic!("a fault") };
    let (ip, latency) = (VirtAddr::from_raw(ip), Some(Nanos::new(1_000)));
    Record::Fault(Fault { ip, mode, kind, latency, ..fault })
}

fn run_all(records: &[Record]) -> (Vec<Option<Module>>, Summary) {
    let (rows, _, summary) = run_with(Options { wants: RowSet::all(), ..options(Detail::Full) }, records);
    let module = |row: Row| if let Row::Fault(row) = row { Some(row.module) } else { None };
    (rows.into_iter().filter_map(module).collect(), summary)
}

#[test]
fn fault_belongs_to_the_code_that_took_it() {
    let faults = [
        by(10, 0x40_1000, Mode::User, FaultKind::Minor),
        by(11, 0x50_0010, Mode::User, FaultKind::Minor),
        by(12, 0xffff_ffff_8100_0000, Mode::Kernel, FaultKind::Major),
        by(13, 0x60_0000, Mode::User, FaultKind::Minor),
        by(14, 0x40_2000, Mode::User, FaultKind::Major),
        by(15, 0x40_2000, Mode::User, FaultKind::Failed),
    ];

    let (modules, summary) = run_all(&[begin(), faults.to_vec()].concat());

    let program = Some(Module::Named((&b"/bin/prog"[..]).into()));
    let (kernel, anonymous) = (Some(Module::Kernel), Some(Module::Anonymous));
    let each = [program.clone(), anonymous.clone(), kernel.clone(), None, program.clone(), program.clone()];
    assert_eq!(modules, each);
    let totals = |minor, major| CodeTotals {
        faults: FaultCounts { minor, major },
        latency_sum: Nanos::new((minor + major) * 1_000),
    };
    let sums =
        [(None, totals(1, 0)), (kernel, totals(0, 1)), (anonymous, totals(1, 0)), (program, totals(1, 1))];
    assert_eq!(summary.modules, sums.into());
}

#[test]
fn code_that_is_known_only_later_is_found_while_the_interval_is_open() {
    let [join, reading] = begin().try_into().expect("two records");
    let fault = by(1, 0x40_1000, Mode::User, FaultKind::Minor);

    let (modules, _) = run_all(&[join, fault, reading]);

    assert_eq!(modules, [Some(Module::Named((&b"/bin/prog"[..]).into()))]);
}

//! Fault records of which just the number is wanted.

use memtrace_ebpf::{FaultEvent, FaultFlags};

use super::fault_kind;
use crate::{event::FaultKind, units::Timestamp};

/// How many faults some records are, by how they ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultSums {
    /// Time of the earliest; beyond all times if there is none.
    pub first: Timestamp,
    /// Time of the latest.
    pub last: Timestamp,
    /// How many ended so.
    pub by_kind: Vec<(FaultKind, u64)>,
}

impl FaultSums {
    /// Those of `bytes`, which are records of a ring of faults; `None` if some cannot be decoded.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let (records, rest) = bytes.as_chunks::<{ FaultEvent::LEN }>();
        let (mut first, mut last, mut by_raw_kind) = (u64::MAX, 0, [0_u64; 1 << u8::BITS]);
        for record in records {
            let FaultEvent { time_ns, kind, .. } = FaultEvent::from_bytes(record)?;
            (first, last) = (first.min(time_ns), last.max(time_ns));
            by_raw_kind[usize::from(kind.0)] += 1;
        }
        let by_kind = (0..=u8::MAX).zip(by_raw_kind).filter(|(_, faults)| *faults > 0);
        let by_kind = by_kind.map(|(raw, faults)| Some((fault_kind(memtrace_ebpf::FaultKind(raw))?, faults)));
        let by_kind = by_kind.collect::<Option<_>>()?;
        let (first, last) = (Timestamp::from_nanos(first), Timestamp::from_nanos(last));
        rest.is_empty().then_some(Self { first, last, by_kind })
    }
}

/// The kernel code of which `bytes` are, which are records of a ring of faults: its addresses.
pub fn kernel_code(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let records =
        bytes.as_chunks::<{ FaultEvent::LEN }>().0.iter().filter_map(|bytes| FaultEvent::from_bytes(bytes));
    records.filter(|record| record.flags & FaultFlags::USER == 0).map(|record| record.ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(time_ns: u64, kind: memtrace_ebpf::FaultKind) -> [u8; FaultEvent::LEN] {
        FaultEvent { time_ns, kind, ..FaultEvent::default() }.to_bytes()
    }

    #[test]
    fn records_are_counted_by_how_they_ended() {
        let (minor, failed) = (memtrace_ebpf::FaultKind::MINOR, memtrace_ebpf::FaultKind::FAILED);
        let bytes = [record(50, minor), record(40, failed), record(70, minor)].concat();

        let sums = FaultSums::of(&bytes).expect("all are whole and known");

        assert_eq!((sums.first, sums.last), (Timestamp::from_nanos(40), Timestamp::from_nanos(70)));
        assert_eq!(sums.by_kind, [(FaultKind::Minor, 2), (FaultKind::Failed, 1)]);
    }

    #[test]
    fn what_cannot_be_decoded_is_not_counted() {
        let bytes = record(50, memtrace_ebpf::FaultKind::MINOR);

        assert_eq!(FaultSums::of(&[&bytes[..], &bytes[1..]].concat()), None, "one is cut");
        assert_eq!(
            FaultSums::of(&record(50, memtrace_ebpf::FaultKind(200))),
            None,
            "one is of a later build"
        );
    }
}

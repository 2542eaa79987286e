//! What the programs still hold when they are disarmed: accounts of tasks that live, faults that have not ended.
//!
//! Layer: shell. Input: the table of traced tasks. Output: frames as the programs would have written them.
//! Source: `memtrace_ebpf::TaskState`.
//! Keeps: every account reaches the recording once.
//! Not here: reading the table (`live::probes`).

use memtrace_ebpf::{EventHeader, EventKind, ExitEvent, FaultEvent, FaultKind, Pending, TaskState};

use crate::{decode::Frame, live::Batch, units::Timestamp};

/// Frames for all that is left in `states` at `now`; `is_charge_known` as in [`ExitEvent`].
pub(super) fn batch(states: &[(u32, TaskState)], is_charge_known: u64, now: Timestamp) -> Batch {
    let mut faults = Vec::new();
    let mut control = Vec::new();
    for (_, state) in states {
        let TaskState { space, tid, tgid, flags, account, user, kernel_0, kernel_1, kernel_2, .. } = *state;
        for pending in [user, kernel_0, kernel_1, kernel_2] {
            faults.extend(unended(tid, pending, now).into_iter().flatten());
        }
        let kind = if flags & TaskState::EXITED == 0 { EventKind::ALIVE } else { EventKind::LATE };
        let header = EventHeader {
            time_ns: now.as_nanos(),
            tgid,
            tid,
            kind,
            len: u16::try_from(ExitEvent::LEN).unwrap_or(u16::MAX),
            cpu: 0,
        };
        let exit = ExitEvent { header, space, group_dead: 0, is_charge_known, account };
        control.extend(exit.to_bytes());
    }
    vec![Frame::Control(control), Frame::Faults(faults), Frame::Tick(now)]
}

/// The record of a fault of which no end was seen; `None` if the slot is empty.
fn unended(tid: u32, pending: Pending, now: Timestamp) -> Option<[u8; FaultEvent::LEN]> {
    let Pending { time_ns, addr, ip, flags: _ } = pending;
    if time_ns == 0 {
        return None;
    }
    let fault = FaultEvent {
        time_ns: now.as_nanos(),
        addr,
        ip,
        tid,
        flags: pending.fault_flags(),
        kind: pending.kind_or_emulated(FaultKind::UNFINISHED),
        ..FaultEvent::default()
    };
    Some(fault.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use memtrace_ebpf::FaultFlags;

    #[test]
    fn pending_fault_is_unfinished() {
        let user = Pending { time_ns: 70, addr: 0x7000, ip: 0x400, flags: FaultFlags::USER.into() };
        let state = TaskState { tid: 9, tgid: 8, user, ..TaskState::default() };

        let frames = batch(&[(509, state)], 1, Timestamp::from_nanos(100));

        let [Frame::Control(control), Frame::Faults(faults), Frame::Tick(now)] = &frames[..] else {
            panic!("control, faults and a tick: {frames:?}");
        };
        let exit = ExitEvent::from_bytes(control).expect("one account");
        let fault = FaultEvent::from_bytes(faults).expect("one fault");
        assert_eq!((exit.header.kind, exit.header.tid), (EventKind::ALIVE, 9));
        assert_eq!((fault.kind, fault.time_ns, fault.tid), (FaultKind::UNFINISHED, 100, 9));
        assert_eq!(now.as_nanos(), 100);
    }

    #[test]
    fn pending_fault_in_the_vsyscall_page_is_emulated() {
        let ip = 0xffff_ffff_ff60_0400;
        let pending = Pending { time_ns: 70, addr: ip, ip, flags: FaultFlags::USER.into() };

        let bytes = unended(9, pending, Timestamp::from_nanos(100)).expect("the slot is not empty");

        let fault = FaultEvent::from_bytes(&bytes).expect("one fault");
        assert_eq!((fault.kind, fault.flags), (FaultKind::EMULATED, FaultFlags::USER));
    }
}

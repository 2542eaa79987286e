//! Waits until a recording that is being made says that something was seen.
//!
//! Input: an [`InProgress`]. Output: what was waited for.
//! Keeps: only when a test goes on depends on it. What a test asserts it reads from the whole recording, by the verbs of users.
//! Not here: waiting for what programs print (`run`).

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    ops::Range,
    path::Path,
};

use memtrace::{
    decode::Frame,
    event::{MapAction, Observation, Record, Seen, Tgid},
    order::WINDOW,
    record::{RecordError, Recording},
    sys::clock,
    units::{Timestamp, VirtRange},
};
use memtrace_ebpf::HEAT_SLOT_SHIFT;
use rustix::process::Signal;

use crate::recording::InProgress;

/// A file that grows: at its end there is nothing yet.
#[derive(Debug)]
struct Growing(File);

impl Read for Growing {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.0.read(into)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

/// A recording that is being made: its frames, each of which is shown once, and what of them is remembered.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    recording: Option<Recording<Growing>>,
    /// Faults, and calls that may have changed pages: by which thread, where and when.
    touches: Vec<(u32, Range<u64>, Timestamp)>,
    /// Scans of each page: of which process, where, and when they began.
    scans: Vec<(u32, Range<u64>, Timestamp)>,
    /// What happened until then has been drained.
    drained: Timestamp,
}

impl Frames {
    /// The next frame in the file at `path`; `None` if there is none yet.
    #[track_caller]
    fn next(&mut self, path: &Path) -> Option<Frame> {
        if self.recording.is_none() {
            let file = File::open(path).ok()?;
            self.recording = Recording::from_reader(Growing(file)).ok();
        }
        let frame = match self.recording.as_mut()?.next_frame() {
            Ok(frame) => frame?,
            Err(RecordError::Read(error)) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("{}: {error}", path.display()),
        };
        frame.records().for_each(|record| self.remember(&record));
        Some(frame)
    }

    fn remember(&mut self, record: &Record) {
        let addresses = |range: VirtRange| range.start().as_raw()..range.end().as_raw();
        match record {
            Record::Fault(fault) => {
                let addr = fault.addr.as_raw();
                self.touches.push((fault.tid.0, addr..addr + 1, fault.time));
            }
            Record::Map(map) => {
                let MapAction::Call { call, .. } = &map.action else { return };
                self.touches
                    .extend(call.changed_pages().map(|range| (map.tid.0, addresses(range), map.time)));
            }
            Record::Observation(Observation { tgid, seen: Seen::Pages(scan), .. })
                if scan.reason.is_close() =>
            {
                self.scans.push((tgid.0, addresses(scan.range), scan.began));
            }
            Record::Tick(time) => self.drained = time.before(WINDOW),
            _ => {}
        }
    }

    /// Whether what was done to `place` is known, and each slot of it was scanned afterwards.
    fn has_scanned(&self, place: &Place) -> bool {
        let until = Timestamp::from_nanos(place.until_ns);
        self.drained >= until
            && slots(&place.range).all(|slot| self.has_scanned_slot(place.pid, &slot, until))
    }

    /// Whether some scan of `slot` began when `pid` had touched it the last time before `until`.
    fn has_scanned_slot(&self, pid: u32, slot: &Range<u64>, until: Timestamp) -> bool {
        let touches = self.touches.iter().filter(|(who, at, time)| {
            *who == pid && at.start < slot.end && slot.start < at.end && *time <= until
        });
        let last = touches.map(|(.., time)| *time).max();
        let is_after = |(who, at, began): &(u32, Range<u64>, Timestamp)| {
            *who == pid && at.start <= slot.start && slot.end <= at.end && Some(*began) >= last
        };
        last.is_some() && self.scans.iter().any(is_after)
    }
}

/// The parts of `range` that are scanned as a whole.
fn slots(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let Range { start, end } = *range;
    (start >> HEAT_SLOT_SHIFT..=(end - 1) >> HEAT_SLOT_SHIFT)
        .map(move |slot| start.max(slot << HEAT_SLOT_SHIFT)..end.min((slot + 1) << HEAT_SLOT_SHIFT))
}

/// Pages that were touched, by faults or by calls.
#[derive(Clone, Debug)]
pub struct Place {
    /// The process that touched them, which has one thread.
    pub pid: u32,
    /// Their addresses.
    pub range: Range<u64>,
    /// When it had touched them, in nanoseconds on `CLOCK_BOOTTIME`.
    pub until_ns: u64,
}

impl InProgress {
    /// Waits until the recording has a frame in which `find` finds something. No frame is shown twice, by any of these.
    #[track_caller]
    pub fn wait_for_frame<T>(&mut self, what: &str, mut find: impl FnMut(&Frame) -> Option<T>) -> T {
        let Self { path, running, frames, .. } = self;
        running.wait_for(what, |_| {
            loop {
                let frame = frames.next(path)?;
                if let Some(found) = find(&frame) {
                    return Some(found);
                }
            }
        })
    }

    /// Waits until all that has happened until now is recorded.
    #[track_caller]
    pub fn catch_up(&mut self) {
        let now = clock::boottime();
        let is_later = |frame: &Frame| matches!(frame, Frame::Tick(time) if *time >= now).then_some(());
        self.wait_for_frame("what has happened by now", is_later);
    }

    /// Waits until the recording is finished, whether or not memtrace has ended.
    #[track_caller]
    pub fn wait_for_end_mark(&mut self) {
        let Self { path, running, frames, .. } = self;
        running.wait_for("end mark", |_| {
            while frames.next(path).is_some() {}
            frames.recording.as_ref()?.end().map(drop)
        });
    }

    /// Asks for a full scan, and waits until the maps of `pid` have been read, from now on.
    #[track_caller]
    pub fn read_maps(&mut self, pid: u32) {
        let now = clock::boottime();
        self.running.signal(Signal::USR2);
        self.wait_for_frame("reading of maps", |frame| {
            let Frame::Observation(Observation { tgid: Tgid(tgid), seen: Seen::Maps(maps), .. }) = frame
            else {
                return None;
            };
            (*tgid == pid && maps.began >= now).then_some(())
        });
    }

    /// Waits until all pages of `places` were scanned, each by itself, after they had been touched.
    #[track_caller]
    pub fn wait_for_scans(&mut self, places: &[Place]) {
        let Self { path, running, frames, .. } = self;
        running.wait_for(&format!("scan of all of {places:x?}"), |_| {
            while frames.next(path).is_some() {}
            places.iter().all(|place| frames.has_scanned(place)).then_some(())
        });
    }
}

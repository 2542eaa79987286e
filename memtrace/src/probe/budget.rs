//! How much scanning may take of the target and of the host.
//!
//! Layer: shell. Input: [`Budget`]. Output: rests, so that a walk keeps to it.
//! Source: `include/linux/mmap_lock.h`: who reads page tables keeps the process from changing its memory map.
//! Keeps: a walk rests for as long as its share of a CPU says, whatever the range.
//! Not here: how many pages fit in `max_lock` (`sys::scan`).

use std::{
    thread,
    time::{Duration, Instant},
};

/// How much a walk may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Longest time for which the lock of a memory map is held in one go; about, as the kernel does not promise any.
    pub max_lock: Duration,
    /// Share of one CPU, in percent, at least 1; from 100 on there are no rests, and a thread for each 100.
    pub max_cpu_percent: u32,
}

impl Default for Budget {
    /// 2 ms, and all of a CPU.
    fn default() -> Self {
        Self { max_lock: Duration::from_millis(2), max_cpu_percent: 100 }
    }
}

impl Budget {
    /// How many threads may read at once.
    pub(super) fn threads(self) -> usize {
        (self.max_cpu_percent / 100).max(1) as usize
    }

    /// A time of work that begins now.
    pub(super) fn shift(self) -> Shift {
        Shift { max_cpu_percent: self.max_cpu_percent.max(1), began: Instant::now() }
    }
}

/// Work between two rests.
#[derive(Debug)]
pub(super) struct Shift {
    max_cpu_percent: u32,
    began: Instant,
}

impl Shift {
    /// Rests for what was worked since the last rest.
    pub(super) fn rest(&mut self) {
        if let Some(idle) = 100_u32.checked_sub(self.max_cpu_percent).filter(|idle| *idle > 0) {
            thread::sleep(self.began.elapsed() * idle / self.max_cpu_percent);
            self.began = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::time::{ClockId, clock_gettime};

    use super::*;

    fn cpu_time() -> Duration {
        clock_gettime(ClockId::ThreadCPUTime).try_into().expect("not negative")
    }

    #[test]
    fn work_takes_no_more_than_its_share() {
        let mut shift = Budget { max_cpu_percent: 20, ..Budget::default() }.shift();
        let (began, cpu_before) = (Instant::now(), cpu_time());

        for _ in 0..5 {
            let until = cpu_time() + Duration::from_millis(2);
            while cpu_time() < until {}
            shift.rest();
        }

        let worked = cpu_time().saturating_sub(cpu_before);
        assert!(began.elapsed() > worked * 4, "{worked:?} of {:?}", began.elapsed());
    }
}

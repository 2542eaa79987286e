//! Counts how often the kernel skipped a program, because one was at work on the same CPU already: at a raw tracepoint the same
//! program, which Linux 7.0 and later preempt; at a classic one any, or a bpf(2) call on a map, anybody's, that was preempted.
//!
//! Layer: shell. Input: the loaded programs. Output: a [`Loss`] for each period with skipped runs.
//! Source: `recursion_misses` in `/proc/PID/fdinfo` of a program (Linux 5.12; of classic tracepoints 6.7).
//! Keeps: the kernel does not tell for which process a run would have been, so that the count is an upper bound.
//! Not here: programs whose runs only add to what others tell (entries of faults).

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
};

use crate::{
    event::{Loss, LossCause},
    sys::clock,
    units::{Nanos, Timestamp},
};

/// Time between two readings, well below that for which events wait for their order.
const PERIOD: Nanos = Nanos::new(100_000_000);

/// Room for what the kernel tells of a program.
const TEXT: usize = 1024;

/// Reads how often programs were skipped.
#[derive(Debug)]
pub struct SkipMeter {
    programs: Vec<(OwnedFd, File)>,
    seen: u64,
    read: Timestamp,
}

impl SkipMeter {
    /// Counts for `programs`, which are not attached yet.
    pub fn new(programs: Vec<OwnedFd>) -> io::Result<Self> {
        let facts = |program: OwnedFd| {
            let file = File::open(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
            Ok((program, file))
        };
        let programs = programs.into_iter().map(facts).collect::<io::Result<_>>()?;
        Ok(Self { programs, seen: 0, read: clock::boottime() })
    }

    /// What was skipped since the reading before, if it is time for another one, or the `last`.
    pub fn read(&mut self, now: Timestamp, last: bool) -> Option<Loss> {
        if !last && now.since(self.read) < PERIOD {
            return None;
        }
        let total = self.total();
        let count = total.saturating_sub(self.seen);
        let start = std::mem::replace(&mut self.read, now);
        self.seen = total;
        (count > 0).then_some(Loss {
            start,
            end: Some(now),
            cpu: None,
            cause: LossCause::Skipped,
            count: Some(count),
        })
    }

    fn total(&self) -> u64 {
        self.programs.iter().filter_map(|(_, facts)| skipped(facts)).sum()
    }
}

/// How often the program was skipped; `None` if the kernel does not tell.
fn skipped(facts: &File) -> Option<u64> {
    let mut text = [0; TEXT];
    let len = facts.read_at(&mut text, 0).ok()?;
    parse(text.get(..len)?)
}

fn parse(facts: &[u8]) -> Option<u64> {
    let text = str::from_utf8(facts).ok()?;
    text.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_is_found_among_the_facts() {
        let facts =
            b"pos:\t0\nflags:\t02000002\nprog_type:\t17\nrecursion_misses:\t85\nverified_insns:\t12\n";
        assert_eq!(parse(facts), Some(85));
        assert_eq!(parse(b"pos:\t0\nprog_type:\t17\n"), None, "before Linux 5.12");
    }
}

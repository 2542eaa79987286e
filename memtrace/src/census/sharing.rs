//! Who shares what with whom: pages by the set of processes that map their frames.

use std::collections::BTreeMap;

use crate::{
    pagemap::{PageRun, SwapSlot},
    units::PageCount,
};

/// Offsets of slots in swap are shorter.
const AREA_SHIFT: u32 = 56;

/// Frames, or slots in swap, that several processes may have, as they were found.
#[derive(Debug, Default)]
pub struct Sharing {
    spans: Vec<Span>,
    is_full: bool,
}

/// Spans that are kept: half a GiB.
const MAX_SPANS: usize = 1 << 24;

/// Frames that follow one another, found in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    first: u64,
    end: u64,
    /// How often each is mapped, by all processes together.
    mapcount: u64,
    process: u32,
}

/// Processes that map the same frames.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sharers {
    /// Their numbers, in the order in which they were scanned.
    pub processes: Vec<u32>,
    /// Whether the frames are mapped more often than these processes do: by others, or by a process that changed meanwhile.
    pub has_others: bool,
}

impl Sharing {
    /// Adds `run`, found in the process of number `process`, if others may map its frames.
    pub fn add(&mut self, process: u32, run: &PageRun) {
        let (Some(frame), Some(mapcount)) = (run.entries.entry.pfn(), run.frame.mapcount) else { return };
        if mapcount >= 2 {
            self.push(process, frame.as_raw(), run.entries.pages, mapcount);
        }
    }

    /// Adds `pages` that the process of number `process` has in swap from `slot` on. Who else has them is not known.
    pub fn add_slots(&mut self, process: u32, slot: SwapSlot, pages: PageCount) {
        self.push(process, u64::from(slot.kind) << AREA_SHIFT | slot.offset, pages, 0);
    }

    fn push(&mut self, process: u32, first: u64, pages: PageCount, mapcount: u64) {
        let end = first + pages.get();
        let is_full = self.spans.len() == MAX_SPANS;
        match self.spans.last_mut() {
            Some(last) if last.end == first && last.mapcount == mapcount && last.process == process => {
                last.end = end;
            }
            _ if is_full => self.is_full = true,
            _ => self.spans.push(Span { first, end, mapcount, process }),
        }
    }

    /// The frames of each set of sharers, most first; `None` if they were too many.
    #[must_use]
    pub fn into_sets(mut self) -> Option<Vec<(Sharers, PageCount)>> {
        if self.is_full {
            return None;
        }
        self.spans.sort_unstable();
        let mut sets = BTreeMap::<Sharers, u64>::new();
        // Spans that reach beyond `at`.
        let mut open: Vec<Span> = Vec::new();
        let mut at = 0;
        let mut spans = self.spans.into_iter().peekable();
        loop {
            open.retain(|span| span.end > at);
            if open.is_empty() {
                let Some(next) = spans.peek() else { break };
                at = next.first;
            }
            while let Some(span) = spans.next_if(|span| span.first <= at) {
                open.push(span);
            }
            let ends = open.iter().map(|span| span.end);
            let Some(end) = ends.chain(spans.peek().map(|span| span.first)).min() else { break };
            *sets.entry(sharers(&open)).or_default() += end - at;
            at = end;
        }
        let mut sets: Vec<_> = sets.into_iter().map(|(set, frames)| (set, PageCount::new(frames))).collect();
        sets.sort_by_key(|(_, frames)| std::cmp::Reverse(*frames));
        Some(sets)
    }
}

/// Who has the frames that all `spans` have.
fn sharers(spans: &[Span]) -> Sharers {
    let mut processes: Vec<u32> = spans.iter().map(|span| span.process).collect();
    processes.sort_unstable();
    processes.dedup();
    let mapcount = spans.iter().map(|span| span.mapcount).max().unwrap_or(0);
    Sharers { processes, has_others: mapcount > spans.len() as u64 }
}

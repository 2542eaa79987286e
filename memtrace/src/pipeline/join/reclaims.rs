//! When the kernel reclaimed pages, as far as readings of its counters say.

use crate::{
    event::ReclaimReading,
    pagemap::{PageFlags, StateRun},
    units::Timestamp,
};

/// What the readings so far say.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::pipeline) struct Reclaims {
    last: Option<ReclaimReading>,
    /// The last reading that showed more of each kind than the one before it.
    swap_backed: Option<Timestamp>,
    file: Option<Timestamp>,
}

impl Reclaims {
    /// The counters were read.
    pub(in crate::pipeline) fn read(&mut self, reading: ReclaimReading) {
        let Some(last) = self.last.replace(reading) else { return };
        if reading.swap_backed > last.swap_backed {
            self.swap_backed = Some(reading.time);
        }
        if reading.file > last.file {
            self.file = Some(reading.time);
        }
    }

    /// Whether pages of the kind of `was` have been reclaimed somewhere since `time`, or since the last reading before that.
    pub(in crate::pipeline) fn has_taken(&self, was: &StateRun, time: Timestamp) -> bool {
        // Frames behind the first of a folio need not have its flags.
        let is_known = |flags: &PageFlags| !flags.contains(PageFlags::COMPOUND_TAIL);
        let moved = match was.words.and_then(|words| words.flags) {
            Some(flags) if flags.contains(PageFlags::SWAPBACKED) => self.swap_backed,
            Some(flags) if is_known(&flags) => self.file,
            _ => self.swap_backed.max(self.file),
        };
        moved.is_some_and(|moved| moved > time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pagemap::{PageCategories, PageWords, PagemapEntry},
        units::{VirtAddr, VirtRange},
    };

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    fn page(flags: Option<PageFlags>) -> StateRun {
        let range = VirtRange::new(VirtAddr::from_raw(0x1000), VirtAddr::from_raw(0x2000)).expect("a page");
        let words = Some(PageWords { entry: PagemapEntry::default(), flags });
        StateRun { words, ..StateRun::new(range, PageCategories::PRESENT) }
    }

    fn read(reclaims: &mut Reclaims, time: u64, swap_backed: u64, file: u64) {
        reclaims.read(ReclaimReading { time: at(time), swap_backed, file });
    }

    #[test]
    fn first_reading_says_nothing() {
        let mut reclaims = Reclaims::default();
        read(&mut reclaims, 10, 1_000, 1_000);

        assert!(!reclaims.has_taken(&page(None), at(5)));
    }

    #[test]
    fn reclaim_is_evidence_for_pages_of_its_kind_that_were_there_before() {
        let mut reclaims = Reclaims::default();
        for (time, file) in [(10, 70), (20, 71), (30, 71)] {
            read(&mut reclaims, time, 5, file);
        }

        let of_file = page(Some(PageFlags::LRU));
        assert!(reclaims.has_taken(&of_file, at(19)));
        assert!(!reclaims.has_taken(&of_file, at(20)));
        assert!(!reclaims.has_taken(&page(Some(PageFlags::SWAPBACKED)), at(5)));
        // Of which kind they are is not known.
        for flags in [None, Some(PageFlags::COMPOUND_TAIL)] {
            assert!(reclaims.has_taken(&page(flags), at(19)), "{flags:?}");
        }
    }
}

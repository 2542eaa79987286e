//! Page state of scans, counted.

use crate::{
    event::{HostFacts, PageScan, ScanDepth},
    pagemap::{EntryFlags, PageCategories, PageFlags, Release, StateRun},
    timeline::{PageCounts, PageKind},
    units::{PageCount, VirtRange},
};

bitflags::bitflags! {
    /// Kinds of pages that are counted.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(in crate::pipeline) struct Kinds: u16 {
        const PRESENT = 1 << 0;
        const SWAPPED = 1 << 1;
        const FILE = 1 << 2;
        const ZERO = 1 << 3;
        const HUGE = 1 << 4;
        const SHARED = 1 << 5;
        const EXCLUSIVE = 1 << 6;
        const KSM = 1 << 7;
        const MTHP = 1 << 8;
        const HUGETLB = 1 << 9;
    }
}

/// How many [`Kinds`] there are.
const KINDS: usize = 10;

const _: () = assert!(Kinds::all().bits().count_ones() as usize == KINDS);

impl Kinds {
    /// Of which kinds each page of `run` is.
    pub(in crate::pipeline) fn of(run: &StateRun) -> Self {
        let StateRun { categories, words, .. } = run;
        let has = |category| categories.contains(category);
        let flags = words.and_then(|words| words.flags).unwrap_or_default();
        let mut kinds = Self::empty();
        // A guard has the form of a swap entry.
        let is_guard = has(PageCategories::GUARD)
            || words.is_some_and(|words| words.entry.as_raw() & EntryFlags::GUARD.bits() != 0);
        kinds.set(Self::SWAPPED, has(PageCategories::SWAPPED) && !is_guard);
        kinds.set(Self::FILE, has(PageCategories::FILE));
        kinds.set(Self::ZERO, has(PageCategories::PFNZERO) || flags.contains(PageFlags::ZERO_PAGE));
        if !has(PageCategories::PRESENT) {
            return kinds;
        }
        kinds |= Self::PRESENT;
        let is_exclusive = words.is_some_and(|words| words.entry.is_exclusive());
        kinds.set(Self::EXCLUSIVE, is_exclusive);
        kinds.set(Self::SHARED, !is_exclusive && !kinds.contains(Self::ZERO));
        kinds.set(Self::HUGE, has(PageCategories::HUGE));
        kinds.set(Self::KSM, flags.contains(PageFlags::KSM));
        kinds.set(Self::HUGETLB, flags.contains(PageFlags::HUGE));
        let is_part = flags.contains(PageFlags::THP) && !kinds.intersects(Self::HUGE | Self::ZERO);
        kinds.set(Self::MTHP, is_part);
        kinds
    }

    /// Those of which `scan` tells.
    fn told_by(scan: &PageScan, is_ksm_known: bool) -> Self {
        let PageScan { known, depth, .. } = scan;
        let mut kinds = Self::PRESENT | Self::SWAPPED | Self::FILE;
        let has_frames = *depth >= ScanDepth::Frames;
        kinds.set(Self::ZERO, known.contains(PageCategories::PFNZERO) || has_frames);
        kinds.set(Self::HUGE, known.contains(PageCategories::HUGE));
        kinds.set(Self::SHARED | Self::EXCLUSIVE, *depth >= ScanDepth::Words && kinds.contains(Self::ZERO));
        kinds.set(Self::HUGETLB, has_frames);
        // Else they would be taken for those that are mapped by a huge entry.
        kinds.set(Self::MTHP, has_frames && kinds.contains(Self::HUGE));
        kinds.set(Self::KSM, has_frames && is_ksm_known);
        kinds
    }

    /// The one word for the state of the pages of `run`, where these kinds are told.
    pub(in crate::pipeline) fn kind_of(self, run: &StateRun) -> PageKind {
        let kinds = Self::of(run);
        let of_large = if self.contains(Self::HUGE) { PageKind::Mthp } else { PageKind::Thp };
        // Where that is not told of a page, nothing is that a flag would tell.
        let of_others = if self.contains(Self::HUGETLB) { PageKind::Small } else { PageKind::Present };
        let words = [
            (Self::SWAPPED, PageKind::Swapped),
            (Self::ZERO, PageKind::Zero),
            (Self::HUGETLB, PageKind::Hugetlb),
            (Self::HUGE, PageKind::Huge),
            (Self::KSM & self, PageKind::Ksm),
            (Self::MTHP, of_large),
            (Self::PRESENT, of_others),
        ];
        words.into_iter().find(|(kind, _)| kinds.intersects(*kind)).map_or(PageKind::Guard, |(_, word)| word)
    }

    fn indices(self) -> impl Iterator<Item = usize> {
        (0..KINDS).filter(move |kind| self.bits() & (1 << kind) != 0)
    }
}

/// How pages are told apart on one host.
#[derive(Clone, Copy, Debug)]
pub(in crate::pipeline) struct Counting {
    is_ksm_known: bool,
}

impl Counting {
    pub(in crate::pipeline) fn new(host: &HostFacts) -> Self {
        // There every anonymous page has that flag: `stable_page_flags` takes one bit of two for the kind of the mapping.
        let has_wrong_flag = Release::new(6, 10)..Release::new(6, 18);
        Self { is_ksm_known: !has_wrong_flag.contains(&Release::parse(&host.kernel_release)) }
    }

    /// Of which kinds of pages `scan` tells.
    pub(in crate::pipeline) fn told_by(self, scan: &PageScan) -> Kinds {
        Kinds::told_by(scan, self.is_ksm_known)
    }

    /// Counts the pages that `scan` saw in `part`, which lies in one slot.
    pub(in crate::pipeline) fn count(
        self,
        scan: &PageScan,
        part: VirtRange,
        pages: impl Fn(VirtRange) -> PageCount,
    ) -> SlotState {
        let mut state = SlotState { pages: [0; KINDS], known: self.told_by(scan) };
        let first = scan.runs.partition_point(|run| run.range.end() <= part.start());
        for run in &scan.runs[first..] {
            let Some(seen) = run.range.intersection(part) else { break };
            let count = u16::try_from(pages(seen).get()).unwrap_or(u16::MAX);
            for kind in Kinds::of(run).indices() {
                state.pages[kind] = state.pages[kind].saturating_add(count);
            }
        }
        state
    }
}

/// Pages of one slot by kind; a slot has 512 at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pipeline) struct SlotState {
    pages: [u16; KINDS],
    known: Kinds,
}

impl SlotState {
    /// Whether all pages are absent.
    pub(in crate::pipeline) fn is_empty(&self) -> bool {
        self.pages == [0; KINDS]
    }

    pub(in crate::pipeline) fn present(&self) -> u64 {
        u64::from(self.pages[0])
    }
}

impl std::ops::AddAssign<&SlotState> for PageCounts {
    fn add_assign(&mut self, slot: &SlotState) {
        if slot.is_empty() {
            return;
        }
        let count =
            |kind: Kinds| PageCount::new(kind.indices().map(|kind| u64::from(slot.pages[kind])).sum());
        let known = |kind| slot.known.contains(kind).then(|| count(kind));
        *self += Self {
            present: count(Kinds::PRESENT),
            swapped: count(Kinds::SWAPPED),
            file: count(Kinds::FILE),
            zero: known(Kinds::ZERO),
            huge: known(Kinds::HUGE),
            shared: known(Kinds::SHARED),
            exclusive: known(Kinds::EXCLUSIVE),
            ksm: known(Kinds::KSM),
            mthp: known(Kinds::MTHP),
            hugetlb: known(Kinds::HUGETLB),
        };
    }
}

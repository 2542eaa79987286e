//! What is known of the pages of one address space, and what changes it.

use std::mem;

use rangemap::{RangeMap, RangeSet};

use super::super::moves::{move_pages, parts};
use crate::{
    event::{Access, Fault, FaultKind, LargeFolios},
    region::Region,
    timeline::{Backing, Departure, OutcomeKind},
    units::{PageSize, Timestamp, VirtAddr, VirtRange},
};

/// Ranges that are remembered of one address space: 48 MiB. If there are more, what is not there is forgotten; or all, if that does not
/// halve them.
const MOST: usize = 1 << 20;

/// One address space.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Of pages that are not in it nothing is known.
    pub(super) known: RangeMap<VirtAddr, Known>,
    /// What is registered with userfaultfd: whoever serves it gives pages without faults at them.
    pub(super) served: RangeSet<VirtAddr>,
    /// What children have empty.
    pub(super) wiped: RangeSet<VirtAddr>,
    /// What is locked: as it grows or is opened, the kernel populates it.
    pub(super) locked: RangeSet<VirtAddr>,
    /// Whether what is mapped from now on is.
    pub(super) locks_new: bool,
    /// For what large folios were advised, or advised against.
    pub(super) advised_huge: RangeMap<VirtAddr, bool>,
    /// Whether some page that is not there may be without doubt.
    pub(super) has_certain: bool,
    /// Whether it was there before events reported what is registered.
    pub(super) is_old: bool,
}

/// What is known of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) state: State,
    pub(super) doubt: Doubt,
}

/// Whether a page that is not there may have become resident since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubt {
    /// Not without a fault at it.
    Nothing,
    /// Along with another page, or unseen: a scan tells.
    UntilScanned,
    /// A call populates it, and may do so for many scans.
    Populating,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Resident,
    /// Not there. Whether it ever was is not known.
    Absent,
    /// Not there, after it was; with the time when that became known.
    Gone(Departure, Timestamp),
}

impl Known {
    pub(super) const RESIDENT: Self = Self { state: State::Resident, doubt: Doubt::Nothing };
    pub(super) const ABSENT: Self = Self { state: State::Absent, doubt: Doubt::Nothing };
    /// Not there, unless it came unseen.
    pub(super) const UNSEEN: Self = Self { state: State::Absent, doubt: Doubt::UntilScanned };

    pub(super) fn is_resident(self) -> bool {
        self.state == State::Resident
    }

    /// The same page, which is not there, for which there is this reason if it was there.
    pub(super) const fn emptied(self, how: Departure, time: Timestamp) -> Self {
        let state = match self.state {
            State::Resident => State::Gone(how, time),
            State::Absent | State::Gone(..) => self.state,
        };
        Self { state, ..Self::ABSENT }
    }

    pub(super) fn is_doubtful(self) -> bool {
        self.doubt > Doubt::Nothing
    }
}

impl Space {
    /// A call has emptied `range`.
    pub(super) fn empty(&mut self, range: VirtRange, (how, time): (Departure, Timestamp)) {
        let before: Vec<_> = parts(&self.known, range).collect();
        self.has_certain = true;
        self.known.insert(range.addrs(), Known::ABSENT);
        for (part, here) in before {
            self.known.insert(part.addrs(), here.emptied(how, time));
        }
        let served: Vec<_> = self.served.overlapping(range.addrs()).cloned().collect();
        for part in ranges(served).filter_map(|part| part.intersection(range)) {
            self.doubt(part, Doubt::UntilScanned);
        }
    }

    /// A scan found pages in `range`. Where these may be zero pages, only what was resident before is known to be.
    pub(super) fn found_present(&mut self, range: VirtRange, may_be_zero: bool) {
        let gone = parts(&self.known, range).filter(|(_, here)| !here.is_resident());
        let gone: Vec<_> = gone.collect();
        if may_be_zero {
            for (part, _) in gone {
                self.known.remove(part.addrs());
            }
        } else {
            self.known.insert(range.addrs(), Known::RESIDENT);
        }
    }

    /// A scan that ended at `time` found nothing in `range`: what a call populates may come yet.
    pub(super) fn found_empty(&mut self, range: VirtRange, time: Timestamp) {
        let before = parts(&self.known, range);
        let populating: Vec<_> = before.filter(|(_, here)| here.doubt == Doubt::Populating).collect();
        self.empty(range, (Departure::Unknown, time));
        for (part, here) in populating {
            self.known.insert(part.addrs(), here);
        }
    }

    /// What a fault in `region` brought at a page that was like `before`; `alone` if nothing can have come along.
    pub(super) fn proof(
        &self,
        before: Option<Known>,
        fault: &Fault,
        region: &Region,
        alone: bool,
    ) -> Option<OutcomeKind> {
        let is_write = fault.access? == Access::Write;
        let is_file = region.traits.backing().is_file();
        match (is_shared(region), fault.protection?) {
            // A store to a page that was mapped for loads: nothing is copied.
            (true, true) => return is_write.then_some(OutcomeKind::Reuse),
            // The kernel lets migration and NUMA balancing look as if nothing were there.
            (true, false) => {
                let is_resident = before.is_some_and(Known::is_resident);
                return (is_file && !is_resident).then_some(OutcomeKind::File);
            }
            (false, true) => return None,
            (false, false) => {}
        }
        let before = before?;
        // What a scan found gone may be in swap.
        let is_emptied =
            matches!(before.state, State::Absent | State::Gone(Departure::Advice | Departure::Unmap, _));
        if !is_emptied || self.served.contains(&fault.addr) {
            return None;
        }
        if is_file && !is_write {
            return Some(OutcomeKind::File);
        }
        let is_certain = before.doubt == Doubt::Nothing;
        match is_anonymous(region) {
            _ if !is_certain => None,
            false => is_file.then_some(OutcomeKind::Copy),
            true if !alone || fault.kind != FaultKind::Minor => None,
            true if is_write => Some(OutcomeKind::Anon),
            true => (!self.is_old).then_some(OutcomeKind::Zero),
        }
    }

    /// What `fault` in `region` may bring besides its page; `None` if nothing.
    ///
    /// The kernel maps files and memory by a huge entry at most, hugetlb by one of any size. A store to a private mapping of a file copies
    /// its page alone (`do_cow_fault` of `mm/memory.c`).
    pub(super) fn brought_with(
        &self,
        fault: &Fault,
        region: &Region,
        page: PageSize,
        large_folios: Option<LargeFolios>,
    ) -> Option<VirtRange> {
        if region.traits.backing() == Backing::Hugetlb {
            return Some(region.range);
        }
        let Fault { addr, access, .. } = *fault;
        let may_be_large = match (large_folios, self.advised_huge.get(&addr)) {
            _ if !is_anonymous(region) => is_shared(region) || access != Some(Access::Write),
            (None, _) => true,
            (Some(LargeFolios::Never), _) => false,
            (Some(LargeFolios::Advised), advised) => *advised.unwrap_or(&self.is_old),
            (Some(LargeFolios::Always), advised) => *advised.unwrap_or(&true),
        };
        let block = VirtRange::of_page(addr, page).widened(page.bytes().ilog2() + page.pmd_order());
        block.intersection(region.range).filter(|block| may_be_large && block.bytes() > page.bytes())
    }

    /// Pages of `range` that are not there may come unseen.
    pub(super) fn doubt(&mut self, range: VirtRange, doubt: Doubt) {
        let certain = parts(&self.known, range).filter(|(_, here)| !here.is_resident() && here.doubt < doubt);
        let certain: Vec<_> = certain.collect();
        for (part, here) in certain {
            self.known.insert(part.addrs(), Known { doubt, ..here });
        }
    }

    /// What is mapped is locked now, `current`; and what will be, if it is to be populated.
    pub(super) fn lock_all(&mut self, current: bool, future: bool) {
        self.locks_new = future;
        if current {
            self.locked.insert(everything().addrs());
            self.doubt(everything(), Doubt::Populating);
        }
    }

    /// The pages of `old` are in `new` now; in what it has grown by there are none.
    pub(super) fn take_along(&mut self, old: Option<VirtRange>, new: VirtRange, time: Timestamp) {
        move_pages(&mut self.known, old, new);
        move_pages(&mut self.advised_huge, old, new);
        let Some(old) = old else { return };
        // What some of it has is taken for what all of it has; but children have empty what is so as a whole.
        let is_whole = self.wiped.gaps(&old.addrs()).next().is_none();
        let had = [&mut self.served, &mut self.locked, &mut self.wiped].map(|set| {
            let had = set.overlaps(&old.addrs());
            set.remove(old.addrs());
            set.remove(new.addrs());
            had
        });
        let [is_served, is_locked, is_wiped] = had;
        for (set, has) in [
            (&mut self.served, is_served),
            (&mut self.locked, is_locked),
            (&mut self.wiped, is_wiped && is_whole),
        ] {
            if has {
                set.insert(new.addrs());
            }
        }
        let end_of_old = VirtAddr::from_raw(new.start().as_raw().saturating_add(old.bytes()));
        if let Some(grown) = VirtRange::new(end_of_old, new.end()) {
            self.empty(grown, (Departure::Unmap, time));
            if is_locked {
                self.doubt(grown, Doubt::Populating);
            }
        }
    }

    /// Forgets what is too much: what had gone first. Returns whether it did.
    pub(super) fn limit(&mut self) -> bool {
        let is_too_much = self.known.len() > MOST;
        if is_too_much {
            let known = mem::take(&mut self.known);
            let resident = known.into_iter().filter(|(_, here)| here.is_resident());
            self.known = resident.collect();
            if self.known.len() > MOST / 2 {
                self.known.clear();
            }
        }
        is_too_much
    }
}

/// Whether `region` is private memory without a file.
pub(in super::super) fn is_anonymous(region: &Region) -> bool {
    !is_shared(region) && matches!(region.traits.backing(), Backing::Anon | Backing::ThreadStack)
}

/// Whether stores to `region` are seen by all that map its file, or its memory.
fn is_shared(region: &Region) -> bool {
    region.traits.perms()[3] == b's'
}

/// All addresses.
pub(super) fn everything() -> VirtRange {
    let (start, end) = (VirtAddr::from_raw(0), VirtAddr::from_raw(u64::MAX));
    VirtRange::new(start, end).expect("not empty")
}

/// `all` as ranges of addresses.
pub(super) fn ranges(
    all: impl IntoIterator<Item = std::ops::Range<VirtAddr>>,
) -> impl Iterator<Item = VirtRange> {
    all.into_iter().filter_map(|part| VirtRange::new(part.start, part.end))
}

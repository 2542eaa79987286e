//! Counts pages: what there is to say of a region, a process or all memory at one moment.
//!
//! Layer: core. Input: [`PageRun`]s in the order of addresses. Output: a [`Tally`], and [`Sharers`].
//! Source: `smaps_account` of `fs/proc/task_mmu.c` for what counts as resident and for whom; `tools/mm/page-types.c` and
//! `tools/mm/thpmaps` for words that people know.
//! Keeps: what was not told is not counted as something else; memory is bounded by how many kinds of pages there are, not by how
//! many pages, but for [`Sharing`], which gives up at some number.
//! Not here: reading pages (`probe`), what is printed (`snapshot`).
#![forbid(unsafe_code)]

mod counts;
mod folios;
mod sharing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use self::{
    counts::Counts,
    folios::{Blocks, Content, FolioExtent, FolioPiece, FolioUse, Folios},
    sharing::{Sharers, Sharing},
};
use crate::{
    event::{FileKind, Tgid, Vma},
    pagemap::{
        EntryFlags, EntryRun, Frame, NotPresent, PageCategories, PageEra, PageFlags, PageRun, PagemapEntry,
        Residence, SwapSlot,
    },
    units::{PageCount, PageSize, Vpn},
};

/// How pages are counted.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Size of base pages.
    pub page: PageSize,
    /// How words are read.
    pub era: PageEra,
    /// Sizes of aligned blocks to count, as the number of pages' logarithm to base 2; ascending.
    pub block_orders: Vec<u32>,
}

/// A proportional share of memory: each page divided by the number of its mappings, as smaps reckons it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// In 4096ths of a byte.
    fixed: u64,
}

impl Share {
    /// Bits behind the point (`PSS_SHIFT`).
    const SHIFT: u32 = 12;

    /// `pages` that are each mapped `mapcount` times.
    fn of(pages: u64, mapcount: u64, page: PageSize) -> Self {
        Self { fixed: ((page.bytes() << Self::SHIFT) / mapcount.max(1)).saturating_mul(pages) }
    }

    /// The share in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.fixed >> Self::SHIFT
    }

    /// The share of each of `processes` in swap, of which each set in `sets` has so many pages.
    #[must_use]
    pub fn of_swap(processes: usize, sets: &[(Sharers, PageCount)], page: PageSize) -> Vec<Self> {
        let mut shares = vec![Self::default(); processes];
        for (sharers, pages) in sets {
            let each = Self::of(pages.get(), sharers.processes.len() as u64, page);
            for process in &sharers.processes {
                if let Some(share) = shares.get_mut(*process as usize) {
                    share.fixed += each.fixed;
                }
            }
        }
        shares
    }
}

/// What swap entries of one area say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwapUse {
    /// Pages in the area.
    pub pages: PageCount,
    /// Stretches of slots that follow one another as their pages do.
    pub stretches: u64,
    /// The lowest slot, in base pages of the area.
    pub first: u64,
    /// The highest slot.
    pub last: u64,
}

/// The sums over pages. `None` where something was not asked for or cannot be known.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Pages in memory, whatever they are.
    pub present: PageCount,
    /// Pages that count as resident (RSS): without pages of zeros, those of devices and of the kernel, and hugetlb.
    pub resident: PageCount,
    /// Resident pages that are anonymous.
    pub anon: PageCount,
    /// Resident pages that are mapped once (USS).
    pub unique: PageCount,
    /// Resident pages, each divided by how often it is mapped (PSS).
    pub proportional: Share,
    /// Pages in a swap area, by their entries in the page table.
    pub swapped: PageCount,
    /// Pages of shared memory in a swap area, of which page tables do not tell, as far as they are known.
    pub swapped_shared: PageCount,
    /// Whether there may be more of them.
    pub is_swap_unknown: bool,
    /// Pages of zeros that all share.
    pub zero: PageCount,
    /// Pages of hugetlb.
    pub hugetlb: PageCount,
    /// Resident pages mapped by an entry of a page middle directory.
    pub huge: PageCount,
    /// Entries that are neither pages nor swap, by what they are.
    pub others: Counts<&'static str>,
    /// Present pages by their word of kpageflags and the flags of their word in pagemap; entries of swap have a word 0.
    pub flags: Counts<(PageFlags, EntryFlags)>,
    /// Present pages by how often they are mapped.
    pub mapcounts: Counts<u64>,
    /// Present pages by the inode of the memory cgroup that they are charged to.
    pub cgroups: Counts<u64>,
    /// Present pages by NUMA node.
    pub nodes: Counts<u32>,
    /// Use of each swap area.
    pub swap: BTreeMap<u8, SwapUse>,
    /// Present pages by the length of the stretch of frames that they lie in, which follow one another as the pages do: that
    /// length's logarithm to base 2.
    pub contiguous: Counts<u32>,
    /// Large folios.
    pub folios: Folios,
    /// Whether the file behind all the pages is of hugetlb.
    is_of_hugetlb: bool,
    stretch: Stretch,
    /// Where the last slot of swap would go on: the number of the page, and the slot that is next to it.
    slots: Option<(u64, SwapSlot)>,
}

/// Pages in frames that follow one another, so far.
#[derive(Clone, Copy, Debug, Default)]
struct Stretch {
    /// Numbers of the page and of the frame behind the last.
    next: (u64, u64),
    pages: u64,
}

impl Tally {
    /// No pages yet of a VMA with a file of this `kind`. By that those of hugetlb are known, whether or not flags of frames are.
    #[must_use]
    pub fn of(kind: Option<FileKind>) -> Self {
        Self { is_of_hugetlb: kind == Some(FileKind::Hugetlb), ..Self::default() }
    }

    /// Adds `run`; which [`Self::nodes`] its pages are on is for those who know where nodes are.
    pub fn add(&mut self, run: &PageRun, rules: &Rules) {
        let entry = run.entries.entry;
        let pages = run.entries.pages;
        match rules.era.residence(entry) {
            Some(Residence::Present(_)) => self.add_present(run, rules),
            Some(Residence::NotPresent(what)) => {
                self.add_flags(PageFlags::empty(), flags_of(entry), pages);
                match what {
                    NotPresent::Swap(slot) => self.add_swap(run.entries.first, slot, pages),
                    NotPresent::Hidden => self.swapped += pages,
                    NotPresent::Migration(_) => self.others.add("migration", pages),
                    NotPresent::HwPoison(_) => self.others.add("hwpoison", pages),
                    NotPresent::Device(_) => self.others.add("device", pages),
                    NotPresent::Marker(_) => self.others.add("marker", pages),
                    NotPresent::Unknown(_) => self.others.add("unknown", pages),
                }
            }
            Some(Residence::Absent) | None => {}
        }
    }

    fn add_present(&mut self, run: &PageRun, rules: &Rules) {
        let PageRun { entries: EntryRun { first: _, pages, entry }, categories: _, frame } = *run;
        self.present += pages;
        self.add_frame(pages, &frame, flags_of(entry));
        self.add_stretch(run);
        self.folios.add(run, rules);
        let flags = frame.flags.map(PageFlags::sanitised);
        let has = |flag| flags.is_some_and(|flags| flags.contains(flag));
        let is_of_file = run.categories.contains(PageCategories::FILE);
        if has(PageFlags::ZERO_PAGE) || run.categories.contains(PageCategories::PFNZERO) {
            self.zero += pages;
        } else if self.is_of_hugetlb || has(PageFlags::HUGE) {
            self.hugetlb += pages;
        } else if is_of_file || flags.is_none_or(|flags| flags.contains(PageFlags::ANON)) {
            // Others are no pages of programs: those of devices, and those that the kernel lends.
            self.add_resident(run, flags.map_or(!is_of_file, |flags| flags.contains(PageFlags::ANON)), rules);
        }
    }

    fn add_resident(&mut self, run: &PageRun, is_anon: bool, rules: &Rules) {
        let pages = run.entries.pages;
        self.resident += pages;
        if is_anon {
            self.anon += pages;
        }
        if run.categories.contains(PageCategories::HUGE) {
            self.huge += pages;
        }
        let is_exclusive = run.entries.entry.as_raw() & EntryFlags::EXCLUSIVE.bits() != 0;
        if run.frame.mapcount.map_or(is_exclusive, |mapcount| mapcount <= 1) {
            self.unique += pages;
        }
        if let Some(mapcount) = run.frame.mapcount {
            self.proportional.fixed += Share::of(pages.get(), mapcount, rules.page).fixed;
        }
    }

    fn add_flags(&mut self, flags: PageFlags, entry: EntryFlags, pages: PageCount) {
        const KEPT: EntryFlags = EntryFlags::SOFT_DIRTY
            .union(EntryFlags::EXCLUSIVE)
            .union(EntryFlags::FILE)
            .union(EntryFlags::SWAPPED);
        self.flags.add((flags, entry & KEPT), pages);
    }

    fn add_swap(&mut self, page: Vpn, slot: SwapSlot, pages: PageCount) {
        let page = page.as_raw();
        let goes_on = self.slots == Some((page, slot));
        self.slots = Some((page + pages.get(), SwapSlot { offset: slot.offset + pages.get(), ..slot }));
        self.swapped += pages;
        let (first, last) = (slot.offset, slot.offset + pages.get() - 1);
        let none = SwapUse { pages: PageCount::default(), stretches: 0, first, last };
        let area = self.swap.entry(slot.kind).or_insert(none);
        area.pages += pages;
        area.stretches += u64::from(!goes_on);
        area.first = area.first.min(first);
        area.last = area.last.max(last);
    }

    fn add_stretch(&mut self, run: &PageRun) {
        let Some(frame) = run.entries.entry.pfn() else { return };
        let here = (run.entries.first.as_raw(), frame.as_raw());
        if here != self.stretch.next {
            self.end_stretch();
        }
        let pages = run.entries.pages.get();
        self.stretch.pages += pages;
        self.stretch.next = (here.0 + pages, here.1 + pages);
    }

    fn end_stretch(&mut self) {
        if let Some(order) = self.stretch.pages.checked_ilog2() {
            self.contiguous.add(order, PageCount::new(self.stretch.pages));
        }
        self.stretch = Stretch::default();
    }

    /// Notes that no more runs come: what goes on over several is settled, but for the folios that [`Folios::unsettled`] has.
    pub fn finish(&mut self, rules: &Rules) {
        self.end_stretch();
        self.slots = None;
        self.folios.finish(rules);
    }

    /// Adds frames that are not known by who maps them.
    pub fn add_frames(&mut self, frames: PageCount, frame: &Frame) {
        self.present += frames;
        self.add_frame(frames, frame, EntryFlags::empty());
    }

    /// Adds what is told of the frames of pages whose words in pagemap have the flags `entry`.
    fn add_frame(&mut self, pages: PageCount, frame: &Frame, entry: EntryFlags) {
        let Frame { flags, mapcount, cgroup } = *frame;
        if let Some(flags) = flags {
            self.add_flags(flags, entry, pages);
        }
        if let Some(mapcount) = mapcount {
            self.mapcounts.add(mapcount, pages);
        }
        if let Some(cgroup) = cgroup {
            self.cgroups.add(cgroup, pages);
        }
    }

    /// Adds the sums of `other`, which is finished.
    pub fn merge(&mut self, other: &Self) {
        let Self {
            present,
            resident,
            anon,
            unique,
            proportional,
            swapped,
            swapped_shared,
            is_swap_unknown,
            zero,
            hugetlb,
            huge,
            others,
            flags,
            mapcounts,
            cgroups,
            nodes,
            swap,
            contiguous,
            folios,
            is_of_hugetlb: _,
            stretch: _,
            slots: _,
        } = other;
        self.present += *present;
        self.resident += *resident;
        self.anon += *anon;
        self.unique += *unique;
        self.proportional.fixed += proportional.fixed;
        self.swapped += *swapped;
        self.swapped_shared += *swapped_shared;
        self.is_swap_unknown |= is_swap_unknown;
        self.zero += *zero;
        self.hugetlb += *hugetlb;
        self.huge += *huge;
        self.others.merge(others);
        self.flags.merge(flags);
        self.mapcounts.merge(mapcounts);
        self.cgroups.merge(cgroups);
        self.nodes.merge(nodes);
        self.contiguous.merge(contiguous);
        self.folios.merge(folios);
        for (area, theirs) in swap {
            let none = SwapUse { pages: PageCount::default(), stretches: 0, ..*theirs };
            let ours = self.swap.entry(*area).or_insert(none);
            ours.pages += theirs.pages;
            ours.stretches += theirs.stretches;
            ours.first = ours.first.min(theirs.first);
            ours.last = ours.last.max(theirs.last);
        }
    }

    /// Pages in a swap area, those that page tables do not tell of too, as far as they are known.
    #[must_use]
    pub fn all_swapped(&self) -> PageCount {
        let mut all = self.swapped;
        all += self.swapped_shared;
        all
    }

    /// Present pages that have `flag`.
    #[must_use]
    pub fn with_flag(&self, flag: PageFlags) -> PageCount {
        let with = self.flags.iter().filter(|((flags, _), _)| flags.contains(flag));
        PageCount::new(with.map(|(_, pages)| pages.get()).sum())
    }

    /// Resident pages of files and of shared memory.
    #[must_use]
    pub fn file(&self) -> PageCount {
        PageCount::new(self.resident.get() - self.anon.get())
    }
}

/// The flags of a word of pagemap, those that mean nothing in its era too.
const fn flags_of(entry: PagemapEntry) -> EntryFlags {
    EntryFlags::from_bits_retain(entry.as_raw())
}

/// What was counted of one VMA.
#[derive(Clone, Debug)]
pub struct RegionCensus {
    /// As maps showed it.
    pub vma: Vma,
    /// What its file is, as far as that is known.
    pub kind: Option<FileKind>,
    /// Its pages.
    pub tally: Tally,
    /// Whether the process was there until the last of them.
    pub is_complete: bool,
}

/// What was counted of one process.
#[derive(Clone, Debug)]
pub struct ProcessCensus {
    /// The process.
    pub tgid: Tgid,
    /// Its name.
    pub comm: String,
    /// Its memory cgroup, as a path in the hierarchy.
    pub cgroup: Option<String>,
    /// Its VMAs, in address order.
    pub regions: Vec<RegionCensus>,
    /// Their sums.
    pub total: Tally,
    /// Its pages in swap, each divided by how many of the processes that were scanned have it; of private memory alone.
    pub swap_share: Share,
    /// Whether it was there all the while.
    pub is_complete: bool,
}

/// What the page cache has of a file.
#[derive(Clone, Debug)]
pub struct FileCensus {
    /// Its path, as it was given or found.
    pub path: String,
    /// Its inode.
    pub inode: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its pages in the page cache.
    pub cached: PageCount,
    /// Of these, pages to be written to the file; `None` without flags.
    pub dirty: Option<PageCount>,
}

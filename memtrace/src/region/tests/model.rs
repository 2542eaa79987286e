//! The rule of identity page by page: nothing here knows of ranges.

use std::{collections::BTreeMap, ops::Range};

use crate::{timeline::Backing, units::VirtAddr};

/// Pages of the model's address space.
pub(super) const PAGES: usize = 28;
/// Where the heap begins, if there is one.
pub(super) const HEAP: usize = 20;
/// Bytes of a page.
pub(super) const PAGE: u64 = 0x1000;
/// The device of the tmpfs that the kernel keeps for itself.
pub(super) const KERNEL_TMPFS: (u32, u32) = (0, 1);
/// Number of the first page, so that address 0 stays out of it.
const FIRST: u64 = 0x10;

/// The address of the page with this index.
pub(super) fn addr(index: usize) -> VirtAddr {
    VirtAddr::from_raw((FIRST + index as u64) * PAGE)
}

/// The index of the page at `addr`.
pub(super) fn index(addr: VirtAddr) -> usize {
    usize::try_from(addr.as_raw() / PAGE - FIRST).expect("the model has few pages")
}

/// A file that pages may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    Library,
    Archive,
    /// A System V segment.
    Segment,
}

impl File {
    /// Device, inode and path, as maps shows them.
    pub(super) const fn shown(self) -> ((u32, u32), u64, &'static str) {
        match self {
            Self::Library => ((8, 1), 77, "/lib/x.so"),
            Self::Archive => ((8, 1), 78, "/lib/y.a"),
            Self::Segment => (KERNEL_TMPFS, 0, "/SYSV00000000 (deleted)"),
        }
    }
}

/// What maps shows of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) perms: [u8; 4],
    /// The file and the number of the page in it.
    pub(super) file: Option<(File, u64)>,
    /// The name that `PR_SET_VMA` gave.
    pub(super) name: Option<&'static str>,
}

impl Shape {
    /// What the page `steps` further shows if it goes on like this one.
    pub(super) fn further(self, steps: usize) -> Self {
        Self { file: self.file.map(|(file, page)| (file, page + steps as u64)), ..self }
    }

    /// Offset in the file, in bytes.
    pub(super) fn offset(self) -> Option<u64> {
        self.file.map(|(_, page)| page * PAGE)
    }

    /// The path, or the name in brackets.
    pub(super) fn shown_name(self) -> String {
        let given = || self.name.map(|name| format!("[anon:{name}]"));
        self.file.map(|(file, _)| file.shown().2.to_owned()).or_else(given).unwrap_or_default()
    }
}

/// One page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) shape: Shape,
    pub(super) is_thread_stack: bool,
    pub(super) is_kept_from_forks: bool,
    /// Its region; `None` if it is new.
    pub(super) id: Option<u64>,
    /// The region that a new page comes from.
    pub(super) source: Option<u64>,
}

impl Page {
    /// A new page that comes from nowhere.
    pub(super) const fn new(shape: Shape, is_thread_stack: bool) -> Self {
        Self { shape, is_thread_stack, is_kept_from_forks: false, id: None, source: None }
    }

    /// Whether the kernel could have `next`, which follows, in the same VMA.
    pub(super) fn shares_vma_with(&self, next: &Self) -> bool {
        self.shape.further(1) == next.shape && self.is_kept_from_forks == next.is_kept_from_forks
    }

    /// Whether `next`, which follows, is in the same region.
    fn shares_region_with(&self, next: &Self) -> bool {
        self.shares_vma_with(next) && self.is_thread_stack == next.is_thread_stack
    }
}

/// The longest stretches of mapped pages in which `goes_on` holds between neighbours.
pub(super) fn runs(pages: &[Option<Page>], goes_on: impl Fn(&Page, &Page) -> bool) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, page) in pages.iter().enumerate() {
        let Some(page) = page else { continue };
        let before = index.checked_sub(1).and_then(|before| pages[before].as_ref());
        match runs.last_mut() {
            Some(run) if before.is_some_and(|before| goes_on(before, page)) => run.end = index + 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

/// An address space, page by page.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) pages: Vec<Option<Page>>,
    /// What the kernel has as the end of the heap.
    pub(super) brk: VirtAddr,
    /// Birth and parent of each live region.
    pub(super) live: BTreeMap<u64, (u64, Option<u64>)>,
    /// Regions that are no more, and when they went.
    pub(super) retired: Vec<(u64, u64)>,
    /// When each page began to look as it does; 0 if it always did.
    pub(super) changed: Vec<u64>,
    shapes: Vec<Option<Shape>>,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            pages: vec![None; PAGES],
            brk: addr(HEAP),
            changed: vec![0; PAGES],
            shapes: vec![None; PAGES],
            ..Self::default()
        }
    }

    /// Finds the regions anew; those in `moving` are on their way to another place.
    pub(super) fn renew(&mut self, time: u64, given: &mut u64, moving: &[u64]) {
        self.hide_names();
        let mut before = std::mem::take(&mut self.live);
        for run in runs(&self.pages, Page::shares_region_with) {
            let pages: Vec<&mut Page> = self.pages[run].iter_mut().flatten().collect();
            let free = pages.iter().filter_map(|page| page.id).filter(|id| !self.live.contains_key(id));
            let (id, life) = free.min().map_or_else(
                || {
                    *given += 1;
                    (*given, (time, pages[0].id.or(pages[0].source)))
                },
                |id| (id, before[&id]),
            );
            self.live.insert(id, life);
            for page in pages {
                page.id = Some(id);
            }
        }
        before.retain(|id, _| !self.live.contains_key(id));
        for (id, life) in before {
            if moving.contains(&id) {
                self.live.insert(id, life);
            } else {
                self.retired.push((id, time));
            }
        }
        for (index, page) in self.pages.iter().enumerate() {
            let shape = page.map(|page| page.shape);
            if shape != self.shapes[index] {
                (self.shapes[index], self.changed[index]) = (shape, time);
            }
        }
    }

    /// Whether the page with this index is part of the heap.
    pub(super) fn is_heap(&self, index: usize) -> bool {
        HEAP <= index && addr(index) < self.brk
    }

    /// Forgets names that maps does not show: it calls what is part of the heap the heap.
    fn hide_names(&mut self) {
        for run in runs(&self.pages, Page::shares_region_with) {
            if run.clone().any(|index| self.is_heap(index)) {
                self.pages[run].iter_mut().flatten().for_each(|page| page.shape.name = None);
            }
        }
    }

    /// The copy that a fork makes.
    pub(super) fn fork(&self, time: u64, given: &mut u64) -> Self {
        let copy = |page: &Option<Page>| {
            let page = page.filter(|page| !page.is_kept_from_forks)?;
            Some(Page { id: None, source: page.id, ..page })
        };
        let mut child = Self { pages: self.pages.iter().map(copy).collect(), brk: self.brk, ..Self::new() };
        child.renew(time, given, &[]);
        child.changed.fill(0);
        child
    }

    /// The regions, in address order.
    pub(super) fn regions(&self) -> Vec<Range<usize>> {
        runs(&self.pages, Page::shares_region_with)
    }

    /// What stands behind the region `run`, and its name.
    pub(super) fn label(&self, run: &Range<usize>, page: &Page) -> (Backing, String) {
        // The kernel calls a VMA the heap that touches it.
        let end = self.brk.as_raw().next_multiple_of(PAGE);
        let is_heap = addr(HEAP).as_raw() < end && addr(run.start).as_raw() <= end && run.end > HEAP;
        let backing = match page.shape.file {
            Some((File::Segment, _)) => Backing::Sysv,
            Some((File::Library | File::Archive, _)) => Backing::File,
            None if is_heap => return (Backing::Heap, "[heap]".to_owned()),
            None if page.is_thread_stack => Backing::ThreadStack,
            None => Backing::Anon,
        };
        (backing, page.shape.shown_name())
    }
}

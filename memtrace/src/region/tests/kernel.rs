//! A kernel that changes the model and tells an [`AddressSpace`] of it, as tracing would.

use std::ops::Range;

use super::model::{File, HEAP, KERNEL_TMPFS, Model, PAGE, PAGES, Page, Shape, addr, index, runs};
use crate::{
    event::{
        FileKind, Landmarks, MapCall, MapRequest, MapsReading, ReportedVma, Tid, Vma,
        flags::{MADV_DOFORK, MADV_DONTFORK, MAP_FIXED, MAP_STACK, MREMAP_DONTUNMAP, MREMAP_FIXED},
    },
    region::{AddressSpace, RegionIds},
    units::{PageSize, Timestamp, VirtAddr, VirtRange},
};

const TID: Tid = Tid(7);
const EBADF: i32 = 9;
const ENOMEM: i32 = 12;
const EFAULT: i32 = 14;
const EINVAL: i32 = 22;
const PERMS: [[u8; 4]; 3] = [*b"rw-p", *b"r--p", *b"r-xp"];

/// What a task asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Mmap,
    /// A VMA appears without a call that reports it, as while a program is loaded.
    Appear,
    Munmap,
    Mprotect,
    Resize,
    Move,
    Grow,
    Keep,
    Double,
    Brk,
    SetName,
    Advise,
    Shmat,
    Shmdt,
    Fork,
}

/// An action at `at`, towards `to`; `choice` decides what else there is to decide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub(super) action: Action,
    pub(super) at: usize,
    pub(super) pages: usize,
    pub(super) to: usize,
    pub(super) choice: u8,
}

/// The truth, and what was made of what was told about it.
pub(super) struct Kernel {
    pub(super) model: Model,
    pub(super) space: AddressSpace,
    pub(super) ids: RegionIds,
    pub(super) time: u64,
    /// When something was last told of each page; 0 if nothing was.
    pub(super) touched: Vec<u64>,
    given: u64,
}

fn range(pages: &Range<usize>) -> VirtRange {
    VirtRange::new(addr(pages.start), addr(pages.end)).expect("at least a page")
}

/// `pages`, as maps shows them in one row.
fn vma(model: &[Option<Page>], pages: &Range<usize>) -> Vma {
    let shape = model[pages.start].expect("mapped").shape;
    let (device, inode, _) = shape.file.map_or(((0, 0), 0, ""), |(file, _)| file.shown());
    Vma {
        range: range(pages),
        perms: shape.perms,
        offset: shape.offset().unwrap_or_default(),
        device,
        inode,
        name: shape.shown_name().into_bytes(),
    }
}

/// A reading of `pages` in which VMAs also end at every page of which the index is `cut` modulo 5.
pub(super) fn reading(pages: &[Option<Page>], cut: usize, began: u64) -> MapsReading {
    let goes_on = |index: usize| index % 5 != cut;
    let vmas = runs(pages, Page::shares_vma_with).into_iter().flat_map(|run| {
        let inner = (run.start + 1..run.end).filter(|index| !goes_on(*index));
        let borders: Vec<usize> = [run.start].into_iter().chain(inner).chain([run.end]).collect();
        borders.windows(2).map(|pair| vma(pages, &(pair[0]..pair[1]))).collect::<Vec<_>>()
    });
    MapsReading {
        began: Timestamp::from_nanos(began),
        vmas: vmas.collect(),
        landmarks: Landmarks::default(),
        devices: vec![(KERNEL_TMPFS, FileKind::SharedMemory)],
        at_exit: false,
    }
}

impl Kernel {
    pub(super) fn new() -> Self {
        let page = PageSize::from_bytes(PAGE).expect("a power of two");
        let mut space = AddressSpace::new(page, Timestamp::from_nanos(1), false);
        let start_brk = Some(addr(HEAP));
        space.complete(Timestamp::from_nanos(1), Landmarks { start_brk, start_stack: None });
        Self {
            model: Model::new(),
            space,
            ids: RegionIds::default(),
            time: 1,
            touched: vec![0; PAGES],
            given: 0,
        }
    }

    /// Carries out `operation` if the kernel would.
    pub(super) fn run(&mut self, operation: Operation) {
        let Operation { action, at, pages, to, choice } = operation;
        let at = self.aim(action, at);
        let old = at..(at + pages).min(PAGES);
        self.time += 1;
        match action {
            Action::Mmap => self.mmap(&old, to, choice),
            Action::Appear => self.appear(&old, to, choice),
            Action::Munmap => self.munmap(&old, choice),
            Action::Mprotect => self.mprotect(&old, choice),
            Action::Resize => self.resize(&old, 1 + to % 8),
            Action::Move => self.relocate(&old, to, old.len(), MREMAP_FIXED),
            Action::Grow => self.relocate(&old, to, 1 + usize::from(choice % 8), MREMAP_FIXED),
            Action::Keep => self.relocate(&old, to, old.len(), MREMAP_FIXED | MREMAP_DONTUNMAP),
            Action::Double => self.double(at, to..(to + pages).min(PAGES)),
            Action::Brk => self.brk(VirtAddr::from_raw(addr(HEAP + to % 8).as_raw() + u64::from(choice))),
            Action::SetName => self.set_name(&old, [Some("a"), Some("b"), None][usize::from(choice % 3)]),
            Action::Advise => self.advise(&old, choice % 2 == 0),
            Action::Shmat => self.shmat(&old),
            Action::Shmdt => self.shmdt(at),
            Action::Fork => self.fork(choice % 2 == 0),
        }
    }

    /// The page that `action` is for, if it is for some page that is mapped; else `at`.
    fn aim(&self, action: Action, at: usize) -> usize {
        let base_of_segment = |(index, page): (usize, Page)| match page.shape.file {
            Some((File::Segment, page)) => index.checked_sub(usize::try_from(page).ok()?),
            Some((File::Library | File::Archive, _)) | None => None,
        };
        let pages = self.model.pages.iter().enumerate();
        let mapped = pages.filter_map(|(index, page)| Some((index, (*page)?)));
        let aims: Vec<usize> = match action {
            Action::Mmap | Action::Appear | Action::Brk | Action::Shmat | Action::Fork => Vec::new(),
            Action::Shmdt => mapped.filter_map(base_of_segment).collect(),
            Action::Double => {
                mapped.filter(|(_, page)| page.shape.file.is_some()).map(|(index, _)| index).collect()
            }
            Action::Munmap
            | Action::Mprotect
            | Action::Resize
            | Action::Move
            | Action::Grow
            | Action::Keep
            | Action::SetName
            | Action::Advise => mapped.map(|(index, _)| index).collect(),
        };
        if aims.is_empty() { at } else { aims[at % aims.len()] }
    }

    fn call(&mut self, request: MapRequest, result: Result<VirtAddr, i32>) {
        let result = result.map(VirtAddr::as_raw);
        let call = MapCall { request, result, may_have_resized: true, file: None, stack: None };
        self.space.call(Timestamp::from_nanos(self.time), TID, &call, &mut self.ids);
    }

    fn touch(&mut self, pages: &Range<usize>) {
        self.touched[pages.clone()].fill(self.time);
    }

    fn renew(&mut self, moving: &[u64]) {
        self.model.renew(self.time, &mut self.given, moving);
    }

    /// Shows the VMA of `pages`; which of its neighbours that may be part of it are, `choice` says.
    fn show(&mut self, pages: &Range<usize>, choice: u8) {
        let model = &self.model.pages;
        let same_vma = runs(model, Page::shares_vma_with);
        let whole = same_vma.into_iter().find(|run| run.contains(&pages.start)).expect("they are mapped");
        let start = if choice & 1 == 0 { pages.start } else { whole.start };
        let end = if choice & 2 == 0 { pages.end } else { whole.end.max(pages.end) };
        let mut vma = vma(model, &(start..end));
        if vma.name.starts_with(b"[anon:") {
            // perf does not show names that were given.
            vma.name.clear();
        }
        // As the pipeline knows it from the device.
        let kind = (vma.device == KERNEL_TMPFS).then_some(FileKind::SharedMemory);
        let shown = ReportedVma { vma, kind };
        self.space.show(Timestamp::from_nanos(self.time), TID, shown, &mut self.ids);
        self.touch(&(start..end));
    }

    fn mmap(&mut self, pages: &Range<usize>, to: usize, choice: u8) {
        let shape = shape(to, choice);
        let is_thread_stack = shape.file.is_none() && choice & 4 != 0;
        for (step, page) in self.model.pages[pages.clone()].iter_mut().enumerate() {
            *page = Some(Page::new(shape.further(step), is_thread_stack));
        }
        self.show(pages, choice);
        self.time += 1;
        self.touch(pages);
        self.renew(&[]);
        let flags = MAP_FIXED | if is_thread_stack { MAP_STACK } else { 0 };
        let length = range(pages).bytes() - u64::from(choice);
        let request = MapRequest::Mmap { addr: addr(pages.start), length, prot: 0, flags, offset: 0 };
        self.call(request, Ok(addr(pages.start)));
    }

    fn appear(&mut self, pages: &Range<usize>, to: usize, choice: u8) {
        let shape = shape(to, choice);
        for (step, page) in self.model.pages[pages.clone()].iter_mut().enumerate() {
            let shape = shape.further(step);
            match page {
                Some(page) if page.shape.file == shape.file => page.shape.perms = shape.perms,
                _ => *page = Some(Page::new(shape, false)),
            }
        }
        let mut known = self.model.pages.clone();
        for (step, page) in known[pages.clone()].iter_mut().enumerate() {
            *page = Some(Page::new(shape.further(step), false));
        }
        let tracked = std::mem::replace(&mut self.model.pages, known);
        self.show(pages, choice);
        self.model.pages = tracked;
        self.renew(&[]);
        self.space.settle(&mut self.ids);
    }

    fn munmap(&mut self, pages: &Range<usize>, choice: u8) {
        self.model.pages[pages.clone()].fill(None);
        self.touch(pages);
        self.renew(&[]);
        let length = range(pages).bytes() - u64::from(choice);
        self.call(MapRequest::Munmap { addr: addr(pages.start), length }, Ok(VirtAddr::default()));
    }

    /// Protects VMA by VMA until there is none, and shows each that changed.
    fn mprotect(&mut self, pages: &Range<usize>, choice: u8) {
        let perms = PERMS[usize::from(choice) % 3];
        let mapped = self.mapped_until_hole(pages);
        for run in runs(&self.model.pages, Page::shares_vma_with) {
            let part = run.start.max(mapped.start)..run.end.min(mapped.end);
            let Some(first) = part.clone().next().and_then(|first| self.model.pages[first]) else { continue };
            let [r, w, x, _] = perms;
            let perms = [r, w, x, first.shape.perms[3]];
            if first.shape.perms == perms {
                continue;
            }
            self.time += 1;
            for page in self.model.pages[part.clone()].iter_mut().flatten() {
                page.shape.perms = perms;
            }
            self.show(&part, choice >> 2);
            self.renew(&[]);
        }
        let request = MapRequest::Mprotect {
            addr: addr(pages.start),
            length: range(pages).bytes(),
            prot: 0,
            pkey: None,
        };
        self.time += 1;
        self.call(request, if mapped == *pages { Ok(VirtAddr::default()) } else { Err(ENOMEM) });
    }

    fn mapped_until_hole(&self, pages: &Range<usize>) -> Range<usize> {
        let hole = pages.clone().find(|index| self.model.pages[*index].is_none());
        pages.start..hole.unwrap_or(pages.end)
    }

    fn is_in_one_vma(&self, pages: &Range<usize>) -> bool {
        let runs = runs(&self.model.pages, Page::shares_vma_with);
        runs.iter().any(|run| run.start <= pages.start && pages.end <= run.end)
    }

    fn is_free(&self, pages: &Range<usize>) -> bool {
        self.model.pages[pages.clone()].iter().all(Option::is_none)
    }

    fn mremap(&mut self, old: &Range<usize>, old_pages: usize, new: &Range<usize>, flags: u64, done: bool) {
        let request = MapRequest::Mremap {
            old_addr: addr(old.start),
            old_size: old_pages as u64 * PAGE,
            new_size: new.len() as u64 * PAGE,
            flags: if done { flags } else { flags & !MREMAP_FIXED },
            new_addr: addr(new.start),
        };
        self.call(request, if done { Ok(addr(new.start)) } else { Err(EFAULT) });
    }

    /// `mremap` in place.
    fn resize(&mut self, old: &Range<usize>, new_pages: usize) {
        let new = old.start..(old.start + new_pages).min(PAGES);
        let done = if new.end <= old.end {
            self.model.pages[old.start].is_some()
        } else {
            self.is_in_one_vma(old) && self.is_free(&(old.end..new.end))
        };
        if done && new.end <= old.end {
            self.model.pages[new.end..old.end].fill(None);
            self.touch(&(new.end..old.end));
        } else if done {
            let last = self.model.pages[old.end - 1].expect("all of them are mapped");
            for index in old.end..new.end {
                let shape = last.shape.further(index + 1 - old.end);
                self.model.pages[index] = Some(Page { shape, id: None, source: last.id, ..last });
            }
            self.touch(&(old.end..new.end));
        }
        self.renew(&[]);
        self.mremap(old, old.len(), &new, 0, done);
    }

    /// `mremap` to another place.
    fn relocate(&mut self, old: &Range<usize>, to: usize, new_pages: usize, flags: u64) {
        let new = to..(to + new_pages).min(PAGES);
        let stays = flags & MREMAP_DONTUNMAP != 0;
        let kept = old.start..old.end.min(old.start + new.len());
        let is_apart = old.end <= new.start || new.end <= old.start;
        let is_movable = if new.len() == old.len() {
            self.model.pages[old.start].is_some()
        } else {
            self.is_in_one_vma(&kept) && !stays
        };
        let done = is_apart && is_movable;
        if done {
            let moved: Vec<Option<Page>> = self.model.pages[kept.clone()].to_vec();
            let stay_behind = |id: u64| {
                let outside = |index: &usize| !kept.contains(index);
                let mut others = (0..PAGES).filter(outside).filter_map(|index| self.model.pages[index]);
                stays || others.any(|page| page.id == Some(id))
            };
            let ids = moved.iter().flatten().filter_map(|page| page.id);
            let moving: Vec<u64> = ids.filter(|id| !stay_behind(*id)).collect();
            if !stays {
                self.model.pages[old.clone()].fill(None);
                self.touch(old);
                self.renew(&moving);
            }
            let last = moved.last().copied().flatten();
            let grown = (1..).map_while(|step| last.map(|last| (step, last)));
            let grown = grown.map(|(step, last)| Page { shape: last.shape.further(step), ..last }).map(Some);
            for (index, page) in new.clone().zip(moved.into_iter().chain(grown)) {
                let Some(page) = page else { continue };
                let id = page.id.filter(|id| moving.contains(id));
                self.model.pages[index] = Some(Page { id, source: page.id, ..page });
            }
            self.touch(&new);
            self.renew(&[]);
        }
        self.mremap(old, old.len(), &new, flags, done);
    }

    /// `mremap` of no bytes, which maps the same part of a file a second time.
    fn double(&mut self, at: usize, new: Range<usize>) {
        let model = self.model.pages[at].filter(|page| page.shape.file.is_some());
        let is_apart = at <= new.start || new.end <= at;
        if let Some(page) = model.filter(|_| is_apart && at != new.start) {
            for (step, index) in new.clone().enumerate() {
                let shape = page.shape.further(step);
                self.model.pages[index] = Some(Page { shape, id: None, source: page.id, ..page });
            }
            self.touch(&new);
            self.renew(&[]);
            self.mremap(&(at..at + 1), 0, &new, MREMAP_FIXED, true);
        } else {
            self.mremap(&(at..at + 1), 0, &new, MREMAP_FIXED, false);
        }
    }

    fn brk(&mut self, wanted: VirtAddr) {
        let before = self.model.brk;
        let page_end = |brk: VirtAddr| index(VirtAddr::from_raw(brk.as_raw().next_multiple_of(PAGE)));
        let (old_end, new_end) = (page_end(before), page_end(wanted));
        let done = if new_end > old_end {
            self.is_free(&(old_end..new_end))
        } else {
            new_end == old_end || !self.is_free(&(new_end..old_end))
        };
        if done {
            self.model.brk = wanted;
        }
        if done && new_end > old_end {
            let shape = Shape { perms: *b"rw-p", file: None, name: None };
            self.model.pages[old_end..new_end].fill(Some(Page::new(shape, false)));
            self.show(&(old_end..new_end), 3);
        } else if done {
            self.model.pages[new_end..old_end].fill(None);
            self.touch(&(new_end..old_end));
        }
        self.renew(&[]);
        self.call(MapRequest::Brk { addr: wanted }, Ok(if done { wanted } else { before }));
    }

    /// Names memory until there is a file, but not holes.
    fn set_name(&mut self, pages: &Range<usize>, name: Option<&'static str>) {
        let mut result = Ok(VirtAddr::default());
        for index in pages.clone() {
            match &mut self.model.pages[index] {
                Some(page) if page.shape.file.is_some() => {
                    result = Err(EBADF);
                    break;
                }
                Some(page) => page.shape.name = name,
                None => result = Err(ENOMEM),
            }
        }
        self.touch(pages);
        self.renew(&[]);
        let name = name.unwrap_or_default().as_bytes().to_vec();
        let request = MapRequest::SetName { addr: addr(pages.start), length: range(pages).bytes(), name };
        self.call(request, result);
    }

    fn advise(&mut self, pages: &Range<usize>, is_kept_from_forks: bool) {
        let all = self.mapped_until_hole(pages) == *pages;
        for page in self.model.pages[pages.clone()].iter_mut().flatten() {
            page.is_kept_from_forks = is_kept_from_forks;
        }
        self.touch(pages);
        self.renew(&[]);
        let advice = if is_kept_from_forks { MADV_DONTFORK } else { MADV_DOFORK };
        let request = MapRequest::Madvise { addr: addr(pages.start), length: range(pages).bytes(), advice };
        self.call(request, if all { Ok(VirtAddr::default()) } else { Err(ENOMEM) });
    }

    fn shmat(&mut self, pages: &Range<usize>) {
        let request = MapRequest::Shmat { id: 0, addr: addr(pages.start), flags: 0 };
        if !self.is_free(pages) {
            return self.call(request, Err(EINVAL));
        }
        let shape = Shape { perms: *b"rw-s", file: Some((File::Segment, 0)), name: None };
        for (step, page) in self.model.pages[pages.clone()].iter_mut().enumerate() {
            *page = Some(Page::new(shape.further(step), false));
        }
        self.show(pages, 0);
        self.renew(&[]);
        self.call(request, Ok(addr(pages.start)));
    }

    fn shmdt(&mut self, at: usize) {
        let mut done = false;
        for index in at..PAGES {
            let attached = Some((File::Segment, (index - at) as u64));
            if self.model.pages[index].is_some_and(|page| page.shape.file == attached) {
                self.model.pages[index] = None;
                self.touched[index] = self.time;
                done = true;
            }
        }
        self.renew(&[]);
        let result = if done { Ok(VirtAddr::default()) } else { Err(EINVAL) };
        self.call(MapRequest::Shmdt { addr: addr(at) }, result);
    }

    fn fork(&mut self, is_child_next: bool) {
        let child = self.space.fork(Timestamp::from_nanos(self.time), None, &mut self.ids);
        let copied = self.model.fork(self.time, &mut self.given);
        super::check(&child, &copied);
        if is_child_next {
            (self.space, self.model) = (child, copied);
            self.touched.fill(0);
        }
    }

    pub(super) fn die(&mut self) {
        self.model.pages.fill(None);
        self.touched.fill(self.time);
        self.renew(&[]);
        self.space.die(Timestamp::from_nanos(self.time), &mut self.ids);
    }
}

/// What a new mapping shows.
fn shape(offset: usize, choice: u8) -> Shape {
    let file = match choice >> 4 & 3 {
        0 => Some((File::Library, offset as u64)),
        1 => Some((File::Archive, offset as u64)),
        _ => None,
    };
    Shape { perms: PERMS[usize::from(choice >> 6) % 3], file, name: None }
}

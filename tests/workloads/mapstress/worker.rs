//! One thread of `mapstress`: what it calls, and where.

use std::{
    ffi::{c_int, c_void},
    io,
    os::fd::AsRawFd as _,
    ptr::{null, null_mut, with_exposed_provenance_mut},
    sync::atomic::Ordering::Relaxed,
};

use memtrace_tests::memory::page_bytes;

use super::{ARENA, ARENA_PAGES, CHILD_CALLS, Plan, set_break, tally::Kind};

/// Longest range of most calls, in pages.
const LONGEST: usize = 16;
/// Ranges outside of the arena that a thread holds at most.
const HELD: usize = 32;

/// A generator of random numbers: Marsaglia's xorshift64*.
#[derive(Clone)]
struct Random(u64);

impl Random {
    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap_or(0) % bound
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// Pages in a row.
#[derive(Clone, Copy)]
struct Pages {
    start: usize,
    len: usize,
}

impl Pages {
    fn new(start: usize, pages: usize) -> Self {
        Self { start, len: pages * page_bytes() }
    }

    fn pages(self) -> usize {
        self.len / page_bytes()
    }
}

/// The memory at an address.
fn at(address: usize) -> *mut c_void {
    with_exposed_provenance_mut(address)
}

/// One thread, or the only thread of a child.
pub(crate) struct Worker<'a> {
    plan: &'a Plan,
    random: Random,
    /// What the kernel placed outside of the arena: each within one VMA, changed only as a whole.
    held: [Option<Pages>; HELD],
}

impl<'a> Worker<'a> {
    /// Of `plan`; `seed` is what its random numbers begin with.
    pub(crate) const fn new(plan: &'a Plan, seed: u64) -> Self {
        Self { plan, random: Random(seed | 1), held: [None; HELD] }
    }

    /// Makes calls until those of the process are made, and children in between.
    pub(crate) fn work(&mut self) -> io::Result<()> {
        let Plan { calls, forks, execs, .. } = *self.plan;
        let children = forks + execs;
        let step = calls.checked_div(children).unwrap_or(u64::MAX).max(1);
        while let Some(number) = self.plan.next_call() {
            self.call();
            let child = number / step;
            if number % step == step - 1 && child < children {
                // Spreads the executing ones evenly.
                self.fork(child * execs / children != (child + 1) * execs / children);
            }
            self.plan.made(number)?;
        }
        Ok(())
    }

    /// Makes a child and waits for its end.
    fn fork(&mut self, executes: bool) {
        // SAFETY: the child makes system calls alone, and touches no lock that it would have to wait for.
        let child = unsafe { libc::fork() };
        if child == 0 {
            (0..CHILD_CALLS.0).for_each(|_| self.call());
            if executes {
                self.execute();
            }
            // SAFETY: no preconditions; skips the exit handlers, which are the parent's.
            unsafe { libc::_exit(0) }
        }
        if child > 0 {
            let made = if executes { &self.plan.tally.execs } else { &self.plan.tally.forks };
            made.fetch_add(1, Relaxed);
            // SAFETY: a null status is allowed.
            unsafe { libc::waitpid(child, null_mut(), 0) };
        }
    }

    /// Becomes this program again.
    fn execute(&self) {
        let mut arguments = [null(); 16];
        for (argument, word) in arguments[..15].iter_mut().zip(&self.plan.program) {
            *argument = word.as_ptr();
        }
        let environment = [null()];
        // SAFETY: both lists end in null, and their strings outlive the call.
        unsafe { libc::execve(arguments[0], arguments.as_ptr(), environment.as_ptr()) };
    }

    fn call(&mut self) {
        match self.random.below(100) {
            0..30 => self.mmap(),
            30..50 => self.munmap(),
            50..68 => self.mremap(),
            68..86 => self.mprotect(),
            86..96 => self.madvise(),
            _ => self.brk(),
        }
    }

    /// Pages of the arena, whatever is there.
    fn contested(&mut self) -> Pages {
        let longest = if self.random.below(16) == 0 { 4 * LONGEST } else { LONGEST };
        let pages = 1 + self.random.below(longest);
        let first = self.random.below(ARENA_PAGES - pages);
        Pages::new(ARENA + first * page_bytes(), pages)
    }

    /// Pages that this thread holds and their place among them, or pages of the arena.
    fn any(&mut self) -> (Pages, Option<usize>) {
        let index = self.random.below(2 * HELD);
        match self.held.get(index).copied().flatten() {
            Some(pages) => (pages, Some(index)),
            None => (self.contested(), None),
        }
    }

    /// A free place among the held, emptied if need be.
    fn place(&mut self) -> usize {
        let free = self.held.iter().position(Option::is_none);
        free.unwrap_or_else(|| {
            let index = self.random.below(HELD);
            if let Some(pages) = self.held[index].take() {
                self.unmap(pages);
            }
            index
        })
    }

    /// Holds pages that the kernel has placed outside of the arena.
    fn hold(&mut self, place: usize, start: usize, pages: usize) {
        let arena = ARENA..ARENA + ARENA_PAGES * page_bytes();
        if !arena.contains(&start) {
            self.held[place] = Some(Pages::new(start, pages));
        }
    }

    fn protection(&mut self) -> c_int {
        const RW: c_int = libc::PROT_READ | libc::PROT_WRITE;
        const RX: c_int = libc::PROT_READ | libc::PROT_EXEC;
        self.random.one_of(&[libc::PROT_NONE, libc::PROT_READ, RW, RW, RX, RW | RX])
    }

    fn mmap(&mut self) {
        let (disk, memory) = (self.plan.files[0].as_raw_fd(), self.plan.files[1].as_raw_fd());
        let file = self.random.one_of(&[-1, -1, disk, memory]);
        let sharing = self.random.one_of(&[libc::MAP_PRIVATE, libc::MAP_SHARED]);
        let kind = if file < 0 { libc::MAP_ANONYMOUS } else { 0 };
        let protection = self.protection();
        let pages = self.contested();
        let offset = if file < 0 { 0 } else { self.random.below(ARENA_PAGES - pages.pages()) * page_bytes() };
        let (fixed, place) = match self.random.below(8) {
            0..5 => (libc::MAP_FIXED, None),
            5 => (libc::MAP_FIXED_NOREPLACE, None),
            _ => (0, Some(self.place())),
        };
        let hint = if place.is_some() { 0 } else { pages.start };
        let flags = sharing | kind | fixed;
        let offset = i64::try_from(offset).unwrap_or(0);
        // SAFETY: in the arena, or where the kernel finds nothing.
        let at = unsafe { libc::mmap(at(hint), pages.len, protection, flags, file, offset) };
        if self.plan.tally.count(Kind::Mmap, at != libc::MAP_FAILED)
            && let Some(place) = place
        {
            self.hold(place, at.addr(), pages.pages());
        }
    }

    fn unmap(&mut self, pages: Pages) {
        // SAFETY: in the arena, or held by this thread; nothing refers to either.
        let result = unsafe { libc::munmap(at(pages.start), pages.len) };
        self.plan.tally.count(Kind::Munmap, result == 0);
    }

    /// Unmaps pages of the arena; or of what is held all, the first, the last, or those in the middle.
    fn munmap(&mut self) {
        let (pages, index) = self.any();
        let Some(index) = index else { return self.unmap(pages) };
        let rest = self.place();
        // Making place may have taken it away.
        let Some(Pages { start, len }) = self.held[index].take() else { return };
        let page = page_bytes();
        let count = len / page;
        let first = self.random.below(count);
        let last = first + 1 + self.random.below(count - first);
        self.unmap(Pages::new(start + first * page, last - first));
        let part = |from: usize, to: usize| (from < to).then(|| Pages::new(start + from * page, to - from));
        self.held[index] = part(0, first);
        self.held[rest] = part(last, count);
    }

    fn mremap(&mut self) {
        let place = self.place();
        let (from, index) = self.any();
        let to = self.contested();
        let may_move = libc::MREMAP_MAYMOVE;
        let onto_arena = may_move | libc::MREMAP_FIXED;
        let longer = to.pages().max(from.pages() + 1);
        let (old, new, flags) = match (self.random.below(8), index) {
            (0, _) => (from.pages(), 1 + self.random.below(from.pages()), 0),
            (1, None) => {
                let end = ARENA + ARENA_PAGES * page_bytes();
                let room = (end - from.start) / page_bytes();
                (from.pages(), longer.min(room), 0)
            }
            (1 | 2, _) => (from.pages(), longer, may_move),
            (3, _) => (from.pages(), from.pages(), may_move | libc::MREMAP_DONTUNMAP),
            (4, _) => (0, to.pages(), may_move),
            (5, _) => (0, to.pages(), onto_arena),
            (_, None) => (from.pages(), to.pages(), onto_arena),
            // A length that shrinks does so even where the move fails then.
            (_, Some(_)) => (from.pages(), longer, onto_arena),
        };
        let page = page_bytes();
        // SAFETY: what moves or is replaced is in the arena or held by this thread; else the kernel finds a place.
        let start = unsafe { libc::mremap(at(from.start), old * page, new * page, flags, at(to.start)) };
        if !self.plan.tally.count(Kind::Mremap, start != libc::MAP_FAILED) {
            return;
        }
        let stays = old == 0 || flags & libc::MREMAP_DONTUNMAP != 0;
        if let Some(index) = index.filter(|_| !stays) {
            self.held[index] = None;
        }
        self.hold(place, start.addr(), new);
    }

    fn mprotect(&mut self) {
        let protection = self.protection();
        let (pages, _) = self.any();
        // SAFETY: nothing accesses the arena or what is held.
        let result = unsafe { libc::mprotect(at(pages.start), pages.len, protection) };
        self.plan.tally.count(Kind::Mprotect, result == 0);
    }

    fn madvise(&mut self) {
        let advice = self.random.one_of(&[
            libc::MADV_DONTNEED,
            libc::MADV_FREE,
            libc::MADV_DONTFORK,
            libc::MADV_DOFORK,
            libc::MADV_WIPEONFORK,
            libc::MADV_KEEPONFORK,
            libc::MADV_NOHUGEPAGE,
            libc::MADV_DONTDUMP,
            libc::MADV_DODUMP,
            libc::MADV_RANDOM,
            libc::MADV_NORMAL,
        ]);
        let (pages, _) = self.any();
        // SAFETY: nothing relies on the content of the arena or of what is held.
        let result = unsafe { libc::madvise(at(pages.start), pages.len, advice) };
        self.plan.tally.count(Kind::Madvise, result == 0);
    }

    /// Moves the break up or down, never below where it was; not while another thread does, or did at a fork.
    fn brk(&mut self) {
        let target = self.random.below(64) * page_bytes() + self.random.below(2) * 100;
        if let Ok(heap) = self.plan.heap.try_lock() {
            let target = *heap + target;
            self.plan.tally.count(Kind::Brk, set_break(target) == target);
        }
    }
}

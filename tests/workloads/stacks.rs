//! Touches memory from functions that are called in many ways, and says which stack each page was touched with.
//!
//! Output: with `--wait` a line of [`Ready`]; then a line of [`Walks`] after each round. Before a round but the first, and after a
//! line of [`Ready`], it waits for a line on stdin.
//! Source: qsort(3).
//! Keeps: functions of stacks have names of their own in the symbol table and no frame pointers, and none of their calls is a tail
//! call; all memory is there until the end.
#![expect(unsafe_code, reason = "libc calls back, signals have handlers, and names are not mangled")]
#![expect(
    clippy::no_mangle_with_rust_abi,
    reason = "nobody else calls these functions: their names are what matters"
)]

use std::{
    ffi::{c_int, c_void},
    fs::File,
    hint::black_box,
    io,
    mem::MaybeUninit,
    os::fd::AsRawFd as _,
    process,
    ptr::null_mut,
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering},
};

use clap::Parser;
use memtrace_tests::{
    ledger::{self, Area, Base, Call, Callers, Ready, Step, Stretch, Touch, Walks},
    memory::{Mapping, page_bytes},
    task,
};

#[path = "stacks/calls.rs"]
mod calls;
#[path = "stacks/signals.rs"]
mod signals;
#[path = "stacks/threads.rs"]
mod threads;

use calls::ledger_calls;
use signals::ledger_signals;
use threads::ledger_threads;

/// Pages of most areas.
const PAGES: usize = 16;
/// Functions of one name in a stack, each of which touches memory.
const LEVELS: usize = 24;
/// More functions than a recorded stack has frames.
const TOO_MANY_LEVELS: usize = 300;
/// Bytes of a frame that is larger than what is sent of a stack at once.
const SPACIOUS: usize = 40 << 10;

/// Touch memory from functions that are called in many ways, and print their stacks
#[derive(Parser)]
struct Args {
    /// Times that all is done, each time with fresh memory
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Print a line of JSON and wait for a line on stdin before the first round
    #[arg(long)]
    wait: bool,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    if args.wait {
        ledger::print(&Ready { pid: process::id(), tids: vec![task::tid()] })?;
        io::stdin().read_line(&mut String::new())?;
    }
    let mut held = Vec::new();
    for round in 0..args.rounds {
        if round > 0 {
            io::stdin().read_line(&mut String::new())?;
        }
        let walks = Walks { touches: Vec::new(), calls: Vec::new() };
        let mut said = Said { walks, held: Vec::new(), caller: "" };
        ledger_round(&mut said)?;
        ledger::print(&said.walks)?;
        held.push(said.held);
    }
    Ok(())
}

/// What was done in this round.
struct Said {
    walks: Walks,
    held: Vec<Mapping>,
    /// The function that has it done, which [`ledger_round`] called.
    caller: &'static str,
}

impl Said {
    /// Every page of `memory` was touched for the first time by this thread.
    fn touched(&mut self, name: &str, memory: Mapping, steps: Vec<Step>) {
        let area = whole(&memory, task::tid());
        self.note(name, area, steps, Base::Main);
        self.held.push(memory);
    }

    fn note(&mut self, name: &str, area: Area, mut steps: Vec<Step>, base: Base) {
        if base == Base::Main {
            steps.extend([self.caller, "ledger_round"].map(function));
        }
        let stack = Callers { steps, base };
        let name = name.to_owned();
        self.walks.touches.push(Touch { name, area, syscall: None, is_far: false, stack });
    }

    /// What was noted last has a stack in two places.
    fn far(&mut self) {
        if let Some(last) = self.walks.touches.last_mut() {
            last.is_far = true;
        }
    }

    fn called(&mut self, name: &str, stretch: Stretch, exports: &[&str], caller: &str) {
        let [caller, above, outermost] = [caller, self.caller, "ledger_round"].map(function);
        let steps = vec![library(exports), caller, above, outermost];
        let stack = Callers { steps, base: Base::Main };
        self.walks.calls.push(Call { name: name.to_owned(), tid: task::tid(), stretch, stack });
    }
}

fn function(name: &str) -> Step {
    Step::Function(name.to_owned())
}

fn library(exports: &[&str]) -> Step {
    Step::Library(exports.iter().map(|name| (*name).to_owned()).collect())
}

/// All pages of `memory`, each touched once by `tid`.
fn whole(memory: &Mapping, tid: u32) -> Area {
    Area { minor: memory.pages() as u64, ..memory.area(tid) }
}

/// Pages of `memory` from `first` on, each touched once.
fn part(memory: &Mapping, first: usize, pages: usize) -> Area {
    let area = whole(memory, task::tid());
    let start = area.start + (first * page_bytes()) as u64;
    Area { start, end: start + (pages * page_bytes()) as u64, minor: pages as u64, ..area }
}

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_round(said: &mut Said) -> io::Result<()> {
    ledger_calls(said)?;
    ledger_touches(said)?;
    ledger_signals(said)?;
    black_box(ledger_threads(said))
}

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_touches(said: &mut Said) -> io::Result<()> {
    said.caller = "ledger_touches";

    let memory = Mapping::anonymous(PAGES)?;
    ledger_touch(memory.start(), PAGES);
    said.touched("direct", memory, vec![function("ledger_touch")]);

    let memory = Mapping::anonymous(2 * LEVELS)?;
    ledger_recurse(memory.start(), 2, LEVELS);
    for level in 0..LEVELS {
        let mut steps = vec![function("ledger_touch")];
        steps.extend((0..=level).map(|_| function("ledger_recurse")));
        said.note(&format!("recursion {level}"), part(&memory, 2 * level, 2), steps, Base::Main);
    }
    said.held.push(memory);

    let memory = Mapping::anonymous(PAGES)?;
    ledger_descend(memory.start(), TOO_MANY_LEVELS);
    let steps = vec![function("ledger_touch"), function("ledger_descend")];
    said.note("too deep", whole(&memory, task::tid()), steps, Base::TooDeep);
    said.held.push(memory);

    let memory = Mapping::anonymous(PAGES)?;
    ledger_spacious(memory.start());
    said.touched("spacious", memory, vec![function("ledger_touch"), function("ledger_spacious")]);
    said.far();

    let memory = Mapping::anonymous(PAGES)?;
    expect(&memory);
    ledger_sort();
    let sort = library(&["qsort", "qsort_r"]);
    said.touched("callback", memory, vec![function("ledger_compare"), sort, function("ledger_sort")]);

    let memory = Mapping::anonymous(PAGES)?;
    ledger_clear(&memory);
    said.touched("inside libc", memory, vec![Step::Inside, function("ledger_clear")]);

    let memory = Mapping::anonymous(PAGES)?;
    let zeroes = File::open("/dev/zero")?;
    ledger_read(&memory, &zeroes)?;
    said.touched("in the kernel", memory, vec![library(&["read"]), function("ledger_read")]);
    if let Some(last) = said.walks.touches.last_mut() {
        last.syscall = Some("read".to_owned());
    }

    let memory = Mapping::anonymous(PAGES)?;
    let child = ledger_fork(&memory)?;
    let steps = vec![function("ledger_touch"), function("ledger_fork")];
    said.note("child", whole(&memory, child), steps, Base::Main);
    said.held.push(memory);
    Ok(())
}

// What is touched, and by whom.

/// Makes a function that writes to each of some pages. A macro, since each of these must write itself: in a function that they
/// call, faults would have one more frame.
macro_rules! writer {
    ($(#[$about:meta])* $name:ident) => {
        $(#[$about])*
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) fn $name(start: *mut u8, pages: usize) {
            let step = $crate::page_bytes();
            let mut page = 0;
            while page < pages {
                let to = start.wrapping_add(page * step);
                // SAFETY: callers own the pages, and a handler opens those that are forbidden. Not by a method: that would be a
                // function of its own where nothing is optimised.
                unsafe { *to = 1 };
                page += 1;
            }
            $crate::black_box(start);
        }
    };
}
pub(crate) use writer;

writer! {
    /// Writes to each of `pages` pages.
    ledger_touch
}

/// Touches `pages` pages, and so does each of `levels - 1` more that it calls.
#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_recurse(start: *mut u8, pages: usize, levels: usize) {
    ledger_touch(start, pages);
    if levels > 1 {
        ledger_recurse(start.wrapping_add(pages * page_bytes()), pages, levels - 1);
    }
    black_box(start);
}

/// As [`ledger_recurse`], but the last one alone touches memory.
#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_descend(start: *mut u8, levels: usize) {
    if levels > 1 {
        ledger_descend(start, levels - 1);
    } else {
        ledger_touch(start, PAGES);
    }
    black_box(start);
}

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_spacious(start: *mut u8) {
    let mut room = MaybeUninit::<[u8; SPACIOUS]>::uninit();
    black_box(room.as_mut_ptr());
    ledger_touch(start, PAGES);
    black_box(room.as_mut_ptr());
}

/// What callbacks touch next.
static NEXT: AtomicPtr<u8> = AtomicPtr::new(null_mut());
/// Pages that are left of it.
static LEFT: AtomicUsize = AtomicUsize::new(0);

/// From now on callbacks touch `memory`.
fn expect(memory: &Mapping) {
    NEXT.store(memory.start(), Ordering::Relaxed);
    LEFT.store(memory.pages(), Ordering::Relaxed);
}

/// Takes up to `most` of the pages that callbacks touch next.
fn take(most: usize) -> (*mut u8, usize) {
    let pages = usize::min(most, LEFT.load(Ordering::Relaxed));
    LEFT.fetch_sub(pages, Ordering::Relaxed);
    let start = NEXT.load(Ordering::Relaxed);
    NEXT.store(start.wrapping_add(pages * page_bytes()), Ordering::Relaxed);
    (start, pages)
}

/// Touches one page, if any is left, and compares.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ledger_compare(one: *const c_void, other: *const c_void) -> c_int {
    let (start, pages) = take(1);
    if pages > 0 {
        // SAFETY: a page of the memory that is expected.
        unsafe { *start = 1 };
    }
    // SAFETY: qsort(3) passes elements of the array.
    unsafe { *one.cast::<c_int>() - *other.cast::<c_int>() }
}

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_sort() {
    let mut numbers: Vec<c_int> = (0..64).map(|index| index * 37 % 64).collect();
    // SAFETY: as many elements of that size as the array has; the callback reads two of them.
    unsafe {
        libc::qsort(numbers.as_mut_ptr().cast(), numbers.len(), size_of::<c_int>(), Some(ledger_compare));
    }
    drop(black_box(numbers));
}

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_clear(memory: &Mapping) {
    // SAFETY: the bytes of the mapping.
    unsafe { libc::memset(memory.start().cast(), 1, memory.pages() * page_bytes()) };
    black_box(memory);
}

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_read(memory: &Mapping, file: &File) -> io::Result<()> {
    let bytes = memory.pages() * page_bytes();
    let mut filled = 0;
    while filled < bytes {
        let to = memory.start().wrapping_add(filled).cast();
        // SAFETY: the rest of the bytes of the mapping.
        let read = unsafe { libc::read(file.as_raw_fd(), to, bytes - filled) };
        match usize::try_from(read) {
            Ok(read) if read > 0 => filled += read,
            _ => return Err(io::Error::last_os_error()),
        }
    }
    black_box(memory);
    Ok(())
}

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_fork(memory: &Mapping) -> io::Result<u32> {
    // SAFETY: there is one thread, so the child may do what any process may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            ledger_touch(memory.start(), PAGES);
            // SAFETY: no preconditions; skips the exit handlers, which are the parent's.
            unsafe { libc::_exit(0) }
        }
        child => {
            let child = child.cast_unsigned();
            task::wait4(child)?;
            Ok(black_box(child))
        }
    }
}

//! Touches memory from functions that are called in many ways, and says which stack each page was touched with.
//!
//! Output: with `--wait` a line of [`Ready`]; then a line of [`Walks`] after each round. Before a round but the first, and after a
//! line of [`Ready`], it waits for a line on stdin.
//! Source: qsort(3), sigaltstack(2), sigaction(2); `SA_RESTORER` of the old action is where handlers return to.
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
    thread,
};

use clap::Parser;
use memtrace_tests::{
    ledger::{self, Area, Base, Call, Callers, Ready, Step, Stretch, Touch, Walks},
    memory::{Mapping, page_bytes},
    task,
};

/// Pages of most areas.
const PAGES: usize = 16;
/// Functions of one name in a stack, each of which touches memory.
const LEVELS: usize = 24;
/// More functions than a recorded stack has frames.
const TOO_MANY_LEVELS: usize = 300;
/// Bytes of a frame that is larger than what is sent of a stack at once.
const SPACIOUS: usize = 40 << 10;
/// Pages that one signal makes its handler touch.
const PAGES_PER_SIGNAL: usize = 4;

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

/// Writes to each of `pages` pages.
#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_touch(start: *mut u8, pages: usize) {
    let step = page_bytes();
    let mut page = 0;
    while page < pages {
        let to = start.wrapping_add(page * step);
        // SAFETY: callers own the pages. Not by a method: that would be a function of its own where nothing is optimised.
        unsafe { *to = 1 };
        page += 1;
    }
    black_box(start);
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

// Signals.

/// Touches pages; makes the page writable that SIGSEGV was raised for.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ledger_handle(signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    let (start, pages) = take(PAGES_PER_SIGNAL);
    ledger_touch(start, pages);
    if signal == libc::SIGSEGV {
        // SAFETY: the kernel fills `si_addr` for SIGSEGV.
        let addr = unsafe { (*info).si_addr() };
        let page = addr.map_addr(|addr| addr & !(page_bytes() - 1));
        // SAFETY: opens a page that its owner forbade; at any other address the call or the retry fails.
        if unsafe { libc::mprotect(page, page_bytes(), libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            // SAFETY: no preconditions.
            unsafe { libc::abort() }
        }
    }
    black_box(info);
}

/// Lets [`ledger_handle`] handle `signal`; returns where it returns to.
fn handle(signal: c_int, flags: c_int) -> io::Result<u64> {
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all-zero is a valid `sigaction`: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = ledger_handle as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | flags;
    for old in [null_mut(), before.as_mut_ptr()] {
        // SAFETY: the handler calls nothing but mprotect(2) and abort(3), which are async-signal-safe.
        if unsafe { libc::sigaction(signal, &raw const action, old) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: all bytes were zero, and libc has filled it in.
    let before = unsafe { before.assume_init() };
    let restorer = before.sa_restorer.ok_or_else(|| io::Error::other("no restorer"))?;
    Ok((restorer as *const ()).addr() as u64)
}

/// From now on handlers with `SA_ONSTACK` run on these [`PAGES`] in this thread.
fn stand_on(start: *mut u8) -> io::Result<()> {
    let stack = libc::stack_t { ss_sp: start.cast(), ss_flags: 0, ss_size: PAGES * page_bytes() };
    // SAFETY: the memory is there until the end, and nothing else uses it.
    match unsafe { libc::sigaltstack(&raw const stack, null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Interrupts itself in the C library, until nothing is left to touch.
#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_kill(signals: usize) {
    for _ in 0..signals {
        // SAFETY: the signal has a handler, which has run when the call returns: there is one thread.
        unsafe { libc::kill(libc::getpid(), libc::SIGUSR1) };
    }
    black_box(signals);
}

/// Interrupts itself by writing to forbidden pages.
#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_trespass(start: *mut u8, pages: usize) {
    let step = page_bytes();
    let mut page = 0;
    while page < pages {
        let to = start.wrapping_add(page * step);
        // SAFETY: the caller owns the page, and the handler opens it.
        unsafe { *to = 1 };
        page += 1;
    }
    black_box(start);
}

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_signals(said: &mut Said) -> io::Result<()> {
    said.caller = "ledger_signals";
    let alternate = Mapping::anonymous(PAGES)?;
    stand_on(alternate.start())?;
    said.held.push(alternate);
    for (where_to, flags) in [("", 0), (" on a stack of its own", libc::SA_ONSTACK)] {
        let restorer = Step::Restorer(handle(libc::SIGUSR1, flags)?);
        let memory = Mapping::anonymous(PAGES_PER_SIGNAL * SIGNALS)?;
        expect(&memory);
        ledger_kill(SIGNALS);
        let [touch, handler] = ["ledger_touch", "ledger_handle"].map(function);
        let steps = vec![touch, handler, restorer, library(&["kill"]), function("ledger_kill")];
        said.touched(&format!("handler{where_to}"), memory, steps);
        if flags != 0 {
            said.far();
        }

        let restorer = Step::Restorer(handle(libc::SIGSEGV, flags)?);
        let memory = Mapping::anonymous(PAGES_PER_SIGNAL * SIGNALS)?;
        let forbidden = Mapping::anonymous(SIGNALS)?;
        forbidden.forbid()?;
        expect(&memory);
        ledger_trespass(forbidden.start(), SIGNALS);
        let [touch, handler] = ["ledger_touch", "ledger_handle"].map(function);
        let steps = vec![touch, handler, restorer, function("ledger_trespass")];
        said.touched(&format!("handler of a fault{where_to}"), memory, steps);
        if flags != 0 {
            said.far();
        }
        let area = Area { failed: SIGNALS as u64, ..whole(&forbidden, task::tid()) };
        let name = format!("what raised the signal{where_to}");
        said.note(&name, area, vec![function("ledger_trespass")], Base::Main);
        said.held.push(forbidden);
    }
    Ok(())
}

// Threads.

/// Forbidden pages, each of which raises a signal.
const SIGNALS: usize = 4;

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_thread(memory: &AtomicPtr<u8>) -> u32 {
    ledger_touch(memory.load(Ordering::Relaxed), PAGES);
    black_box(task::tid())
}

/// As [`ledger_trespass`], on a thread whose handlers run on `alternate`.
#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_thread_trespass(alternate: &AtomicPtr<u8>, forbidden: &AtomicPtr<u8>) -> io::Result<u32> {
    stand_on(alternate.load(Ordering::Relaxed))?;
    ledger_trespass(forbidden.load(Ordering::Relaxed), SIGNALS);
    Ok(black_box(task::tid()))
}

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_threads(said: &mut Said) -> io::Result<()> {
    let gone = |_| io::Error::other("the thread panicked");
    let start = |memory: &Mapping| AtomicPtr::new(memory.start());
    // Memory is mapped from above: what is mapped before the stack of a thread lies beyond it.
    let alternate = Mapping::anonymous(PAGES)?;
    let memory = Mapping::anonymous(PAGES)?;
    let place = start(&memory);
    let tid = thread::scope(|scope| scope.spawn(|| ledger_thread(&place)).join()).map_err(gone)?;
    let steps = vec![function("ledger_touch"), function("ledger_thread")];
    said.note("thread", whole(&memory, tid), steps, Base::Thread);

    let forbidden = Mapping::anonymous(SIGNALS)?;
    forbidden.forbid()?;
    let restorer = Step::Restorer(handle(libc::SIGSEGV, libc::SA_ONSTACK)?);
    let target = Mapping::anonymous(PAGES_PER_SIGNAL * SIGNALS)?;
    expect(&target);
    let places = [&alternate, &forbidden].map(start);
    let [stack, place] = &places;
    let tid = thread::scope(|scope| scope.spawn(|| ledger_thread_trespass(stack, place)).join());
    let tid = tid.map_err(gone)??;
    let [touch, handler, trespass, thread] =
        ["ledger_touch", "ledger_handle", "ledger_trespass", "ledger_thread_trespass"].map(function);
    let steps = vec![touch, handler, restorer, trespass, thread];
    said.note("handler of a thread, on a stack of its own", whole(&target, tid), steps, Base::Thread);
    said.far();
    said.held.extend([alternate, memory, forbidden, target]);
    Ok(())
}

// Calls.

/// Changes so many bytes from an address on; 0 if it did.
type Change = fn(*mut c_void, usize) -> c_int;

/// Pages of them, as nothing else has.
const CALLED_PAGES: usize = 37;

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_map(bytes: usize) -> *mut c_void {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: the kernel chooses the place, so no other memory is touched.
    black_box(unsafe { libc::mmap(null_mut(), bytes, libc::PROT_READ, flags, -1, 0) })
}

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_protect(start: *mut c_void, bytes: usize) -> c_int {
    // SAFETY: the caller owns the memory.
    black_box(unsafe { libc::mprotect(start, bytes, libc::PROT_READ | libc::PROT_WRITE) })
}

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_advise(start: *mut c_void, bytes: usize) -> c_int {
    // SAFETY: the caller owns the memory, and nothing relies on its content.
    black_box(unsafe { libc::madvise(start, bytes, libc::MADV_DONTNEED) })
}

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_unmap(start: *mut c_void, bytes: usize) -> c_int {
    // SAFETY: the caller owns the memory, and nothing refers to it.
    black_box(unsafe { libc::munmap(start, bytes) })
}

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_calls(said: &mut Said) -> io::Result<()> {
    said.caller = "ledger_calls";
    let bytes = CALLED_PAGES * page_bytes();
    let start = ledger_map(bytes);
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let addr = start.addr() as u64;
    let stretch = Stretch { start: addr, end: addr + bytes as u64 };
    said.called("mmap", stretch, &["mmap", "mmap64"], "ledger_map");
    let calls: [(&str, Change, &str); 3] = [
        ("mprotect", ledger_protect, "ledger_protect"),
        ("madvise", ledger_advise, "ledger_advise"),
        ("munmap", ledger_unmap, "ledger_unmap"),
    ];
    for (name, call, caller) in calls {
        if call(start, bytes) != 0 {
            return Err(io::Error::last_os_error());
        }
        said.called(name, stretch, &[name], caller);
    }
    Ok(())
}

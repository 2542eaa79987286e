//! One mapping of each kind, held until a line comes on stdin or some time has passed.
//!
//! Output: a line of [`Zoo`]. The files are made in the current directory.
//! Source: mmap(2), shmget(2), `prctl(PR_SET_VMA)`, madvise(2), `pthread_getattr_np(3)`.
#![expect(unsafe_code, reason = "the workload is the calls that rustix makes safe, and those that it lacks")]

use std::{
    collections::BTreeMap,
    ffi::{OsStr, c_int, c_void},
    fs::{self, File},
    hint::black_box,
    io::{self, BufRead as _},
    mem::{MaybeUninit, transmute},
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    process,
    ptr::null_mut,
    sync::mpsc,
    thread,
};

use clap::Parser;
use memtrace_tests::{
    ledger::{self, ForkedView, Stretch, Zoo},
    memory::page_bytes,
    task,
};
use rustix::fs::{MemfdFlags, memfd_create};

/// Pages of most things.
const PAGES: usize = 16;
/// Bytes by which the main stack and the heap grow.
const GROWTH: usize = 4 << 20;
/// Times that the page of code becomes executable.
const JIT_FLIPS: u64 = 10;
const RW: c_int = libc::PROT_READ | libc::PROT_WRITE;
const ANONYMOUS: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// Make one mapping of each kind and print where they are
#[derive(Parser)]
struct Args {
    /// Make as many VMAs of one mapping instead
    #[arg(long)]
    vmas: Option<usize>,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let mut zoo = Keeper(Zoo {
        pid: process::id(),
        things: BTreeMap::new(),
        missing: BTreeMap::new(),
        jit_flips: 0,
        child: None,
    });
    if let Some(vmas) = args.vmas {
        zoo.add("vmas", alternating(vmas)?);
        return zoo.show();
    }
    // Before there are other threads, so that the child may do what any process may.
    zoo.forked()?;
    zoo.anonymous()?;
    zoo.files()?;
    zoo.jit()?;
    zoo.moved_and_split()?;
    let segment = zoo.sysv()?;
    zoo.huge();
    zoo.add("heap", grow_heap()?);
    let top = black_box(&raw const args).addr() & !(page_bytes() - 1);
    grow_stack(top - GROWTH);
    zoo.add("stack", Stretch { start: (top - GROWTH) as u64, end: top as u64 });
    let (known, stack) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        // The other side may be gone: then there is nothing to hold for.
        let _gone = known.send(own_stack());
        let _end = ended.recv();
    });
    zoo.add("thread_stack", stack.recv().map_err(io::Error::other)??);
    zoo.show()?;
    drop(end);
    thread.join().map_err(|_| io::ErrorKind::Other)?;
    // SAFETY: attached by this program, which refers to it no more.
    check(unsafe { libc::shmdt(segment) })
}

fn check(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Maps `pages` pages where the kernel likes, never unmapped.
fn map(pages: usize, protection: c_int, flags: c_int, fd: RawFd, offset: i64) -> io::Result<*mut u8> {
    // SAFETY: the kernel chooses the place, so no other memory is touched.
    let start = unsafe { libc::mmap(null_mut(), pages * page_bytes(), protection, flags, fd, offset) };
    if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(start.cast()) }
}

fn stretch(start: *const u8, pages: usize) -> Stretch {
    let first = start.addr() as u64;
    Stretch { start: first, end: first + (pages * page_bytes()) as u64 }
}

/// Maps pages of memory between two inaccessible ones, so that they merge with nothing.
fn fenced(pages: usize) -> io::Result<*mut u8> {
    let fence = map(pages + 2, libc::PROT_NONE, ANONYMOUS, -1, 0)?;
    let start = fence.wrapping_add(page_bytes());
    // SAFETY: inside the mapping just made.
    check(unsafe { libc::mprotect(start.cast(), pages * page_bytes(), RW) })?;
    Ok(start)
}

/// Fills the zoo.
struct Keeper(Zoo);

impl Keeper {
    fn add(&mut self, what: &str, place: Stretch) {
        self.0.things.insert(what.to_owned(), place);
    }

    /// Prints what there is, and holds it until a line comes on stdin.
    fn show(&self) -> io::Result<()> {
        ledger::print(&self.0)?;
        io::stdin().lock().read_line(&mut String::new()).map(drop)
    }

    /// Memory with advices about forks, and a child that reads its copy.
    fn forked(&mut self) -> io::Result<()> {
        let [dontfork, wipeonfork] = [fenced(PAGES)?, fenced(PAGES)?];
        let known = map(1, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)?;
        for (start, advice) in [(dontfork, libc::MADV_DONTFORK), (wipeonfork, libc::MADV_WIPEONFORK)] {
            // SAFETY: the first byte of memory that was just mapped.
            unsafe { start.write_volatile(1) };
            // SAFETY: the whole of it.
            check(unsafe { libc::madvise(start.cast(), PAGES * page_bytes(), advice) })?;
        }
        let pid = task::in_child(|| {
            let mut present = [0; PAGES];
            // SAFETY: a byte for each page; fails for addresses without memory.
            let result =
                unsafe { libc::mincore(dontfork.cast(), PAGES * page_bytes(), present.as_mut_ptr()) };
            // SAFETY: the child has this memory, wiped.
            let byte = unsafe { wipeonfork.read_volatile() };
            // SAFETY: two bytes of memory that is shared with the parent.
            unsafe { known.cast::<[u8; 2]>().write_volatile([u8::from(result == 0), byte]) };
        })?;
        // SAFETY: as above; the child is gone.
        let [has_dontfork, wipeonfork_byte] = unsafe { known.cast::<[u8; 2]>().read_volatile() };
        self.0.child = Some(ForkedView { pid, has_dontfork: has_dontfork == 1, wipeonfork_byte });
        self.add("dontfork", stretch(dontfork, PAGES));
        self.add("wipeonfork", stretch(wipeonfork, PAGES));
        Ok(())
    }

    fn anonymous(&mut self) -> io::Result<()> {
        let shared = map(PAGES, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)?;
        self.add("shared_anon", stretch(shared, PAGES));
        let named = fenced(PAGES)?;
        let (set, anon_name) = (libc::PR_SET_VMA, libc::PR_SET_VMA_ANON_NAME);
        // SAFETY: names memory that was just mapped.
        match check(unsafe { libc::prctl(set, anon_name, named, PAGES * page_bytes(), c"zoo".as_ptr()) }) {
            Ok(()) => self.add("named_anon", stretch(named, PAGES)),
            Err(cause) => drop(self.0.missing.insert("named_anon".to_owned(), cause.to_string())),
        }
        Ok(())
    }

    fn files(&mut self) -> io::Result<()> {
        let memory = memfd_create(c"zoo-memfd", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&memory, (PAGES * page_bytes()) as u64)?;
        let start = map(PAGES, RW, libc::MAP_SHARED, memory.as_raw_fd(), 0)?;
        self.add("memfd", stretch(start, PAGES));
        let names: [(&str, &[u8]); 3] =
            [("file", b"zoo-file"), ("deleted_file", b"zoo-deleted"), ("odd_name", b"zoo\nodd\xff")];
        for (what, name) in names {
            let path = Path::new(OsStr::from_bytes(name));
            fs::write(path, vec![1; 2 * PAGES * page_bytes()])?;
            let file = File::open(path)?;
            if what == "deleted_file" {
                fs::remove_file(path)?;
            }
            // From the page 3 on.
            let offset = i64::try_from(3 * page_bytes()).map_err(io::Error::other)?;
            let start = map(PAGES, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), offset)?;
            self.add(what, stretch(start, PAGES));
        }
        Ok(())
    }

    /// A page of code that is written, made executable and called, again and again.
    fn jit(&mut self) -> io::Result<()> {
        #[cfg(target_arch = "x86_64")]
        const RETURN: &[u8] = &[0xc3];
        #[cfg(target_arch = "aarch64")]
        const RETURN: &[u8] = &[0xc0, 0x03, 0x5f, 0xd6];
        let code = fenced(1)?;
        for _ in 0..JIT_FLIPS {
            // SAFETY: the page was just mapped, or made writable.
            unsafe { code.copy_from_nonoverlapping(RETURN.as_ptr(), RETURN.len()) };
            let executable = libc::PROT_READ | libc::PROT_EXEC;
            // SAFETY: the whole page.
            check(unsafe { libc::mprotect(code.cast(), page_bytes(), executable) })?;
            // SAFETY: the page holds a function without arguments and result.
            let function = unsafe { transmute::<*mut u8, extern "C" fn()>(code) };
            function();
            // SAFETY: the whole page.
            check(unsafe { libc::mprotect(code.cast(), page_bytes(), RW) })?;
            self.0.jit_flips += 1;
        }
        self.add("jit", stretch(code, 1));
        Ok(())
    }

    fn moved_and_split(&mut self) -> io::Result<()> {
        let (from, to) = (fenced(PAGES)?, map(PAGES + 2, libc::PROT_NONE, ANONYMOUS, -1, 0)?);
        let (len, to) = (PAGES * page_bytes(), to.wrapping_add(page_bytes()));
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both ranges were just mapped.
        if unsafe { libc::mremap(from.cast(), len, len, flags, to) } == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        self.add("moved_from", stretch(from, PAGES));
        self.add("moved", stretch(to, PAGES));

        let whole = fenced(3 * PAGES)?;
        // Unlike all that may be mapped into the hole later.
        // SAFETY: what was just mapped.
        check(unsafe { libc::mprotect(whole.cast(), 3 * len, libc::PROT_READ) })?;
        // SAFETY: the second third of what was just mapped.
        check(unsafe { libc::munmap(whole.wrapping_add(len).cast(), len) })?;
        self.add("split_low", stretch(whole, PAGES));
        self.add("split_high", stretch(whole.wrapping_add(2 * len), PAGES));
        Ok(())
    }

    /// A segment that goes when it is detached.
    fn sysv(&mut self) -> io::Result<*mut c_void> {
        // SAFETY: no preconditions.
        let id = unsafe { libc::shmget(libc::IPC_PRIVATE, PAGES * page_bytes(), libc::IPC_CREAT | 0o600) };
        if id < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel chooses the place.
        let start = unsafe { libc::shmat(id, null_mut(), 0) };
        // SAFETY: removing needs no buffer.
        check(unsafe { libc::shmctl(id, libc::IPC_RMID, null_mut()) })?;
        if start.addr() == usize::MAX {
            return Err(io::Error::other("shmat(2) failed"));
        }
        self.add("sysv", stretch(start.cast(), PAGES));
        Ok(start)
    }

    fn huge(&mut self) {
        let pages = (2 << 20) / page_bytes();
        let flags = ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        match map(pages, RW, flags, -1, 0) {
            Ok(start) => self.add("hugetlb", stretch(start, pages)),
            Err(cause) => drop(self.0.missing.insert("hugetlb".to_owned(), cause.to_string())),
        }
    }
}

/// Moves the break up through libc, which knows it then.
fn grow_heap() -> io::Result<Stretch> {
    // SAFETY: new memory above the break.
    let start = unsafe { libc::sbrk(GROWTH.cast_signed()) };
    if start.addr() == usize::MAX {
        return Err(io::Error::last_os_error());
    }
    Ok(stretch(start.cast(), GROWTH / page_bytes()))
}

/// Touches the stack of the calling thread downwards, until below `limit`.
#[inline(never)]
fn grow_stack(limit: usize) {
    let frame = black_box([1_u8; 256]);
    if frame.as_ptr().addr() > limit {
        grow_stack(limit);
    }
    black_box(&frame);
}

/// The stack of the calling thread, without its guard.
fn own_stack() -> io::Result<Stretch> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::zeroed();
    let (mut start, mut len) = (null_mut(), 0);
    // SAFETY: fills the attributes of the calling thread in.
    let result = unsafe { libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(result));
    }
    // SAFETY: filled in above.
    unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut start, &raw mut len) };
    // SAFETY: filled in above, and not used again.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    Ok(stretch(start.cast(), len / page_bytes()))
}

/// One mapping of `vmas` pages, every other of which is made read-only until the kernel allows no more VMAs.
fn alternating(vmas: usize) -> io::Result<Stretch> {
    let start = map(vmas, RW, ANONYMOUS | libc::MAP_NORESERVE, -1, 0)?;
    for page in (1..vmas).step_by(2) {
        let page = start.wrapping_add(page * page_bytes());
        // SAFETY: a page of the mapping.
        if unsafe { libc::mprotect(page.cast(), page_bytes(), libc::PROT_READ) } != 0 {
            break;
        }
    }
    Ok(stretch(start, vmas))
}

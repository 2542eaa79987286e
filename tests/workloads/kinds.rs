//! Memory of each kind under paths that belong to others, held until a line comes on stdin.
//!
//! Output: a line of [`Kinds`].
//! Source: mmap(2), `memfd_create(2)`, `memfd_secret(2)`, shmget(2), mknod(2), chroot(2), `PR_SET_VMA(2const)`, zero(4).
#![expect(unsafe_code, reason = "the workload is the calls that rustix makes safe, and those that it lacks")]

use std::{
    collections::BTreeMap,
    env,
    ffi::c_int,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _},
    os::{
        fd::{AsRawFd, FromRawFd as _},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    process,
    ptr::{null_mut, with_exposed_provenance_mut},
};

use clap::Parser;
use memtrace_tests::{
    ledger::{self, Kind, Kinds, Stretch},
    memory::page_bytes,
};
use rustix::{
    fs::{CWD, FileType, MemfdFlags, Mode, memfd_create, mknodat},
    process::chroot,
};

const HUGE: usize = 2 << 20;
const RW: c_int = libc::PROT_READ | libc::PROT_WRITE;

/// Map memory of each kind and print where it is
#[derive(Parser)]
struct Args {
    /// A directory on a disk
    #[arg(long)]
    disk: Option<PathBuf>,
    /// A directory on tmpfs
    #[arg(long)]
    tmpfs: Option<PathBuf>,
    /// A directory on hugetlbfs with pages of 2 MiB, of which four are free
    #[arg(long)]
    hugetlbfs: Option<PathBuf>,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let mut keeper = Keeper(Kinds { pid: process::id(), things: BTreeMap::new(), missing: BTreeMap::new() });
    keeper.named()?;
    keeper.of_the_kernel()?;
    keeper.devices()?;
    if let Some(directory) = &args.hugetlbfs {
        keeper.huge(directory)?;
    }
    if let Some(directory) = &args.tmpfs {
        keeper.on_tmpfs(directory)?;
    }
    if let Some(directory) = &args.disk {
        keeper.beyond_path_max(directory)?;
        keeper.on_disk(directory)?;
    }
    ledger::print(&keeper.0)?;
    io::stdin().lock().read_line(&mut String::new()).map(|_| ())
}

/// Maps all `len` bytes of `file`, or memory without one, and touches the first of them if it may be written.
fn map(len: usize, protection: c_int, flags: c_int, file: Option<&File>) -> io::Result<Stretch> {
    let fd = file.map_or(-1, AsRawFd::as_raw_fd);
    // SAFETY: the kernel chooses the place, so no other memory is touched.
    let start = unsafe { libc::mmap(null_mut(), len, protection, flags, fd, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    if protection & libc::PROT_WRITE != 0 {
        // SAFETY: the first byte of what was just mapped, which nobody else knows.
        unsafe { start.cast::<u8>().write_volatile(1) };
    }
    Ok(stretch(start.expose_provenance(), len))
}

fn stretch(start: usize, len: usize) -> Stretch {
    Stretch { start: start as u64, end: (start + len) as u64 }
}

/// `pages` pages of a stretch.
fn part(of: Stretch, first: u64, pages: u64) -> Stretch {
    let page = page_bytes() as u64;
    Stretch { start: of.start + first * page, end: of.start + (first + pages) * page }
}

/// A file of `len` bytes at `path`.
fn file(path: impl AsRef<Path>, len: usize) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    file.set_len(len as u64)?;
    Ok(file)
}

fn memfd(name: &str, flags: MemfdFlags, len: usize) -> io::Result<File> {
    let file = File::from(memfd_create(name, flags | MemfdFlags::CLOEXEC)?);
    file.set_len(len as u64)?;
    Ok(file)
}

/// Attaches a segment that goes when it is detached.
fn segment(len: usize, flags: c_int) -> io::Result<Stretch> {
    // SAFETY: no preconditions.
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, len, libc::IPC_CREAT | 0o600 | flags) };
    if id < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel chooses the place.
    let start = unsafe { libc::shmat(id, null_mut(), 0) };
    // SAFETY: to remove needs no buffer.
    unsafe { libc::shmctl(id, libc::IPC_RMID, null_mut()) };
    if start.addr() == usize::MAX { Err(io::Error::last_os_error()) } else { Ok(stretch(start.addr(), len)) }
}

fn name_part(of: Stretch, name: &std::ffi::CStr) -> io::Result<()> {
    let len = of.end - of.start;
    // SAFETY: names memory of this program.
    match unsafe { libc::prctl(libc::PR_SET_VMA, libc::PR_SET_VMA_ANON_NAME, of.start, len, name.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Keeps account of what there is.
struct Keeper(Kinds);

impl Keeper {
    fn add(&mut self, what: &str, place: Stretch, backing: &str, name: &str) {
        let (backing, name) = (backing.to_owned(), name.to_owned());
        self.0.things.insert(what.to_owned(), Kind { place, backing, name });
    }

    /// The same for a thing that kernels may lack.
    fn add_if(&mut self, what: &str, place: io::Result<Stretch>, backing: &str, name: &str) {
        match place {
            Ok(place) => self.add(what, place, backing, name),
            Err(cause) => drop(self.0.missing.insert(what.to_owned(), cause.to_string())),
        }
    }

    /// A heap and shared memory, each with a part that has a name.
    fn named(&mut self) -> io::Result<()> {
        let page = page_bytes();
        // SAFETY: new memory above the break.
        let grown = unsafe { libc::sbrk((32 * page).cast_signed()) };
        if grown.addr() == usize::MAX {
            return Err(io::Error::last_os_error());
        }
        let first = grown.addr().next_multiple_of(page);
        let heap = stretch(first, 24 * page);
        let named = name_part(part(heap, 8, 8), c"pool");
        self.add_if("heap", named.map(|()| heap), "heap", "[heap]");
        let shared = map(9 * page, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, None)?;
        let parts = [0, 3, 6].map(|first| part(shared, first, 3));
        let is_named = name_part(parts[1], c"pool").is_ok();
        self.add("shared_anon", parts[0], "shmem", "/dev/zero (deleted)");
        let name = if is_named { "[anon_shmem:pool]" } else { "/dev/zero (deleted)" };
        self.add("named_shared_anon", parts[1], "shmem", name);
        self.add("shared_anon_behind", parts[2], "shmem", "/dev/zero (deleted)");
        Ok(())
    }

    /// What lies on file systems that the kernel keeps for itself.
    fn of_the_kernel(&mut self) -> io::Result<()> {
        let page = page_bytes();
        let file = memfd("dev-shm", MemfdFlags::empty(), page)?;
        self.add("memfd", map(page, RW, libc::MAP_SHARED, Some(&file))?, "memfd", "/memfd:dev-shm (deleted)");
        let private = map(page, RW, libc::MAP_PRIVATE, Some(&file))?;
        self.add("private_memfd", private, "memfd", "/memfd:dev-shm (deleted)");
        self.add("sysv", segment(page, 0)?, "sysv", "/SYSV00000000 (deleted)");
        // SAFETY: the call takes flags alone.
        let secret = unsafe { libc::syscall(libc::SYS_memfd_secret, 0) };
        let secret = c_int::try_from(secret).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error);
        let secret = secret.and_then(|fd| {
            // SAFETY: the descriptor was just made, and is nobody else's.
            let file = unsafe { File::from_raw_fd(fd) };
            file.set_len(page as u64)?;
            map(page, RW, libc::MAP_SHARED, Some(&file))
        });
        self.add_if("secret", secret, "secretmem", "/secretmem (deleted)");
        Ok(())
    }

    fn devices(&mut self) -> io::Result<()> {
        let page = page_bytes();
        let zero = OpenOptions::new().read(true).write(true).open("/dev/zero")?;
        self.add("private_zeros", map(page, RW, libc::MAP_PRIVATE, Some(&zero))?, "anon", "/dev/zero");
        let shared = map(page, RW, libc::MAP_SHARED, Some(&zero))?;
        self.add("shared_zeros", shared, "shmem", "/dev/zero (deleted)");
        let (path, device) = match disk() {
            Ok(found) => found,
            Err(cause) => {
                self.0.missing.insert("device".to_owned(), cause.to_string());
                return Ok(());
            }
        };
        let place = map(page, libc::PROT_READ, libc::MAP_SHARED, Some(&device));
        self.add_if("device", place, "device", &path.to_string_lossy());
        Ok(())
    }

    fn huge(&mut self, directory: &Path) -> io::Result<()> {
        let path = directory.join("memfd:pool");
        let mounted = map(HUGE, RW, libc::MAP_SHARED, Some(&file(&path, HUGE)?))?;
        self.add("huge_file", mounted, "hugetlb", "/memfd:pool");
        let memfd = memfd("huge", MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB, HUGE)?;
        self.add(
            "huge_memfd",
            map(HUGE, RW, libc::MAP_SHARED, Some(&memfd))?,
            "hugetlb",
            "/memfd:huge (deleted)",
        );
        let flags = libc::SHM_HUGETLB | libc::MAP_HUGE_2MB;
        self.add("huge_sysv", segment(HUGE, flags)?, "hugetlb", "/SYSV00000000 (deleted)");
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        self.add("huge_anon", map(HUGE, RW, flags, None)?, "hugetlb", "/anon_hugepage (deleted)");
        Ok(())
    }

    fn on_tmpfs(&mut self, directory: &Path) -> io::Result<()> {
        let page = page_bytes();
        let mapped = map(page, RW, libc::MAP_SHARED, Some(&file(directory.join("memfd:x"), page)?))?;
        self.add("tmpfs_file", mapped, "shmem", "/memfd:x");
        if let Ok((path, _)) = disk() {
            let node = directory.join("node");
            mknodat(CWD, &node, FileType::BlockDevice, Mode::RUSR, fs::metadata(path)?.rdev())?;
            let place =
                File::open(&node).and_then(|node| map(page, libc::PROT_READ, libc::MAP_SHARED, Some(&node)));
            self.add_if("node_on_tmpfs", place, "device", "/node");
        }
        Ok(())
    }

    /// A file of which the path is longer than the kernel's `PATH_MAX`, and of which a part gets another protection.
    fn beyond_path_max(&mut self, directory: &Path) -> io::Result<()> {
        const DEPTH: usize = 30;
        let page = page_bytes();
        let here = env::current_dir()?;
        let mut path = directory.to_owned();
        env::set_current_dir(directory)?;
        let level = "d".repeat(200);
        for _ in 0..DEPTH {
            fs::create_dir(&level)?;
            env::set_current_dir(&level)?;
            path.push(&level);
        }
        let place = map(4 * page, RW, libc::MAP_SHARED, Some(&file("deep", 4 * page)?))?;
        env::set_current_dir(here)?;
        let read_only = part(place, 1, 1);
        let start = usize::try_from(read_only.start).map_err(io::Error::other)?;
        // SAFETY: a page of what was just mapped.
        if unsafe { libc::mprotect(with_exposed_provenance_mut(start), page, libc::PROT_READ) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let name = path.join("deep").to_string_lossy().into_owned();
        self.add("deep", part(place, 0, 1), "file", &name);
        self.add("deep_read_only", read_only, "file", &name);
        Ok(())
    }

    /// Files whose paths, as this process sees them, are like those of memory without a file.
    fn on_disk(&mut self, directory: &Path) -> io::Result<()> {
        let page = page_bytes();
        chroot(directory)?;
        env::set_current_dir("/")?;
        for path in
            ["/memfd:x", "/SYSV00000000", "/anon_hugepage", "/dev/shm/x", "/dev/hugepages/x", "/dev/zero"]
        {
            let path = Path::new(path);
            fs::create_dir_all(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
            let place = map(page, RW, libc::MAP_SHARED, Some(&file(path, page)?))?;
            let name = path.to_string_lossy();
            self.add(&format!("disk{name}"), place, "file", &name);
        }
        Ok(())
    }
}

/// A block device that can be opened, and its path.
fn disk() -> io::Result<(PathBuf, File)> {
    let names = fs::read_dir("/sys/class/block")?.filter_map(|entry| Some(entry.ok()?.file_name()));
    let mut open = names.filter_map(|name| {
        let path = Path::new("/dev").join(name);
        Some((path.clone(), File::open(path).ok()?))
    });
    open.next().ok_or_else(|| io::ErrorKind::NotFound.into())
}

//! The demonstration of `cargo xtask run`: a short life with phases that a timeline shows.
//!
//! Output: each phase with its time since the start; names for its mappings, where the kernel takes them.
//! Keeps: less than four seconds, less than 200 MiB.

use std::{
    ffi::CStr,
    io::{self, Write as _},
    thread,
    time::{Duration, Instant},
};

use memtrace_tests::{
    memory::{Mapping, Sharing, page_bytes},
    task,
};
use rustix::{fs::Advice as FileAdvice, mm::Advice};

/// Steps of a phase, and the time between them.
const STEPS: usize = 10;
const STEP: Duration = Duration::from_millis(25);

fn main() -> io::Result<()> {
    let demo = Demo { begin: Instant::now() };
    let heap = demo.grow()?;
    let _huge = demo.huge()?;
    demo.fork(&heap)?;
    demo.forget(&heap)?;
    demo.file()?;
    let _populated = demo.populate()?;
    demo.say("done")
}

struct Demo {
    begin: Instant,
}

impl Demo {
    fn say(&self, phase: &str) -> io::Result<()> {
        writeln!(io::stdout(), "{:>5} ms  {phase}", self.begin.elapsed().as_millis())
    }

    fn grow(&self) -> io::Result<Mapping> {
        self.say("grow: write 64 MiB, page by page")?;
        let memory = Mapping::anonymous(pages(64))?;
        memory.name(c"demo: grows");
        in_steps(memory.pages(), |page| memory.write(page));
        Ok(memory)
    }

    fn huge(&self) -> io::Result<Mapping> {
        self.say("huge pages: write 32 MiB, advised MADV_HUGEPAGE")?;
        let memory = Mapping::huge(16)?;
        memory.name(c"demo: huge");
        in_steps(memory.pages(), |page| memory.write(page));
        Ok(memory)
    }

    fn fork(&self, memory: &Mapping) -> io::Result<()> {
        self.say("fork: the child writes a quarter of the 64 MiB, which copies it")?;
        task::in_child(|| in_steps(memory.pages() / 4, |page| memory.write(page)))?;
        Ok(())
    }

    fn forget(&self, memory: &Mapping) -> io::Result<()> {
        self.say("madvise: give half of the 64 MiB back, then write it again")?;
        memory.advise(Advice::LinuxDontNeed)?;
        in_steps(memory.pages() / 2, |page| memory.write(page));
        Ok(())
    }

    fn file(&self) -> io::Result<()> {
        let mut file = tempfile::tempfile()?;
        file.write_all(&vec![1; pages(16) * page_bytes()])?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, FileAdvice::DontNeed)?;
        self.say("file: read 16 MiB that the page cache no longer has")?;
        let cold = Mapping::of_file(&file, pages(16), Sharing::Shared)?;
        in_steps(cold.pages(), |page| cold.read(page));
        self.say("file: read it through another mapping, from the page cache")?;
        let warm = Mapping::of_file(&file, pages(16), Sharing::Shared)?;
        in_steps(warm.pages(), |page| warm.read(page));
        self.say("read(2): let the kernel copy it into fresh pages")?;
        let copy = Mapping::anonymous(pages(16))?;
        name_and_fill(&copy, c"demo: read into", &file)
    }

    fn populate(&self) -> io::Result<Mapping> {
        self.say("populate: map 16 MiB with MAP_POPULATE, which raises no fault event")?;
        let memory = Mapping::populated(pages(16))?;
        memory.name(c"demo: populated");
        thread::sleep(STEP);
        Ok(memory)
    }
}

/// Base pages in this many MiB.
fn pages(mib: usize) -> usize {
    (mib << 20) / page_bytes()
}

/// Calls `touch` for each page, with a rest after every tenth of them.
fn in_steps(pages: usize, touch: impl Fn(usize)) {
    for step in 0..STEPS {
        (pages * step / STEPS..pages * (step + 1) / STEPS).for_each(&touch);
        thread::sleep(STEP);
    }
}

fn name_and_fill(memory: &Mapping, name: &CStr, file: &std::fs::File) -> io::Result<()> {
    memory.name(name);
    rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0))?;
    memory.fill_from(file)?;
    thread::sleep(STEP);
    Ok(())
}

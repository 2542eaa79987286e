//! What `/proc` has of a thread and of its address space, but for its pages.
//!
//! Layer: shell. Input: thread IDs. Output: texts and numbers.
//! Source: `proc(5)`: of a thread that has ended the files are empty (`exit_mm` of `kernel/exit.c`), so whoever has a process asks
//! for a thread of it that has memory.
//! Not here: what maps mean (`maps`).

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
};

use procfs::{
    ProcError,
    process::{Process, Status},
};

use super::ProbeError;
use crate::{
    event::{Landmarks, RssCounters, RssReading, Tgid, Tid},
    units::{PageCount, PageSize, VirtAddr},
};

/// Bytes of the maps of most processes.
const TYPICAL_MAPS: usize = 64 << 10;

/// The text of the maps of the thread `tid`.
pub(super) fn read_maps(tid: Tid) -> Result<Vec<u8>, ProbeError> {
    let mut file = File::open(format!("/proc/{}/maps", tid.0))?;
    let mut text = Vec::with_capacity(TYPICAL_MAPS);
    file.read_to_end(&mut text)?;
    // The address space may have gone during the reading, which then ends early. It cannot come back: if there is
    // something to read now, there was all the time. A zombie and a kernel thread have none.
    if file.read_at(&mut [0], 0)? == 0 {
        return Err(ProbeError::Gone);
    }
    Ok(text)
}

/// A thread of process `tgid` that has its memory: the leader, unless it ended before the others. Of a thread that ended the
/// files in `/proc` are empty (`exit_mm` of `kernel/exit.c`).
///
/// [`ProbeError::Gone`] only if all threads were asked and none has any: what could not be read says nothing.
pub(super) fn with_memory(tgid: Tgid) -> Result<Tid, ProbeError> {
    let has_memory = |tid: Tid| match statm(tid) {
        Ok(statm) => Ok(statm.mapped.get() > 0),
        Err(ProbeError::Gone) => Ok(false),
        Err(error) => Err(error),
    };
    let leader = Tid(tgid.0);
    if has_memory(leader)? {
        return Ok(leader);
    }
    for entry in fs::read_dir(format!("/proc/{}/task", tgid.0))? {
        let thread = entry?.file_name().to_str().and_then(|name| name.parse().ok()).map(Tid);
        if let Some(thread) = thread
            && has_memory(thread)?
        {
            return Ok(thread);
        }
    }
    Err(ProbeError::Gone)
}

/// Sizes of an address space as the kernel counts them, which takes no lock.
pub(super) struct Statm {
    pub(super) mapped: PageCount,
    pub(super) resident: PageCount,
}

/// `/proc/PID/statm` of the thread `tid`.
pub(super) fn statm(tid: Tid) -> Result<Statm, ProbeError> {
    let text = fs::read_to_string(format!("/proc/{}/statm", tid.0))?;
    let mut pages = text.split_whitespace().map_while(|pages| pages.parse().ok().map(PageCount::new));
    let sizes = pages.next().zip(pages.next());
    sizes.map(|(mapped, resident)| Statm { mapped, resident }).ok_or(ProbeError::Gone)
}

/// The counters of the address space of the thread `tid`, which take no lock.
pub(super) fn rss(tid: Tid, page: PageSize) -> Result<RssReading, ProbeError> {
    let status = process(tid)?.status()?;
    rss_of(&status, page).ok_or(ProbeError::Gone)
}

/// The counters in `status`; `None` without an address space.
fn rss_of(status: &Status, page: PageSize) -> Option<RssReading> {
    let pages = |kib: Option<u64>| Some(PageCount::new((kib? << 10) / page.bytes()));
    let counters = RssCounters {
        anon: pages(status.rssanon)?,
        file: pages(status.rssfile)?,
        shmem: pages(status.rssshmem)?,
        swap: pages(status.vmswap)?,
        peak: pages(status.vmhwm)?,
    };
    Some(RssReading { resident: pages(status.vmrss)?, counters: Some(counters) })
}

/// What `/proc` has of the thread `tid`.
fn process(tid: Tid) -> Result<Process, ProcError> {
    Process::new(tid.0.cast_signed())
}

impl From<ProcError> for ProbeError {
    fn from(error: ProcError) -> Self {
        match error {
            ProcError::NotFound(_) => Self::Gone,
            ProcError::Io(error, _) => error.into(),
            other => Self::Io(io::Error::other(other)),
        }
    }
}

/// Where the heap begins and the stack is, as far as the kernel shows it; `None` during an exec, when the old address space is gone
/// and the new one has no heap yet.
pub(super) fn landmarks(tid: Tid) -> Option<Landmarks> {
    /// What the kernel shows for the start of the code to those who may not know places.
    const HIDDEN: u64 = 1;
    let Ok(stat) = process(tid).and_then(|process| process.stat()) else {
        return Some(Landmarks::default());
    };
    let known = |addr: u64| (addr != 0).then_some(VirtAddr::from_raw(addr));
    let start_brk = known(stat.start_brk?);
    let is_known = start_brk.is_some() || stat.startcode == HIDDEN;
    is_known.then(|| Landmarks { start_brk, start_stack: known(stat.startstack) })
}

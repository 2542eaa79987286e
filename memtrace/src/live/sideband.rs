//! The side-band of perf on all CPUs: which VMA each call, fault or exec of a traced task brought about.
//!
//! Layer: shell. Input: a [`Scope`]. Output: `PERF_RECORD_*` byte for byte, per CPU in order of time.
//! Source: `perf_event_open(2)`: an inherited event can have a ring only if it is bound to a CPU.
//! Keeps: memory is bounded; what a full ring drops the kernel counts and announces in a record.
//! Not here: what records mean (`decode`), when rings are drained (`drain`).

use std::io;

use super::{attach::AttachError, probes::Scope};
use crate::{
    event::{Cpu, Loss, LossCause},
    sys::{clock, memlock, sideband::Ring},
    units::{ByteSize, Timestamp},
};

/// Size of one ring where memory allows, in bytes: 20 thousand VMAs, 80 ms of a loop of mmap and munmap.
const RING_BYTES: usize = 2 << 20;

/// Size of one ring at least, in bytes: 60 records with the longest path that there is.
const RING_BYTES_MIN: usize = 256 << 10;

/// Size of one ring below which locked memory that is short is an error, in bytes: 15 records with the longest path.
const RING_BYTES_LEAST: usize = 64 << 10;

/// Size of all rings together, in bytes, as far as the least size of one allows.
const ALL_RINGS_BYTES: usize = 64 << 20;

/// Size of the ring of each of `cpus` CPUs, in bytes: a power of two.
#[must_use]
pub const fn ring_bytes(cpus: usize) -> usize {
    let mut bytes = RING_BYTES;
    while bytes > RING_BYTES_MIN && bytes.saturating_mul(cpus) > ALL_RINGS_BYTES {
        bytes /= 2;
    }
    bytes
}

/// One ring for each CPU; dropping it ends the side-band.
#[derive(Debug)]
pub struct SideBand {
    rings: Vec<CpuRing>,
    bytes_per_cpu: usize,
}

/// The ring of one CPU.
#[derive(Debug)]
struct CpuRing {
    cpu: u32,
    ring: Ring,
    /// When it was last drained.
    drained: Timestamp,
    /// The time until a drain that found it full, since the drain before, if it has had no record since.
    full: Option<(Timestamp, Timestamp)>,
}

impl CpuRing {
    fn new(cpu: u32, bytes: usize) -> io::Result<Self> {
        Ok(Self { cpu, ring: Ring::new(cpu, bytes)?, drained: clock::boottime(), full: None })
    }

    fn drain(&mut self, into: &mut Vec<u8>) {
        let now = clock::boottime();
        let before = into.len();
        let was_full = self.ring.drain(into);
        if was_full {
            self.full = Some((self.drained, now));
        } else if into.len() > before {
            // The first of these records said what had been dropped.
            self.full = None;
        }
        self.drained = now;
    }
}

impl SideBand {
    /// Starts to follow the tasks in `scope` on `cpus`, with rings of `bytes_per_cpu` bytes (a page and a power of two
    /// at least), or smaller ones where locked memory is short; threads that ended meanwhile are left out and returned.
    pub fn open(scope: &Scope, cpus: &[u32], bytes_per_cpu: usize) -> Result<(Self, Vec<u32>), AttachError> {
        // Beyond `perf_event_mlock_kb` the kernel charges rings to the limit of locked memory.
        let _lifted = memlock::lift();
        let (rings, bytes_per_cpu) = affordable_rings(cpus, bytes_per_cpu)?;
        let mut sideband = Self { rings, bytes_per_cpu };
        let gone = match scope {
            Scope::Threads(tids) => sideband.add_threads(tids)?,
            Scope::Cpus(cpus) => {
                sideband.add_cpus(cpus)?;
                Vec::new()
            }
        };
        Ok((sideband, gone))
    }

    /// Starts to follow the threads `tids` and all that they will make; those that ended meanwhile are returned.
    pub fn add_threads(&mut self, tids: &[u32]) -> Result<Vec<u32>, AttachError> {
        let mut gone = Vec::new();
        for &tid in tids {
            match self.rings.iter_mut().try_for_each(|of_cpu| of_cpu.ring.follow(tid)) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => gone.push(tid),
                result => {
                    result.map_err(|error| failure(format!("follow the maps of thread {tid}"), error))?;
                }
            }
        }
        Ok(gone)
    }

    fn add_cpus(&mut self, cpus: &[u32]) -> Result<(), AttachError> {
        for CpuRing { cpu, ring, .. } in self.rings.iter_mut().filter(|of_cpu| cpus.contains(&of_cpu.cpu)) {
            ring.follow_all().map_err(|error| failure(format!("follow the maps on CPU {cpu}"), error))?;
        }
        Ok(())
    }

    /// Starts to follow every task on `cpu`, which has come; the ring of one that came again goes on.
    pub fn follow_cpu(&mut self, cpu: u32) -> io::Result<()> {
        let _lifted = memlock::lift();
        if self.rings.iter().all(|of_cpu| of_cpu.cpu != cpu) {
            self.rings.push(CpuRing::new(cpu, self.bytes_per_cpu)?);
        }
        self.rings
            .iter_mut()
            .filter(|of_cpu| of_cpu.cpu == cpu)
            .try_for_each(|of_cpu| of_cpu.ring.follow_all())
    }

    /// Moves all records that the rings hold now to the end of `into`, CPU after CPU.
    pub fn drain(&mut self, into: &mut Vec<u8>) {
        self.rings.iter_mut().for_each(|of_cpu| of_cpu.drain(into));
    }

    /// What rings may have dropped that a drain before `time` found full, and that the kernel has not announced since: it does
    /// so in the next record of such a ring, which may come late or never. Each is returned once.
    pub fn unannounced(&mut self, time: Timestamp) -> impl Iterator<Item = Loss> {
        self.rings.iter_mut().filter_map(move |of_cpu| {
            let (start, end) = of_cpu.full.take_if(|(_, end)| *end < time)?;
            let (cpu, cause) = (Some(Cpu(of_cpu.cpu)), LossCause::SideBand);
            Some(Loss { start, end: Some(end), cpu, cause, count: None })
        })
    }
}

/// A ring for each of `cpus` of `wanted` bytes, or of half of it again and again while locked memory is short; and their size.
fn affordable_rings(cpus: &[u32], wanted: usize) -> Result<(Vec<CpuRing>, usize), AttachError> {
    let mut bytes = wanted;
    loop {
        let rings = cpus.iter().map(|&cpu| CpuRing::new(cpu, bytes).map_err(|error| (cpu, error)));
        match rings.collect() {
            Ok(rings) => {
                if bytes < wanted {
                    log::warn!(
                        "rings of perf are {} per CPU instead of {}, for want of locked memory: sudo prlimit --pid $$ \
                         --memlock=unlimited:unlimited",
                        ByteSize::new(bytes as u64),
                        ByteSize::new(wanted as u64),
                    );
                }
                return Ok((rings, bytes));
            }
            Err((_, error)) if error.raw_os_error() == Some(libc::EPERM) && bytes > RING_BYTES_LEAST => {
                bytes /= 2;
            }
            Err((cpu, error)) => return Err(failure(format!("map the ring of perf on CPU {cpu}"), error)),
        }
    }
}

/// Sorts what the kernel said into what the user can do about it.
fn failure(what: String, error: io::Error) -> AttachError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => AttachError::Denied {
            what,
            need: "CAP_PERFMON, and CAP_IPC_LOCK or more locked memory (prlimit --memlock)",
            source: error,
        },
        _ => AttachError::Failed { what, source: Box::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd, os::unix::fs::MetadataExt, process, thread};

    use rustix::{
        fs::{MemfdFlags, memfd_create},
        thread::{CpuSet, gettid, sched_getcpu, sched_setaffinity},
    };

    use super::*;
    use crate::sys::{clock, shared::SharedWords};

    const PERF_RECORD_LOST: u32 = 2;
    const PERF_RECORD_MMAP2: u32 = 10;

    /// A file of one page in memory, to be mapped.
    fn page(name: &str) -> File {
        let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC).expect("memfd exists since 3.17"));
        file.set_len(4096).expect("a page is affordable");
        file
    }

    /// Maps `file`, and unmaps it again.
    fn map(file: &File) {
        SharedWords::map(file.as_fd(), 512).expect("a memfd can be mapped");
    }

    fn this_thread() -> u32 {
        gettid().as_raw_nonzero().get().unsigned_abs()
    }

    /// A side-band of the calling thread, which stays on one CPU; `None`, and why, where the kernel refuses one.
    fn open(bytes: usize) -> Option<SideBand> {
        let cpu = sched_getcpu();
        let mut cpus = CpuSet::new();
        cpus.set(cpu);
        sched_setaffinity(None, &cpus).expect("a thread may stay where it is");
        let cpu = u32::try_from(cpu).expect("CPUs are few");
        match SideBand::open(&Scope::Threads(vec![this_thread()]), &[cpu], bytes) {
            Ok((sideband, gone)) => {
                assert!(gone.is_empty(), "this thread lives");
                Some(sideband)
            }
            Err(AttachError::Denied { what, source, .. }) => {
                eprintln!("skipped: cannot {what}: {source}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn u32_at(record: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes(record[at..at + 4].try_into().expect("four bytes"))
    }

    fn u64_at(record: &[u8], at: usize) -> u64 {
        u64::from_ne_bytes(record[at..at + 8].try_into().expect("eight bytes"))
    }

    /// The records that `sideband` holds.
    fn drain(sideband: &mut SideBand) -> Vec<Vec<u8>> {
        let mut bytes = Vec::new();
        sideband.drain(&mut bytes);
        let mut records = Vec::new();
        while let Some(header) = bytes.get(..8) {
            let size = u16::from_ne_bytes([header[6], header[7]]).into();
            let rest = bytes.split_off(size);
            records.push(std::mem::replace(&mut bytes, rest));
        }
        assert!(bytes.is_empty(), "records are whole");
        records
    }

    /// Whether `record` tells of a mapping of `file`.
    fn tells_of(record: &[u8], file: &File) -> bool {
        let inode = file.metadata().expect("it is open").ino();
        u32_at(record, 0) == PERF_RECORD_MMAP2 && u64_at(record, 48) == inode
    }

    fn count_of(records: &[Vec<u8>], file: &File) -> usize {
        records.iter().filter(|record| tells_of(record, file)).count()
    }

    #[test]
    fn mapping_of_a_file_is_told_with_thread_time_length_and_name() {
        let Some(mut sideband) = open(64 << 10) else { return };
        let file = page("told");

        let before = clock::boottime().as_nanos();
        map(&file);
        let after = clock::boottime().as_nanos();

        let records = drain(&mut sideband);
        let record = records.iter().find(|record| tells_of(record, &file)).expect("it was mapped");
        assert_eq!((u32_at(record, 8), u32_at(record, 12)), (process::id(), this_thread()));
        assert_eq!((u64_at(record, 24), u64_at(record, 32)), (4096, 0));
        assert!(record[72..].starts_with(b"/memfd:told (deleted)\0"), "{record:?}");
        assert!((before..=after).contains(&u64_at(record, record.len() - 16)));
    }

    #[test]
    fn thread_born_later_is_followed() {
        let Some(mut sideband) = open(64 << 10) else { return };
        let file = page("born-later");

        thread::scope(|scope| scope.spawn(|| map(&file)).join().expect("it maps"));

        assert_eq!(count_of(&drain(&mut sideband), &file), 1);
    }

    #[test]
    fn record_across_the_end_of_the_ring_is_whole() {
        // A record of this name has 120 bytes, so that 34 of them do not fill 4096.
        let Some(mut sideband) = open(4096) else { return };
        let file = page("across-the-end");

        for _ in 0..200 {
            map(&file);

            assert_eq!(count_of(&drain(&mut sideband), &file), 1);
        }
    }

    #[test]
    fn full_ring_drops_new_records_and_says_how_many() {
        let Some(mut sideband) = open(4096) else { return };
        let file = page("drops-records");
        for _ in 0..100 {
            map(&file);
        }
        let kept = count_of(&drain(&mut sideband), &file);

        map(&file);

        let records = drain(&mut sideband);
        let lost = records.iter().find(|record| u32_at(record, 0) == PERF_RECORD_LOST).expect("it was full");
        assert!((1..=34).contains(&kept), "{kept} records of 120 bytes in 4096");
        assert_eq!(u64_at(lost, 16), 100 - kept as u64);
        assert_eq!(count_of(&records, &file), 1);
    }

    #[test]
    fn full_ring_without_another_record_is_a_loss_of_unknown_size_said_once() {
        let Some(mut sideband) = open(8192) else { return };
        let file = page("silent-after");
        let later = Timestamp::from_nanos(u64::MAX);
        (0..100).for_each(|_| map(&file));
        let before = clock::boottime();
        // Into room that is there: a new mapping for it would be another record.
        let mut records = Vec::with_capacity(8192);
        sideband.drain(&mut records);

        assert_eq!(sideband.unannounced(before).count(), 0, "the next record may still come");
        sideband.drain(&mut Vec::new());
        let losses: Vec<_> = sideband.unannounced(later).collect();

        let [Loss { start, end: Some(end), cause: LossCause::SideBand, count: None, .. }] = losses[..] else {
            panic!("one loss: {losses:?}")
        };
        assert!(start < before && before < end, "{losses:?} around {before:?}");
        assert_eq!(sideband.unannounced(later).count(), 0, "once");
    }

    #[test]
    fn full_ring_with_another_record_is_what_the_kernel_announced() {
        let Some(mut sideband) = open(8192) else { return };
        let file = page("spoken-after");
        (0..100).for_each(|_| map(&file));
        drain(&mut sideband);

        map(&file);
        drain(&mut sideband);

        assert_eq!(sideband.unannounced(Timestamp::from_nanos(u64::MAX)).count(), 0);
    }

    #[test]
    fn thread_that_ended_is_returned() {
        let Some(mut sideband) = open(4096) else { return };
        let ended = thread::spawn(this_thread).join().expect("it tells its ID");

        let gone = sideband.add_threads(&[ended]).expect("that is no error");

        assert_eq!(gone, [ended]);
    }

    #[test]
    fn rings_of_many_cpus_shrink_to_a_bound() {
        assert_eq!(ring_bytes(2), 2 << 20);
        assert_eq!(ring_bytes(32), 2 << 20);
        assert_eq!(ring_bytes(33), 1 << 20);
        assert_eq!(ring_bytes(200), 256 << 10);
        assert_eq!(ring_bytes(8192), 256 << 10);
    }
}

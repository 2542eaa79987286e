//! Rows of exported tables.
//!
//! Input: CSV. Output: a type for each table, with the columns that tests ask about.
//! Not here: exporting them (`tables`).

use serde::{Deserialize, Deserializer};

/// Some columns of the table `faults`.
#[derive(Clone, Debug, Deserialize)]
pub struct FaultRow {
    /// Since the start of the recording.
    pub time_ns: u64,
    /// Process.
    pub tgid: Option<u32>,
    /// Thread.
    pub tid: u32,
    /// Faulting address.
    #[serde(deserialize_with = "hexadecimal")]
    pub addr: u64,
    /// Instruction pointer.
    #[serde(deserialize_with = "hexadecimal")]
    pub ip: u64,
    /// `read`, `write` or `exec`.
    pub access: Option<String>,
    /// `user` or `kernel`.
    pub mode: String,
    /// `minor`, `major`, `failed`, `refused`, `emulated`, `retried` or `unfinished`.
    pub kind: String,
    /// Entry to completion.
    pub latency_ns: Option<u64>,
    /// The region that it happened in.
    pub region: Option<u64>,
    /// From the start of the region.
    pub offset_bytes: Option<u64>,
    /// What it brought.
    pub outcome: Option<String>,
    /// How many pages.
    pub outcome_pages: Option<u64>,
    /// Until the scan that found it.
    pub outcome_lag_ns: Option<u64>,
    /// Where the instruction lay.
    pub ip_module: Option<String>,
    /// The system call that it happened in.
    pub syscall: Option<String>,
    /// Number of the stack in the table `frames`.
    pub stack: Option<u64>,
    /// The function that the instruction is of.
    pub ip_function: Option<String>,
    /// Why what it brought is not known.
    pub outcome_unknown: Option<String>,
    /// How the page had gone that was there before.
    pub refault_of: Option<String>,
}

/// Some columns of the table `frames`.
#[derive(Clone, Debug, Deserialize)]
pub struct FrameRow {
    /// Number of the stack.
    pub stack: u64,
    /// Frames below it.
    pub depth: u64,
    /// Program counter.
    #[serde(deserialize_with = "hexadecimal")]
    pub address: u64,
    /// Where that lies.
    pub module: Option<String>,
    /// Where the instruction is in that file.
    pub file_offset_bytes: Option<u64>,
    /// Of the outermost frame, why there are no more.
    pub end: Option<String>,
    /// 1 if it was found by the frame pointer.
    pub by_frame_pointer: u8,
    /// The build ID of that file.
    pub build_id: Option<String>,
    /// The function that the instruction is of.
    pub function: Option<String>,
    /// From the start of that.
    pub offset_bytes: Option<u64>,
    /// Where that is in the source.
    pub source_file: Option<String>,
    /// The line there.
    pub line: Option<u64>,
    /// 1 if the function was inlined into that of the next row.
    pub inlined: u8,
}

/// Some columns of the table `pages`.
#[derive(Clone, Debug, Deserialize)]
pub struct PageRow {
    /// Since the start of the recording.
    pub time_ns: u64,
    /// Process.
    pub tgid: u32,
    /// Address of the first page.
    #[serde(deserialize_with = "hexadecimal")]
    pub addr: u64,
    /// How many pages.
    pub pages: u64,
    /// The frame of the first page.
    pub pfn: Option<u64>,
    /// The frame that it was in before.
    pub prev_pfn: Option<u64>,
    /// What they are.
    pub state: String,
    /// What they were.
    pub prev_state: String,
    /// What changed them.
    pub cause: String,
}

/// Some columns of the table `rss`.
#[derive(Clone, Debug, Deserialize)]
pub struct RssRow {
    /// Since the start of the recording.
    pub time_ns: u64,
    /// Process.
    pub tgid: u32,
    /// Resident and anonymous.
    pub anon_pages: u64,
    /// Resident, of files.
    pub file_pages: u64,
    /// Resident, of shared memory.
    pub shmem_pages: u64,
    /// Anonymous, in swap.
    pub swap_pages: u64,
    /// The most that were resident.
    pub peak_pages: u64,
    /// What the regions have together.
    pub resident_pages: Option<u64>,
    /// Pages of theirs of which it is not known.
    pub resident_unknown_pages: Option<u64>,
}

/// Some columns of the table `processes`.
#[derive(Clone, Debug, Deserialize)]
pub struct ProcessRow {
    /// Process.
    pub tgid: u32,
    /// Process that made it.
    pub parent_tgid: Option<u32>,
    /// Path of its last program.
    pub program: String,
    /// Since the start of the recording.
    pub birth_ns: u64,
    /// Since the start of the recording.
    pub death_ns: Option<u64>,
    /// Code with which it exited.
    pub exit_status: Option<u32>,
    /// The most that was resident.
    pub peak_rss_pages: Option<u64>,
    /// Signal that ended it.
    pub exit_signal: Option<u32>,
}

/// Some columns of the table `timeline`.
#[derive(Clone, Debug, Deserialize)]
pub struct TimelineRow {
    /// Since the start of the recording.
    pub start_ns: u64,
    /// Since the start of the recording.
    pub end_ns: u64,
    /// Process.
    pub tgid: u32,
    /// Name of the process.
    pub comm: String,
    /// What stands behind the region; empty if there is none.
    pub backing: String,
    /// The region.
    pub region: Option<u64>,
    /// Completed minor faults.
    pub minor_faults: u64,
    /// Completed major faults.
    pub major_faults: u64,
    /// Faults charged without an event.
    pub uncounted_faults: Option<u64>,
    /// Calls of mmap(2).
    pub mmaps: Option<u64>,
    /// Calls of munmap(2).
    pub munmaps: Option<u64>,
    /// Calls of mremap(2).
    pub mremaps: Option<u64>,
    /// Calls of mprotect(2).
    pub mprotects: Option<u64>,
    /// Calls of madvise(2).
    pub madvises: Option<u64>,
    /// Calls of brk(2).
    pub brks: Option<u64>,
    /// First address of the region.
    #[serde(deserialize_with = "hexadecimal_if_any")]
    pub start_addr: Option<u64>,
    /// First address behind it.
    #[serde(deserialize_with = "hexadecimal_if_any")]
    pub end_addr: Option<u64>,
    /// Pages in memory at the last scan.
    pub present_pages: Option<u64>,
    /// 1 if a loss touches the row.
    pub lower_bound: u8,
}

/// Some columns of the table `maps`.
#[derive(Clone, Debug, Deserialize)]
pub struct MapRow {
    /// Since the start of the recording.
    pub time_ns: u64,
    /// Process.
    pub tgid: u32,
    /// Thread.
    pub tid: Option<u32>,
    /// The name of the system call, or what else changed the address space.
    pub action: String,
    /// First address.
    #[serde(deserialize_with = "hexadecimal_if_any")]
    pub start_addr: Option<u64>,
    /// First address behind.
    #[serde(deserialize_with = "hexadecimal_if_any")]
    pub end_addr: Option<u64>,
    /// As in maps.
    pub perms: String,
    /// Flags, mode or advice of the call.
    pub flags: String,
    /// What stands behind it.
    pub backing: String,
    /// The region.
    pub region: Option<u64>,
    /// What the system call returned; empty where there was none.
    pub result: String,
    /// Number of the stack in the table `frames`.
    pub stack: Option<u64>,
    /// The system call.
    pub syscall: Option<String>,
    /// Where the instruction lay that made it.
    pub ip_module: Option<String>,
}

impl MapRow {
    /// Whether this was a system call that did what it was asked for.
    #[must_use]
    pub fn is_successful_call(&self) -> bool {
        !self.result.is_empty() && !self.result.starts_with('-')
    }
}

/// Some columns of the table `regions`.
#[derive(Clone, Debug, Deserialize)]
pub struct RegionRow {
    /// Its number.
    pub region: u64,
    /// Process.
    pub tgid: u32,
    /// Since the start of the recording.
    pub birth_ns: Option<u64>,
    /// Since the start of the recording.
    pub death_ns: Option<u64>,
    /// First address, at last.
    #[serde(deserialize_with = "hexadecimal")]
    pub start_addr: u64,
    /// First address behind, at last.
    #[serde(deserialize_with = "hexadecimal")]
    pub end_addr: u64,
    /// As in maps, at last.
    pub perms: String,
    /// What stands behind it.
    pub backing: String,
    /// Path or bracketed name.
    pub name: String,
    /// The region that this one was split off, or copied from by a fork.
    pub parent_region: Option<u64>,
    /// Completed minor faults.
    pub minor_faults: u64,
    /// Of its first address.
    pub file_offset_bytes: Option<u64>,
}

/// The table `losses`.
#[derive(Clone, Debug, Deserialize)]
pub struct LossRow {
    /// Since the start of the recording.
    pub start_ns: u64,
    /// Since the start of the recording; `None` if nothing is known after.
    pub end_ns: Option<u64>,
    /// CPU.
    pub cpu: Option<u32>,
    /// Why.
    pub cause: String,
    /// How many.
    pub count: Option<u64>,
}

fn hexadecimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.strip_prefix("0x")
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| serde::de::Error::custom(format!("{text} is no address")))
}

fn hexadecimal_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    struct Address(#[serde(deserialize_with = "hexadecimal")] u64);

    Ok(Option::<Address>::deserialize(deserializer)?.map(|Address(address)| address))
}

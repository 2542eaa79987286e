//! Classic tracepoints as tracefs describes them: where the fields of a record are.
//!
//! Layer: shell. Input: files `format` under `events/`. Output: [`Config`] with its record offsets set.
//! Source: `Documentation/trace/events.rst`. Fields move between releases, so they are looked up by name.
//! Keeps: a field that is not there is an error that names it, never a wrong offset.
//! Not here: attaching to tracepoints (`live`).

use std::{fs, io, path::PathBuf};

use memtrace_ebpf::Config;

/// Where tracefs may be mounted.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Why the records of the tracepoints are not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A file of tracefs cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The description lacks something.
    #[error("{path} has no {what}")]
    Absent {
        /// The file.
        path: PathBuf,
        /// The field.
        what: &'static str,
    },
}

/// The offsets in the records of the running kernel, and in `pt_regs`; all other fields are 0.
pub(super) fn record_offsets() -> Result<Config, RecordError> {
    let newtask = Format::read("task/task_newtask")?;
    // Kernels without cgroups have none, and nobody asks for a cgroup there.
    let attach = Format::read("cgroup/cgroup_attach_task").ok();
    let attach = |field| attach.as_ref().map_or(Ok(0), |attach| attach.offset(field, 4));
    with_rename_offsets(&Config {
        newtask_pid: newtask.offset("pid", 4)?,
        newtask_clone_flags: newtask.offset("clone_flags", 8)?,
        free_pid: Format::read("sched/sched_process_free")?.offset("pid", 4)?,
        attach_dst_root: attach("dst_root")?,
        attach_pid: attach("pid")?,
        attach_dst_path: attach("dst_path")?,
        regs_ip: REGS_IP,
        regs_syscall: REGS_SYSCALL,
        ..Config::ZERO
    })
}

/// `config` with the offsets in records of tasks that get another name.
fn with_rename_offsets(config: &Config) -> Result<Config, RecordError> {
    let rename = Format::read("task/task_rename")?;
    Ok(Config {
        // Some releases leave it out.
        rename_pid: rename.offset("pid", 4).unwrap_or(0),
        rename_newcomm: rename.offset("newcomm", 16)?,
        ..*config
    })
}

/// `config` with the offsets in records of faults, signals, locks and calls, and of tasks beyond their birth.
pub(super) fn with_event_offsets(config: &Config) -> Result<Config, RecordError> {
    // Not on every architecture; software events take their place.
    let fault = Format::read("exceptions/page_fault_user").ok();
    let fault = |field| fault.as_ref().map_or(Ok(0), |fault| fault.offset(field, 8));
    let lock = Format::read("mmap_lock/mmap_lock_acquire_returned")?;
    let unlock = Format::read("mmap_lock/mmap_lock_released")?;
    let signal = Format::read("signal/signal_generate")?;
    // Kernels may have no io_uring.
    let completed = Format::read("io_uring/io_uring_complete").ok();
    with_rename_offsets(&Config {
        exec_old_pid: Format::read("sched/sched_process_exec")?.offset("old_pid", 4)?,
        exit_ret: Format::read("raw_syscalls/sys_exit")?.offset("ret", 8)?,
        lock_mm: lock.offset("mm", 8)?,
        lock_write: lock.offset("write", 1)?,
        lock_success: lock.offset("success", 1)?,
        unlock_mm: unlock.offset("mm", 8)?,
        unlock_write: unlock.offset("write", 1)?,
        fault_address: fault("address")?,
        fault_ip: fault("ip")?,
        fault_error: fault("error_code")?,
        signal_number: signal.offset("sig", 4)?,
        signal_code: signal.offset("code", 4)?,
        signal_pid: signal.offset("pid", 4)?,
        completed_request: completed.map_or(Ok(0), |completed| completed.offset("req", 8)).unwrap_or(0),
        ..*config
    })
}

/// Offset of the instruction pointer in `pt_regs`, which is fixed by `include/uapi/asm/ptrace.h`.
#[cfg(target_arch = "x86_64")]
const REGS_IP: u64 = 16 * 8;
/// Offset of the instruction pointer in `pt_regs`, which begins with `user_pt_regs` of `include/uapi/asm/ptrace.h`.
#[cfg(target_arch = "aarch64")]
const REGS_IP: u64 = 32 * 8;

/// Offset of the system-call number in `pt_regs`: `orig_ax`, just before the instruction pointer.
#[cfg(target_arch = "x86_64")]
const REGS_SYSCALL: u64 = 15 * 8;
/// Offset of the system-call number in `pt_regs`: behind 31 registers, sp, pc, pstate and the original first argument.
#[cfg(target_arch = "aarch64")]
const REGS_SYSCALL: u64 = 35 * 8;

/// The description of one tracepoint's records.
struct Format {
    path: PathBuf,
    text: String,
}

impl Format {
    fn read(event: &str) -> Result<Self, RecordError> {
        read(&format!("{event}/format")).map(|(path, text)| Self { path, text })
    }

    /// Offset of the field that has this name and size.
    fn offset(&self, field: &'static str, size: u64) -> Result<u64, RecordError> {
        offset(&self.text, field, size)
            .ok_or_else(|| RecordError::Absent { path: self.path.clone(), what: field })
    }
}

/// The text of a file under `events/`, and where it was.
fn read(name: &str) -> Result<(PathBuf, String), RecordError> {
    let mut failure = None;
    for root in TRACEFS {
        let path = PathBuf::from(root).join("events").join(name);
        match fs::read_to_string(&path) {
            Ok(text) => return Ok((path, text)),
            // A place that may not be read says more than one where nothing is.
            Err(source) if failure.is_none() || source.kind() == io::ErrorKind::PermissionDenied => {
                failure = Some(RecordError::Read { path, source });
            }
            Err(_) => {}
        }
    }
    Err(failure.expect("there is a place to scan"))
}

/// Offset in bytes of the field called `name`, of `size` bytes, in the text of a `format` file.
fn offset(format: &str, name: &str, size: u64) -> Option<u64> {
    let field = format.lines().find_map(|line| {
        let (declaration, rest) = line.trim_start().strip_prefix("field:")?.split_once(';')?;
        // An array is declared as `name[16]`.
        let declared = declaration.rsplit(' ').next()?.split('[').next()?;
        (declared == name).then_some(rest)
    })?;
    let number = |key: &str| -> Option<u64> {
        let mut parts = field.split(';').map(str::trim);
        parts.find_map(|part| part.strip_prefix(key))?.parse().ok()
    };
    (number("size:")? == size).then(|| number("offset:")).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RENAME: &str = "\
name: task_rename
ID: 139
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:pid_t pid;\toffset:8;\tsize:4;\tsigned:1;
\tfield:char oldcomm[16];\toffset:12;\tsize:16;\tsigned:0;
\tfield:char newcomm[16];\toffset:28;\tsize:16;\tsigned:0;
\tfield:__data_loc char[] dst_path;\toffset:44;\tsize:4;\tsigned:0;

print fmt: \"pid=%d oldcomm=%s newcomm=%s\", REC->pid, REC->oldcomm, REC->newcomm
";

    #[test]
    fn field_is_found_by_its_whole_name() {
        assert_eq!(offset(RENAME, "pid", 4), Some(8), "not common_pid");
        assert_eq!(offset(RENAME, "comm", 16), None);
    }

    #[test]
    fn array_and_text_have_names_like_other_fields() {
        assert_eq!(offset(RENAME, "newcomm", 16), Some(28));
        assert_eq!(offset(RENAME, "dst_path", 4), Some(44));
    }

    #[test]
    fn field_of_another_size_is_another_field() {
        assert_eq!(offset(RENAME, "newcomm", 4), None, "a name of bounded length, not where a text is");
    }
}

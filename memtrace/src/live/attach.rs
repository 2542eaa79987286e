//! Why programs could not be loaded or attached, and what the user can do about it.

use std::io;

use aya::programs::ProgramError;

use crate::sys::memlock;

/// Why the programs could not be loaded or attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The kernel refused for want of privileges.
    #[error("cannot {what}: needs {need}; run memtrace as root, or see `memtrace doctor`")]
    Denied {
        /// What was refused.
        what: String,
        /// Capabilities that allow it.
        need: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's verifier does not accept a program.
    #[error(
        "this kernel's verifier refuses the eBPF program {program}: please report the kernel's release and this"
    )]
    Refused {
        /// Its name.
        program: String,
        /// What the verifier says.
        #[source]
        log: VerifierLog,
    },
    /// The thread ended before anything could be attached to it.
    #[error("thread {tid} ended while it was being attached")]
    Gone {
        /// Its ID.
        tid: u32,
    },
    /// Anything else that went wrong.
    #[error("cannot {what}")]
    Failed {
        /// What failed.
        what: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What the verifier says of a program that it refuses: many lines.
#[derive(Debug, thiserror::Error)]
#[error("\n{0}")]
pub struct VerifierLog(String);

/// Why the kernel did not take the program `name`.
pub(super) fn refusal(name: &str, error: ProgramError) -> AttachError {
    match error {
        // The verifier gives its reasons; who lacks a privilege gets none. It has a log too for a program that it accepted, and for which
        // there was no descriptor or no memory then.
        ProgramError::LoadError { io_error, verifier_log }
            if !verifier_log.to_string().is_empty() && !is_shortage(&io_error) =>
        {
            AttachError::Refused { program: name.to_owned(), log: VerifierLog(verifier_log.to_string()) }
        }
        error => failure(&format!("load the eBPF program {name}"), error),
    }
}

/// Whether there was no room for something, in this process or on this machine.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN))
}

/// The object lacks something that its sources have.
pub(super) fn missing(what: String) -> AttachError {
    AttachError::Failed { what, source: "the embedded object does not have it".into() }
}

/// Sorts what the kernel said into what the user can do about it.
pub(super) fn failure(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> AttachError {
    match os_error(&error) {
        Some(code @ (libc::EPERM | libc::EACCES)) => AttachError::Denied {
            what: what.to_owned(),
            need: if memlock::is_limited() {
                "CAP_BPF and CAP_PERFMON, and before Linux 5.11 more locked memory (prlimit --memlock)"
            } else {
                "CAP_BPF and CAP_PERFMON"
            },
            source: io::Error::from_raw_os_error(code),
        },
        _ => AttachError::Failed { what: what.to_owned(), source: Box::new(error) },
    }
}

/// The error number at the root of `error`, if there is one.
pub(super) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        current = error.source();
    }
    None
}

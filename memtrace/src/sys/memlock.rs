//! Lifts the limit of locked memory for a while: kernels before 5.11 charge eBPF maps and programs to it.
//!
//! Layer: shell. Input: none. Output: [`Lifted`].
//! Source: `setrlimit(2)`; `kernel/bpf/syscall.c` of Linux 5.10, where all processes of a user share one account.
//! Keeps: the limit is back before a command could inherit it; without `CAP_SYS_RESOURCE` it stays as it is.
//! Not here: what is said where it does not suffice (`host`).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// While this lives the limit is lifted, if the process may.
#[derive(Debug)]
pub struct Lifted {
    before: Rlimit,
}

/// Lifts the limit, as far as this process may.
#[must_use]
pub fn lift() -> Lifted {
    let before = getrlimit(Resource::Memlock);
    if setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).is_err() {
        set(Rlimit { current: before.maximum, ..before });
    }
    Lifted { before }
}

/// Whether there is a limit.
#[must_use]
pub fn is_limited() -> bool {
    getrlimit(Resource::Memlock).current.is_some()
}

impl Drop for Lifted {
    fn drop(&mut self) {
        set(self.before);
    }
}

fn set(limit: Rlimit) {
    // Nothing to do about it; if it matters, the next call to bpf(2) fails, and its message tells of the limit.
    if let Err(error) = setrlimit(Resource::Memlock, limit) {
        log::debug!("the limit of locked memory stays: {error}");
    }
}

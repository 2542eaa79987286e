//! Names of system calls.

/// The name of the system call `number` on the architecture `arch`, if it is known.
#[must_use]
pub fn syscall_name(number: u32, arch: &str) -> Option<&'static str> {
    let number = usize::try_from(number).ok()?;
    match arch {
        "x86_64" => syscalls::x86_64::Sysno::new(number).map(|call| call.name()),
        "aarch64" => syscalls::aarch64::Sysno::new(number).map(|call| call.name()),
        _ => None,
    }
}

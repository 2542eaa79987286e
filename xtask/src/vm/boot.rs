//! Runs the tier: in a virtual machine, or on this one.
//!
//! Input: a kernel and what it starts with. Output: what was written to its console, kept in a file.
//! Source: QEMU emulates the processor, so that neither hardware nor privileges are needed; guests cannot power
//! themselves off on every kernel, but all of them can reboot, which `-no-reboot` makes the end.
//! Keeps: none runs longer than [`LIMIT`], and a guest takes one processor of this machine.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use xshell::{Shell, cmd};

use super::kernel::Kernel;
use crate::privilege::Privilege;

/// Longest life of a guest.
const LIMIT: Duration = Duration::from_hours(1);

/// The kernel's command line: `quiet` leaves the console to the tests; a processor that is stuck ends the guest, with all
/// that the kernel has to say. Stuck is twice the threshold, 60 s: the host may leave a guest standing for shorter times.
const PARAMETERS: &str = "console=ttyS0 quiet loglevel=4 mitigations=off panic=-1 panic_print=0x20 \
     sysctl.kernel.watchdog_thresh=60 sysctl.kernel.softlockup_panic=1 sysctl.kernel.softlockup_all_cpu_backtrace=1";

/// Time between two checks of whether it has ended.
const PERIOD: Duration = Duration::from_millis(100);

/// What a run left.
#[derive(Debug)]
pub(super) struct Console {
    /// The file with what was written.
    pub(super) path: PathBuf,
    /// What was written.
    pub(super) text: String,
    /// Why it did not end by itself, if so.
    pub(super) problem: Option<String>,
}

/// Says what is missing to run guests, if anything.
pub(super) fn check(shell: &Shell) -> anyhow::Result<()> {
    let _version = cmd!(shell, "qemu-system-x86_64 --version")
        .quiet()
        .ignore_stderr()
        .read()
        .context("qemu-system-x86_64 does not start: apt-get install qemu-system-x86")?;
    Ok(())
}

/// Boots `image` as `kernel`, with `initramfs`, and waits for its end; writes its console to `path`.
pub(super) fn guest(
    kernel: Kernel,
    image: &Path,
    initramfs: &Path,
    path: PathBuf,
) -> anyhow::Result<Console> {
    let parameters = format!("{PARAMETERS} {}", kernel.parameters());
    let mut qemu = Command::new("qemu-system-x86_64");
    // One thread for both processors. With one each, a processor now and then runs the breakpoint that the kernel had in
    // code while the other changed it ("Oops: int3"), and 5.10 faults for ever on pages that are there.
    qemu.args(["-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "2048"])
        .args(["-nodefaults", "-no-reboot", "-nographic", "-serial", "stdio"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", parameters.trim_end()]);
    run(&mut qemu, path)
}

/// Runs the tier as told by `orders` on this machine, with privileges where there are any to have; writes what it
/// prints to `path`.
pub(super) fn host(shell: &Shell, orders: &Path, path: PathBuf) -> anyhow::Result<Console> {
    let mut command = Privilege::find(shell).command(Path::new("sh"));
    run(command.arg(orders.join("tier.sh")).arg(orders), path)
}

/// Runs `command` to its end, or to that of our patience.
fn run(command: &mut Command, path: PathBuf) -> anyhow::Result<Console> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let name = command.get_program().display().to_string();
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let problem = loop {
        if let Some(status) = child.try_wait()? {
            break (!status.success()).then(|| format!("{name} ended with {status}"));
        }
        if begin.elapsed() > LIMIT {
            child.kill()?;
            let _ = child.wait()?;
            break Some(format!("still running after {} minutes", LIMIT.as_secs() / 60));
        }
        thread::sleep(PERIOD);
    };
    let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    Ok(Console { path, text, problem })
}

//! A swap area of a test's own, on compressed memory.
//!
//! Input: its size. Output: [`Swap`], which ends with it.
//! Source: `Documentation/admin-guide/blockdev/zram.rst`; `union swap_header` of `include/linux/swap.h`; swapon(2).
//! Keeps: the areas of one test at a time on the machine, since the end of one brings back what others swapped to it; devices
//! that were there before are left alone. The thread stays on its CPU: what waits in a batch of another is not swapped out.
//! Not here: what is swapped out (`memory`).
#![expect(unsafe_code, reason = "rustix has no swapon")]

use std::{
    ffi::CString,
    fs::{self, File},
    io,
};

use rustix::fs::{FlockOperation, flock};

use crate::{memory::page_bytes, task::stay_on_this_cpu, wait_until};

/// Where devices are made and unmade.
const CONTROL: &str = "/sys/class/zram-control";

/// A swap area, used before all others; switched off and unmade at the end.
#[derive(Debug)]
pub struct Swap {
    /// Number of the device.
    device: u32,
    /// Locked while it or a copy is open, so that others wait.
    turn: File,
}

impl Swap {
    /// An area of `bytes` bytes, for a thread that touches memory from now on; or what is missing to have one.
    pub fn on(bytes: usize) -> Result<Self, String> {
        let turn = File::open(CONTROL).map_err(|_| "needs zram: modprobe zram (CONFIG_ZRAM)".to_owned())?;
        flock(&turn, FlockOperation::LockExclusive).expect("directories can be locked");
        stay_on_this_cpu().expect("the CPU that it is on");
        Ok(Self::make(bytes, turn))
    }

    /// A second area of `bytes` bytes for the same test.
    #[must_use]
    pub fn beside(&self, bytes: usize) -> Self {
        Self::make(bytes, self.turn.try_clone().expect("a second descriptor"))
    }

    fn make(bytes: usize, turn: File) -> Self {
        let number = fs::read_to_string(format!("{CONTROL}/hot_add")).expect("root makes a device");
        let swap = Self { device: number.trim().parse().expect("a number"), turn };
        fs::write(format!("/sys/block/zram{}/disksize", swap.device), bytes.to_string()).expect("it is new");
        fs::write(swap.path(), header(bytes)).expect("a device of that size");
        swap.switch_on().expect("it has a header");
        swap
    }

    /// The device, such as `/dev/zram1`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/dev/zram{}", self.device)
    }

    /// Bytes in use, as `/proc/swaps` says.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let swaps = fs::read_to_string("/proc/swaps").expect("the kernel has swap");
        let path = self.path();
        let row = swaps.lines().find(|row| row.split_whitespace().next() == Some(&path));
        let used = row.and_then(|row| row.split_whitespace().nth(3)).expect("it is switched on");
        used.parse::<u64>().expect("KiB") << 10
    }

    fn switch_on(&self) -> io::Result<()> {
        /// `SWAP_FLAG_PREFER`, and the highest priority.
        const FIRST: i32 = 0x8000 | 0x7fff;
        let path = CString::new(self.path()).expect("no NUL");
        // SAFETY: the path ends with a NUL and outlives the call.
        match unsafe { libc::swapon(path.as_ptr(), FIRST) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn switch_off(&self) -> io::Result<()> {
        let path = CString::new(self.path()).expect("no NUL");
        // SAFETY: the path ends with a NUL and outlives the call.
        match unsafe { libc::swapoff(path.as_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        if let Err(error) = self.switch_off() {
            eprintln!("{} stays on: {error}", self.path());
        }
        // The machine's own programs may be reading the new device.
        let remove = || fs::write(format!("{CONTROL}/hot_remove"), self.device.to_string());
        if !wait_until(|| remove().is_ok()) {
            eprintln!("{} stays", self.path());
        }
    }
}

/// The first page of an area of `bytes` bytes.
fn header(bytes: usize) -> Vec<u8> {
    const MAGIC: &[u8] = b"SWAPSPACE2";
    const VERSION: u32 = 1;
    let last_page = u32::try_from(bytes / page_bytes() - 1).expect("a small area");
    let mut page = vec![0; page_bytes()];
    page[1024..1028].copy_from_slice(&VERSION.to_ne_bytes());
    page[1028..1032].copy_from_slice(&last_page.to_ne_bytes());
    let magic = page.len() - MAGIC.len();
    page[magic..].copy_from_slice(MAGIC);
    page
}

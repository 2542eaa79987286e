//! Finds what mapped files are by the numbers of their devices.
//!
//! Layer: shell. Input: VMAs of a process. Output: a [`FileKind`] by device.
//! Source: `proc_pid_mountinfo(5)`; `shmem_init` of `mm/shmem.c`, `hugetlbfs_vfsmount` of `fs/hugetlbfs/inode.c`,
//! `mm/secretmem.c` for the mounts that the kernel keeps for itself, which no table lists.
//! Keeps: no file of a process is opened or asked for anything, nor is its file system: a server that does not answer would
//! stop us. What is found is not kept, for the number of a device without a disk is given away again after it was unmounted.
//! Not here: what a file that a call maps is (`memtrace_ebpf`), what stands behind a VMA (`region`).

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
};

use rustix::fs::{MemfdFlags, fstat, major, memfd_create, minor, stat, statfs};

use super::{
    files::{self, Root},
    hugetlb,
    mounts::{self, Mount},
};
use crate::{
    event::{Device, FileKind, Tid, Vma},
    sys::secret,
};

/// What lies on devices.
#[derive(Debug)]
pub struct Devices {
    /// On those that no process can mount or unmount.
    own: BTreeMap<Device, FileKind>,
}

impl Devices {
    /// Finds the kernel's own mounts by descriptors of this process. What the kernel lacks is not there.
    #[must_use]
    pub fn new() -> Self {
        let mut own = BTreeMap::new();
        let mut add =
            |file: Option<_>, kind| own.extend(file.and_then(device_of).map(|device| (device, kind)));
        add(memfd(MemfdFlags::empty()), FileKind::SharedMemory);
        add(secret::create().ok(), FileKind::Secret);
        let sizes = files::entries(&Root::system().path("/sys/kernel/mm/hugepages"), hugetlb::size_in_bytes);
        for (bytes, _) in sizes.unwrap_or_default() {
            /// Where the logarithm of the size is in the flags (`MFD_HUGE_SHIFT`).
            const SIZE_SHIFT: u32 = 26;
            let size = MemfdFlags::from_bits_retain(bytes.ilog2() << SIZE_SHIFT);
            add(memfd(MemfdFlags::HUGETLB | size), FileKind::Hugetlb);
        }
        own.extend(root());
        Self { own }
    }

    /// What lies on all devices that are no disks, as this process sees them.
    #[must_use]
    pub fn all(&self) -> Vec<(Device, FileKind)> {
        let mounts = mounts::mounts(&Root::system()).unwrap_or_default();
        let mut all: BTreeMap<_, _> = mounts
            .iter()
            .filter(|mount| !is_disk(mount.device))
            .map(|mount| (mount.device, kind(mount)))
            .collect();
        all.extend(&self.own);
        all.into_iter().collect()
    }

    /// What lies on the devices of `vmas`, which the thread `tid` has; without disks, and those that no mount is on. A process
    /// may map files of mounts that it does not see, so those of this process are searched too.
    #[must_use]
    pub fn kinds(&self, tid: Tid, vmas: &[Vma]) -> BTreeMap<Device, FileKind> {
        let devices = vmas.iter().map(|vma| vma.device).filter(|device| !is_disk(*device));
        let mut kinds: BTreeMap<_, Option<FileKind>> =
            devices.map(|device| (device, self.own.get(&device).copied())).collect();
        let tables = [|tid| mounts::mounts_of(tid), |_| mounts::mounts(&Root::system())];
        for table in tables {
            if kinds.values().all(Option::is_some) {
                break;
            }
            // The process may be gone.
            for mount in table(tid).unwrap_or_default() {
                if let Some(unknown) = kinds.get_mut(&mount.device).filter(|known| known.is_none()) {
                    *unknown = Some(kind(&mount));
                }
            }
        }
        kinds.into_iter().filter_map(|(device, kind)| Some((device, kind?))).collect()
    }
}

impl Default for Devices {
    fn default() -> Self {
        Self::new()
    }
}

/// Memory of our own. Where `vm.memfd_noexec` is 2 it may not be executable, and before Linux 6.3 nobody could ask for that.
fn memfd(flags: MemfdFlags) -> Option<OwnedFd> {
    let create = |more| memfd_create("", flags | more | MemfdFlags::CLOEXEC);
    create(MemfdFlags::NOEXEC_SEAL).or_else(|_| create(MemfdFlags::empty())).ok()
}

/// What lies on a mount.
fn kind(mount: &Mount) -> FileKind {
    match &*mount.kind {
        "tmpfs" | "ramfs" => FileKind::Tmpfs,
        "devtmpfs" => FileKind::Device,
        "hugetlbfs" => FileKind::Hugetlb,
        _ => FileKind::Other,
    }
}

/// Whether a file system on `device` is on a disk; or there is none at all. All others have the major number 0.
const fn is_disk(device: Device) -> bool {
    device.0 != 0 || device.1 == 0
}

/// The root of this process, if it lies in memory: of an initial file system (`rootfs`) the table does not say.
fn root() -> Option<(Device, FileKind)> {
    const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
    let is_in_memory = u64::try_from(statfs("/").ok()?.f_type).is_ok_and(|magic| IN_MEMORY.contains(&magic));
    is_in_memory.then_some((number(stat("/").ok()?.st_dev), FileKind::Tmpfs))
}

/// The device of an open file.
fn device_of(file: impl AsFd) -> Option<Device> {
    Some(number(fstat(file).ok()?.st_dev))
}

fn number(device: u64) -> Device {
    (major(device), minor(device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{VirtAddr, VirtRange};

    /// A row of maps with a file on `device`.
    fn vma(device: Device) -> Vma {
        let range = VirtRange::new(VirtAddr::from_raw(0x1000), VirtAddr::from_raw(0x2000));
        let range = range.expect("not empty");
        Vma { range, perms: *b"rw-s", offset: 0, device, inode: 7, name: b"/x".to_vec() }
    }

    #[test]
    fn devices_are_those_of_mounts_that_the_process_sees() {
        const UNUSED: Device = (0, 0xf_ffff);
        const DISK: Device = (8, 1);
        let device = |path: &str| number(stat(path).expect("it is mounted").st_dev);
        let tid = Tid(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned());

        let kinds =
            Devices::new().kinds(tid, &[device("/proc"), device("/dev"), UNUSED, DISK, (0, 0)].map(vma));

        assert_eq!(kinds.get(&device("/proc")), Some(&FileKind::Other));
        if mounts::mounts(&Root::system()).expect("a table").iter().any(|mount| mount.kind == "devtmpfs") {
            assert_eq!(kinds.get(&device("/dev")), Some(&FileKind::Device));
        }
        assert!([UNUSED, DISK, (0, 0)].iter().all(|device| !kinds.contains_key(device)), "{kinds:?}");
    }

    #[test]
    fn kernel_keeps_a_tmpfs_for_itself_that_no_table_lists() {
        let devices = Devices::new();

        let kept: Vec<_> = devices.own.iter().filter(|(_, kind)| **kind == FileKind::SharedMemory).collect();
        let [(device, _)] = &kept[..] else { panic!("{devices:?}") };
        let mounts = mounts::mounts(&Root::system()).expect("/proc is mounted");
        assert!(mounts.iter().all(|mount| mount.device != **device), "{devices:?}");
        assert!(devices.all().contains(&(**device, FileKind::SharedMemory)));
    }
}

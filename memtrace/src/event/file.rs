//! Words for what mapped files are.

use serde::{Deserialize, Serialize};

/// Major and minor number of a device, as maps prints them.
pub type Device = (u32, u32);

/// What a mapped file is, as far as that decides what its pages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// On the tmpfs that the kernel keeps for itself: memfd, System V and shared anonymous memory; the name says which.
    SharedMemory,
    /// On a tmpfs or ramfs that is mounted.
    Tmpfs,
    /// On hugetlbfs, mounted or the kernel's own.
    Hugetlb,
    /// Made by `memfd_secret(2)`.
    Secret,
    /// A character or block device, or whatever else lies on devtmpfs.
    Device,
    /// Any other.
    Other,
}

impl FileKind {
    /// The kind of a file of which a call read `self`, while its device is known to be that of `known`.
    ///
    /// By its magic number alone, the kernel's own tmpfs is like any other.
    #[must_use]
    pub fn on(self, known: Option<Self>) -> Self {
        match (self, known) {
            (Self::Tmpfs, Some(Self::SharedMemory)) => Self::SharedMemory,
            _ => self,
        }
    }

    /// The kind of a file that was known to be `known`, now that a reading shows the device of `self`.
    ///
    /// Where device nodes lie on tmpfs, and files on devtmpfs, the number of the device does not say which is which.
    #[must_use]
    pub fn instead_of(self, known: Option<Self>) -> Self {
        match (self, known) {
            (Self::Tmpfs, Some(Self::Device)) => Self::Device,
            (Self::Device, Some(Self::Tmpfs)) => Self::Tmpfs,
            _ => self,
        }
    }
}

/// The file that a call mapped, read at its descriptor when the call returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedFile {
    /// Device of its file system: another one than that of the mapping if the descriptor had become another file's.
    pub device: Device,
    /// What it is.
    pub kind: FileKind,
}

//! In which namespaces this process is.
//!
//! Layer: shell. Input: `/proc/self/ns`. Output: [`Namespace`]s by their inodes.
//! Source: `namespaces(7)`; the inodes of the initial ones are fixed (`include/uapi/linux/nsfs.h`, before Linux 6.18
//! `include/linux/proc_ns.h`).
//! Keeps: a kernel without namespaces of a kind has the initial one alone.
//! Not here: what follows from it (`host`).

use std::{fs, os::unix::fs::MetadataExt as _};

/// A kind of namespace on which it depends what memtrace sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Of process IDs.
    Pid,
    /// Of the clocks that begin at the boot.
    Time,
    /// Of the paths of cgroups.
    Cgroup,
    /// Of users and capabilities.
    User,
}

impl Namespace {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Pid, Self::Time, Self::Cgroup, Self::User];

    /// Its name, as in `/proc/PID/ns`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pid => "pid",
            Self::Time => "time",
            Self::Cgroup => "cgroup",
            Self::User => "user",
        }
    }

    /// The inode of the one that the kernel boots with.
    const fn initial(self) -> u64 {
        match self {
            Self::Pid => 0xefff_fffc,
            Self::Time => 0xefff_fffa,
            Self::Cgroup => 0xefff_fffb,
            Self::User => 0xefff_fffd,
        }
    }

    /// The inode of that of this process.
    #[must_use]
    pub fn own(self) -> u64 {
        inode(self.name()).unwrap_or(self.initial())
    }

    /// Whether this process is in the one that the kernel boots with.
    #[must_use]
    pub fn is_initial(self) -> bool {
        self.own() == self.initial()
    }

    /// Whether what this process starts will be in the same one.
    #[must_use]
    pub fn is_inherited(self) -> bool {
        match self {
            Self::Pid | Self::Time => {
                let is_known = inode(self.name()).is_some();
                !is_known || inode(&format!("{}_for_children", self.name())) == Some(self.own())
            }
            Self::Cgroup | Self::User => true,
        }
    }
}

/// The inode of the namespace behind the link `name` of this process; `None` if there is none.
fn inode(name: &str) -> Option<u64> {
    fs::metadata(format!("/proc/self/ns/{name}")).ok().map(|namespace| namespace.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The link reads `pid:[4026531836]`.
    #[test]
    fn own_namespaces_are_those_that_the_links_name() {
        for namespace in Namespace::ALL {
            let name = namespace.name();
            let Ok(link) = fs::read_link(format!("/proc/self/ns/{name}")) else {
                assert!(namespace.is_initial(), "{name}");
                continue;
            };

            assert_eq!(link.to_str(), Some(format!("{name}:[{}]", namespace.own()).as_str()));
            assert!(namespace.is_inherited(), "{name}");
        }
    }
}

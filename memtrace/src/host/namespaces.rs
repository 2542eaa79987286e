//! What can be recorded from the namespaces that this process is in.
//!
//! Layer: shell. Input: `/proc/self`. Output: [`Namespaces`], and a [`Refusal`] for what cannot be recorded exactly.
//! Source: `pid_namespaces(7)`, `time_namespaces(7)`, `cgroup_namespaces(7)`, `user_namespaces(7)`.
//! Keeps: what is not refused is recorded as from outside, with process IDs as this process sees them.
//! Not here: translating (`memtrace_ebpf`, `sys::clock`).

use std::fs;

use super::{Facility, Features};
use crate::sys::{clock, namespace::Namespace};

/// Which tasks a recording concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// A command, processes or threads, which this process can name.
    Named,
    /// The members of a cgroup, whoever they are.
    Cgroup,
    /// Every task of the system.
    System,
}

impl Reach {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Named, Self::Cgroup, Self::System];

    /// The options that mean it.
    #[must_use]
    pub const fn options(self) -> &'static str {
        match self {
            Self::Named => "CMD, -p and -t",
            Self::Cgroup => "--cgroup",
            Self::System => "-a",
        }
    }
}

/// What a recording would need, and how to get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is needed.
    pub need: &'static str,
    /// What to do.
    pub fix: &'static str,
}

/// What `/proc` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proc {
    /// The PID namespace of this process.
    Own,
    /// One above, in which this process has another ID.
    Above,
    /// Not this process.
    Foreign,
}

/// The namespaces of this process, and what matters about them.
#[derive(Clone, Copy, Debug)]
pub struct Namespaces {
    /// Those that are not the initial ones, in the order of [`Namespace::ALL`].
    own: [bool; Namespace::ALL.len()],
    proc: Proc,
    /// Whether what this process starts is in its PID namespace.
    has_children_here: bool,
    is_boottime_known: bool,
    /// Whether the kernel's types are known.
    has_types: bool,
}

impl Namespaces {
    /// Those of this process, on a host with these features.
    #[must_use]
    pub fn find(features: &Features) -> Self {
        Self {
            own: Namespace::ALL.map(|namespace| !namespace.is_initial()),
            proc: proc_of(fs::read_to_string("/proc/self/status").ok().as_deref()),
            has_children_here: Namespace::Pid.is_inherited(),
            is_boottime_known: clock::is_boottime_known(),
            has_types: features.is_usable(Facility::Btf),
        }
    }

    /// Whether this process is in another one of this kind than the kernel boots with.
    #[must_use]
    pub fn is_own(self, namespace: Namespace) -> bool {
        let mut kinds = Namespace::ALL.iter().zip(self.own);
        kinds.any(|(kind, is_own)| *kind == namespace && is_own)
    }

    /// The inode of the PID namespace; `None` if it is the initial one.
    #[must_use]
    pub fn pid_inode(self) -> Option<u64> {
        self.is_own(Namespace::Pid).then(|| Namespace::Pid.own())
    }

    /// Why the namespace of this kind lets nobody record what is in `reach`; `None` if it is no obstacle.
    #[must_use]
    pub fn refusal(self, namespace: Namespace, reach: Reach) -> Option<Refusal> {
        let is_own = self.is_own(namespace);
        match namespace {
            Namespace::Pid => self.pid_refusal(is_own, reach),
            Namespace::Time if is_own && !self.is_boottime_known => Some(Refusal {
                need: "the time namespace in which memtrace's own children are: the kernel does not show the offsets of another",
                fix: "unshare --fork --time memtrace …",
            }),
            Namespace::Cgroup if is_own && reach == Reach::Cgroup && !self.has_types => Some(Refusal {
                need: "the initial cgroup namespace, as there is no `btf`: without it cgroups are known by their paths alone, \
                       and those are others in a cgroup namespace of its own",
                fix: "docker run --cgroupns=host, or run memtrace outside",
            }),
            Namespace::User if is_own => Some(Refusal {
                need: "the initial user namespace: in any other the kernel refuses eBPF and perf, whatever the capabilities",
                fix: "docker run --userns=host, or run memtrace outside as root",
            }),
            Namespace::Time | Namespace::Cgroup | Namespace::User => None,
        }
    }

    fn pid_refusal(self, is_own: bool, reach: Reach) -> Option<Refusal> {
        const HOST: &str = "docker run --pid=host, hostPID in Kubernetes, or run memtrace outside";
        match self.proc {
            Proc::Own => {}
            Proc::Above => {
                return Some(Refusal {
                    need: "/proc of memtrace's own PID namespace: this one has the process IDs of another",
                    fix: "unshare --mount-proc, or mount -t proc proc /proc in the PID namespace",
                });
            }
            Proc::Foreign => {
                return Some(Refusal {
                    need: "/proc of memtrace's own PID namespace: this process is not in /proc",
                    fix: "mount -t proc proc /proc",
                });
            }
        }
        if !self.has_children_here {
            return Some(Refusal {
                need: "the PID namespace in which memtrace's own children are: the kernel lets nobody start a thread across two",
                fix: "unshare --fork --pid --mount-proc memtrace …",
            });
        }
        if is_own && !self.has_types {
            return Some(Refusal {
                need: "the initial PID namespace, as there is no `btf`: without it process IDs cannot be translated",
                fix: HOST,
            });
        }
        (is_own && reach != Reach::Named).then_some(Refusal {
            need: "the initial PID namespace for --cgroup and -a: processes outside of memtrace's own have no ID in it",
            fix: HOST,
        })
    }

    /// The first obstacle to recording what is in `reach`, in words; `None` if there is none.
    #[must_use]
    pub fn obstacle(self, reach: Reach) -> Option<String> {
        Namespace::ALL.into_iter().find_map(|namespace| {
            let Refusal { need, fix } = self.refusal(namespace, reach)?;
            Some(format!("{}_namespace is denied (needs {need}: {fix})", namespace.name()))
        })
    }
}

/// What `/proc` shows, by the text of `/proc/self/status`: `NSpid` has the IDs of this process from the namespace of `/proc`
/// down to its own. Kernels without PID namespaces have no such line.
fn proc_of(status: Option<&str>) -> Proc {
    let Some(status) = status else { return Proc::Foreign };
    match status.lines().find_map(|line| line.strip_prefix("NSpid:")) {
        Some(ids) if ids.split_whitespace().count() > 1 => Proc::Above,
        Some(_) | None => Proc::Own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process in namespaces of its own of these kinds, all else being well.
    fn within(own: &[Namespace]) -> Namespaces {
        Namespaces {
            own: Namespace::ALL.map(|namespace| own.contains(&namespace)),
            proc: Proc::Own,
            has_children_here: true,
            is_boottime_known: true,
            has_types: true,
        }
    }

    #[test]
    fn initial_namespaces_are_no_obstacle() {
        let initial = Namespaces { has_types: false, ..within(&[]) };

        assert!(Reach::ALL.iter().all(|reach| initial.obstacle(*reach).is_none()));
    }

    #[test]
    fn pid_namespace_is_no_obstacle_to_what_can_be_named_there() {
        let within = within(&[Namespace::Pid, Namespace::Time, Namespace::Cgroup]);

        assert_eq!(within.obstacle(Reach::Named), None);
        for reach in [Reach::Cgroup, Reach::System] {
            let obstacle = within.obstacle(reach).expect("tasks without an ID are refused");
            assert!(obstacle.starts_with("pid_namespace ") && obstacle.contains("--pid=host"), "{obstacle}");
        }
    }

    #[test]
    fn namespaces_that_need_translation_need_the_kernels_types() {
        let pid = Namespaces { has_types: false, ..within(&[Namespace::Pid]) };
        let cgroup = Namespaces { has_types: false, ..within(&[Namespace::Cgroup]) };

        assert!(Reach::ALL.iter().all(|reach| pid.obstacle(*reach).is_some()));
        assert_eq!(cgroup.obstacle(Reach::Named), None);
        assert!(cgroup.obstacle(Reach::Cgroup).expect("paths differ").contains("--cgroupns=host"));
    }

    #[test]
    fn each_other_obstacle_is_named_with_its_mend() {
        let foreign = Namespaces { proc: Proc::Foreign, ..within(&[]) };
        let above = Namespaces { proc: Proc::Above, ..within(&[Namespace::Pid]) };
        let elsewhere = Namespaces { has_children_here: false, ..within(&[]) };
        let time = Namespaces { is_boottime_known: false, ..within(&[Namespace::Time]) };
        let cases = [
            (foreign, "mount -t proc"),
            (above, "--mount-proc"),
            (elsewhere, "--fork"),
            (time, "--time"),
            (within(&[Namespace::User]), "--userns=host"),
        ];

        for (namespaces, mend) in cases {
            let obstacle = namespaces.obstacle(Reach::Named).expect("nothing is recorded");
            assert!(obstacle.contains(mend), "{mend} in {obstacle}");
        }
    }

    #[test]
    fn proc_is_that_of_the_namespace_in_which_there_is_one_id() {
        assert_eq!(proc_of(Some("Name:\tsh\nNSpid:\t1\nNSpgid:\t1\n")), Proc::Own);
        assert_eq!(proc_of(Some("Name:\tsh\nNSpid:\t4711\t1\n")), Proc::Above);
        assert_eq!(proc_of(Some("Name:\tsh\n")), Proc::Own);
        assert_eq!(proc_of(None), Proc::Foreign);
    }
}

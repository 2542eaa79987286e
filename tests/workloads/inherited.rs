//! Prints what a program has of whoever started it.
//!
//! Output: a line each, in an order that does not change.

use std::{
    env, fs,
    io::{self, Write as _},
};

use rustix::{
    process::{child_subreaper, dumpable_behavior, parent_process_death_signal},
    thread::{capabilities_secure_bits, current_timer_slack},
};

/// Lines of `/proc/self/status` that begin so.
const OF_STATUS: [&str; 12] = [
    "Umask",
    "Uid",
    "Gid",
    "Groups",
    "SigBlk",
    "SigIgn",
    "SigPnd",
    "Cap",
    "NoNewPrivs",
    "Seccomp",
    "Cpus_",
    "Mems_",
];

/// Files of `/proc/self`.
const FILES: [&str; 7] =
    ["limits", "oom_score_adj", "personality", "coredump_filter", "cgroup", "loginuid", "autogroup"];

/// Fields of `/proc/self/stat` after the name, from 0: process group and session (0 where their leaders are outside the PID
/// namespace), terminal, nice value, priority and policy of scheduling.
const OF_STAT: [usize; 6] = [2, 3, 4, 16, 37, 38];

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "arguments: {:?}", env::args_os())?;
    // The shell has `_` say what it starts.
    let environment: Vec<_> = env::vars_os().filter(|(name, _)| name != "_").collect();
    writeln!(out, "environment: {environment:?}")?;
    for directory in ["cwd", "root"] {
        let target = fs::read_link(format!("/proc/self/{directory}"))?;
        writeln!(out, "{directory}: {}", target.display())?;
    }
    writeln!(out, "descriptors: {:?}", descriptors()?)?;
    writeln!(out, "signal at the death of the parent: {:?}", parent_process_death_signal()?)?;
    writeln!(out, "reaper of orphans: {:?}", child_subreaper()?)?;
    writeln!(out, "dumpable: {:?}", dumpable_behavior()?)?;
    writeln!(out, "secure bits: {:?}", capabilities_secure_bits()?)?;
    writeln!(out, "timer slack: {}", current_timer_slack()?)?;
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    writeln!(out, "of stat: {:?}", OF_STAT.map(|field| fields.get(field)))?;
    for name in FILES {
        writeln!(out, "{name}: {:?}", fs::read_to_string(format!("/proc/self/{name}")).ok())?;
    }
    let status = fs::read_to_string("/proc/self/status")?;
    for line in status.lines().filter(|line| OF_STATUS.iter().any(|name| line.starts_with(name))) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// What is open, but for the directory that lists it.
fn descriptors() -> io::Result<Vec<String>> {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        if let Ok(target) = fs::read_link(&path) {
            open.push(format!("{} {}", path.display(), target.display()));
        }
    }
    open.retain(|line| !line.ends_with("/fd"));
    open.sort();
    Ok(open)
}

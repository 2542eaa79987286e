//! Tasks that move into or out of the traced cgroup; version 1 and version 2 alike.
//!
//! A cgroup is known by its number, since paths that user space sees begin at the root of its cgroup namespace. Where the
//! kernel's types are unknown, so that only the path is to be had, user space is in the initial one.

use aya_ebpf::{EbpfContext as _, helpers::bpf_probe_read_kernel_str_bytes};
use memtrace_ebpf::CGROUP_PATH_MAX;

use super::{
    config, emit, filter,
    kernel::{self, read_kernel},
    record_field, truth, twins,
};
use crate::{CGROUP_PATH, GROUPS};

twins! {
    /// A task moves between cgroups: `cgroup_attach_task(dst_cgrp, path, task, threadgroup)`. A thread that moves alone
    /// stays with its group.
    CGROUP_ATTACH at "cgroup_attach_task"
    fn cgroup_attach(ctx) {
        if !truth(ctx.arg(3)) {
            return 0;
        }
        attach(hierarchy_of(ctx.arg(0)), || is_inside(ctx.arg(0)), kernel::group_of(ctx.arg(2)))
    }
    /// It does not tell a group that moves from a thread: only a leader's ID is that of a group.
    fn cgroup_attach_record(record) {
        // The low half of the word is the text's offset in the record.
        let text: u32 = record_field(&record, config!(attach_dst_path));
        let path = (record.as_ptr() as u64).wrapping_add(u64::from(text & 0xffff));
        let hierarchy = record_field(&record, config!(attach_dst_root));
        attach(hierarchy, || is_path_inside(path), record_field(&record, config!(attach_pid)))
    }
}

/// Levels of cgroups below the traced one that count as inside it: the verifier wants a bound.
const DEPTH: u32 = 128;

/// Number of the hierarchy that the kernel's `cgroup` belongs to.
#[inline(always)]
fn hierarchy_of(cgroup: u64) -> u32 {
    let root: u64 = read_kernel(cgroup, config!(cgroup_root));
    read_kernel(root, config!(cgroup_root_hierarchy))
}

/// The thread group `tgid` moves to a cgroup in this hierarchy, which `is_inside` the traced one or not.
///
/// Only the membership changes here; each task joins or leaves at its next fault.
#[inline(always)]
fn attach(hierarchy: u32, is_inside: impl FnOnce() -> bool, tgid: u32) -> i32 {
    if u64::from(hierarchy) != config!(cgroup_hierarchy) {
        return 0;
    }
    if !is_inside() {
        let _absent = GROUPS.remove(tgid);
    } else if GROUPS.get_ptr(tgid).is_none() {
        filter::track_group(tgid, emit::new_space());
    }
    0
}

/// Whether the kernel's `cgroup` is the traced one or up to [`DEPTH`] levels below it.
#[inline(always)]
fn is_inside(cgroup: u64) -> bool {
    let mut cgroup = cgroup;
    for _ in 0..=DEPTH {
        let node: u64 = read_kernel(cgroup, config!(cgroup_kn));
        if read_kernel::<u64>(node, config!(kn_id)) == config!(cgroup_id) {
            return true;
        }
        let above: u64 = read_kernel(cgroup, config!(cgroup_self) + config!(css_parent));
        if above == 0 {
            return false;
        }
        cgroup = above.wrapping_sub(config!(cgroup_self));
    }
    false
}

/// Whether the cgroup at `path` is the traced one or below it.
#[inline(always)]
fn is_path_inside(path: u64) -> bool {
    let mut name = [0; CGROUP_PATH_MAX];
    // SAFETY: the helper checks the address and bounds the copy.
    if unsafe { bpf_probe_read_kernel_str_bytes(path as *const u8, &mut name) }.is_err() {
        return false;
    }
    let len = config!(cgroup_path_len) as usize;
    for at in 0..CGROUP_PATH_MAX {
        // SAFETY: `at` is below the length of the static.
        let wanted = unsafe { core::ptr::read_volatile((&raw const CGROUP_PATH).cast::<u8>().add(at)) };
        if at >= len {
            return name[at] == 0 || name[at] == b'/';
        }
        if name[at] != wanted {
            return false;
        }
    }
    false
}

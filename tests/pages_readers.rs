//! What readers of page tables may see: without rights, of processes without memory, and of cgroups.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    process::Command,
};

use memtrace::{
    pagemap::{Frame, PagemapEra, Residence},
    probe::ProbeError,
};
use memtrace_tests::{
    cgroup, made,
    memory::Mapping,
    require, requirement,
    scan::{
        EVERYTHING, EXCLUSIVE, PRESENT, Page, expect_each, has_scan, own_pagemap_without_rights, page_size,
        range, scan, scan_through, span, walk,
    },
    turn, wait_until,
};

#[test]
fn entries_without_rights_hide_frames() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    mapping.write_all();

    let pages = scan_through(&own_pagemap_without_rights(), range(&mapping));

    expect_each(&pages, "present and no more", |page| page.word() == PRESENT | EXCLUSIVE);
    // Present pages are told alike in all eras.
    let residence = |page: &Page| page.entry.residence(PagemapEra::V4_2, None);
    expect_each(&pages, "in an unknown frame", |page| residence(page) == Residence::Present(None));
    expect_each(&pages, "of unknown frames", |page| page.frame == Frame::default());
}

/// Walks a process that has no address space any more, or never had one.
#[track_caller]
fn expect_no_address_space(pid: u32) {
    let pagemap = match File::open(format!("/proc/{pid}/pagemap")) {
        Ok(pagemap) => pagemap,
        Err(error) => {
            let error = ProbeError::from(error);
            assert!(matches!(error, ProbeError::Gone), "{error}");
            return;
        }
    };
    for scan in [false, true].into_iter().filter(|scan| !scan || has_scan()) {
        let result = walk(&pagemap, span(page_size().bytes(), 1 << 30), scan, EVERYTHING);
        assert!(matches!(result, Err(ProbeError::Gone)), "by scan {scan}: {result:?}");
    }
}

#[test]
fn entries_of_a_zombie_are_gone() {
    require!(root);
    let _turn = turn();
    let mut child = Command::new("true").spawn().expect("there is true");
    let stat = format!("/proc/{}/stat", child.id());
    let is_zombie = wait_until(|| fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z ")));
    assert!(is_zombie, "it ends");

    expect_no_address_space(child.id());

    child.wait().expect("it is ours");
    expect_no_address_space(child.id());
}

#[test]
fn entries_of_a_thread_of_the_kernel_are_gone() {
    require!(root);
    let _turn = turn();
    let is_kthreadd = fs::read_to_string("/proc/2/comm").is_ok_and(|comm| comm == "kthreadd\n");
    if !is_kthreadd {
        return requirement::skip("needs the initial PID namespace");
    }

    expect_no_address_space(2);
}

#[test]
fn entries_tell_the_cgroup_of_a_page() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(8).expect("room");
    mapping.write_all();
    let (top, path) = made!(cgroup::of_memory());
    let directory = top.join(path.strip_prefix('/').expect("absolute"));
    let inode = fs::metadata(directory).expect("this process is in it").ino();

    expect_each(&scan(&mapping), "charged to it", |page| page.frame.cgroup == Some(inode));
}

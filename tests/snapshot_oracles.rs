//! `memtrace snapshot -p` against page-types, thpmaps and `smaps_rollup`, on memory of every kind.

use std::fs;

use memtrace_tests::{
    agreement::{Readers, vdso},
    frozen::Frozen,
    made,
    memory::page_bytes,
    program, require,
    setting::{HugePages, Setting, transparent_huge_pages},
    swap::Swap,
    turn,
};

const MEMTRACE: &str = program!("memtrace-under-test");

/// MiB of each layout.
const MIB: u64 = 8;

#[track_caller]
fn frozen(kind: &str) -> Frozen {
    Frozen::start(program!("layout"), kind, MIB)
}

/// Checks all that memtrace says of the processes of `frozen`.
#[track_caller]
fn expect_same(readers: &Readers, frozen: &Frozen) {
    frozen.pids().for_each(|pid| readers.expect_same_process(pid));
}

#[test]
fn small_pages() {
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));

    expect_same(&readers, &frozen("small"));
}

#[test]
fn huge_pages() {
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));
    let _enabled = made!(transparent_huge_pages("enabled"));

    expect_same(&readers, &frozen("huge"));
}

#[test]
fn huge_pages_with_holes() {
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));
    let _enabled = made!(transparent_huge_pages("enabled"));

    expect_same(&readers, &frozen("torn"));
}

#[test]
fn folios_of_64_kb() {
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));
    let _enabled = made!(transparent_huge_pages("hugepages-64kB/enabled"));
    let larger = "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled";
    let _larger = made!(Setting::change(larger, "never"));

    expect_same(&readers, &frozen("mthp"));
}

#[test]
fn pages_that_a_fork_shares() {
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));

    expect_same(&readers, &frozen("cow"));
}

#[test]
fn huge_pages_that_a_fork_shares_in_part() {
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));
    let _enabled = made!(transparent_huge_pages("enabled"));

    expect_same(&readers, &frozen("lent"));
}

#[test]
fn merged_pages() {
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));
    let ksm = |name: &str, value: &str| {
        Setting::change(&format!("/sys/kernel/mm/ksm/{name}"), value)
            .map_err(|error| format!("needs CONFIG_KSM: {error}"))
    };
    let _speed = (made!(ksm("pages_to_scan", "10000")), made!(ksm("sleep_millisecs", "10")));
    let run = made!(ksm("run", "1"));
    let is_merged = |pid: u32| {
        // The kernel keeps some copies, since it maps no page too often.
        let mib = readers.oracles.page_types(&["-p", &pid.to_string(), "-b", "ksm", "-L", "-N"]);
        mib.lines().count() as u64 > MIB * (1 << 20) / page_bytes() as u64
    };
    let merged = Frozen::when(program!("layout"), "ksm", MIB, is_merged);
    drop(run);

    expect_same(&readers, &merged);
}

#[test]
fn hugetlb_pages() {
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));
    let _pool = made!(HugePages::add(MIB / 2));

    expect_same(&readers, &frozen("hugetlb"));
}

#[test]
fn shared_memory_with_holes() {
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));

    expect_same(&readers, &frozen("shmem"));
}

#[test]
fn mapped_file() {
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));

    expect_same(&readers, &frozen("file"));
}

#[test]
fn swapped_pages() {
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));
    let _swap = made!(Swap::on(64 << 20));
    let frozen = frozen("swapped");
    assert!(frozen.layout.swapped_pages > 0, "{:?}", frozen.layout);

    expect_same(&readers, &frozen);
}

#[test]
fn bits_select_the_same_pages() {
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));
    let cow = frozen("cow");
    let pid = cow.layout.pid.to_string();
    let filters: [&[&str]; 13] = [
        &["-b", "anon"],
        &["-b", "anon,mmap=mmap"],
        &["-b", "lru,~anon"],
        &["-b", "anon,~lru,~active"],
        &["-b", "=uptodate,lru,mmap,anon,swapbacked"],
        &["-b", "0x1000"],
        &["-b", "0x1000,mmap"],
        &["-b", "12=0"],
        &["-b", "compound"],
        &["-b", "uptodate", "-b", "anon", "-b", "mmap,~lru"],
        &["-r", "-b", "soft"],
        &["-r", "-b", "mmap_exclusive,~file"],
        &["-r", "-b", "anon_exclusive"],
    ];

    let vdso = vdso(cow.layout.pid);
    let (below, above) = (format!(",{:#x}", vdso.start), format!("{:#x},", vdso.end));
    for filter in filters {
        let args = [&["-p", &pid, "-a", &below, "-a", &above], filter].concat();
        readers.expect_same_flags(&args);
        readers.expect_same_list(&[&args[..], &["-l"]].concat());
    }
}

#[test]
fn addresses_select_the_same_pages() {
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));
    let small = frozen("small");
    let pid = small.layout.pid.to_string();
    let first = small.layout.stretches[0].start / page_bytes() as u64;
    let places: [&[String]; 6] = [
        &[first.to_string()],
        &[format!("{first:#x}")],
        &[format!("{:#x}+5", first + 7)],
        &[format!("{first:#x},{:#x}", first + 100)],
        &[format!("{:#x},", vdso(small.layout.pid).end)],
        &[format!(",{:#x}", first + 3), format!("{}+3", first + 10), (first + 20).to_string()],
    ];

    for places in places {
        let places = places.iter().flat_map(|place| ["-a", place.as_str()]);
        let args: Vec<_> = ["-p", &pid].into_iter().chain(places).collect();
        readers.expect_same_flags(&args);
        readers.expect_same_list(&[&args[..], &["-L"]].concat());
    }
}

#[test]
fn marking_leaves_the_same_pages_idle() {
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));
    made!(
        fs::metadata("/sys/kernel/mm/page_idle/bitmap")
            .map_err(|_| "needs /sys/kernel/mm/page_idle (CONFIG_IDLE_PAGE_TRACKING)")
    );
    let small = frozen("small");
    let pid = small.layout.pid.to_string();
    let count = || {
        let text =
            readers.oracles.page_types(&["-p", &pid, "-b", "anon,idle_page=anon,idle_page", "-L", "-N"]);
        text.lines().count() as u64 - 1
    };
    assert_eq!(count(), 0, "nobody marked them");

    let _census = readers.snapshot(&["-p", &pid, "-b", "anon", "-i"]);

    assert!(count() >= small.layout.touched_pages, "{} of {:?}", count(), small.layout);
}

//! Text for people, whole.

use super::*;

/// All that is printed but for the table of flags, which is last.
fn text(snapshot: &Snapshot, style: Style) -> String {
    let text = snapshot.to_text(style).to_string();
    text.split("             flags\t").next().expect("a first part").to_owned()
}

const PLAIN: Style = Style { is_raw: false, is_rolled_up: false, has_zeros: false, has_time: false };
const ROLLED_UP: Style = Style { is_rolled_up: true, ..PLAIN };

/// The sums of the process as root sees it.
const SUMS: &str = "\
sort (42), cgroup /work
Rss:                                  20 kB
Pss:                                  16 kB
Uss:                                  12 kB
Anonymous:                            12 kB
File:                                  8 kB
Swap:                                  4 kB
PmdMapped:                             0 kB
Hugetlb:                               0 kB
Zero:                                  0 kB
mapped: 1x 12 kB, 2-3x 8 kB
contiguous: 8kB+ 20 kB
memory cgroup: /sys/fs/cgroup/work 20 kB
swap area 0: 4 kB in 1 stretches of slots, 0x50 to 0x50
";

#[test]
fn one_process_has_its_regions_and_its_sums() {
    let regions = "\
sort (42), cgroup /work
range                             perm     Rss kB     Pss kB     Uss kB    Anon kB    Huge kB  Swap kB Hugetlb kB  name
0x1000000-0x1008000               rw-p         12         12         12         12          0        4          0  [heap]
0x7f000000-0x7f004000             r-xp          8          4          0          0          0        0          0  /usr/lib/a, b.so

";

    assert_eq!(text(&one(), PLAIN), format!("{regions}{SUMS}"));
}

#[test]
fn rolled_up_there_are_sums_alone() {
    assert_eq!(text(&one(), ROLLED_UP), SUMS);
}

#[test]
fn several_processes_have_the_sum_of_all_and_what_they_share() {
    let expected = "       PID     Rss kB     Pss kB     Uss kB    Swap kB SwapShare kB  process
        42         20         16         12          4            0  sort
        43         20         16         12          4            0  cat

2 processes
Rss:                                  40 kB
Pss:                                  32 kB
Uss:                                  24 kB
Anonymous:                            24 kB
File:                                 16 kB
Swap:                                  8 kB
PmdMapped:                             0 kB
Hugetlb:                               0 kB
Zero:                                  0 kB
mapped: 1x 24 kB, 2-3x 16 kB
contiguous: 8kB+ 40 kB
memory cgroup: /sys/fs/cgroup/work 40 kB
swap area 0: 8 kB in 2 stretches of slots, 0x50 to 0x50
shared:          8 kB by 42, 43
";

    assert_eq!(text(&two(), ROLLED_UP), expected);
}

#[test]
fn several_processes_have_their_regions_each() {
    let text = text(&two(), PLAIN);

    let titles: Vec<_> = text.lines().filter(|line| line.ends_with(", cgroup /work")).collect();
    assert_eq!(titles, ["sort (42), cgroup /work", "cat (43), cgroup /work"]);
    assert_eq!(text.lines().filter(|line| line.ends_with("[heap]")).count(), 2);
    assert_eq!(text.lines().filter(|line| line.starts_with("Rss:")).count(), 1);
}

#[test]
fn what_is_not_told_is_left_out_or_a_hyphen() {
    let expected = "\
sort (42), cgroup /work
range                             perm     Rss kB     Pss kB     Uss kB    Anon kB    Huge kB  Swap kB Hugetlb kB  name
0x1000000-0x1008000               rw-p         20          -         12         12          -        4          0  [heap]

sort (42), cgroup /work
Rss:                                  20 kB
Uss:                                  12 kB
Anonymous:                            12 kB
File:                                  8 kB
Swap:                                  4 kB
Hugetlb:                               0 kB
";

    assert_eq!(unprivileged().to_text(PLAIN).to_string(), expected);
}

#[test]
fn swap_of_which_a_part_is_not_known_is_a_lower_bound_or_a_hyphen() {
    let mut snapshot = one();
    let Subject::Processes { processes, .. } = &mut snapshot.subject else { panic!("a process") };
    // Page tables have an entry of swap for the heap, and none for the library, which passes for shared memory here.
    let [heap, library] = &mut processes[0].regions[..] else { panic!("two regions") };
    heap.tally.is_swap_unknown = true;
    library.tally.is_swap_unknown = true;
    processes[0].total.is_swap_unknown = true;
    snapshot.total.is_swap_unknown = true;

    let text = text(&snapshot, PLAIN);
    let lines: Vec<_> = text.lines().collect();

    assert!(lines[2].ends_with(" 0      ≥ 4          0  [heap]"), "{text}");
    assert!(lines[3].ends_with(" 0        -          0  /usr/lib/a, b.so"), "{text}");
    assert!(lines.contains(&"Swap:                                ≥ 4 kB"), "{text}");
}

#[test]
fn swap_of_which_nothing_is_known_is_a_hyphen_in_sums() {
    let mut snapshot = two();
    let Subject::Processes { processes, .. } = &mut snapshot.subject else { panic!("processes") };
    for tally in processes.iter_mut().map(|process| &mut process.total).chain([&mut snapshot.total]) {
        tally.swapped = PageCount::default();
        tally.is_swap_unknown = true;
    }

    let text = text(&snapshot, ROLLED_UP);

    assert!(text.lines().any(|line| line.ends_with(" 12          -            0  sort")), "{text}");
    assert!(text.contains("\nSwap:                                  - kB\n"), "{text}");
}

#[test]
fn process_that_ended_says_so() {
    let mut snapshot = one();
    let Subject::Processes { processes, .. } = &mut snapshot.subject else { panic!("a process") };
    processes[0].is_complete = false;
    processes[0].cgroup = None;

    let text = text(&snapshot, ROLLED_UP);
    let title = "sort (42); it ended or executed a program meanwhile: this is what was seen until then";
    assert_eq!(text.lines().next(), Some(title));
}

#[test]
fn counters_have_their_part_of_anonymous_or_file_memory() {
    // 16 of 64 pages and 2 of 3; of none there is no part.
    let mut snapshot = one();
    let count = PageCount::new;
    snapshot.total.resident = count(67);
    snapshot.total.anon = count(64);
    let uses = FolioUse { aligned: count(16), ..FolioUse::default() };
    snapshot.total.folios.uses.insert((Content::Anon, Some(4)), uses);
    let partial = FolioUse { partial: count(2), ..FolioUse::default() };
    snapshot.total.folios.uses.insert((Content::File, Some(4)), partial);
    let all = FolioUse { aligned: count(64), ..FolioUse::default() };
    snapshot.total.folios.uses.insert((Content::Anon, Some(5)), all);

    let lines = |snapshot: &Snapshot| -> Vec<String> {
        let text = text(snapshot, ROLLED_UP);
        text.lines().filter(|line| line.contains("-thp-")).map(str::to_owned).collect()
    };

    assert_eq!(
        lines(&snapshot),
        [
            "anon-thp-pte-aligned-64kB:            64 kB (25%)",
            "anon-thp-pte-aligned-128kB:          256 kB (100%)",
            "file-thp-pte-partial:                  8 kB (67%)",
        ]
    );
    snapshot.total.anon = count(1600);
    snapshot.total.resident = count(1600);
    assert_eq!(
        lines(&snapshot),
        [
            "anon-thp-pte-aligned-64kB:            64 kB ( 1%)",
            "anon-thp-pte-aligned-128kB:          256 kB ( 4%)",
            "file-thp-pte-partial:                  8 kB",
        ]
    );
}

#[test]
fn counters_that_are_0_are_there_if_asked_for() {
    let text = text(&one(), Style { has_zeros: true, ..ROLLED_UP });

    // 2 by PMD, and twice 8 aligned, 8 unaligned and the partial ones.
    let counters: Vec<_> = text.lines().filter(|line| line.contains("-thp-")).collect();
    assert_eq!(counters.len(), 36);
    assert_eq!(counters[0], "anon-thp-pmd-aligned-2048kB:           0 kB ( 0%)");
}

#[test]
fn mapcounts_are_told_by_powers_of_two() {
    let mut snapshot = one();
    for (mapcount, pages) in [(0, 1), (3, 1), (4, 1), (7, 1), (8, 1), (1 << 63, 1)] {
        snapshot.total.mapcounts.add(mapcount, PageCount::new(pages));
    }

    let text = text(&snapshot, ROLLED_UP);
    let line = text.lines().find(|line| line.starts_with("mapped:")).expect("told");
    assert_eq!(
        line,
        "mapped: 0x 4 kB, 1x 12 kB, 2-3x 12 kB, 4-7x 8 kB, 8-15x 4 kB, \
         9223372036854775808-18446744073709551615x 4 kB"
    );
}

#[test]
fn memory_cgroups_that_are_gone_have_their_inode() {
    let mut snapshot = one();
    snapshot.cgroup_paths.clear();
    snapshot.total.cgroups.add(0, PageCount::new(1));

    let text = text(&snapshot, ROLLED_UP);
    assert!(text.contains("memory cgroup: none 4 kB, @700 (removed) 20 kB\n"), "{text}");
}

#[test]
fn nodes_and_other_entries_are_told_if_there_are_any() {
    let mut snapshot = one();
    snapshot.total.nodes.add(1, PageCount::new(2));
    snapshot.total.nodes.add(0, PageCount::new(3));
    snapshot.total.others.add("marker", PageCount::new(4));

    let text = text(&snapshot, ROLLED_UP);
    assert!(text.contains("node: 0 12 kB, 1 8 kB\nmemory cgroup:"), "{text}");
    assert!(text.contains("entries: marker 16 kB\n"), "{text}");
}

#[test]
fn time_is_told_where_others_follow() {
    let text = text(&one(), Style { has_time: true, ..ROLLED_UP });

    assert_eq!(text.lines().next(), Some("== 2023-11-14T22:13:20Z"));
}

#[test]
fn files_have_what_is_cached_of_them() {
    let expected = "\
/tmp/big\tInode: 77\tSize: 8193 (3 pages)\tCached: 2\tDirty: 1
1 files
Cached:                                8 kB
mapped: 0x 8 kB
contiguous: 4kB+ 8 kB
memory cgroup: /sys/fs/cgroup/work 8 kB
";

    assert_eq!(text(&file(), PLAIN), expected);
    assert!(text(&file(), ROLLED_UP).starts_with("1 files\n"));
}

#[test]
fn file_of_which_nobody_knows_what_is_dirty_has_a_hyphen() {
    let mut snapshot = file();
    let Subject::Files { files, .. } = &mut snapshot.subject else { panic!("a file") };
    files[0].dirty = None;

    assert!(text(&snapshot, PLAIN).contains("Cached: 2\tDirty: -\n"));
}

#[test]
fn table_of_flags_is_last() {
    for snapshot in [one(), file(), system()] {
        let table = table(&snapshot.total, false, FlagsEra::V6_12, page_size());
        let text = snapshot.to_text(PLAIN).to_string();
        assert!(text.ends_with(&table), "{text}");
    }
}

#[test]
fn raw_flags_are_in_the_table_if_asked_for() {
    let text = one().to_text(Style { is_raw: true, ..PLAIN }).to_string();

    assert!(text.contains("\tmmap,anonymous,mmap_exclusive\n"), "{text}");
}

//! All page frames, against what the kernel says of memory as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use memtrace::{
    pagemap::PageFlags,
    probe::{
        budget::Budget,
        physical::{FrameRun, PhysicalReader},
        walk::Wanted,
    },
    units::FrameIndex,
};
use memtrace_tests::{
    made,
    memory::{Mapping, drain_batches, peak_growth},
    require,
    requirement::skip,
    scan::{EVERYTHING, page_size, scan},
    setting::HugePages,
    turn,
};
use rustix::time::{ClockId, clock_gettime};

const FLAGS: Wanted = Wanted { flags: true, mapcount: false, cgroup: false };

/// How often things are compared that may move while they are read.
const ATTEMPTS: usize = 20;

fn reader(wanted: Wanted) -> PhysicalReader {
    PhysicalReader::open(wanted, Budget::default()).expect("root may read them")
}

fn runs(mut reader: PhysicalReader, frames: Range<FrameIndex>) -> Vec<FrameRun> {
    let mut runs = Vec::new();
    reader.walk(frames, |run| runs.push(run)).expect("they can be read");
    runs
}

fn flags(run: &FrameRun) -> PageFlags {
    run.frame.flags.expect("asked for")
}

/// The numbers of its frames.
fn numbers(run: &FrameRun) -> Range<u64> {
    run.first.as_raw()..run.first.as_raw() + run.frames.get()
}

/// A row of `/proc/meminfo`, in pages.
fn row(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("always there");
    let mut rows = text.lines().filter_map(|row| row.split_once(':'));
    let (_, size) = rows.find(|(row, _)| *row == name).unwrap_or_else(|| panic!("no row {name}"));
    let kib: u64 = size.trim().trim_end_matches(" kB").parse().expect("a number");
    (kib << 10) / page_size().bytes()
}

/// The rows of `/proc/vmstat`.
fn vmstat() -> impl Iterator<Item = (String, u64)> {
    let text = fs::read_to_string("/proc/vmstat").expect("always there");
    let row = |row: &str| {
        let (name, count) = row.split_once(' ')?;
        Some((name.to_owned(), count.parse().expect("a number")))
    };
    text.lines().filter_map(row).collect::<Vec<_>>().into_iter()
}

/// Pages that lie in free blocks of zones.
fn free() -> u64 {
    vmstat().find_map(|(name, pages)| (name == "nr_free_pages").then_some(pages)).expect("always there")
}

/// Pages that the kernel has allocated and freed so far; 0 if it does not count them (`CONFIG_VM_EVENT_COUNTERS`).
fn turnover() -> u64 {
    let moved = vmstat().filter(|(name, _)| name == "pgfree" || name.starts_with("pgalloc_"));
    moved.map(|(_, pages)| pages).sum()
}

/// Checks that of as many frames `is_meant` as the row `name` of `/proc/meminfo` says.
#[track_caller]
fn expect_row(name: &str, is_meant: impl Fn(PageFlags) -> bool) {
    expect_count(name, || row(name), is_meant);
}

/// Checks that of as many frames `is_meant` as the kernel counts, but for what moves meanwhile: as much as its count does, and some
/// of it that comes and goes. Each time all that was allocated and freed must explain a difference.
#[track_caller]
fn expect_count(name: &str, count: impl Fn() -> u64, is_meant: impl Fn(PageFlags) -> bool) {
    for _ in 0..ATTEMPTS {
        let (before, turnover_before) = (count(), turnover());
        let all = runs(reader(FLAGS), PhysicalReader::ALL);
        let (after, moved) = (count(), turnover() - turnover_before);
        let counted: u64 = all.iter().filter(|run| is_meant(flags(run))).map(|run| run.frames.get()).sum();
        let slack = before.abs_diff(after) + before / 50 + 1024;
        let seen =
            format!("{name}: {counted} frames, {before} pages before and {after} after, {moved} moved");
        eprintln!("{seen}");
        let difference = counted.abs_diff(before);
        if difference <= slack {
            return;
        }
        assert!(difference <= slack + moved, "{seen}");
    }
    skip("needs a machine that allocates less while all frames are read");
}

/// The blocks of memory that are online, and the frames in each; `None` on kernels that do not tell.
fn blocks() -> Option<(BTreeSet<u64>, u64)> {
    const DIRECTORY: &str = "/sys/devices/system/memory";
    let size = fs::read_to_string(format!("{DIRECTORY}/block_size_bytes")).ok()?;
    let frames = u64::from_str_radix(size.trim(), 16).expect("hexadecimal") / page_size().bytes();
    let names = fs::read_dir(DIRECTORY).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let online = names.filter(|name| {
        let state = fs::read_to_string(format!("{DIRECTORY}/{name}/state"));
        state.is_ok_and(|state| state.trim() == "online")
    });
    Some((online.filter_map(|name| name.strip_prefix("memory")?.parse().ok()).collect(), frames))
}

#[test]
fn frames_that_are_there_and_not_reserved_are_all_memory() {
    require!(root);
    let _turn = turn();
    // Linux 6.18 has no `NOPAGE` where there is no memory.
    let blocks = blocks();
    let is_online =
        |frame: u64| blocks.as_ref().is_none_or(|(online, each)| online.contains(&(frame / each)));

    let all = runs(reader(FLAGS), PhysicalReader::ALL);

    let usable = all.iter().filter(|run| !flags(run).intersects(PageFlags::NOPAGE | PageFlags::RESERVED));
    let counted = usable.flat_map(numbers).filter(|frame| is_online(*frame)).count() as u64;
    let total = row("MemTotal");
    eprintln!("MemTotal: {counted} frames, {total} pages");
    // What the kernel took for itself at boot may be counted and not reserved: per-CPU areas, deferred struct pages.
    assert!(counted.abs_diff(total) <= total / 50, "{counted} frames, {total} pages");
}

#[test]
fn frames_follow_one_another_to_the_end_of_memory() {
    require!(root);
    let _turn = turn();

    let all = runs(reader(FLAGS), PhysicalReader::ALL);

    assert_eq!(all[0].first.as_raw(), 0);
    for pair in all.windows(2) {
        assert_eq!(numbers(&pair[0]).end, pair[1].first.as_raw());
        assert_ne!(pair[0].frame, pair[1].frame);
    }
    let end = all.last().map(numbers).expect("there is memory").end;
    assert!(end >= row("MemTotal"), "{end}");
    assert_eq!(runs(reader(FLAGS), FrameIndex::from_raw(end)..PhysicalReader::ALL.end), []);
}

#[test]
fn frames_in_free_blocks_are_free_memory() {
    require!(root);
    let _turn = turn();

    // Neither has the pages that CPUs keep at hand. `MemFree` of a guest may have those besides that its host took back.
    expect_count("nr_free_pages", free, |flags| flags.contains(PageFlags::BUDDY));
}

#[test]
fn frames_of_anonymous_pages_are_told_even_where_most_are_free() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(20_000).expect("room");
    mapping.write_all();

    // The row has mapped pages alone. Words of slabs have the bit by mistake.
    expect_row("AnonPages", |flags| flags.sanitised().contains(PageFlags::ANON | PageFlags::MMAP));
}

#[test]
fn frames_of_slabs_are_told() {
    require!(root);
    // Tails do not tell before; large allocations are in the row, and in no slab.
    require!(kernel "6.10");
    let _turn = turn();

    expect_row("Slab", |flags| flags.contains(PageFlags::SLAB));
}

#[test]
fn frames_of_page_tables_are_told() {
    require!(root);
    let _turn = turn();
    // A page table for each page: most are this test's.
    let page_table_pages = usize::try_from(page_size().bytes() / 8).expect("small");
    let mapping = Mapping::reserved(4000 * page_table_pages).expect("room");
    (0..4000).for_each(|table| mapping.write(table * page_table_pages));

    expect_row("PageTables", |flags| flags.contains(PageFlags::PGTABLE));
}

#[test]
fn frames_of_the_pool_of_huge_pages_are_told() {
    require!(root);
    let _turn = turn();
    let _pool = made!(HugePages::add(8));

    expect_row("Hugetlb", |flags| flags.contains(PageFlags::HUGE));
}

#[test]
fn frame_of_a_page_tells_of_the_page() {
    require!(root);
    let _turn = turn();
    let mapping = Mapping::anonymous(64).expect("room");
    mapping.write_all();
    drain_batches();

    // Pages may move to other frames between two scans.
    let known = (0..ATTEMPTS).find_map(|_| {
        let before = scan(&mapping);
        let frames: Vec<_> = before
            .iter()
            .map(|page| {
                let frame = page.entry.pfn().expect("present").as_raw();
                let runs =
                    runs(reader(EVERYTHING), FrameIndex::from_raw(frame)..FrameIndex::from_raw(frame + 1));
                let [run] = runs[..] else { panic!("{runs:?}") };
                assert_eq!(run.first.pfn(), page.entry.pfn());
                run.frame
            })
            .collect();
        let after = scan(&mapping);
        let is_same = before.iter().zip(&after).all(|(one, other)| one.entry == other.entry);
        is_same.then_some((frames, before))
    });

    let (frames, pages) = known.expect("pages stay for a moment");
    let expected = PageFlags::ANON | PageFlags::MMAP | PageFlags::SWAPBACKED | PageFlags::UPTODATE;
    for (frame, page) in frames.iter().zip(&pages) {
        assert!(frame.flags.is_some_and(|flags| flags.contains(expected)), "{frame:x?}");
        assert_eq!((frame.mapcount, frame.cgroup), (Some(1), page.frame.cgroup));
    }
}

#[test]
fn copy_tells_what_the_kernel_does_of_frames_that_stay() {
    require!(root);
    let _turn = turn();
    let copy = tempfile::NamedTempFile::new().expect("room");
    let to = copy.reopen().expect("it has a name");
    let copied = Command::new("cat").arg("/proc/kpageflags").stdout(Stdio::from(to)).status();
    assert!(copied.expect("there is cat").success());

    let of_copy = runs(PhysicalReader::of_copy(copy.path()).expect("whole words"), PhysicalReader::ALL);
    let live = runs(reader(FLAGS), PhysicalReader::ALL);

    // Flags of those that are mapped, as the vDSO is, change.
    let reserved = |all: &[FrameRun]| -> BTreeSet<u64> {
        let reserved = all.iter().filter(|run| flags(run).contains(PageFlags::RESERVED));
        reserved.flat_map(numbers).collect()
    };
    let expected = reserved(&live);
    assert!(!expected.is_empty());
    assert!(reserved(&of_copy) == expected);
    assert_eq!(
        of_copy.last().map(numbers).map(|last| last.end),
        live.last().map(numbers).map(|last| last.end)
    );
}

#[test]
fn all_memory_is_read_in_little_memory() {
    require!(root);
    let _turn = turn();
    let mut pages_by_flags = BTreeMap::new();
    let mut reader = reader(EVERYTHING);
    let began = Instant::now();

    let peak = peak_growth(|| {
        reader
            .walk(PhysicalReader::ALL, |run| {
                *pages_by_flags.entry(flags(&run)).or_insert(0) += run.frames.get();
            })
            .expect("they can be read");
    });

    let frames: u64 = pages_by_flags.values().sum();
    eprintln!("{frames} frames in {:?}, {} KiB of memory", began.elapsed(), peak >> 10);
    assert!(peak < 16 << 20, "{peak} bytes");
}

#[test]
fn walk_takes_no_more_of_a_cpu_than_it_may() {
    require!(root);
    let _turn = turn();
    let cpu_time = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("not negative");
    let budget = Budget { max_cpu_percent: 20, ..Budget::default() };
    let mut reader = PhysicalReader::open(FLAGS, budget).expect("root may read them");
    let (began, cpu_before) = (Instant::now(), cpu_time());

    let frames = FrameIndex::from_raw(0)..FrameIndex::from_raw(500_000);
    reader.walk(frames, |_| {}).expect("they can be read");

    let worked = cpu_time().saturating_sub(cpu_before);
    assert!(began.elapsed() > worked * 4, "{worked:?} of {:?}", began.elapsed());
}

//! `memtrace snapshot` of files, of all frames, and of flags as such, against page-types.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::Path,
};

use memtrace_tests::{
    agreement::{Readers, expect_agreement, lines, lists, tell_difference},
    directory,
    frozen::Frozen,
    made,
    memory::{Mapping, Sharing, drain_batches, page_bytes},
    oracle::{flag_rows, merged_ranges},
    program, require,
    setting::HugePages,
    turn,
};

const MEMTRACE: &str = program!("memtrace-under-test");

/// A file of whole pages, all of which are cached.
fn cached_file(path: &Path, pages: usize) -> File {
    let mut file = File::create_new(path).expect("a new file");
    file.write_all(&vec![7; pages * page_bytes()]).expect("room");
    file.sync_all().expect("room");
    file
}

#[test]
fn cached_files() {
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));
    let directory = directory();
    // page-types takes all files of a tree to be as long as the first.
    let files = ["a", "b", "c"].map(|name| cached_file(&directory.path().join(name), 64));
    rustix::fs::fadvise(&files[1], 0, None, rustix::fs::Advice::DontNeed).expect("a file");
    drain_batches();
    let tree = directory.path().to_str().expect("UTF-8");
    let file = &format!("{tree}/a");

    for path in [file, &format!("{tree}/b"), tree] {
        readers.expect_same_flags(&["-f", path]);
        for list in lists().iter().filter(|list| !list.contains(&"-r")) {
            readers.expect_same_list(&[&["-f", path][..], list].concat());
        }
    }
    for args in [["-f", file, "-a", "3+5"], ["-f", file, "-a", ",10"], ["-f", file, "-b", "uptodate,~lru"]] {
        readers.expect_same_flags(&args);
        readers.expect_same_list(&[&args[..], &["-L"]].concat());
    }
}

#[test]
fn file_that_is_mapped_and_written_to() {
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));
    let directory = directory();
    let path = directory.path().join("a");
    drop(cached_file(&path, 64));
    let file = File::options().read(true).write(true).open(&path).expect("our own file");
    let mapping = Mapping::of_file(&file, 32, Sharing::Shared).expect("room");
    (0..16).for_each(|page| mapping.write(page));
    drain_batches();
    let path = path.to_str().expect("UTF-8");

    readers.expect_same_flags(&["-f", path]);
    readers.expect_same_list(&["-f", path, "-l", "-M"]);
}

/// A copy of `/proc/kpageflags`, which stays as it is.
fn copy_of_flags(directory: &Path) -> io::Result<String> {
    let path = directory.join("kpageflags");
    let (mut from, mut to) = (File::open("/proc/kpageflags")?, File::create_new(&path)?);
    let mut batch = vec![0; 1 << 20];
    loop {
        match from.read(&mut batch)? {
            0 => return Ok(path.to_str().expect("UTF-8").to_owned()),
            read => to.write_all(&batch[..read])?,
        }
    }
}

#[test]
fn all_frames_of_a_copy() {
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));
    let directory = directory();
    let copy = copy_of_flags(directory.path()).expect("root reads it");
    let options: [&[&str]; 8] = [
        &[],
        &["-r"],
        &["-b", "anon,~lru"],
        &["-r", "-b", "reserved"],
        &["-b", "=buddy"],
        &["-a", "0x1000+0x10000"],
        &["-a", "100,200", "-a", "0x100000,"],
        &["-a", "70", "-b", "nopage"],
    ];

    let same = |options: &[&str], print: fn(&str) -> Vec<String>, print_ours: fn(&str) -> Vec<String>| {
        let theirs = print(&readers.oracles.page_types(&[&["-F", &copy], options].concat()));
        let ours = print_ours(&readers.snapshot(&[&["--system", "-F", &copy], options].concat()));
        assert!(theirs == ours, "{options:?}: {}", tell_difference(&theirs, &ours));
    };
    for options in options {
        same(options, flag_rows, flag_rows);
        same(&[options, &["-l", "-N"]].concat(), merged_ranges, lines);
    }
    same(&["-a", "4000,8000", "-L", "-N"], lines, lines);
}

#[test]
fn frames_that_stay_as_they_are() {
    const HUGE: u64 = 4;
    require!(root);
    let _turn = turn();
    let readers = made!(Readers::find(MEMTRACE));
    let _pool = made!(HugePages::add(HUGE));
    let _huge = Frozen::start(program!("layout"), "hugetlb", 2 * HUGE);

    for bits in [["-b", "nopage"], ["-b", "huge"], ["-b", "zero_page"], ["-b", "hwpoison"]] {
        expect_agreement(
            bits[1],
            || flag_rows(&readers.oracles.page_types(&bits)),
            || flag_rows(&readers.snapshot(&[&["--system"], &bits[..]].concat())),
        );
    }
}

#[test]
fn flags_are_described_alike() {
    require!(root);
    let readers = made!(Readers::find(MEMTRACE));

    for flags in ["anon", "0x10,anon", "compound", "0", "lru,active,mmap", "referenced,0x800"] {
        assert_eq!(readers.snapshot(&["-d", flags]), readers.oracles.page_types(&["-d", flags]), "{flags}");
    }
}

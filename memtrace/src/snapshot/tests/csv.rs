//! Rows of comma-separated values.

use super::*;
use crate::units::Nanos;

fn csv(snapshots: &[Snapshot]) -> Vec<String> {
    let mut text = Vec::new();
    let mut csv = CsvRegions::new(&mut text);
    for snapshot in snapshots {
        csv.write(snapshot).expect("memory can be written");
    }
    drop(csv);
    String::from_utf8(text).expect("names are").lines().map(str::to_owned).collect()
}

const REGIONS: &str = "time_ns,tgid,comm,start_addr,end_addr,perms,backing,name,present_pages,rss_pages,pss_bytes,uss_pages,\
                       anon_pages,file_pages,swapped_pages,zero_pages,hugetlb_pages,huge_pages,mthp_pages,partial_thp_pages,lower_bound";

#[test]
fn regions_have_a_row_each() {
    // The library's 2 pages are mapped twice: their PSS is that of 1.
    assert_eq!(
        csv(&[one()]),
        [
            REGIONS,
            "0,42,sort,0x1000000,0x1008000,rw-p,heap,[heap],3,3,12288,3,3,0,1,0,0,0,0,0,0",
            "0,42,sort,0x7f000000,0x7f004000,r-xp,file,\"/usr/lib/a, b.so\",2,2,4096,0,0,2,0,0,0,0,0,0,0",
        ]
    );
}

#[test]
fn what_is_not_told_is_empty() {
    assert_eq!(
        csv(&[unprivileged()]),
        [REGIONS, "0,42,sort,0x1000000,0x1008000,rw-p,heap,[heap],5,5,,3,3,2,1,,0,,,,0"]
    );
}

#[test]
fn swap_of_which_a_part_is_not_known_is_empty() {
    let mut snapshot = unprivileged();
    let Subject::Processes { processes, .. } = &mut snapshot.subject else { panic!("a process") };
    processes[0].regions[0].tally.is_swap_unknown = true;

    assert!(csv(&[snapshot])[1].ends_with(",5,5,,3,3,2,,,0,,,,0"));
}

#[test]
fn large_folios_are_whole_or_partial() {
    let mut snapshot = unprivileged();
    snapshot.known = ALL;
    let Subject::Processes { processes, .. } = &mut snapshot.subject else { panic!("a process") };
    let folios = &mut processes[0].regions[0].tally.folios;
    let count = PageCount::new;
    let uses = FolioUse { aligned: count(16), unaligned: count(32), partial: count(3), by_pmd: count(0) };
    folios.uses.insert((Content::Anon, Some(4)), uses);
    let unknown = FolioUse { partial: count(5), ..FolioUse::default() };
    folios.uses.insert((Content::File, None), unknown);

    let rows = csv(&[snapshot]);

    assert!(rows[1].ends_with(",0,0,0,48,8,0"), "{}", rows[1]);
}

#[test]
fn header_comes_once() {
    let mut later = one();
    later.time = later.time.after(Nanos::new(700));

    let rows = csv(&[one(), later]);

    assert_eq!(rows.len(), 5);
    assert_eq!(rows.iter().filter(|row| row.starts_with("time_ns")).count(), 1);
    let first = rows[1..3].iter().map(|row| row.replacen("0,", "700,", 1));
    assert!(first.eq(rows[3..].iter().cloned()), "{rows:?}");
}

#[test]
fn regions_of_all_processes_are_in_one_table() {
    let rows = csv(&[two()]);

    let pids: Vec<_> =
        rows.iter().skip(1).map(|row| row.split(',').nth(1).expect("a second field")).collect();
    assert_eq!(pids, ["42", "42", "43", "43"]);
}

#[test]
fn files_have_a_row_each() {
    let mut snapshot = file();
    let Subject::Files { files, .. } = &mut snapshot.subject else { panic!("a file") };
    files.push(FileCensus { path: "/tmp/other".to_owned(), dirty: None, ..files[0].clone() });

    assert_eq!(
        csv(&[snapshot]),
        [
            "time_ns,path,inode,size_bytes,cached_pages,dirty_pages",
            "0,/tmp/big,77,8193,2,1",
            "0,/tmp/other,77,8193,2,",
        ]
    );
}

#[test]
fn words_of_all_memory_have_a_row_each() {
    assert_eq!(
        csv(&[system()]),
        ["time_ns,flags,names,pages", "0,0x0000000000000400,buddy,512", "0,0x0000000000100000,nopage,256",]
    );
}

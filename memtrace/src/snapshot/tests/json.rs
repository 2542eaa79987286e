//! The keys that programs read.

use serde_json::{Value, json};

use super::*;

/// Keys of `json`, in order.
fn keys(json: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = json.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn process_has_the_contract() {
    let json = one().to_json(false);

    assert_eq!(json["schema"], 1);
    assert_eq!(json["command"], "snapshot");
    assert_eq!(json["time_ns"], 1_700_000_000_000_000_000_i64);
    assert_eq!(json["page_bytes"], 4096);
    assert_eq!(json["pid"], 42);
    assert_eq!(json["comm"], "sort");
    assert_eq!(json["present_pages"], 5);
    assert_eq!(json["rss_pages"], 5);
    assert_eq!(json["pss_bytes"], 4 * 4096);
    assert_eq!(json["uss_pages"], 3);
    assert_eq!(json["anon_pages"], 3);
    assert_eq!(json["file_pages"], 2);
    assert_eq!(json["swap_pages"], 1);
    assert_eq!(json["swap_shared_pages"], 0);
    assert_eq!(json["zero_pages"], 0);
    assert_eq!(json["hugetlb_pages"], 0);
    assert_eq!(json["huge_pages"], 0);
    // Bits 3, 5 and 11; 11 and 12.
    let flags = json!([
        { "flags": "0x0000000000000828", "names": ["uptodate", "lru", "mmap"], "pages": 2 },
        { "flags": "0x0000000000001800", "names": ["mmap", "anonymous"], "pages": 3 },
    ]);
    assert_eq!(json["flags"], flags);
    assert_eq!(json["mapcounts"], json!([{ "mapcount": 1, "pages": 3 }, { "mapcount": 2, "pages": 2 }]));
    // Stretches of 3 frames and of 2.
    assert_eq!(json["contiguous"], json!([{ "order": 1, "pages": 5 }]));
    let cgroups = json!([{ "inode": 700, "path": "/sys/fs/cgroup/work", "pages": 5 }]);
    assert_eq!(json["cgroups"], cgroups);
    assert_eq!(json["swap"], json!([{ "area": 0, "pages": 1, "stretches": 1, "slots": [0x50, 0x50] }]));
    assert_eq!(json["folios"], json!({}));
    assert_eq!(json["cont"], json!({}));
    assert_eq!(json["nodes"], json!([]));
    assert_eq!(json["entries"], json!({}));
    assert_eq!(json["sharing"], json!([]));
}

#[test]
fn regions_and_processes_have_the_sums_of_their_pages() {
    let json = one().to_json(false);

    let [heap, library] = &json["regions"].as_array().expect("a list")[..] else { panic!("two: {json}") };
    assert_eq!(heap["pid"], 42);
    assert_eq!(heap["start"], "0x1000000");
    assert_eq!(heap["end"], "0x1008000");
    assert_eq!(heap["perms"], "rw-p");
    assert_eq!(heap["backing"], "heap");
    assert_eq!(heap["name"], "[heap]");
    assert_eq!((&heap["rss_pages"], &heap["swap_pages"]), (&json!(3), &json!(1)));
    assert_eq!(library["backing"], "file");
    assert_eq!(library["pss_bytes"], 4096);
    assert_eq!(library["flags"][0]["flags"], "0x0000000000000828");
    let process = &json["processes"][0];
    assert_eq!(process["pid"], 42);
    assert_eq!(process["comm"], "sort");
    assert_eq!(process["cgroup"], "/work");
    assert_eq!(process["complete"], true);
    assert_eq!(process["rss_pages"], 5);
    assert_eq!(process["mapcounts"], json["mapcounts"]);
}

#[test]
fn several_processes_have_no_pid_in_common() {
    let json = two().to_json(false);

    assert_eq!(json["pid"], json!(null));
    assert_eq!(json["comm"], json!(null));
    assert_eq!(json["rss_pages"], 10);
    assert_eq!(json["processes"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["regions"].as_array().map(Vec::len), Some(4));
    assert_eq!(json["regions"][2]["pid"], 43);
    assert_eq!(json["sharing"], json!([{ "pids": [42, 43], "others": false, "pages": 2 }]));
}

#[test]
fn what_is_not_told_is_null() {
    let json = unprivileged().to_json(false);

    let nulls = |json: &Value| -> Vec<String> {
        let json = json.as_object().expect("an object");
        let mut nulls: Vec<_> =
            json.iter().filter(|(_, value)| value.is_null()).map(|(key, _)| key.clone()).collect();
        nulls.sort_unstable();
        nulls
    };
    let of_frames = [
        "cgroups",
        "cont",
        "contiguous",
        "entries",
        "flags",
        "folios",
        "huge_pages",
        "mapcounts",
        "nodes",
        "pss_bytes",
        "swap",
        "zero_pages",
    ];
    assert_eq!(nulls(&json["regions"][0]), of_frames);
    let mut of_process = [&of_frames[..], &["swap_share_bytes"]].concat();
    of_process.sort_unstable();
    assert_eq!(nulls(&json["processes"][0]), of_process);
    assert_eq!(json["sharing"], json!(null));
    assert_eq!(json["uss_pages"], 3, "bit 56 of pagemap tells");
    assert_eq!(json["swap_pages"], 1);
}

#[test]
fn scan_without_rights_tells_of_huge_and_zero_pages() {
    let mut snapshot = unprivileged();
    snapshot.known.huge = true;

    let json = snapshot.to_json(true);

    assert_eq!(json["huge_pages"], 0);
    assert_eq!(json["zero_pages"], 0);
}

#[test]
fn all_told_or_not_the_keys_are_the_same() {
    let (known, not) = (one().to_json(false), unprivileged().to_json(false));

    assert_eq!(keys(&known), keys(&not));
    assert_eq!(keys(&known["regions"][0]), keys(&not["regions"][0]));
    assert_eq!(keys(&known["processes"][0]), keys(&not["processes"][0]));
}

#[test]
fn rolled_up_there_are_sums_alone() {
    let json = two().to_json(true);

    assert_eq!(json.get("regions"), None);
    assert_eq!(json["rss_pages"], 10);
    assert_eq!(json["processes"].as_array().map(Vec::len), Some(2));
    assert_eq!(file().to_json(true).get("files"), None);
}

#[test]
fn folios_and_blocks_go_by_content_and_size() {
    let mut snapshot = one();
    let count = PageCount::new;
    let uses = FolioUse { aligned: count(16), unaligned: count(32), partial: count(3), by_pmd: count(0) };
    let huge = FolioUse { by_pmd: count(512), ..FolioUse::default() };
    let unknown = FolioUse { partial: count(5), ..FolioUse::default() };
    let folios = &mut snapshot.total.folios;
    folios.uses.insert((Content::Anon, Some(4)), uses);
    folios.uses.insert((Content::Anon, None), unknown);
    folios.uses.insert((Content::File, Some(9)), huge);
    let blocks = crate::census::Blocks { by_pte: count(8), by_pmd: count(512) };
    folios.blocks.insert((Content::File, 3), blocks);

    let json = snapshot.to_json(true);

    assert_eq!(
        json["folios"],
        json!({
            "anon": {
                "4": { "aligned": 16, "unaligned": 32, "partial": 3, "pmd": 0 },
                "unknown": { "aligned": 0, "unaligned": 0, "partial": 5, "pmd": 0 },
            },
            "file": { "9": { "aligned": 0, "unaligned": 0, "partial": 0, "pmd": 512 } },
        })
    );
    assert_eq!(json["cont"], json!({ "file": { "32768": { "pte": 8, "pmd": 512 } } }));
}

#[test]
fn entries_that_are_no_swap_have_their_names() {
    let mut snapshot = one();
    snapshot.total.others.add("marker", PageCount::new(4));

    assert_eq!(snapshot.to_json(true)["entries"], json!({ "marker": 4 }));
}

#[test]
fn memory_cgroup_that_is_gone_has_no_path() {
    let mut snapshot = one();
    snapshot.cgroup_paths.clear();

    let cgroups = snapshot.to_json(true)["cgroups"].take();
    assert_eq!(cgroups, json!([{ "inode": 700, "path": null, "pages": 5 }]));
}

#[test]
fn flags_are_raw_and_without_what_means_nothing_in_the_names() {
    let mut snapshot = system();
    snapshot.total = Tally::default();
    let odd = PageFlags::SLAB | PageFlags::ANON | PageFlags::RESERVED;
    snapshot.total.add_frames(PageCount::new(1), &frame(odd, 0));

    // Bits 7, 12 and 32: slabs are not anonymous.
    let flags = snapshot.to_json(true)["flags"].take();
    assert_eq!(flags, json!([{ "flags": "0x0000000100001080", "names": ["slab", "reserved"], "pages": 1 }]));
}

#[test]
fn words_with_other_bits_in_pagemap_are_one_row() {
    let mut snapshot = one();
    snapshot.total = tally(&[
        (entries(0x10, 1, PRESENT | EXCLUSIVE | 0x8000), frame(ANON, 1)),
        (entries(0x20, 2, PRESENT | SOFT_DIRTY | 0x9000), frame(ANON, 1)),
    ]);

    let flags = snapshot.to_json(true)["flags"].take();
    assert_eq!(flags, json!([{ "flags": "0x0000000000001800", "names": ["mmap", "anonymous"], "pages": 3 }]));
}

#[test]
fn files_have_what_is_cached_and_dirty() {
    let json = file().to_json(false);

    let expected =
        json!([{ "path": "/tmp/big", "inode": 77, "bytes": 8193, "cached_pages": 2, "dirty_pages": 1 }]);
    assert_eq!(json["files"], expected);
    assert_eq!(json["present_pages"], 2);
    assert_eq!(json.get("pid"), None);
}

#[test]
fn all_memory_has_its_words() {
    let json = system().to_json(false);

    assert_eq!(json["total_pages"], 768);
    let flags = json!([
        { "flags": "0x0000000000000400", "names": ["buddy"], "pages": 512 },
        { "flags": "0x0000000000100000", "names": ["nopage"], "pages": 256 },
    ]);
    assert_eq!(json["flags"], flags);
    assert_eq!(json["mapcounts"], json!([{ "mapcount": 0, "pages": 768 }]));
}

//! The census for programs: numbers in pages and bytes, null for what is not known.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{SCHEMA, Snapshot, Subject};
use crate::{
    census::{Blocks, Content, FileCensus, FolioUse, ProcessCensus, RegionCensus, Sharers, SwapUse, Tally},
    pagemap::{EntryFlags, PageFlags},
    region,
    units::PageCount,
};

impl Snapshot {
    /// The snapshot as JSON; sums alone, without regions and single files, if it is rolled up.
    #[must_use]
    pub fn to_json(&self, is_rolled_up: bool) -> Value {
        let mut json = match &self.subject {
            Subject::Processes { .. } => self.sums(&self.total),
            Subject::Files { .. } => self.sums_of_files(),
            Subject::System => self.sums_of_frames(),
        };
        let mut put = |key: &str, value: Value| json.insert(key.to_owned(), value);
        put("schema", SCHEMA.into());
        put("command", "snapshot".into());
        put("time_ns", i64::try_from(self.realtime_ns).map_or(Value::Null, Value::from));
        put("page_bytes", self.rules.page.bytes().into());
        match &self.subject {
            Subject::Processes { processes, sharing, passed_over } => {
                put("complete", (self.is_complete() && *passed_over == 0).into());
                put("passed_over", (*passed_over).into());
                let one = if let [process] = &processes[..] { Some(process) } else { None };
                put("pid", one.map(|process| process.tgid.0).into());
                put("comm", one.map(|process| process.comm.as_str()).into());
                put("processes", processes.iter().map(|process| self.process(process)).collect());
                if !is_rolled_up {
                    let regions = processes.iter().flat_map(|process| {
                        process.regions.iter().map(|region| self.region(process, region))
                    });
                    put("regions", regions.collect());
                }
                let number = |number: &u32| processes.get(*number as usize).map(|process| process.tgid.0);
                let set = |(sharers, pages): &(Sharers, PageCount)| {
                    let pids: Vec<_> = sharers.processes.iter().filter_map(number).collect();
                    json!({ "pids": pids, "others": sharers.has_others, "pages": pages.get() })
                };
                let sharing = sharing.as_ref().filter(|_| self.known.mapcounts);
                put("sharing", sharing.map_or(Value::Null, |sets| sets.iter().map(set).collect()));
            }
            Subject::Files { files, passed_over } => {
                put("complete", (*passed_over == 0).into());
                put("passed_over", (*passed_over).into());
                if !is_rolled_up {
                    put("files", files.iter().map(file).collect());
                }
            }
            Subject::System => {}
        }
        Value::Object(json)
    }

    /// Sums that do not take a process: whose pages these are, and for how much, nobody asked.
    fn sums_of_files(&self) -> Map<String, Value> {
        const OF_FILES: [&str; 9] = [
            "present_pages",
            "flags",
            "folios",
            "cont",
            "mapcounts",
            "contiguous",
            "nodes",
            "cgroups",
            "entries",
        ];
        let mut json = self.sums(&self.total);
        for (_, value) in json.iter_mut().filter(|(key, _)| !OF_FILES.contains(&key.as_str())) {
            *value = Value::Null;
        }
        json
    }

    /// What frames tell without those who map them.
    fn sums_of_frames(&self) -> Map<String, Value> {
        const OF_FRAMES: [&str; 3] = ["flags", "mapcounts", "cgroups"];
        let mut json = self.sums(&self.total);
        json.retain(|key, _| OF_FRAMES.contains(&key.as_str()));
        json.insert("total_pages".to_owned(), self.total.present.get().into());
        json
    }

    fn process(&self, process: &ProcessCensus) -> Value {
        let ProcessCensus { tgid, comm, cgroup, regions: _, total, swap_share, is_complete } = process;
        let mut json = self.sums(total);
        let swap_share = if self.known.flags { swap_share.bytes().into() } else { Value::Null };
        json.insert("swap_share_bytes".to_owned(), swap_share);
        json.insert("pid".to_owned(), tgid.0.into());
        json.insert("comm".to_owned(), comm.as_str().into());
        json.insert("cgroup".to_owned(), cgroup.as_deref().into());
        json.insert("complete".to_owned(), (*is_complete).into());
        Value::Object(json)
    }

    fn region(&self, process: &ProcessCensus, region: &RegionCensus) -> Value {
        let RegionCensus { vma, kind, tally, is_complete } = region;
        let mut json = self.sums(tally);
        let mut put = |key: &str, value: Value| json.insert(key.to_owned(), value);
        put("complete", (*is_complete).into());
        put("pid", process.tgid.0.into());
        put("start", vma.range.start().to_string().into());
        put("end", vma.range.end().to_string().into());
        put("perms", String::from_utf8_lossy(&vma.perms).into());
        put("backing", region::backing_of(vma, *kind).name().into());
        put("name", String::from_utf8_lossy(&vma.name).into());
        Value::Object(json)
    }

    fn sums(&self, tally: &Tally) -> Map<String, Value> {
        let known = self.known;
        let if_known = |is_known: bool, value: Value| if is_known { value } else { Value::Null };
        let value = json!({
            "present_pages": tally.present.get(),
            "rss_pages": tally.resident.get(),
            "pss_bytes": if_known(known.mapcounts, tally.proportional.bytes().into()),
            "uss_pages": tally.unique.get(),
            "anon_pages": tally.anon.get(),
            "file_pages": tally.file().get(),
            "swap_pages": tally.all_swapped().get(),
            "swap_shared_pages": if_known(!tally.is_swap_unknown, tally.swapped_shared.get().into()),
            "zero_pages": if_known(known.flags || known.huge, tally.zero.get().into()),
            "hugetlb_pages": tally.hugetlb.get(),
            "huge_pages": if_known(known.huge, tally.huge.get().into()),
            "flags": if_known(known.flags, self.flags(tally)),
            "folios": if_known(known.places, folios(tally, known.huge)),
            "cont": if_known(known.places, self.blocks(tally)),
            "mapcounts": if_known(known.mapcounts, numbers(tally.mapcounts.iter(), "mapcount")),
            "contiguous": if_known(known.places, numbers(tally.contiguous.iter(), "order")),
            "nodes": if_known(known.flags, numbers(tally.nodes.iter(), "node")),
            "cgroups": if_known(known.cgroups, self.cgroups(tally)),
            "entries": if_known(known.flags, entries(tally)),
            "swap": if_known(known.flags, swap(tally)),
        });
        match value {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    /// Present pages by the word of kpageflags; entries of swap have none.
    fn flags(&self, tally: &Tally) -> Value {
        let mut words = BTreeMap::<PageFlags, u64>::new();
        for ((flags, entry), pages) in tally.flags.iter() {
            if !entry.contains(EntryFlags::SWAPPED) {
                *words.entry(flags).or_default() += pages.get();
            }
        }
        let era = self.rules.era.flags;
        let row = |(flags, pages): (PageFlags, u64)| {
            let names: Vec<_> = flags.sanitised().names(era).collect();
            json!({ "flags": format!("{:#018x}", flags.bits()), "names": names, "pages": pages })
        };
        words.into_iter().map(row).collect()
    }

    fn blocks(&self, tally: &Tally) -> Value {
        let mut json = Map::new();
        for ((content, order), Blocks { by_pte, by_pmd }) in &tally.folios.blocks {
            let bytes = self.rules.page.bytes() << order;
            child(&mut json, *content).insert(
                bytes.to_string(),
                json!({ "pte": by_pte.get(), "pmd": self.known.huge.then(|| by_pmd.get()) }),
            );
        }
        Value::Object(json)
    }

    fn cgroups(&self, tally: &Tally) -> Value {
        let row = |(inode, pages): (u64, PageCount)| json!({ "inode": inode, "path": self.cgroup_paths.get(&inode), "pages": pages.get() });
        tally.cgroups.iter().map(row).collect()
    }
}

fn file(FileCensus { path, inode, bytes, cached, dirty }: &FileCensus) -> Value {
    let dirty = dirty.map(PageCount::get);
    json!({ "path": path, "inode": inode, "bytes": bytes, "cached_pages": cached.get(), "dirty_pages": dirty })
}

fn folios(tally: &Tally, tells_pmd: bool) -> Value {
    let mut json = Map::new();
    for ((content, order), FolioUse { aligned, unaligned, partial, by_pmd }) in &tally.folios.uses {
        let order = order.map_or_else(|| "unknown".to_owned(), |order| order.to_string());
        let pages = json!({
            "aligned": aligned.get(),
            "unaligned": unaligned.get(),
            "partial": partial.get(),
            "pmd": tells_pmd.then(|| by_pmd.get()),
        });
        child(&mut json, *content).insert(order, pages);
    }
    Value::Object(json)
}

/// The object for `content` in `json`.
fn child(json: &mut Map<String, Value>, content: Content) -> &mut Map<String, Value> {
    let name = match content {
        Content::Anon => "anon",
        Content::File => "file",
    };
    let value = json.entry(name).or_insert_with(|| Value::Object(Map::new()));
    value.as_object_mut().expect("nothing else is put there")
}

fn numbers<K: Into<Value>>(counts: impl Iterator<Item = (K, PageCount)>, key: &str) -> Value {
    counts.map(|(value, pages)| json!({ key: value.into(), "pages": pages.get() })).collect()
}

/// Entries that are neither pages nor swap.
fn entries(tally: &Tally) -> Value {
    let entry = |(name, pages): (&str, PageCount)| (name.to_owned(), Value::from(pages.get()));
    Value::Object(tally.others.iter().map(entry).collect())
}

fn swap(tally: &Tally) -> Value {
    let row = |(area, used): (&u8, &SwapUse)| {
        let SwapUse { pages, stretches, first, last } = used;
        json!({ "area": area, "pages": pages.get(), "stretches": stretches, "slots": [first, last] })
    };
    tally.swap.iter().map(row).collect()
}

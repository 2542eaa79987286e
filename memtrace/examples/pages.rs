//! Counts the pages of a process by their flags, as page-types does: `cargo run --example pages -- PID`.
//!
//! Takes `CAP_SYS_ADMIN` for frame numbers, and root for `/proc/kpageflags`.

use std::{
    collections::BTreeMap,
    env, fs,
    fs::File,
    io::{self, Write as _},
};

use anyhow::Context as _;
use memtrace::{
    host,
    pagemap::PageFlags,
    probe::{
        budget::Budget,
        maps,
        walk::{PageWalker, Wanted},
    },
    units::PageSize,
};

fn main() -> anyhow::Result<()> {
    let pid = env::args().nth(1).context("usage: pages PID")?;
    let page = PageSize::from_bytes(rustix::param::page_size() as u64).context("an odd page size")?;
    let wanted = Wanted { flags: true, mapcount: true, cgroup: false };
    let era = host::page_era();
    let mut walker = PageWalker::new(page, !era.scan.is_empty(), wanted, Budget::default())?;

    let vmas = maps::parse(&fs::read(format!("/proc/{pid}/maps"))?)?;
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    let mut pages_by_flags = BTreeMap::new();
    for vma in vmas {
        walker.walk(&pagemap, vma.range, |run| {
            let flags = run.frame.flags.map(PageFlags::sanitised);
            let is_private = run.frame.mapcount == Some(1);
            *pages_by_flags.entry((flags, is_private)).or_insert(0) += run.entries.pages.get();
        })?;
    }

    let mut out = io::stdout().lock();
    for ((flags, is_private), pages) in pages_by_flags {
        let mapped = if is_private { "once" } else { "" };
        let names = flags.map(|flags| flags.names(era.flags).collect::<Vec<_>>().join(","));
        writeln!(out, "{pages:10} {mapped:4} {}", names.as_deref().unwrap_or("not known"))?;
    }
    Ok(())
}

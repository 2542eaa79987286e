//! A list of pages on stdout.

use std::io::{self, BufWriter, Stdout};

use anyhow::Context as _;

use crate::{
    pagemap::{EntryRun, FlagsEra, PageRun},
    probe::{cached::CachedRun, physical::FrameRun},
    snapshot::{List, Listing},
    units::Vpn,
};

const UNWRITABLE: &str = "cannot write to stdout";

/// A list that is asked for or not; what went wrong is told at its end.
pub(super) struct Lister {
    list: Option<List<BufWriter<Stdout>>>,
    result: io::Result<()>,
}

impl Lister {
    pub(super) fn begin(listing: Option<Listing>, era: FlagsEra) -> anyhow::Result<Self> {
        let list = listing.map(|listing| List::new(BufWriter::new(io::stdout()), listing, era));
        Ok(Self { list: list.transpose().context(UNWRITABLE)?, result: Ok(()) })
    }

    /// Lists pages of a process.
    pub(super) fn pages(&mut self, run: &PageRun) {
        self.add(|list| list.add(run.entries.first.as_raw(), &run.entries, &run.frame));
    }

    /// Lists pages of a file.
    pub(super) fn cached(&mut self, run: &CachedRun) {
        let CachedRun { first, pages, entry, categories: _, frame } = *run;
        let first = first.as_raw();
        let entries = EntryRun { first: Vpn::from_raw(first), pages, entry };
        self.add(|list| list.add(first, &entries, &frame));
    }

    /// Lists frames.
    pub(super) fn frames(&mut self, run: &FrameRun) {
        self.add(|list| list.add_frames(run.first.as_raw(), run.frames, &run.frame));
    }

    fn add(&mut self, add: impl FnOnce(&mut List<BufWriter<Stdout>>) -> io::Result<()>) {
        if let (Some(list), Ok(())) = (&mut self.list, &self.result) {
            self.result = add(list);
        }
    }

    pub(super) fn end(self) -> anyhow::Result<()> {
        let Self { list, result } = self;
        result.and_then(|()| list.map_or(Ok(()), |mut list| list.finish())).context(UNWRITABLE)
    }
}

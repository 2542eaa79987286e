//! Takes a census of files in the page cache.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use super::super::{
    budget::Budget,
    cached::{CachedReader, CachedRun},
    files::FileError,
    idle::IdleMarker,
    object::{MemoryObject, ObjectError},
    walk::Wanted,
};
use super::notes::Notes;
use crate::{
    census::{FileCensus, Rules, Tally},
    pagemap::{EntryRun, PageCategories, PageFlags, PageRun},
    select::Selection,
    units::{FilePage, Vpn},
};

/// Why there is no census of a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileCensusError {
    /// It cannot be opened.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its pages cannot be told.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// Takes censuses of files.
#[derive(Debug)]
pub struct FileCensusTaker {
    rules: Rules,
    selection: Selection,
    reader: CachedReader,
    has_flags: bool,
    notes: Notes,
}

impl FileCensusTaker {
    /// Categories that are known of each page; how large ones are mapped is nobody's business but that of this scan.
    pub const TELLS: PageCategories = PageCategories::OF_WORDS;

    /// A taker that has all that is `wanted` told of the pages in `selection`, and marks them idle if `idle` is there.
    pub fn new(
        rules: Rules,
        selection: Selection,
        wanted: Wanted,
        budget: Budget,
        idle: Option<IdleMarker>,
    ) -> Result<Self, FileError> {
        let page = rules.page;
        let can_scan = !rules.era.scan.is_empty();
        let reader = CachedReader::new(page, can_scan, wanted, budget)?;
        let notes = Notes::new(page, wanted.flags, idle)?;
        Ok(Self { rules, selection, reader, has_flags: wanted.flags, notes })
    }

    /// Counts the cached pages of the file `path`, and hands each run of them to `list`.
    pub fn take(
        &mut self,
        path: &Path,
        mut list: impl FnMut(&CachedRun),
    ) -> Result<(FileCensus, Tally), FileCensusError> {
        let Self { rules, selection, reader, has_flags, notes } = self;
        let object = MemoryObject::of_path(path, rules.page)?;
        let metadata = fs::metadata(path).map_err(|error| FileError::of(path, error))?;
        let mut tally = Tally::default();
        for part in selection.parts(0..u64::MAX) {
            let pages = FilePage::from_raw(part.start)..FilePage::from_raw(part.end);
            reader.walk(&object, pages, |run| {
                let CachedRun { first, pages, entry, categories, frame } = run;
                // What is a place in memory for processes is a place in the file.
                let entries = EntryRun { first: Vpn::from_raw(first.as_raw()), pages, entry };
                let page_run = PageRun { entries, categories, frame };
                if !selection.takes(&page_run, Self::TELLS, rules.era.flags) {
                    return;
                }
                tally.add(&page_run, rules);
                if let Some(frame) = entry.pfn() {
                    notes.add(&mut tally, frame, pages);
                }
                list(&run);
            })?;
        }
        tally.finish(rules);
        notes.settle(&mut tally);
        notes.finish()?;
        let dirty = has_flags.then(|| tally.with_flag(PageFlags::DIRTY));
        let path = path.to_string_lossy().into_owned();
        let (inode, bytes, cached) = (metadata.ino(), metadata.len(), tally.present);
        Ok((FileCensus { path, inode, bytes, cached, dirty }, tally))
    }

    /// How words were read.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }
}

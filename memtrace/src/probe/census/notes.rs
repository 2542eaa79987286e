//! What is looked up about frames beside their words, and done with them.

use std::mem;

use super::super::{
    files::{FileError, Root},
    folios::FolioFinder,
    idle::IdleMarker,
    nodes::NodeMap,
};
use crate::{
    census::Tally,
    units::{PageCount, PageSize, Pfn},
};

/// Pieces of folios that are kept until the frames about them are scanned.
const MAX_UNSETTLED: usize = 4096;

/// Notes on frames.
#[derive(Debug)]
pub(super) struct Notes {
    nodes: NodeMap,
    folios: Option<FolioFinder>,
    idle: Option<IdleMarker>,
    result: Result<(), FileError>,
}

impl Notes {
    /// On a host with base pages of size `page`; frames are marked idle if `idle` is there.
    pub(super) fn new(page: PageSize, has_flags: bool, idle: Option<IdleMarker>) -> Result<Self, FileError> {
        let folios = has_flags.then(FolioFinder::open).transpose()?;
        Ok(Self { nodes: NodeMap::read(&Root::system(), page)?, folios, idle, result: Ok(()) })
    }

    /// Adds to `tally` where the `pages` are that lie in the frames from `first` on.
    pub(super) fn add(&mut self, tally: &mut Tally, first: Pfn, pages: PageCount) {
        let last = first.as_raw() + pages.get() - 1;
        let node = |frame| self.nodes.node(Pfn::new(frame)?);
        let of_first = self.nodes.node(first);
        if of_first == node(last) {
            if let Some(node) = of_first {
                tally.nodes.add(node, pages);
            }
        } else {
            let each = (first.as_raw()..=last).filter_map(node);
            each.for_each(|node| tally.nodes.add(node, PageCount::new(1)));
        }
        if let Some(idle) = &mut self.idle {
            idle.mark(first, pages);
        }
        if tally.folios.unsettled.len() >= MAX_UNSETTLED {
            self.settle(tally);
        }
    }

    /// Finds how large the folios are of which `tally` knows pieces alone; what goes wrong is told by [`Self::finish`].
    pub(super) fn settle(&mut self, tally: &mut Tally) {
        let Some(finder) = &mut self.folios else { return };
        for piece in mem::take(&mut tally.folios.unsettled) {
            match finder.extent(&piece) {
                Ok(extent) => tally.folios.settle(&piece, extent),
                Err(error) => self.result = mem::replace(&mut self.result, Ok(())).and(Err(error)),
            }
        }
    }

    /// Does what is not done yet.
    pub(super) fn finish(&mut self) -> Result<(), FileError> {
        let marked = self.idle.as_mut().map_or(Ok(()), IdleMarker::finish);
        mem::replace(&mut self.result, Ok(())).and(marked)
    }
}

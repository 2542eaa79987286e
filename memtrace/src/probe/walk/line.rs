//! Batches on their way: filled one after the other, read by several threads, told in the order of their pages.

use std::{
    collections::VecDeque,
    fs::File,
    ops::Range,
    thread::{Scope, ScopedJoinHandle},
};

use super::{
    super::{ProbeError, budget::Shift},
    Batch,
};
use crate::pagemap::{PageCategories, PageRun};

/// Readings for which it pays to start a thread.
const MIN_READS: usize = 2048;

/// A batch that was read, or why not.
type Reading = (Batch, Result<(), ProbeError>);

/// Batches on their way.
pub(super) struct Line<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    pagemap: &'env File,
    /// Batches without pages; the last one is being filled.
    spare: &'env mut Vec<Batch>,
    /// Those that are being read, in the order of their pages.
    running: VecDeque<ScopedJoinHandle<'scope, Reading>>,
    shift: Shift,
    is_threaded: bool,
}

impl<'scope, 'env> Line<'scope, 'env> {
    /// A line with two of the `batches` at least, for as many threads as there are more than one.
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        pagemap: &'env File,
        batches: &'env mut Vec<Batch>,
        shift: Shift,
    ) -> Self {
        let is_threaded = batches.len() > 2;
        Self { scope, pagemap, spare: batches, running: VecDeque::new(), shift, is_threaded }
    }

    /// Adds `pages`, which come after all before.
    pub(super) fn add(
        &mut self,
        mut pages: Range<u64>,
        categories: PageCategories,
        emit: &mut impl FnMut(PageRun),
    ) -> Result<(), ProbeError> {
        loop {
            let filling = self.spare.last_mut().expect("one is filled while others are read");
            pages = filling.add(pages, categories);
            if pages.is_empty() {
                return Ok(());
            }
            self.send(emit)?;
        }
    }

    /// Reads and tells all that was added.
    pub(super) fn finish(mut self, emit: &mut impl FnMut(PageRun)) -> Result<(), ProbeError> {
        let result = self.send(emit);
        result.and(self.tell_all(emit))
    }

    /// Rests as the budget says.
    pub(super) fn rest(&mut self) {
        self.shift.rest();
    }

    /// Has the batch that was filled read, by another thread if that pays.
    fn send(&mut self, emit: &mut impl FnMut(PageRun)) -> Result<(), ProbeError> {
        let mut batch = self.spare.pop().expect("one is filled while others are read");
        let pagemap = self.pagemap;
        if self.is_threaded && batch.reads() >= MIN_READS {
            self.running.push_back(self.scope.spawn(move || {
                let result = batch.read(pagemap);
                (batch, result)
            }));
            return if self.spare.is_empty() { self.tell_first(emit) } else { Ok(()) };
        }
        let result = self.tell_all(emit).and_then(|()| batch.read(pagemap));
        let result = self.tell((batch, result), emit);
        self.shift.rest();
        result
    }

    /// Waits for all batches that are being read, and tells them.
    fn tell_all(&mut self, emit: &mut impl FnMut(PageRun)) -> Result<(), ProbeError> {
        let mut result = Ok(());
        while !self.running.is_empty() {
            result = result.and(self.tell_first(emit));
        }
        result
    }

    /// Waits for the batch that comes first, and tells it.
    fn tell_first(&mut self, emit: &mut impl FnMut(PageRun)) -> Result<(), ProbeError> {
        let Some(reading) = self.running.pop_front() else { return Ok(()) };
        self.tell(reading.join().expect("reading does not panic"), emit)
    }

    fn tell(
        &mut self,
        (mut batch, result): Reading,
        emit: &mut impl FnMut(PageRun),
    ) -> Result<(), ProbeError> {
        if result.is_ok() {
            batch.tell(emit);
        }
        batch.clear();
        self.spare.push(batch);
        result
    }
}

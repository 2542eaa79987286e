//! Batches on their way: filled one after the other, read by several threads, told in the order of their pages.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    ops::Range,
    sync::mpsc::{Receiver, Sender, channel},
    thread::{Builder, Scope},
};

use super::{
    super::{ProbeError, budget::Shift},
    Batch,
};
use crate::pagemap::{PageCategories, PageRun};

/// Lookups for which it pays to wake a thread.
const MIN_LOOKUPS: usize = 512;

/// Batches per thread that reads, so that one waits while another is read.
const BATCHES_PER_READER: usize = 2;

/// A batch that was read, or why not.
type Reading = (Batch, Result<(), ProbeError>);

/// Batches on their way.
pub(super) struct Line<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    pagemap: &'env File,
    /// Batches without pages; the last one is being filled.
    spare: &'env mut Vec<Batch>,
    /// Threads that read, started when they are first needed; each batch goes to the next of them.
    readers: Vec<Reader>,
    max_readers: usize,
    /// Batches that were handed out.
    sent: usize,
    /// Those of them that are not told yet, each by the index of its reader, in the order of their pages.
    running: VecDeque<usize>,
    /// Whether pages were scanned that had been added unscanned.
    pub(super) has_scanned: bool,
    shift: Shift,
}

/// A thread that reads batches, one after the other, until it has no more to expect.
struct Reader {
    batches: Sender<Batch>,
    readings: Receiver<Reading>,
}

impl Reader {
    fn start<'scope>(scope: &'scope Scope<'scope, '_>, pagemap: &'scope File) -> io::Result<Self> {
        let (batches, to_read) = channel::<Batch>();
        let (read, readings) = channel();
        Builder::new().spawn_scoped(scope, move || {
            for mut batch in to_read {
                let result = batch.read(pagemap);
                if read.send((batch, result)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { batches, readings })
    }
}

impl<'scope, 'env> Line<'scope, 'env> {
    /// How many batches it takes for so many `threads` that read: one more that is filled.
    pub(super) const fn batches(threads: usize) -> usize {
        1 + if threads > 1 { threads * BATCHES_PER_READER } else { 0 }
    }

    /// A line with as many of the `batches` as [`Self::batches`] says.
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        pagemap: &'env File,
        batches: &'env mut Vec<Batch>,
        shift: Shift,
    ) -> Self {
        let max_readers = (batches.len() - 1) / BATCHES_PER_READER;
        Self {
            scope,
            pagemap,
            spare: batches,
            readers: Vec::new(),
            max_readers,
            sent: 0,
            running: VecDeque::new(),
            has_scanned: false,
            shift,
        }
    }

    /// Adds `pages`, which come after all before, with what a scan said of them; `None` if it was not asked.
    pub(super) fn add(
        &mut self,
        mut pages: Range<u64>,
        categories: Option<PageCategories>,
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
        let batch = self.take_filled();
        self.read(batch, emit)
    }

    /// Rests as the budget says.
    pub(super) fn rest(&mut self) {
        self.shift.rest();
    }

    fn take_filled(&mut self) -> Batch {
        self.spare.pop().expect("one is filled while others are read")
    }

    /// Has the batch that was filled read, by another thread if that pays.
    fn send(&mut self, emit: &mut impl FnMut(PageRun)) -> Result<(), ProbeError> {
        let batch = self.take_filled();
        if batch.lookups() < MIN_LOOKUPS {
            return self.read(batch, emit);
        }
        let Some(reader) = self.next_reader() else {
            return self.read(batch, emit);
        };
        self.readers[reader].batches.send(batch).expect("reading does not panic");
        self.sent += 1;
        self.running.push_back(reader);
        if self.spare.is_empty() { self.tell_first(emit) } else { Ok(()) }
    }

    /// Whose turn it is to read; `None` if it is this thread's. Where the system has no room for another thread, there are as many as
    /// there are.
    fn next_reader(&mut self) -> Option<usize> {
        if self.sent.checked_rem(self.max_readers)? == self.readers.len() {
            match Reader::start(self.scope, self.pagemap) {
                Ok(reader) => self.readers.push(reader),
                Err(_) => self.max_readers = self.readers.len(),
            }
        }
        self.sent.checked_rem(self.max_readers)
    }

    /// Reads `batch`, which comes after all that are being read, and tells it after them.
    fn read(&mut self, mut batch: Batch, emit: &mut impl FnMut(PageRun)) -> Result<(), ProbeError> {
        let result = batch.read(self.pagemap);
        let result = self.tell_all(emit).and(result);
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
        let Some(reader) = self.running.pop_front() else { return Ok(()) };
        let reading = self.readers[reader].readings.recv().expect("reading does not panic");
        self.tell(reading, emit)
    }

    fn tell(
        &mut self,
        (mut batch, result): Reading,
        emit: &mut impl FnMut(PageRun),
    ) -> Result<(), ProbeError> {
        if result.is_ok() {
            batch.tell(emit);
        }
        self.has_scanned |= batch.was_scanned;
        batch.clear();
        self.spare.push(batch);
        result
    }
}

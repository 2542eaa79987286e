//! Walks the pages of a range and tells everything that is asked for of each, as runs.
//!
//! Layer: shell. Input: an open `/proc/PID/pagemap`. Output: [`PageRun`]s; pages in none are absent.
//! Source: `Documentation/admin-guide/mm/pagemap.rst`, `fs/proc/page.c`.
//! Keeps: memory is bounded whatever the range; the lock of the memory map and the CPU are taken as [`Budget`] says.
//! Not here: bit layouts (`pagemap`), which regions to walk.

mod batch;
mod columns;
mod line;

use std::{fs::File, os::fd::AsFd, thread};

use batch::Batch;
pub(super) use batch::Part;
pub(super) use columns::Columns;
use line::Line;

use super::{
    ProbeError,
    budget::Budget,
    files::FileError,
    pages::{QUERY, is_gone},
};
use crate::{
    pagemap::{PageCategories, PageRun},
    select::ScanMasks,
    sys::scan::{Query, Scanner},
    units::{PageSize, VirtRange, Vpn},
};

/// Pages that are not absent; what words say of them the scan need not: the kernel would read the flags of each frame for it.
const SCAN: Query = Query { wanted: QUERY.wanted.difference(PageCategories::OF_WORDS), ..QUERY };

/// Pages that are not scanned where such before them were small and all there: a scan would take a good part of the time, and
/// tell nothing.
const UNSCANNED_PAGES: u64 = 1 << 16;

/// What to tell of each page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its flags.
    pub flags: bool,
    /// How often it is mapped.
    pub mapcount: bool,
    /// Its memory cgroup.
    pub cgroup: bool,
}

/// Walks pages.
#[derive(Debug)]
pub struct PageWalker {
    page: PageSize,
    /// `None` where the kernel has no `PAGEMAP_SCAN`, or it is not to be used.
    scanner: Option<Scanner>,
    query: Query,
    /// Whether pages may go without a scan if words and flags say the same.
    may_skip: bool,
    budget: Budget,
    /// Those of a [`Line`].
    batches: Vec<Batch>,
}

impl PageWalker {
    /// Categories that a walk tells of each page where the kernel scans.
    pub const TELLS: PageCategories = QUERY.wanted;

    /// A walker for processes with base pages of size `page`; without `scan`, the host has no `PAGEMAP_SCAN`.
    ///
    /// Fails if a file that tells what is `wanted` cannot be read: those are for root. Without any of them a walk needs no rights
    /// beyond those to open `pagemap`.
    pub fn new(page: PageSize, scan: bool, wanted: Wanted, budget: Budget) -> Result<Self, FileError> {
        let scanner = scan.then(|| Scanner::new(page, budget.max_lock));
        let batch = |_| {
            let scanner = scan.then(|| Scanner::new(page, budget.max_lock));
            Ok(Batch::new(page, scanner, Columns::open(wanted, scan)?))
        };
        let batches = (0..Line::batches(budget.threads())).map(batch).collect::<Result<_, FileError>>()?;
        Ok(Self { page, scanner, query: SCAN, may_skip: wanted.flags, budget, batches })
    }

    /// A walker that leaves out pages which do not pass `masks`, where the kernel scans, and has `wanted` told of the others.
    #[must_use]
    pub fn narrowed(self, masks: ScanMasks, wanted: PageCategories) -> Self {
        let ScanMasks { inverted, all_of, any_of } = masks;
        let wanted = SCAN.wanted | wanted.difference(PageCategories::OF_WORDS);
        Self { query: Query { inverted, all_of, any_of, wanted }, may_skip: false, ..self }
    }

    /// What [`Self::walk`] can tell of a page.
    #[must_use]
    pub fn tells(&self) -> PageCategories {
        if self.scanner.is_some() { Self::TELLS } else { PageCategories::OF_WORDS }
    }

    /// Hands `sink` the pages of `range`, which begins at a page, in address order.
    ///
    /// If the process ends or executes a program meanwhile, what was seen until then has been handed over, and the error is
    /// [`ProbeError::Gone`].
    pub fn walk(
        &mut self,
        pagemap: &File,
        range: VirtRange,
        mut sink: impl FnMut(PageRun),
    ) -> Result<(), ProbeError> {
        let mut last: Option<PageRun> = None;
        let result = self.walk_runs(pagemap, range, &mut |run| {
            if !last.as_mut().is_some_and(|last| last.try_append(&run))
                && let Some(last) = last.replace(run)
            {
                sink(last);
            }
        });
        last.into_iter().for_each(sink);
        result
    }

    /// As [`Self::walk`], but runs may be followed by some that are alike.
    fn walk_runs(
        &mut self,
        pagemap: &File,
        range: VirtRange,
        emit: &mut impl FnMut(PageRun),
    ) -> Result<(), ProbeError> {
        if is_gone(pagemap)? {
            return Err(ProbeError::Gone);
        }
        let Self { page, scanner, query, may_skip, budget, batches } = self;
        thread::scope(|scope| {
            let mut line = Line::new(scope, pagemap, batches, budget.shift());
            let Some(scanner) = scanner else {
                // The words say it all.
                let result = line.add(range.vpns(*page), None, emit);
                return result.and(line.finish(emit));
            };
            let mut rest = Some(range);
            let mut result = Ok(());
            while let (Some(range), Ok(())) = (rest, &result) {
                let mut small = 0;
                let step = scanner.step(pagemap.as_fd(), range, *query).map_err(ProbeError::from);
                result = step.and_then(|(mut runs, left)| {
                    rest = left;
                    runs.try_for_each(|run| {
                        let pages = run.range.vpns(*page);
                        small += if run.categories.is_empty() { pages.end - pages.start } else { 0 };
                        line.add(pages, Some(run.categories), emit)
                    })
                });
                let start = rest.map_or(range.end(), VirtRange::start).vpn(*page).as_raw();
                let are_small = small == start - range.start().vpn(*page).as_raw();
                if let (Some(behind), Ok(())) = (rest, &result)
                    && *may_skip
                    && are_small
                    && !line.has_scanned
                {
                    let until = behind.end().vpn(*page).as_raw().min(start + UNSCANNED_PAGES);
                    result = line.add(start..until, None, emit);
                    rest = VirtRange::new(Vpn::from_raw(until).start(*page), behind.end());
                }
                // Page tables without pages take time too.
                line.rest();
            }
            result.and(line.finish(emit))
        })
    }
}

//! Tables of a recording, and of one that is being made.
//!
//! Input: a [`Recording`] or an [`InProgress`]. Output: what `memtrace export` writes, and its rows.
//! Keeps: a table of a finished recording is exported once.
//! Not here: the columns (`rows`).

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::{
    recording::{InProgress, Memtrace, Recording},
    rows::{FaultRow, FrameRow, LossRow, MapRow, PageRow, ProcessRow, RegionRow, RssRow, TimelineRow},
};

impl InProgress {
    /// The rows of the table `pages` of what is in the file by now.
    #[must_use]
    #[track_caller]
    pub fn pages_so_far(&self) -> Vec<PageRow> {
        rows(self.memtrace, &self.path, "pages")
    }

    /// The rows of the table `faults` of what is in the file by now.
    #[must_use]
    #[track_caller]
    pub fn faults_so_far(&self) -> Vec<FaultRow> {
        rows(self.memtrace, &self.path, "faults")
    }

    /// Waits until a stack with such a frame is in the file.
    #[track_caller]
    pub fn wait_for_stack(&mut self, is_it: impl Fn(&FrameRow) -> bool) {
        let (memtrace, path) = (self.memtrace, self.path.clone());
        self.running.wait_for("a stack", |_| {
            rows::<FrameRow>(memtrace, &path, "frames").iter().any(&is_it).then_some(())
        });
    }

    /// The rows of the table `regions` of what is in the file by now.
    #[must_use]
    #[track_caller]
    pub fn regions_so_far(&self) -> Vec<RegionRow> {
        rows(self.memtrace, &self.path, "regions")
    }

    /// The rows of the table `timeline` of what is in the file by now.
    #[must_use]
    #[track_caller]
    pub fn timeline_so_far(&self) -> Vec<TimelineRow> {
        rows(self.memtrace, &self.path, "timeline")
    }
}

impl Recording {
    /// A table as CSV.
    #[must_use]
    #[track_caller]
    pub fn export(&self, table: &str) -> String {
        self.once(table, || export(self.memtrace, self.path(), table))
    }

    /// The rows of a table.
    #[track_caller]
    fn rows<T: DeserializeOwned>(&self, table: &str) -> Vec<T> {
        parse(table, &self.export(table))
    }

    /// The table `faults`.
    #[must_use]
    #[track_caller]
    pub fn faults(&self) -> Vec<FaultRow> {
        self.rows("faults")
    }

    /// The table `frames`.
    #[must_use]
    #[track_caller]
    pub fn frames(&self) -> Vec<FrameRow> {
        self.rows("frames")
    }

    /// The table `timeline`.
    #[must_use]
    #[track_caller]
    pub fn timeline(&self) -> Vec<TimelineRow> {
        self.rows("timeline")
    }

    /// The table `maps`.
    #[must_use]
    #[track_caller]
    pub fn maps(&self) -> Vec<MapRow> {
        self.rows("maps")
    }

    /// The table `pages`.
    #[must_use]
    #[track_caller]
    pub fn pages(&self) -> Vec<PageRow> {
        self.rows("pages")
    }

    /// The table `regions`.
    #[must_use]
    #[track_caller]
    pub fn regions(&self) -> Vec<RegionRow> {
        self.rows("regions")
    }

    /// The table `rss`.
    #[must_use]
    #[track_caller]
    pub fn rss(&self) -> Vec<RssRow> {
        self.rows("rss")
    }

    /// The table `processes`.
    #[must_use]
    #[track_caller]
    pub fn process_rows(&self) -> Vec<ProcessRow> {
        self.rows("processes")
    }

    /// The table `losses`.
    #[must_use]
    #[track_caller]
    pub fn losses(&self) -> Vec<LossRow> {
        self.rows("losses")
    }
}

/// A table of the recording at `path` as CSV.
#[track_caller]
fn export(memtrace: Memtrace, path: &Path, table: &str) -> String {
    memtrace.run(["export", "-f", "csv", "--table", table]).arg(path).finish().expect_code(0).stdout
}

/// The rows of a table of the recording at `path`.
#[track_caller]
fn rows<T: DeserializeOwned>(memtrace: Memtrace, path: &Path, table: &str) -> Vec<T> {
    parse(table, &export(memtrace, path, table))
}

/// The rows of the CSV `text` of a table.
#[track_caller]
fn parse<T: DeserializeOwned>(table: &str, text: &str) -> Vec<T> {
    let rows: Result<_, _> = csv::Reader::from_reader(text.as_bytes()).into_deserialize().collect();
    rows.unwrap_or_else(|cause| panic!("table {table}: {cause}"))
}

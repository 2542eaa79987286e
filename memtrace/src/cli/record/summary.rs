//! The lines at the end of a recording.
//!
//! Layer: top. Input: totals and cost. Output: stderr.
//! Keeps: a loss is always said; what is unknown is not printed as 0.
//! Not here: the full report (`report`).

use std::io::{self, Write as _};

use super::recording::RecordingFile;
use crate::{
    event::{FaultCounts, LossCause},
    pipeline::Detail,
    record::End,
    timeline::Summary,
    units::{Nanos, Printable},
};

/// Prints what was recorded, what was lost, what it cost, where it is, and what to type next.
pub(super) fn print(summary: &Summary, end: &End, detail: Detail, output: &RecordingFile) -> io::Result<()> {
    let mut err = anstream::stderr().lock();
    let FaultCounts { minor, major } = match detail {
        Detail::Full => summary.faults.completed,
        Detail::Counts => summary.heat,
    };
    let others = summary.faults.incomplete();
    let wall = end.time.max(summary.end).since(summary.host.start);
    let processes = match summary.tasks.processes {
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    };
    writeln!(
        err,
        "memtrace: {minor} minor and {major} major faults, {others} that did not complete, in {} of {processes}",
        seconds(wall),
    )?;
    match summary.losses.as_slice() {
        [] => writeln!(err, "memtrace: lost nothing")?,
        losses => {
            let hint = if losses.iter().any(|loss| loss.cause == LossCause::EventsRing) {
                "; a larger --ring-size loses less"
            } else {
                ""
            };
            let known: u64 = losses.iter().filter_map(|loss| loss.count).sum();
            let at_least = if losses.iter().all(|loss| loss.count.is_some()) { "" } else { "at least " };
            writeln!(
                err,
                "memtrace: lost {at_least}{known} records in {} gaps: `memtrace export --table losses` lists them{hint}",
                losses.len()
            )?;
        }
    }
    if let Some(count @ 1..) = summary.maps.identity.unverified {
        let who = if count == 1 { "1 process".to_owned() } else { format!("{count} processes") };
        writeln!(err, "memtrace: {who} ended without a last comparison of maps")?;
    }
    writeln!(
        err,
        "memtrace: recorder used {} of CPU, scanned {} pages in {} scans",
        seconds(Nanos::new(end.cost.cpu_ns)),
        end.cost.scanned_pages,
        end.cost.scans
    )?;
    if let Some(path) = &output.path {
        let size = output.output.file.metadata()?.len();
        let path = Printable::new(path);
        writeln!(err, "memtrace: wrote {path} ({} KiB)", size.div_ceil(1024))?;
        writeln!(err, "memtrace: next: memtrace report {path}")?;
    }
    Ok(())
}

/// A time in seconds, to the millisecond.
fn seconds(time: Nanos) -> String {
    let millis = time.get() / 1_000_000;
    format!("{}.{:03} s", millis / 1000, millis % 1000)
}

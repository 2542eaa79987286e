//! What was resident, for people: what went and was faulted in again, and how far regions are from the kernel's counters.

use std::fmt::{self, Formatter};

use super::heading;
use crate::{
    report::{
        Report,
        numbers::{Difference, Share, Size, Time},
    },
    timeline::{RefaultTotals, Residency, RssCheck, RssDifference},
    units::PageCount,
};

impl Report {
    pub(super) fn refaults(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let refaults = &self.summary.refaults;
        if refaults.is_empty() {
            return Ok(());
        }
        heading(f, "Given back, and faulted again", ["faults", "share", "stall"])?;
        for (departure, RefaultTotals { faults, latency_sum }) in refaults {
            let share = Share(*faults, self.recorded().total());
            let stall = Time(latency_sum.get()).to_string();
            writeln!(f, "  {:<24}{faults:>12}{share:>12}{stall:>12}", departure.name())?;
        }
        writeln!(f, "  by region and code: memtrace report --by refault,file,function")
    }

    pub(super) fn rss_check(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let RssCheck { readings, largest: Some(largest) } = self.summary.rss_check else { return Ok(()) };
        heading(f, "Regions against the kernel's counters", ["regions", "unknown", "kernel", "difference"])?;
        let RssDifference { time, process, counted, residency: Residency { pages, unknown } } = largest;
        let bytes = |pages: PageCount| pages.get().saturating_mul(self.header.host.page.bytes());
        let [regions, unknown, kernel] =
            [pages, unknown, counted].map(|pages| Size(bytes(pages)).to_string());
        let difference = Difference(bytes(pages), bytes(counted));
        let difference = format!("{}{}", difference.sign(), Size(difference.size()));
        let label = self.process_label(process);
        writeln!(f, "  {label:<24}{regions:>12}{unknown:>12}{kernel:>12}{difference:>12}")?;
        let time = Time(time.since(self.header.host.start).get());
        writeln!(f, "  at {time}: the largest difference of {readings} readings")
    }
}

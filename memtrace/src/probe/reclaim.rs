//! Reads how many pages the kernel has reclaimed.
//!
//! Layer: shell. Input: `/proc/vmstat`. Output: [`ReclaimReading`]s.
//! Source: `shrink_inactive_list` and `evict_folios` of `mm/vmscan.c`: since Linux 5.8 `pgsteal_anon` and `pgsteal_file` count what is
//! reclaimed for the limit of a cgroup too, which `pgsteal_kswapd` and its like leave out.
//! Keeps: one small read at a time; what is not counted gives no reading.
//! Not here: which pages were reclaimed: the kernel does not say (`pipeline`).

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
};

use crate::{event::ReclaimReading, sys::clock, units::Timestamp};

/// The kernel's counters.
#[derive(Debug)]
pub struct ReclaimReader {
    file: File,
    text: String,
}

impl ReclaimReader {
    /// Opens them.
    pub fn open() -> io::Result<Self> {
        Ok(Self { file: File::open("/proc/vmstat")?, text: String::new() })
    }

    /// What they are now; `None` if the kernel does not count that.
    pub fn read(&mut self) -> Option<ReclaimReading> {
        self.text.clear();
        self.file.rewind().ok()?;
        self.file.read_to_string(&mut self.text).ok()?;
        parse(&self.text, clock::boottime())
    }
}

fn parse(text: &str, time: Timestamp) -> Option<ReclaimReading> {
    let count = |name: &str| {
        let row = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        row.and_then(|count| count.parse().ok())
    };
    Some(ReclaimReading { time, swap_backed: count("pgsteal_anon")?, file: count("pgsteal_file")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_those_of_kinds_of_pages() {
        let time = Timestamp::from_nanos(7);
        let text = "pgsteal_kswapd 5\npgscan_anon 6\npgsteal_anon 70\npgsteal_file 800\nslabs_scanned 9\n";

        assert_eq!(parse(text, time), Some(ReclaimReading { time, swap_backed: 70, file: 800 }));
        assert_eq!(parse("pgsteal_kswapd_normal 5\npgsteal_file 800\n", time), None);
    }
}

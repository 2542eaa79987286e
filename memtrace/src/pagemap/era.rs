//! How the words of one kernel are to be read.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    categories::PageCategories,
    entry::{PagemapEntry, PagemapEra, Residence},
    flags::FlagsEra,
    swap::SwapLayout,
};

/// The release of a kernel, as far as it tells of eras.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// 6 of `6.18.44`.
    pub major: u32,
    /// 18 of `6.18.44`.
    pub minor: u32,
}

impl Release {
    /// The release in the words of `uname -r`; one that cannot be read is taken for the newest.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok());
        let major = numbers.next().unwrap_or(u32::MAX);
        Self { major, minor: numbers.next().unwrap_or(0) }
    }

    /// That of Linux `major.minor`.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
}

/// What the bits of a kernel's words mean: found by trying when it is met, and kept with what it told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageEra {
    /// Layout of the words of `/proc/PID/pagemap`; `None` if it could not be read.
    pub pagemap: Option<PagemapEra>,
    /// Meaning of the words of `/proc/kpageflags`, by the release of the kernel.
    pub flags: FlagsEra,
    /// Types of swap entries; `None` if the kernel does not say which it has.
    pub swap: Option<SwapLayout>,
    /// Categories that `PAGEMAP_SCAN` takes: none where there is no such ioctl.
    pub scan: PageCategories,
}

impl PageEra {
    /// Where the page of `entry` is; `None` if the layout of words is not known.
    #[must_use]
    pub fn residence(&self, entry: PagemapEntry) -> Option<Residence> {
        Some(entry.residence(self.pagemap?, self.swap))
    }
}

impl fmt::Display for PageEra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pagemap {
            Some(era) => write!(f, "pagemap as of Linux {}", era.release())?,
            None => f.write_str("pagemap not known")?,
        }
        write!(f, ", flags as of Linux {}", self.flags.release())?;
        match self.swap {
            Some(layout) => write!(f, ", up to {} swap areas", layout.areas()),
            None => f.write_str(", types of swap entries not known"),
        }
    }
}

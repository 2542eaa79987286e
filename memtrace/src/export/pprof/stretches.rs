//! Stretches of files with code, and the addresses that a profile has for them.
//!
//! Where a file is mapped differs from process to process, and what it is of a profile is not: an address in a profile is the
//! offset in the file on top of a base of the file's own, [`FILE_BYTES`] above that of the file before. So a place in code is one
//! location, whichever processes ran it, and no two files share addresses.
//!
//! Who looks for names by a profile finds the segment of the file by the offset at which the mapping begins, and moves addresses by the
//! difference between the segment's offset and its address (`elfexec.GetBase` of pprof). So a mapping is not a whole file, but one
//! executable stretch of it, as regions were mapped.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use rangemap::RangeSet;

use crate::timeline::{Module, RegionSummary};

/// Distance from the addresses of one file to those of the next, in bytes: more than any file with code has.
pub(super) const FILE_BYTES: u64 = 1 << 36;

/// What mappings begin and end at, where no region says better, in bytes.
const ALIGNMENT: u64 = 1 << 12;

/// A file with code: what maps calls it, and what distinguishes it from others of that name.
pub(super) type File = (Arc<[u8]>, Option<Arc<[u8]>>);

/// What of files was mapped to be executed.
#[derive(Debug, Default)]
pub(super) struct Stretches {
    /// In offsets in bytes.
    of: BTreeMap<File, RangeSet<u64>>,
}

impl Stretches {
    /// Notes what of a file `region` had, if that could be executed.
    pub(super) fn note(&mut self, region: &RegionSummary) {
        let label = &region.label;
        let Some(start) = label.file_offset.filter(|_| label.perms[2] == b'x') else { return };
        let Module::Named(name) = Module::of(Arc::clone(&label.name)) else { return };
        let range = start..start.saturating_add(label.range.bytes());
        if !range.is_empty() {
            self.of.entry((name, region.build_id.clone())).or_default().insert(range);
        }
    }

    /// The stretch of `file` with the code at `offset`.
    pub(super) fn around(&self, file: &File, offset: u64) -> Range<u64> {
        let noted = self.of.get(file).and_then(|stretches| stretches.get(&offset)).cloned();
        noted.unwrap_or_else(|| {
            let start = offset - offset % ALIGNMENT;
            start..start.saturating_add(ALIGNMENT)
        })
    }
}

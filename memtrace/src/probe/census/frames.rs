//! Takes a census of all physical memory.

use super::super::{
    files::FileError,
    idle::IdleMarker,
    physical::{FrameRun, PhysicalReader},
};
use crate::{
    census::{Rules, Tally},
    select::Selection,
    units::FrameIndex,
};

/// Takes censuses of frames.
#[derive(Debug)]
pub struct FrameCensusTaker {
    rules: Rules,
    selection: Selection,
    reader: PhysicalReader,
    idle: Option<IdleMarker>,
}

impl FrameCensusTaker {
    /// A taker that counts the frames in `selection` which `reader` tells of, and marks them idle if `idle` is there.
    #[must_use]
    pub const fn new(
        rules: Rules,
        selection: Selection,
        reader: PhysicalReader,
        idle: Option<IdleMarker>,
    ) -> Self {
        Self { rules, selection, reader, idle }
    }

    /// Counts frames, and hands each run of them to `list`.
    pub fn take(&mut self, mut list: impl FnMut(&FrameRun)) -> Result<Tally, FileError> {
        let Self { rules, selection, reader, idle } = self;
        let mut tally = Tally::default();
        let all = PhysicalReader::ALL;
        for part in selection.parts(all.start.as_raw()..all.end.as_raw()) {
            let frames = FrameIndex::from_raw(part.start)..FrameIndex::from_raw(part.end);
            reader.walk(frames, |run| {
                if !selection.takes_frame(&run.frame, rules.era.flags) {
                    return;
                }
                tally.add_frames(run.frames, &run.frame);
                if let (Some(first), Some(idle)) = (run.first.pfn(), &mut *idle) {
                    idle.mark(first, run.frames);
                }
                list(&run);
            })?;
        }
        idle.as_mut().map_or(Ok(()), IdleMarker::finish)?;
        Ok(tally)
    }

    /// How words were read.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }
}

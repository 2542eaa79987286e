//! Lists of pages, as page-types prints them.

use std::io;

use crate::{
    pagemap::{EntryFlags, EntryRun, FlagsEra, Frame, PageFlags, PagemapEntry},
    units::PageCount,
};

/// Which pages are listed, and what of them.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "choices that people can make independently")]
pub struct Listing {
    /// One line for each page, not for neighbours that are alike.
    pub is_each: bool,
    /// Name of the column of offsets: `voffset` of processes, `foffset` of files; none of memory.
    pub offset: Option<&'static str>,
    /// The inode of the memory cgroup.
    pub has_cgroup: bool,
    /// How often it is mapped.
    pub has_mapcount: bool,
    /// Flags as [`super::Style::is_raw`] has it.
    pub is_raw: bool,
}

/// Writes a list of pages.
#[derive(Debug)]
pub struct List<W: io::Write> {
    out: W,
    listing: Listing,
    era: FlagsEra,
    last: Option<Line>,
}

/// Neighbours that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    /// Number of the first page.
    page: u64,
    /// Number of its frame, or of its slot in swap.
    place: u64,
    count: u64,
    flags: PageFlags,
    cgroup: u64,
    mapcount: u64,
}

impl<W: io::Write> List<W> {
    /// Writes the header of a list.
    pub fn new(mut out: W, listing: Listing, era: FlagsEra) -> io::Result<Self> {
        let columns = [
            listing.offset,
            listing.has_cgroup.then_some("cgroup"),
            listing.has_mapcount.then_some("map-cnt"),
            Some("offset"),
            (!listing.is_each).then_some("len"),
            Some("flags"),
        ];
        let columns: Vec<_> = columns.into_iter().flatten().collect();
        writeln!(out, "{}", columns.join("\t"))?;
        Ok(Self { out, listing, era, last: None })
    }

    /// Lists the pages of `run`, of which the first has the number `page`. Pages without a frame are left out.
    pub fn add(&mut self, page: u64, run: &EntryRun, frame: &Frame) -> io::Result<()> {
        let entry = run.entry;
        let of_entry = EntryFlags::from_bits_retain(entry.as_raw());
        let place = match entry.pfn() {
            Some(frame) => frame.as_raw(),
            // As page-types has it, whatever the type says.
            None if of_entry.contains(EntryFlags::SWAPPED) => entry.offset(),
            None => return Ok(()),
        };
        let step = entry.advanced(1).map_or(0, PagemapEntry::low_bits) != entry.low_bits();
        let line = self.line(page, place, run.pages, frame, of_entry);
        if step {
            return self.append(line);
        }
        (0..line.count).try_for_each(|nth| self.append(Line { page: page + nth, count: 1, ..line }))
    }

    /// Lists `frames` from the number `first` on, of which it is not known who maps them.
    pub fn add_frames(&mut self, first: u64, frames: PageCount, frame: &Frame) -> io::Result<()> {
        let line = self.line(first, first, frames, frame, EntryFlags::empty());
        self.append(line)
    }

    fn line(&self, page: u64, place: u64, pages: PageCount, frame: &Frame, entry: EntryFlags) -> Line {
        let Listing { has_cgroup, has_mapcount, is_raw, .. } = self.listing;
        let known = |is_asked: bool, word: Option<u64>| if is_asked { word.unwrap_or(0) } else { 0 };
        Line {
            page,
            place,
            count: pages.get(),
            flags: frame.flags.unwrap_or_default().shown(entry, is_raw, self.era),
            cgroup: known(has_cgroup, frame.cgroup),
            mapcount: known(has_mapcount, frame.mapcount),
        }
    }

    /// Ends the list.
    pub fn finish(&mut self) -> io::Result<()> {
        self.last.take().map_or(Ok(()), |line| self.write(line))?;
        self.out.flush()
    }

    fn append(&mut self, next: Line) -> io::Result<()> {
        if self.listing.is_each {
            let each = |nth| Line { page: next.page + nth, place: next.place + nth, count: 1, ..next };
            return (0..next.count).try_for_each(|nth| self.write(each(nth)));
        }
        if let Some(line) = &mut self.last {
            let after = Line { page: line.page + line.count, place: line.place + line.count, ..*line };
            if (Line { count: line.count, ..next }) == after {
                line.count += next.count;
                return Ok(());
            }
        }
        self.last.replace(next).map_or(Ok(()), |line| self.write(line))
    }

    fn write(&mut self, line: Line) -> io::Result<()> {
        let Line { page, place, count, flags, cgroup, mapcount } = line;
        if self.listing.offset.is_some() {
            write!(self.out, "{page:x}\t")?;
        }
        if self.listing.has_cgroup {
            write!(self.out, "@{cgroup}\t")?;
        }
        if self.listing.has_mapcount {
            write!(self.out, "{mapcount}\t")?;
        }
        write!(self.out, "{place:x}\t")?;
        if !self.listing.is_each {
            write!(self.out, "{count:x}\t")?;
        }
        writeln!(self.out, "{}", flags.letters())
    }
}

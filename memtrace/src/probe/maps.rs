//! Parses `/proc/PID/maps`.
//!
//! Layer: shell. Input: the text as read. Output: [`Vma`]s.
//! Source: `show_map_vma` of `fs/proc/task_mmu.c`; `proc_pid_maps(5)`.
//! Keeps: names as bytes, as printed (`\012` for a newline, ` (deleted)` at the end), because a path need
//! not be UTF-8; addresses up to 2^64, because vsyscall lies at the top.
//! Not here: what a name means (`region`).

use crate::{
    event::Vma,
    units::{VirtAddr, VirtRange},
};

/// A line that is no row of maps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{line}' is no row of /proc/PID/maps")]
pub struct MapsError {
    line: String,
}

/// The rows of `text`, in address order and apart.
///
/// The kernel writes the text page by page, and the address space may change in between, so that a row
/// may cover part of the one before it; the later row is the newer one and wins.
pub fn parse(text: &[u8]) -> Result<Vec<Vma>, MapsError> {
    let mut vmas: Vec<Vma> = Vec::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let vma = row(line).ok_or_else(|| MapsError { line: String::from_utf8_lossy(line).into_owned() })?;
        while let Some(previous) = vmas.pop_if(|previous| previous.range.end() > vma.range.start()) {
            if let Some(range) = VirtRange::new(previous.range.start(), vma.range.start()) {
                vmas.push(Vma { range, ..previous });
            }
        }
        vmas.push(vma);
    }
    Ok(vmas)
}

/// One row: `START-END PERMS OFFSET MAJOR:MINOR INODE`, and after blanks a name if there is one.
fn row(line: &[u8]) -> Option<Vma> {
    let (range, rest) = field(line)?;
    let (perms, rest) = field(rest)?;
    let (offset, rest) = field(rest)?;
    let (device, rest) = field(rest)?;
    // Without a name the inode ends the line, or blanks follow it.
    let (inode, name) = field(rest).unwrap_or((rest, b""));
    let (start, end) = split(range, b'-')?;
    let (major, minor) = split(device, b':')?;
    Some(Vma {
        range: VirtRange::new(VirtAddr::from_raw(hex(start)?), VirtAddr::from_raw(hex(end)?))?,
        perms: perms.try_into().ok()?,
        offset: hex(offset)?,
        device: (u32::try_from(hex(major)?).ok()?, u32::try_from(hex(minor)?).ok()?),
        inode: std::str::from_utf8(inode).ok()?.parse().ok()?,
        name: name.trim_ascii_start().to_vec(),
    })
}

/// What stands before the first blank of `text`, and what after it.
fn field(text: &[u8]) -> Option<(&[u8], &[u8])> {
    split(text, b' ')
}

fn split(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

fn hex(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &[u8]) -> Vma {
        let vmas = parse(line).expect("a row as the kernel writes it");
        let [vma] = &vmas[..] else { panic!("{vmas:?}") };
        vma.clone()
    }

    fn range(start: u64, end: u64) -> VirtRange {
        VirtRange::new(VirtAddr::from_raw(start), VirtAddr::from_raw(end)).expect("not empty")
    }

    #[test]
    fn every_field_is_read() {
        let vma = one(
            b"7f2c1a000000-7f2c1a028000 r-xp 0001c000 fd:1f 1835012                    /usr/lib/libc.so.6\n",
        );

        assert_eq!(
            vma,
            Vma {
                range: range(0x7f2c_1a00_0000, 0x7f2c_1a02_8000),
                perms: *b"r-xp",
                offset: 0x1c000,
                device: (0xfd, 0x1f),
                inode: 1_835_012,
                name: b"/usr/lib/libc.so.6".to_vec(),
            }
        );
    }

    #[test]
    fn anonymous_row_has_no_name() {
        // The kernel ends such a line with a blank.
        assert_eq!(one(b"5000-6000 rw-p 00000000 00:00 0 \n").name, b"");
        assert_eq!(one(b"5000-6000 rw-p 00000000 00:00 0\n").name, b"");
    }

    #[test]
    fn blanks_within_a_name_are_part_of_it() {
        let line = b"5000-6000 rw-s 00000000 00:01 9     /tmp/a  file with  blanks (deleted)\n";

        assert_eq!(one(line).name, b"/tmp/a  file with  blanks (deleted)");
    }

    #[test]
    fn newline_in_a_name_stays_escaped() {
        assert_eq!(one(b"5000-6000 r--p 00000000 08:01 77 /tmp/a\\012b\n").name, b"/tmp/a\\012b");
    }

    #[test]
    fn name_need_not_be_utf8() {
        assert_eq!(one(b"5000-6000 r--p 00000000 08:01 77 /tmp/\xff\xfe\n").name, b"/tmp/\xff\xfe");
    }

    #[test]
    fn vsyscall_lies_beyond_half_of_the_numbers() {
        let vma =
            one(b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n");

        assert_eq!(vma.range, range(0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000));
        assert_eq!(vma.name, b"[vsyscall]");
    }

    #[test]
    fn later_row_wins_where_two_overlap() {
        let text = b"1000-3000 rw-p 00000000 00:00 0 \n2000-5000 r--p 00000000 00:00 0 \n";

        let vmas = parse(text).expect("two rows");

        assert_eq!(vmas[0].range, range(0x1000, 0x2000));
        assert_eq!(vmas[1].range, range(0x2000, 0x5000));
        assert_eq!(vmas.len(), 2);
    }

    #[test]
    fn row_that_covers_those_before_replaces_them() {
        let text = b"1000-2000 rw-p 00000000 00:00 0 \n2000-3000 rw-p 00000000 00:00 0 \n\
            1000-5000 rw-p 00000000 00:00 0 \n";

        let vmas = parse(text).expect("three rows");

        assert_eq!(vmas.iter().map(|vma| vma.range).collect::<Vec<_>>(), [range(0x1000, 0x5000)]);
    }

    #[test]
    fn other_text_is_refused_with_the_line() {
        let error = parse(b"5000-6000 rw-p\n").expect_err("fields are missing");

        assert_eq!(error.to_string(), "'5000-6000 rw-p' is no row of /proc/PID/maps");
        assert!(parse(b"6000-6000 rw-p 00000000 00:00 0 \n").is_err());
        assert!(parse(b"5000-6000 rwxpp 00000000 00:00 0 \n").is_err());
    }
}

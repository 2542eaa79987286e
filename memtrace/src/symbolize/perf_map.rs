//! The map that a just-in-time compiler writes of the functions that it made.
//!
//! Source: `tools/perf/Documentation/jit-interface.txt`: a line has start and size in hexadecimal, and a name.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _},
    sync::Arc,
};

use crate::event::Function;

/// Bytes of a map that are read at most: ten times those of a large server.
const MOST: u64 = 256 << 20;

/// The functions of a process, by address.
#[derive(Debug, Default)]
pub(super) struct PerfMap {
    /// By start: the address behind, and the name. None lies in another.
    functions: BTreeMap<u64, (u64, Arc<[u8]>)>,
}

impl PerfMap {
    /// Reads `file`, which may still be written.
    pub(super) fn read(mut file: &File) -> Self {
        let mut text = Vec::new();
        let read = file.rewind().and_then(|()| file.take(MOST).read_to_end(&mut text));
        if let Err(error) = read {
            log::debug!("cannot read the map of a just-in-time compiler: {error}");
        }
        Self::parse(&text)
    }

    /// The functions in `text`. Where code was made in the place of other code, the later line counts; a line that is cut does not.
    pub(super) fn parse(text: &[u8]) -> Self {
        let mut map = Self::default();
        let whole = text.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        for line in text[..whole].split(|byte| *byte == b'\n') {
            if let Some((start, size, name)) = line_of(line) {
                map.add(start, start.saturating_add(size), name.into());
            }
        }
        map
    }

    /// The function at `addr`.
    pub(super) fn of(&self, addr: u64) -> Option<Function> {
        let (start, (end, name)) = self.functions.range(..=addr).next_back()?;
        let offset = (addr < *end).then_some(addr - start)?;
        Some(Function { name: Some(Arc::clone(name)), offset: Some(offset), ..Function::default() })
    }

    /// Adds a function; what it overlaps is not there any more.
    fn add(&mut self, start: u64, end: u64, name: Arc<[u8]>) {
        if start >= end {
            return;
        }
        let before = self.functions.range(..start).next_back();
        let before = before.filter(|(_, (behind, _))| *behind > start).map(|(start, _)| *start);
        let within = self.functions.range(start..end).map(|(start, _)| *start);
        let gone: Vec<u64> = before.into_iter().chain(within).collect();
        for start in gone {
            self.functions.remove(&start);
        }
        self.functions.insert(start, (end, name));
    }
}

/// Start, size and name in a line.
fn line_of(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let mut number =
        || u64::from_str_radix(str::from_utf8(words.next()?).ok()?.trim_start_matches("0x"), 16).ok();
    let (start, size) = (number()?, number()?);
    let name = words.next().filter(|name| !name.is_empty())?;
    Some((start, size, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(map: &PerfMap, addr: u64) -> Option<(String, u64)> {
        let function = map.of(addr)?;
        let name = String::from_utf8_lossy(&function.name?).into_owned();
        Some((name, function.offset?))
    }

    #[test]
    fn function_is_the_one_that_holds_the_address() {
        let map = PerfMap::parse(b"1000 20 JS:~a file.js:1:2\n1040 10 b\n");

        assert_eq!(name(&map, 0x101f), Some(("JS:~a file.js:1:2".to_owned(), 0x1f)));
        assert_eq!(name(&map, 0x1020), None);
        assert_eq!(name(&map, 0x1040), Some(("b".to_owned(), 0)));
        assert_eq!(name(&map, 0xfff), None);
    }

    #[test]
    fn later_code_takes_the_place_of_earlier() {
        let map = PerfMap::parse(b"1000 100 old\n1100 10 next\n0x1080 20 new\n");

        assert_eq!(name(&map, 0x1090), Some(("new".to_owned(), 0x10)));
        assert_eq!(name(&map, 0x1000), None, "it may have been overwritten in part");
        assert_eq!(name(&map, 0x1100), Some(("next".to_owned(), 0)));
    }

    #[test]
    fn what_is_no_line_is_passed_over() {
        let map = PerfMap::parse(
            b"\nx y z\n1000\n1000 10\n1000 10 \nffffffffffffffff 20 top\n2000 10 whole\n3000 10 cu",
        );

        assert_eq!(name(&map, 0x1000), None);
        assert_eq!(name(&map, 0x2000), Some(("whole".to_owned(), 0)));
        assert_eq!(name(&map, 0x3000), None, "its line is cut");
        assert_eq!(name(&map, u64::MAX), None, "no address lies behind it");
    }
}

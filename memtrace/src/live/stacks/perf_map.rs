//! The file in which the just-in-time compiler of a process names the functions that it makes, if it does.
//!
//! Source: `tools/perf/Documentation/jit-interface.txt`: a line has start and size in hexadecimal, and a name; lines are added
//! as code is made.
//! Keeps: code that is made in the place of other code has its own name from then on. What a process writes is bounded in what it
//! costs.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Read as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::Arc,
};

use rustix::fs::OFlags;

use super::images::SPARE_FILES;
use crate::{
    event::{Function, NamedCode, Tgid},
    sys::limits,
    units::{Nanos, Timestamp},
};

/// Bytes of a file that are read at most: ten times those of a large server.
const MOST: u64 = 256 << 20;

/// Bytes of a line at most, as longer ones are passed over.
const LONGEST: usize = 4 << 10;

/// How often a place of which the name is wanted may be in a function that is added.
const MOST_NAMINGS: u32 = 1 << 20;

/// Time between the first two attempts to open a file, which becomes longer to that: most compilers write none.
const TRY_AGAIN: Nanos = Nanos::new(100_000_000);
const SELDOM: Nanos = Nanos::new(5_000_000_000);

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;

/// The file of one process.
#[derive(Debug)]
pub(super) struct PerfMap {
    path: PathBuf,
    /// Who may have written it, besides root.
    owner: u32,
    /// `None` as long as it is not there.
    file: Option<File>,
    /// When it was last tried to open it, and how long the next attempt waits.
    tried: Timestamp,
    wait: Nanos,
    read: u64,
    /// The begin of a line of which the end has not been written.
    rest: Vec<u8>,
    /// Whether that line is too long.
    is_too_long: bool,
    /// How often places have been in functions that were added.
    namings: u32,
    functions: Functions,
    /// Code of which the names are wanted, and those that it has had, with the times.
    places: BTreeMap<u64, Vec<(Timestamp, Function)>>,
}

/// Functions by start: the address behind, and the name. None lies in another.
#[derive(Debug, Default)]
struct Functions(BTreeMap<u64, (u64, Arc<[u8]>)>);

impl PerfMap {
    /// That of `process`, which is still there.
    pub(super) fn of(Tgid(process): Tgid) -> Self {
        let status =
            procfs::process::Process::new(process.cast_signed()).and_then(|process| process.status());
        let inner = status.ok().and_then(|status| status.nspid?.last().copied());
        let name = format!("tmp/perf-{}.map", inner.unwrap_or(process.cast_signed()));
        let owner = fs::metadata(format!("/proc/{process}")).map_or(0, |metadata| metadata.uid());
        let root = PathBuf::from(format!("/proc/{process}/root"));
        // Where the process sees the files of this one, the file outlives it under its own name.
        let is_own = has_own_files(process);
        Self {
            path: if is_own { PathBuf::from("/") } else { root }.join(name),
            owner,
            file: None,
            tried: Timestamp::default(),
            wait: TRY_AGAIN,
            read: 0,
            rest: Vec::new(),
            is_too_long: false,
            namings: 0,
            functions: Functions::default(),
            places: BTreeMap::new(),
        }
    }

    /// The name of the code at `addr` is wanted; whether it was not before.
    pub(super) fn add_place(&mut self, addr: u64) -> bool {
        let is_new = !self.places.contains_key(&addr);
        if is_new {
            let named = self.functions.of(addr).map(|function| (Timestamp::default(), function));
            self.places.insert(addr, named.into_iter().collect());
        }
        is_new
    }

    /// Takes what has been written by `now`; whether code of which the name is wanted has got another one.
    pub(super) fn read(&mut self, now: Timestamp) -> bool {
        if self.file.is_none() && self.tried.after(self.wait) <= now {
            self.tried = now;
            self.wait = SELDOM.min(Nanos::new(self.wait.get() * 2));
            self.open();
        }
        let mut is_changed = false;
        while let Some(mut file) = self.file.as_ref()
            && self.read < MOST
            && self.namings < MOST_NAMINGS
        {
            let mut piece = std::mem::take(&mut self.rest);
            let before = piece.len();
            // What cannot be read has not been written.
            let _until_now = file.by_ref().take(PIECE).read_to_end(&mut piece);
            self.read += (piece.len() - before) as u64;
            let is_all = piece.len() == before;
            is_changed |= self.take(now, &piece);
            if is_all {
                break;
            }
        }
        is_changed
    }

    /// Takes whole lines of `text`, and keeps what is left.
    fn take(&mut self, now: Timestamp, text: &[u8]) -> bool {
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let (lines, rest) = text.split_at(whole);
        let mut is_changed = false;
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let is_rest = std::mem::take(&mut self.is_too_long);
            let Some((start, size, name)) = line_of(line).filter(|_| !is_rest) else { continue };
            let end = start.saturating_add(size);
            let name: Arc<[u8]> = name.into();
            for (addr, named) in self.places.range_mut(start..end.max(start)) {
                if self.namings == MOST_NAMINGS {
                    log::warn!(
                        "names in {} are not followed any more: too many are of the same code",
                        self.path.display()
                    );
                    return is_changed;
                }
                self.namings += 1;
                let function = function(&name, addr - start);
                match named.last() {
                    Some((_, known)) if *known == function => {}
                    // The first one was written after its code had been seen.
                    None => named.push((Timestamp::default(), function)),
                    Some(_) => {
                        named.push((now, function));
                        is_changed = true;
                    }
                }
            }
            self.functions.add(start, end, name);
        }
        self.is_too_long |= rest.len() > LONGEST;
        self.rest = if self.is_too_long { Vec::new() } else { rest.to_vec() };
        is_changed
    }

    /// Opens the file, if it is there by now.
    fn open(&mut self) {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(&self.path);
        let Ok((metadata, file)) = opened.and_then(|file| Ok((file.metadata()?, file))) else { return };
        // It lies in a directory in which anybody may write.
        let is_its = metadata.is_file() && [0, self.owner].contains(&metadata.uid());
        if is_its && limits::check_files(SPARE_FILES).is_ok() {
            self.file = Some(file);
        }
    }

    /// The names of the code of which they were wanted, with what has been written by `now`: some write when their process ends.
    pub(super) fn into_named(mut self, now: Timestamp) -> Vec<NamedCode> {
        (self.tried, self.wait) = (Timestamp::default(), TRY_AGAIN);
        self.read(now);
        let places = self.places.into_iter();
        let named = places
            .flat_map(|(at, named)| named.into_iter().map(move |(since, function)| (at, since, function)));
        named.map(|(at, since, function)| NamedCode { at, since, functions: [function].into() }).collect()
    }
}

impl Functions {
    fn of(&self, addr: u64) -> Option<Function> {
        let (start, (end, name)) = self.0.range(..=addr).next_back()?;
        (addr < *end).then(|| function(name, addr - start))
    }

    /// Adds a function; what it overlaps is not there any more.
    fn add(&mut self, start: u64, end: u64, name: Arc<[u8]>) {
        if start >= end {
            return;
        }
        let before = self.0.range(..start).next_back();
        let before = before.filter(|(_, (behind, _))| *behind > start).map(|(start, _)| *start);
        let within = self.0.range(start..end).map(|(start, _)| *start);
        let gone: Vec<u64> = before.into_iter().chain(within).collect();
        for start in gone {
            self.0.remove(&start);
        }
        self.0.insert(start, (end, name));
    }
}

/// Whether `process` sees the files of this one: it has the same root directory and the same mounts.
fn has_own_files(process: u32) -> bool {
    let is_same = |own: &str, its: &str| {
        let [own, its] = [own.to_owned(), format!("/proc/{process}/{its}")].map(fs::metadata);
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        own.ok().zip(its.ok()).is_some_and(|(own, its)| id(own) == id(its))
    };
    is_same("/", "root/") && is_same("/proc/self/ns/mnt", "ns/mnt")
}

fn function(name: &Arc<[u8]>, offset: u64) -> Function {
    Function { name: Some(Arc::clone(name)), offset: Some(offset), ..Function::default() }
}

/// Start, size and name in a line.
fn line_of(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let mut number = || {
        let word = str::from_utf8(words.next()?).ok()?;
        u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()
    };
    let (start, size) = (number()?, number()?);
    let name = words.next().filter(|name| !name.is_empty() && line.len() <= LONGEST)?;
    Some((start, size, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(places: &[u64]) -> PerfMap {
        let mut map = PerfMap::of(Tgid(std::process::id()));
        assert!(places.iter().all(|addr| map.add_place(*addr)));
        map
    }

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    /// Since when, where and by which function code is named.
    fn named(map: PerfMap) -> Vec<(u64, u64, String, u64)> {
        let named =
            map.into_named(at(TRY_AGAIN.get())).into_iter().map(|NamedCode { at, since, functions }| {
                let Function { name, offset, .. } = functions[0].clone();
                let name = String::from_utf8_lossy(&name.expect("each has a name")).into_owned();
                (since.as_nanos(), at, name, offset.expect("each has an offset"))
            });
        named.collect()
    }

    #[test]
    fn function_is_the_one_that_holds_the_address() {
        let mut map = map(&[0xfff, 0x101f, 0x1020, 0x1040]);

        assert!(!map.take(at(5), b"1000 20 JS:~a file.js:1:2\n0x1040 10 b\n"));

        assert!(!map.add_place(0x101f));
        assert!(map.add_place(0x1041));
        let expected = [
            (0, 0x101f, "JS:~a file.js:1:2".to_owned(), 0x1f),
            (0, 0x1040, "b".to_owned(), 0),
            (0, 0x1041, "b".to_owned(), 1),
        ];
        assert_eq!(named(map), expected);
    }

    #[test]
    fn code_in_the_place_of_other_code_is_named_from_then_on() {
        let mut map = map(&[0x1090]);

        assert!(!map.take(at(5), b"1000 100 old\n"));
        assert!(!map.take(at(6), b"1000 100 old\n"), "it is the same");
        assert!(map.take(at(7), b"1080 20 new\n"));
        assert!(map.add_place(0x1000), "what is left of the old one may be overwritten");

        let (old, new) = ((0, 0x1090, "old".to_owned(), 0x90), (7, 0x1090, "new".to_owned(), 0x10));
        assert_eq!(named(map), [old, new]);
    }

    #[test]
    fn line_without_an_end_takes_no_room_and_is_passed_over() {
        let mut map = map(&[0x1000, 0x2000]);
        let long = [b"1000 10 ", &[b'a'; 2 * LONGEST][..]].concat();

        assert!(!map.take(at(5), &long));
        assert!(map.rest.is_empty());
        assert!(!map.take(at(6), b"b1000 10 still that line"));
        assert!(map.rest.is_empty());
        assert!(!map.take(at(7), b"1000 10 its end\n2000 10 next\n"));

        assert_eq!(named(map), [(0, 0x2000, "next".to_owned(), 0)]);
    }

    #[test]
    fn code_that_gets_names_without_end_gets_no_more_of_them() {
        let mut map = map(&(0..1_000).collect::<Vec<_>>());
        let names = [&b"0 ffffffffffffffff a\n0 ffffffffffffffff b\n"[..]; 1_000].concat();

        assert!(map.take(at(5), &names));

        let most = usize::try_from(MOST_NAMINGS).expect("few");
        assert_eq!(map.places.values().map(Vec::len).sum::<usize>(), most);
    }

    #[test]
    fn what_is_no_line_is_passed_over_and_one_that_is_cut_waits() {
        let mut map = map(&[0x1000, 0x2000, 0x3000, u64::MAX]);

        let text = b"\nx y z\n1000\n1000 10\n1000 10 \nffffffffffffffff 20 top\n2000 10 whole\n3000 10 cu";
        assert!(!map.take(at(5), text));
        let rest = [&std::mem::take(&mut map.rest)[..], b"t\n"].concat();
        assert!(!map.take(at(6), &rest));

        let expected = [(0, 0x2000, "whole".to_owned(), 0), (0, 0x3000, "cut".to_owned(), 0)];
        assert_eq!(named(map), expected);
    }
}

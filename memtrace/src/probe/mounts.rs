//! Reads which file systems are mounted where.
//!
//! Layer: shell. Input: the bytes of `/proc/self/mountinfo`. Output: [`Mount`]s.
//! Source: `proc_pid_mountinfo(5)`; `fs/proc_namespace.c` (`show_mountinfo`), `fs/seq_file.c` (`mangle_path`). The crate
//! `procfs` keeps the escapes in paths, and reads no line of a table in which one path is not UTF-8.
//! Keeps: paths are bytes; the order is that of the kernel, in which later mounts cover earlier ones.
//! Not here: what the options mean (`hugetlb`, `cgroups`).

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use super::files::{self, FileError, Root};
use crate::event::{Device, Tid};

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Major and minor number of the device that it is on.
    pub(super) device: Device,
    /// The directory of the file system that is mounted.
    pub(super) top: PathBuf,
    /// Where.
    pub(super) point: PathBuf,
    /// Kind of file system, such as `hugetlbfs`.
    pub(super) kind: String,
    /// Options of the file system, separated by commas.
    options: String,
}

impl Mount {
    /// The value of the option `name`, if it is said; empty if it has none.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        self.options.split(',').find_map(|option| match option.split_once('=') {
            Some((key, value)) => (key == name).then_some(value),
            None => (option == name).then_some(""),
        })
    }
}

/// The mounts that this process sees.
pub(super) fn mounts(root: &Root) -> Result<Vec<Mount>, FileError> {
    read(&root.path("/proc/self/mountinfo"))
}

/// The mounts that the thread `tid` sees.
pub(super) fn mounts_of(tid: Tid) -> Result<Vec<Mount>, FileError> {
    read(format!("/proc/{}/mountinfo", tid.0).as_ref())
}

fn read(path: &Path) -> Result<Vec<Mount>, FileError> {
    let table = files::bytes(path)?.ok_or_else(|| FileError::Missing { path: path.to_owned() })?;
    let lines = table.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mounts = lines.map(|line| {
        parse(line).ok_or_else(|| FileError::Strange {
            path: path.to_owned(),
            text: String::from_utf8_lossy(line).into_owned(),
        })
    });
    mounts.collect()
}

/// The mount of a line.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let (device, top, point) = (fields.nth(2)?, fields.next()?, fields.next()?);
    let (major, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
    // Behind the options of the mount, any number of fields ends with a dash.
    fields.find(|field| field == b"-")?;
    let (kind, _source, options) = (fields.next()?, fields.next()?, fields.next()?);
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let device = (major.parse().ok()?, minor.parse().ok()?);
    Some(Mount { device, top: path(top), point: path(point), kind: text(kind), options: text(options) })
}

/// The path that the kernel wrote as `field`, with a backslash and three octal digits for some bytes.
fn path(mut field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    while let Some((first, rest)) = field.split_first() {
        let escaped = rest.get(..3).filter(|_| *first == b'\\').and_then(octal);
        path.push(escaped.unwrap_or(*first));
        field = if escaped.is_some() { &rest[3..] } else { rest };
    }
    OsString::from_vec(path).into()
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

    use super::*;

    #[test]
    fn every_field_has_its_place() {
        let line =
            b"36 35 98:0 /box /mnt/huge rw,noatime master:1 shared:7 - hugetlbfs none rw,pagesize=2M,size=8";

        let mount = parse(line).expect("a line as the kernel writes it");

        assert_eq!((&*mount.top, &*mount.point), ("/box".as_ref(), "/mnt/huge".as_ref()));
        assert_eq!((mount.device, &*mount.kind), ((98, 0), "hugetlbfs"));
        assert_eq!(mount.option("pagesize"), Some("2M"));
        assert_eq!(mount.option("size"), Some("8"));
        assert_eq!(mount.option("rw"), Some(""));
        assert_eq!(mount.option("page"), None);
    }

    #[test]
    fn mount_without_a_source_is_read() {
        let mount = parse(b"40 1 0:9 / /x rw - cgroup  rw,memory").expect("an empty source");

        assert_eq!(mount.option("memory"), Some(""));
    }

    #[test]
    fn escaped_bytes_are_those_of_the_path() {
        assert_eq!(path(b"/a\\040b\\134c\\012"), PathBuf::from("/a b\\c\n"));
        assert_eq!(path(b"/\xff\\9"), PathBuf::from(OsStr::from_bytes(b"/\xff\\9")));
    }

    #[test]
    fn line_without_a_dash_is_none() {
        assert_eq!(parse(b"36 35 98:0 / /mnt rw hugetlbfs none rw"), None);
    }
}

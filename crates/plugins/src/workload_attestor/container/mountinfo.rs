//! `/proc/<pid>/mountinfo`, read line by line: a process may have a hundred thousand mounts.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::Path;

use steeple_runtime::gotext;

use super::names::{Conflict, shorten};

/// Of one line; SPIRE reads no longer ones either.
const MAX_LINE: u64 = 64 * 1024;
/// Of the whole file. A namespace of 100,000 mounts, the most that Linux allows unless told
/// otherwise, has less unless its paths are made to be long.
const MAX_SIZE: u64 = 64 * 1024 * 1024;

/// What we want of a mount.
pub(super) struct Mount<'a> {
    /// Which part of its file system is mounted.
    pub(super) root: &'a str,
    pub(super) fs_type: &'a str,
}

/// Why the mounts of a process are not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountInfoError {
    #[error("{operation} {path}: {}", gotext::system(source))]
    Io { operation: &'static str, path: String, source: io::Error },
    #[error("missing separator in mountinfo line: {}", shorten(.0))]
    NoSeparator(String),
    #[error("expected at least 6 fields before separator in mountinfo line: {}", shorten(.0))]
    TooFewFields(String),
    #[error("missing filesystem type in mountinfo line: {}", shorten(.0))]
    NoType(String),
    #[error("bufio.Scanner: token too long")]
    LongLine,
    #[error("larger than {MAX_SIZE} bytes")]
    TooLarge,
}

impl MountInfoError {
    /// Whether there is no such process.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Shows every mount to `look` until it objects.
pub(super) fn read(
    path: &Path,
    mut look: impl FnMut(Mount<'_>) -> Result<(), Conflict>,
) -> Result<Result<(), Conflict>, MountInfoError> {
    let io = |operation| {
        move |source| MountInfoError::Io { operation, path: path.display().to_string(), source }
    };
    let mut lines = BufReader::new(File::open(path).map_err(io("open"))?);
    let mut line = Vec::new();
    let mut size = 0;
    loop {
        line.clear();
        let length = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        let length = length.map_err(io("read"))? as u64;
        if length == 0 {
            return Ok(Ok(()));
        }
        size += length;
        if size > MAX_SIZE {
            return Err(MountInfoError::TooLarge);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if length == MAX_LINE {
            return Err(MountInfoError::LongLine);
        }
        if line.is_empty() {
            continue;
        }
        if let Err(conflict) = look(parse(&String::from_utf8_lossy(&line))?) {
            return Ok(Err(conflict));
        }
    }
}

/// `id parent device root mount-point options tag… - type source options`, where a source may be
/// empty, so that two spaces follow each other.
fn parse(line: &str) -> Result<Mount<'_>, MountInfoError> {
    let mut fields = line.split(' ');
    let before = fields.clone().position(|field| field == "-");
    let before = before.ok_or_else(|| MountInfoError::NoSeparator(line.to_owned()))?;
    if before < 6 {
        return Err(MountInfoError::TooFewFields(line.to_owned()));
    }
    let root = fields.nth(3).unwrap_or_default();
    match fields.nth(before - 3).filter(|fs_type| !fs_type.is_empty()) {
        Some(fs_type) => Ok(Mount { root, fs_type }),
        None => Err(MountInfoError::NoType(line.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_type_are_found_whatever_stands_between_them() {
        for (line, root, fs_type) in [
            ("1 2 0:32 /a /sys ro,relatime - cgroup2 cgroup rw", "/a", "cgroup2"),
            ("1 2 0:33 /a/b /sys ro master:11 shared:2 - cgroup cgroup rw", "/a/b", "cgroup"),
            ("1 2 0:68 / /local rw,relatime - tmpfs  rw,size=8192k", "/", "tmpfs"),
        ] {
            let mount = parse(line).unwrap();
            assert_eq!((mount.root, mount.fs_type), (root, fs_type));
        }
    }

    #[test]
    fn malformed_lines_are_told_apart() {
        let text = |line: &str| parse(line).err().unwrap().to_string();
        for (line, expected) in [
            ("1 2 0:32 /a /sys ro cgroup2 cgroup rw", "missing separator in mountinfo line: 1 2"),
            ("1 2 0:32 - cgroup2 cgroup rw", "expected at least 6 fields before separator in"),
            ("1 2 0:32 /a /sys rw - ", "missing filesystem type in mountinfo line: 1 2 0:32"),
            ("1 2 0:32 /a /sys rw -", "missing filesystem type in mountinfo line: 1 2 0:32"),
        ] {
            assert!(text(line).starts_with(expected), "{}", text(line));
        }
    }
}

//! What `/proc` says of one process, with errors in the words of Go's `os` package.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

/// A process of 65,536 groups, the most that Linux allows, has a status of 0.7 MB.
const MAX_STATUS: u64 = 2 * 1024 * 1024;
/// Room for the status of a process of a few hundred groups; that of most has 1.4 KB.
const ROOM: usize = 4096;
/// In the standard library's words.
const NOT_UTF8: &str = "stream did not contain valid UTF-8";

/// A process by its id; whether it stays the same one is the caller's to make sure.
pub(super) struct Process {
    dir: PathBuf,
}

/// The effective user and group, and the supplementary groups as the kernel lists them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) supplementary_gids: Vec<u32>,
}

/// Why a process cannot be examined.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProcessError {
    #[error("invalid pid {0}")]
    InvalidPid(i32),
    #[error("process does not exist")]
    NotRunning,
    #[error("{lookup} lookup: {error}")]
    Lookup { lookup: &'static str, error: PathError },
    #[error("{lookup} lookup: no {lookup} for process")]
    NoIds { lookup: &'static str },
    #[error("{lookup} lookup: malformed process status")]
    MalformedIds { lookup: &'static str },
    #[error("SHA256 digest: {0}")]
    Digest(PathError),
}

/// What the system said of a path: `open /proc/1/exe: permission denied`.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}: {}", path.display(), reason(error))]
pub(super) struct PathError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    error: io::Error,
}

impl PathError {
    pub(super) fn new(operation: &'static str, path: &Path, error: io::Error) -> Self {
        Self { operation, path: path.to_owned(), error }
    }
}

impl Process {
    pub(super) fn open(proc_root: &Path, pid: i32) -> Result<Self, ProcessError> {
        if pid <= 0 {
            return Err(ProcessError::InvalidPid(pid));
        }
        Ok(Self { dir: proc_root.join(pid.to_string()) })
    }

    /// Whether the process is there at all is found out here, which is one question less.
    pub(super) fn owner(&self) -> Result<Owner, ProcessError> {
        let path = self.dir.join("status");
        let mut room = [0; ROOM];
        let lookup = |error| ProcessError::Lookup { lookup: "UIDs", error };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.dir.exists() => {
                return Err(ProcessError::NotRunning);
            }
            file => file.map_err(|error| lookup(PathError::new("open", &path, error)))?,
        };
        let failed = |error| lookup(PathError::new("read", &path, error));
        let status = whole(file, &mut room).map_err(failed)?;
        let status = std::str::from_utf8(&status)
            .map_err(|_| failed(io::Error::new(io::ErrorKind::InvalidData, NOT_UTF8)))?;
        parse_owner(status)
    }

    /// The path of the executable as `/proc` shows it.
    pub(super) fn exe(&self) -> Result<PathBuf, ProcessError> {
        let link = self.exe_link();
        fs::read_link(&link).map_err(|error| ProcessError::Lookup {
            lookup: "path",
            error: PathError::new("readlink", &link, error),
        })
    }

    /// The executable itself, even when it lies in another mount namespace or was deleted.
    pub(super) fn open_exe(&self) -> Result<File, ProcessError> {
        let link = self.exe_link();
        File::open(&link)
            .map_err(|error| ProcessError::Digest(PathError::new("open", &link, error)))
    }

    pub(super) fn exe_link(&self) -> PathBuf {
        self.dir.join("exe")
    }
}

/// A whole file of `/proc`. The kernel gives all of it in one reading if there is room, which then
/// ends with a line's end and before the room does; else the rest is read until there is no more.
fn whole<'r>(mut file: impl Read, room: &'r mut [u8; ROOM]) -> io::Result<Cow<'r, [u8]>> {
    let read = loop {
        match file.read(room) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    if read < ROOM && room[..read].ends_with(b"\n") {
        return Ok(Cow::Borrowed(&room[..read]));
    }
    let mut all = room[..read].to_vec();
    file.take(MAX_STATUS).read_to_end(&mut all)?;
    Ok(Cow::Owned(all))
}

/// The path of an open file, in the same form as `/proc/<pid>/exe` shows it.
pub(super) fn path_of(file: &File) -> Result<PathBuf, ProcessError> {
    let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    fs::read_link(&link).map_err(|error| ProcessError::Lookup {
        lookup: "path",
        error: PathError::new("readlink", &link, error),
    })
}

/// Out of `/proc/<pid>/status`. A process cannot forge a line: the kernel escapes its name, the
/// one value that is its own.
fn parse_owner(status: &str) -> Result<Owner, ProcessError> {
    let line =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let uid = effective(line("Uid"), "UIDs")?;
    let gid = effective(line("Gid"), "GIDs")?;
    let supplementary_gids = line("Groups")
        .unwrap_or_default()
        .split_ascii_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|_| ProcessError::MalformedIds { lookup: "supplementary GIDs" })?;
    Ok(Owner { uid, gid, supplementary_gids })
}

/// The second of real, effective, saved and file system id; the only one, if there is one.
fn effective(ids: Option<&str>, lookup: &'static str) -> Result<u32, ProcessError> {
    let mut ids = ids.unwrap_or_default().split_ascii_whitespace();
    let real = ids.next().ok_or(ProcessError::NoIds { lookup })?;
    let effective = ids.next().unwrap_or(real);
    effective.parse().map_err(|_| ProcessError::MalformedIds { lookup })
}

/// The system's words as Go prints them: without the number, and beginning in lower case.
fn reason(error: &io::Error) -> String {
    let Some(errno) = error.raw_os_error() else { return error.to_string() };
    let text = nix::errno::Errno::from_raw(errno).desc();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_ids_count_and_groups_keep_their_order() {
        let status = "Name:\tx\\nUid:\\t0\nUid:\t1000\t1100\t1000\t1000\n\
            Gid:\t2000\t2100\t2000\t2000\nGroups:\t30 10 20 \n";
        let owner = Owner { uid: 1100, gid: 2100, supplementary_gids: vec![30, 10, 20] };
        assert_eq!(parse_owner(status).unwrap(), owner);
        let single = parse_owner("Uid:\t7\nGid:\t8\n").unwrap();
        assert_eq!(single, Owner { uid: 7, gid: 8, supplementary_gids: vec![] });
    }

    /// Gives its text in pieces of at most so many bytes, and counts how often it was asked.
    struct Pieces<'t>(&'t [u8], usize, &'t mut usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            *self.2 += 1;
            let take = self.0.len().min(self.1).min(into.len());
            into[..take].copy_from_slice(&self.0[..take]);
            self.0 = &self.0[take..];
            Ok(take)
        }
    }

    #[test]
    fn a_status_is_read_once_and_a_long_one_to_its_end() {
        let read = |text: &[u8], piece| {
            let mut asked = 0;
            let mut room = [0; ROOM];
            let all = whole(Pieces(text, piece, &mut asked), &mut room).unwrap().into_owned();
            assert!(all == text, "{} bytes in pieces of {piece}", text.len());
            asked
        };
        assert_eq!(read(b"Uid:\t1\nGid:\t1\n", ROOM), 1);
        let long = "Groups:\t1 2 3\n".repeat(1000);
        assert!(read(long.as_bytes(), ROOM) > 1);
        assert!(read(&long.as_bytes()[..ROOM], ROOM) > 1, "whether more comes is not known");
        assert!(read(b"Uid:\t1\nGid:\t1", 4) > 4, "no line ends so");
        assert!(read(b"", ROOM) > 1);
    }

    #[test]
    fn missing_and_malformed_ids_are_told_apart() {
        let text = |status| parse_owner(status).unwrap_err().to_string();
        assert_eq!(text("Name:\tx\n"), "UIDs lookup: no UIDs for process");
        assert_eq!(text("Uid:\t1\n"), "GIDs lookup: no GIDs for process");
        assert_eq!(text("Uid:\t-1\n"), "UIDs lookup: malformed process status");
        let groups = text("Uid:\t1\nGid:\t1\nGroups:\tx\n");
        assert_eq!(groups, "supplementary GIDs lookup: malformed process status");
    }
}

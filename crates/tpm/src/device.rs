//! The way to a TPM: a character device of the kernel, or the Unix socket of an emulator.
//!
//! Everything here blocks, until a deadline and no longer.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, Timespec};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use steeple_runtime::gotext;

/// Why a TPM cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is nothing at the path, or nothing that may be used.
    #[error("{operation} {path}: {}", gotext::system(.source))]
    Open {
        /// `stat` or `open`.
        operation: &'static str,
        /// Where the TPM should be.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// What is at the path is no TPM.
    #[error("{0} is neither a device nor a socket")]
    NotATpm(String),
    /// The connection failed in the midst.
    #[error("the TPM at {path} went away: {}", gotext::system(.source))]
    Lost {
        /// Where the TPM was.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// The TPM said something, but not what TPMs say.
    #[error("what answers at {0} does not speak TPM 2.0")]
    Garbage(String),
    /// The deadline passed.
    #[error("the TPM at {0} does not answer")]
    Late(String),
}

/// A TPM to send commands to.
#[derive(Debug)]
pub struct Device {
    path: PathBuf,
    way: Way,
}

#[derive(Debug)]
enum Way {
    File(File),
    /// Connected to anew for every command: that is how emulators are used, and some hang up
    /// after each.
    Socket,
}

impl Device {
    /// Opens the TPM at `path`: a device such as `/dev/tpmrm0`, or the socket of an emulator.
    ///
    /// # Errors
    /// When there is none, or it may not be used.
    pub fn open(path: &Path) -> Result<Self, DeviceError> {
        let failed = |operation, source| DeviceError::Open {
            operation,
            path: path.display().to_string(),
            source,
        };
        let kind = std::fs::metadata(path).map_err(|source| failed("stat", source))?.file_type();
        let way = if kind.is_socket() {
            Way::Socket
        } else if kind.is_char_device() {
            // Not blocking: the kernel then works in the background, and the answer can be
            // waited for. (Kernels before 5.0 block all the same, as long as their own limits.)
            let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits());
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(flags.unwrap_or_default())
                .open(path)
                .map_err(|source| failed("open", source))?;
            Way::File(file)
        } else {
            return Err(DeviceError::NotATpm(path.display().to_string()));
        };
        Ok(Self { path: path.to_owned(), way })
    }

    /// Where the TPM is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the kernel's resource manager stands between: every opening of the device has
    /// handles of its own, which end with it.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        matches!(self.way, Way::File(_)) && numbered(&self.path, "tpmrm")
    }

    /// Sends one command and gives the answer to it: a header whose length is true, and what it
    /// says follows.
    ///
    /// # Errors
    /// When the TPM is away, is none, or does not answer before `deadline`. An answer that
    /// reports a failure is an answer.
    pub fn command(&mut self, command: &[u8], deadline: Instant) -> Result<Vec<u8>, DeviceError> {
        let answer = match &mut self.way {
            Way::File(file) => on_file(file, command, deadline),
            Way::Socket => on_socket(&self.path, command, deadline),
        };
        let path = || self.path.display().to_string();
        let answer = answer.map_err(|source| match source.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => DeviceError::Late(path()),
            ErrorKind::InvalidData => DeviceError::Garbage(path()),
            _ => DeviceError::Lost { path: path(), source },
        })?;
        let size = announced(&answer).filter(|size| *size == answer.len());
        size.map(|_| answer).ok_or_else(|| DeviceError::Garbage(path()))
    }
}

/// The length that the header of an answer announces; `None` when it is no TPM's.
fn announced(header: &[u8]) -> Option<usize> {
    let (tag, rest) = header.split_first_chunk::<2>()?;
    let (size, rest) = rest.split_first_chunk::<4>()?;
    let tag_is_known = [TAG_NO_SESSIONS, TAG_SESSIONS, TAG_RSP_COMMAND].contains(tag);
    let size = usize::try_from(u32::from_be_bytes(*size)).ok()?;
    (rest.len() >= 4 && tag_is_known && (HEADER..=MAX_ANSWER).contains(&size)).then_some(size)
}

fn on_file(file: &mut File, command: &[u8], deadline: Instant) -> io::Result<Vec<u8>> {
    // The driver takes a command whole or not at all.
    match file.write(command) {
        Ok(count) if count == command.len() => {}
        Ok(_) => return Err(ErrorKind::WriteZero.into()),
        Err(error) => return Err(error),
    }
    let mut answer = vec![0; MAX_ANSWER];
    loop {
        let remaining = until(deadline)?;
        let wait = Timespec::try_from(remaining).map_err(|_| ErrorKind::InvalidInput)?;
        let mut fds = [PollFd::new(&*file, PollFlags::IN)];
        if poll(&mut fds, Some(&wait))? == 0 {
            return Err(ErrorKind::TimedOut.into());
        }
        match file.read(&mut answer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                answer.truncate(count);
                return Ok(answer);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn on_socket(path: &Path, command: &[u8], deadline: Instant) -> io::Result<Vec<u8>> {
    let socket =
        net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Holds for connecting too, which waits while the emulator has somebody else.
    let patience = Some(until(deadline)?);
    sockopt::set_socket_timeout(socket.as_fd(), sockopt::Timeout::Send, patience)?;
    net::connect(socket.as_fd(), &SocketAddrUnix::new(path)?)?;
    let mut stream = UnixStream::from(socket);
    stream.set_write_timeout(Some(until(deadline)?))?;
    stream.write_all(command)?;
    let mut answer = vec![0; HEADER];
    read_exact(&mut stream, &mut answer, deadline)?;
    let size = announced(&answer).ok_or(ErrorKind::InvalidData)?;
    answer.resize(size, 0);
    read_exact(&mut stream, &mut answer[HEADER..], deadline)?;
    Ok(answer)
}

/// One deadline for all of it, however slowly it trickles.
fn read_exact(stream: &mut UnixStream, mut into: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !into.is_empty() {
        stream.set_read_timeout(Some(until(deadline)?))?;
        match stream.read(into) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => into = &mut into[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn until(deadline: Instant) -> io::Result<Duration> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(remaining) }
}

/// Why no TPM was found where they usually are.
#[derive(Debug, thiserror::Error)]
pub enum AutodetectError {
    /// The folder cannot be listed.
    #[error("open {path}: {}", gotext::system(.source))]
    Folder {
        /// The folder.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// There are several.
    #[error("more than one possible TPM device was found")]
    Several,
    /// There is none.
    #[error("not found")]
    None,
}

/// The only TPM in `folder` (`/dev`): one behind the resource manager (`tpmrm0`) before a bare
/// one (`tpm0`).
///
/// # Errors
/// When there is none, or several.
pub fn autodetect(folder: &Path) -> Result<PathBuf, AutodetectError> {
    let failed = |source| AutodetectError::Folder { path: folder.display().to_string(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        names.push(PathBuf::from(entry.map_err(failed)?.file_name()));
    }
    for prefix in ["tpmrm", "tpm"] {
        let mut found = names.iter().filter(|name| numbered(name, prefix));
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => return Err(AutodetectError::Several),
            (Some(name), None) => return Ok(folder.join(name)),
            (None, _) => {}
        }
    }
    Err(AutodetectError::None)
}

fn numbered(path: &Path, prefix: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_prefix(prefix)
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Tag, size and code.
pub(crate) const HEADER: usize = 10;
/// More than any TPM has in its buffer.
const MAX_ANSWER: usize = 16 * 1024;
const TAG_RSP_COMMAND: [u8; 2] = [0x00, 0xc4];
const TAG_NO_SESSIONS: [u8; 2] = [0x80, 0x01];
const TAG_SESSIONS: [u8; 2] = [0x80, 0x02];

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;

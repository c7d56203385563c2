//! The program of a plugin: what is executed is what was hashed.
//!
//! With a checksum, the program is copied into sealed memory first; that copy is hashed and that
//! copy is executed, so that no change of the file in between can have a say.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, SealFlags};
use steeple_pki::digest::Sha256;
use steeple_runtime::gotext;

use crate::error::{HostError, LaunchError};

/// The largest program that is copied.
const MAX_PROGRAM: u64 = 1024 * 1024 * 1024;

/// A SHA-256 that a program must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checksum([u8; 32]);

impl Checksum {
    /// Reads `plugin_checksum`; none when it is empty.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, HostError> {
        if text.is_empty() {
            return Ok(None);
        }
        let digits: Option<Vec<u8>> = text
            .chars()
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect();
        let digits = digits.filter(|digits| digits.len() % 2 == 0);
        let digits = digits.ok_or(HostError::ChecksumNotHex)?;
        let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        let sum = <[u8; 32]>::try_from(bytes);
        sum.map(|sum| Some(Self(sum))).map_err(|bytes| HostError::ChecksumLength(bytes.len() * 2))
    }
}

/// What is to be executed.
#[derive(Debug)]
pub(crate) enum Image {
    /// The file of this path, whatever it holds.
    Path(PathBuf),
    /// What was hashed; the path is where it came from.
    Sealed { program: OwnedFd, path: PathBuf },
}

impl Image {
    /// Takes the program at `path`, which must have `checksum` if there is one. Blocks.
    pub(crate) fn take(path: PathBuf, checksum: Option<Checksum>) -> Result<Self, LaunchError> {
        match checksum {
            None => Ok(Self::Path(path)),
            Some(checksum) => {
                let program = sealed_copy(&path, checksum)?;
                Ok(Self::Sealed { program, path })
            }
        }
    }

    /// Where the program came from.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Path(path) | Self::Sealed { path, .. } => path,
        }
    }

    /// What to execute.
    pub(crate) fn program(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            Self::Sealed { program, .. } => {
                PathBuf::from(format!("/proc/self/fd/{}", program.as_raw_fd()))
            }
        }
    }
}

fn sealed_copy(path: &Path, expected: Checksum) -> Result<OwnedFd, LaunchError> {
    let failed = |error: io::Error| LaunchError::Checksum(text(path, &error));
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length > MAX_PROGRAM {
        return Err(LaunchError::Checksum("the program is too large".to_owned()));
    }
    let copy = memory().map_err(failed)?;
    let mut writer = File::from(copy);
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    let mut total = 0_u64;
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            break;
        }
        total += read as u64;
        if total > MAX_PROGRAM {
            return Err(LaunchError::Checksum("the program is too large".to_owned()));
        }
        digest.update(&buffer[..read]);
        writer.write_all(&buffer[..read]).map_err(failed)?;
    }
    if Checksum(digest.finish()) != expected {
        return Err(LaunchError::ChecksumMismatch);
    }
    writer.seek(SeekFrom::Start(0)).map_err(failed)?;
    let copy = OwnedFd::from(writer);
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&copy, seals).map_err(|error| failed(error.into()))?;
    Ok(copy)
}

/// Memory that can be sealed and, where the kernel wants that said, executed. It stays open in
/// the child: what starts there first, and a script's interpreter, open it by its number.
fn memory() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::ALLOW_SEALING;
    let with_exec = rustix::fs::memfd_create("plugin", flags | MemfdFlags::EXEC);
    let made = with_exec.or_else(|error| match error {
        // A kernel before 6.3 does not know the flag.
        rustix::io::Errno::INVAL => rustix::fs::memfd_create("plugin", flags),
        other => Err(other),
    });
    Ok(made?)
}

fn text(path: &Path, error: &io::Error) -> String {
    format!("open {}: {}", path.display(), gotext::system(error))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_checksum_is_sixty_four_hexadecimal_digits() {
        assert!(Checksum::parse("").unwrap().is_none());
        let sum = hex(&Sha256::of(b"x"));
        assert!(Checksum::parse(&sum).unwrap().is_some());
        assert!(Checksum::parse(&sum.to_uppercase()).unwrap().is_some());
        let text = |sum: &str| Checksum::parse(sum).unwrap_err().to_string();
        assert_eq!(text("zz"), "checksum is not a valid hex string");
        assert_eq!(text("abc"), "checksum is not a valid hex string");
        assert_eq!(text("abcd"), "expected checksum of length 64; got 4");
    }

    #[test]
    fn another_program_than_the_one_described_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, "#!/bin/sh\necho one\n").unwrap();
        let other = Checksum::parse(&hex(&Sha256::of(b"other"))).unwrap();
        let error = Image::take(path, other).unwrap_err();
        assert_eq!(error.to_string(), "checksums did not match");
        let missing = Image::take(folder.path().join("nope"), other).unwrap_err().to_string();
        assert!(missing.starts_with("error verifying checksum: open /"), "{missing}");
        assert!(missing.ends_with("nope: no such file or directory"), "{missing}");
    }

    #[test]
    fn what_runs_is_what_was_hashed_even_when_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let program = "#!/bin/sh\necho one\n";
        std::fs::write(&path, program).unwrap();
        let checksum = Checksum::parse(&hex(&Sha256::of(program.as_bytes()))).unwrap();
        let image = Image::take(path.clone(), checksum).unwrap();
        std::fs::write(&path, "#!/bin/sh\necho two\n").unwrap();
        let output = Command::new(image.program()).output().unwrap();
        assert_eq!(output.stdout, b"one\n");
        assert!(std::fs::write(image.program(), "x").is_err(), "the copy cannot be written");
    }

    #[test]
    fn a_compiled_program_runs_from_its_copy() {
        let program = std::fs::read("/bin/true").unwrap();
        let checksum = Checksum::parse(&hex(&Sha256::of(&program))).unwrap();
        let image = Image::take(PathBuf::from("/bin/true"), checksum).unwrap();
        assert!(Command::new(image.program()).status().unwrap().success());
    }
}

//! A set of files that belong together, put in place.
//!
//! First every file is written under a name of its own, with nobody but the
//! owner let in, and on disk; then each gets its mode; then, one right after the
//! other, they take their names. What fails before that leaves the old set as
//! it was.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use steeple_runtime::gotext;
use zeroize::Zeroizing;

/// A file to be.
pub(crate) struct NewFile {
    pub(crate) path: PathBuf,
    pub(crate) mode: u32,
    pub(crate) contents: Zeroizing<Vec<u8>>,
}

/// Why a set could not be put in place.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}: {}", path.display(), gotext::system(source))]
pub(crate) struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Puts the files in place, in the order given.
///
/// # Errors
/// When any of them cannot be written, with no name taken; or when one cannot
/// take its name, with those before it in place.
pub(crate) fn replace(files: &[NewFile]) -> Result<(), FileError> {
    let prepared = files.iter().map(Prepared::new).collect::<Result<Vec<_>, _>>()?;
    for file in prepared {
        file.take_name()?;
    }
    // A name that is lost in a crash is one that the next run writes again.
    for file in files {
        let _ = File::open(directory(&file.path)).and_then(|directory| directory.sync_all());
    }
    Ok(())
}

/// A file that is whole and on disk, under a name that nobody looks for; gone
/// when it is dropped.
struct Prepared<'f> {
    temporary: PathBuf,
    file: &'f NewFile,
    in_place: bool,
}

impl<'f> Prepared<'f> {
    fn new(file: &'f NewFile) -> Result<Self, FileError> {
        let error = |source| FileError { action: "write", path: file.path.clone(), source };
        let (temporary, mut opened) = create(&file.path).map_err(error)?;
        let prepared = Self { temporary, file, in_place: false };
        opened
            .write_all(&file.contents)
            .and_then(|()| opened.set_permissions(fs::Permissions::from_mode(file.mode)))
            .and_then(|()| opened.sync_all())
            .map_err(error)?;
        Ok(prepared)
    }

    fn take_name(mut self) -> Result<(), FileError> {
        let path = &self.file.path;
        fs::rename(&self.temporary, path).map_err(|source| FileError {
            action: "replace",
            path: path.clone(),
            source,
        })?;
        self.in_place = true;
        Ok(())
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        if !self.in_place {
            // What failed is the set; remains of it are the smaller trouble.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// A new file beside `path`, for its owner alone.
fn create(path: &Path) -> io::Result<(PathBuf, File)> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    for _ in 0..ATTEMPTS {
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{:08x}", fastrand::u32(..)));
        let temporary = directory(path).join(hidden);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from(io::ErrorKind::AlreadyExists))
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

const ATTEMPTS: usize = 16;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn file(path: PathBuf, mode: u32, contents: &str) -> NewFile {
        NewFile { path, mode, contents: Zeroizing::new(contents.as_bytes().to_vec()) }
    }

    #[test]
    fn files_get_their_contents_and_modes_whatever_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("key"), "old").unwrap();
        fs::set_permissions(at("key"), fs::Permissions::from_mode(0o644)).unwrap();
        replace(&[file(at("cert"), 0o644, "c"), file(at("key"), 0o400, "k")]).unwrap();
        let found = |name| {
            let mode = fs::metadata(at(name)).unwrap().mode() & 0o777;
            (fs::read_to_string(at(name)).unwrap(), mode)
        };
        assert_eq!((found("cert"), found("key")), (("c".into(), 0o644), ("k".into(), 0o400)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn a_set_that_cannot_be_written_whole_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        replace(&[file(at("cert"), 0o644, "old")]).unwrap();
        let nowhere = file(at("missing/key"), 0o600, "k");
        let error = replace(&[file(at("cert"), 0o644, "new"), nowhere]).unwrap_err();
        assert!(error.to_string().ends_with("no such file or directory"), "{error}");
        assert_eq!(fs::read_to_string(at("cert")).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("elsewhere"), "untouched").unwrap();
        std::os::unix::fs::symlink(at("elsewhere"), at("key")).unwrap();
        replace(&[file(at("key"), 0o600, "k")]).unwrap();
        assert_eq!(fs::read_to_string(at("elsewhere")).unwrap(), "untouched");
        assert!(fs::symlink_metadata(at("key")).unwrap().is_file());
    }
}

//! Files that survive a crash at any point, and errors that say which file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::gotext;

/// A temporary file of ours that is older than this was left by a process that died.
const STALE: Duration = Duration::from_secs(3600);

/// Replaces the file at `path` with `contents`, with exactly the permission bits `mode` less the
/// process's umask.
///
/// The new contents are on disk before they take the name, and the name is on disk before this
/// returns: whoever reads the file, at any time and after any crash, finds all of the old or all
/// of the new contents. Writers at the same time do not mix; the last one wins.
///
/// # Errors
/// Any that creating, writing, syncing or renaming gives, with the path in the text. The old file
/// is untouched then.
pub fn write_atomic(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let (temporary, mut file) = create_temporary(path, mode)?;
    let written = file
        .write_all(contents)
        .and_then(|()| file.sync_all())
        .map_err(|error| at(&temporary, "write", &error))
        .and_then(|()| fs::rename(&temporary, path).map_err(|error| at(path, "replace", &error)));
    if let Err(error) = written {
        // What failed is the write; that its remains may stay behind is the smaller trouble.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_dir(parent(path))?;
    remove_stale(path, &file);
    Ok(())
}

/// Tries that [`write_atomic`] could make a file in `directory`, and leaves none there. Nothing waits
/// for the disk, since nothing is to survive.
///
/// # Errors
/// Any that creating or removing gives, with the path in the text.
pub fn probe(directory: &Path) -> io::Result<()> {
    let (temporary, _) = create_temporary(&directory.join(".probe"), 0o600)?;
    fs::remove_file(&temporary).map_err(|error| at(&temporary, "remove", &error))
}

/// Makes the directory `path` and its missing parents, the ones made with `mode` less the umask.
///
/// # Errors
/// Any that making a directory gives, with the path in the text.
pub fn create_dir_all(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| at(path, "create directory", &error))
}

/// Reads the file at `path`, at most `limit` bytes of it; `None` when there is none.
///
/// # Errors
/// When it cannot be read or is larger, with the path in the text.
pub fn read_limited(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read as _;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(path, "open", &error)),
    };
    let mut contents = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut contents)
        .map_err(|error| at(path, "read", &error))?;
    if contents.len() as u64 > limit {
        let text = format!("read {}: file is larger than {limit} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(Some(contents))
}

/// A new file beside `path`. The name cannot be foreseen and the file must not exist, so that
/// nobody can put a link or a file of other permissions in its place.
fn create_temporary(path: &Path, mode: u32) -> io::Result<(PathBuf, File)> {
    let Some(name) = path.file_name() else {
        let text = format!("write {}: not the path of a file", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    };
    loop {
        let mut temporary = name.to_owned();
        temporary.push(format!(".{:016x}.tmp", fastrand::u64(..)));
        let temporary = parent(path).join(temporary);
        match OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(at(&temporary, "create", &error)),
        }
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| at(dir, "sync", &error))
}

/// Removes what earlier processes left behind when they died while writing `path`.
fn remove_stale(path: &Path, newest: &File) {
    let (Some(name), Ok(now)) = (path.file_name(), newest.metadata().and_then(|m| m.modified()))
    else {
        return;
    };
    let Ok(entries) = fs::read_dir(parent(path)) else { return };
    for entry in entries.flatten() {
        if !is_temporary_of(name.as_encoded_bytes(), entry.file_name().as_encoded_bytes()) {
            continue;
        }
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        if modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > STALE)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_temporary_of(name: &[u8], candidate: &[u8]) -> bool {
    candidate
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix(b"."))
        .and_then(|rest| rest.strip_suffix(b".tmp"))
        .is_some_and(|middle| middle.len() == 16 && middle.iter().all(u8::is_ascii_hexdigit))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

fn at(path: &Path, doing: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{doing} {}: {}", path.display(), gotext::system(error)))
}

/// The permission bits of the file at `path`.
///
/// # Errors
/// When it cannot be examined, with the path in the text.
pub fn mode(path: &Path) -> io::Result<u32> {
    let metadata = fs::metadata(path).map_err(|error| at(path, "stat", &error))?;
    Ok(metadata.permissions().mode() & 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_contents_and_permissions_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write_atomic(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(mode(&path).unwrap(), 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_probe_tells_whether_files_can_be_made_and_leaves_none() {
        let dir = tempfile::tempdir().unwrap();
        probe(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let error = probe(&dir.path().join("missing")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("missing/.probe."), "{error}");
    }

    #[test]
    fn does_not_write_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "untouched").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write_atomic(&link, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"untouched");
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
    }

    #[test]
    fn errors_name_the_path_and_keep_the_kind() {
        let error = write_atomic(Path::new("/nowhere/keys.json"), b"", 0o600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("/nowhere/keys.json"), "{error}");
        assert!(write_atomic(Path::new("/"), b"", 0o600).is_err());
    }

    #[test]
    fn the_remains_of_a_crash_are_removed_when_old_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("keys.json.0123456789abcdef.tmp");
        let young = dir.path().join("keys.json.fedcba9876543210.tmp");
        let foreign = dir.path().join("keys.json.backup.tmp");
        for path in [&old, &young, &foreign] {
            fs::write(path, "partial").unwrap();
        }
        let hours_ago = fs::metadata(&old).unwrap().modified().unwrap() - STALE * 2;
        for path in [&old, &foreign] {
            File::options().write(true).open(path).unwrap().set_modified(hours_ago).unwrap();
        }
        write_atomic(&dir.path().join("keys.json"), b"new", 0o600).unwrap();
        assert!(!old.exists());
        assert!(young.exists() && foreign.exists());
    }

    #[test]
    fn a_file_over_the_limit_is_refused_and_a_missing_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert_eq!(read_limited(&path, 3).unwrap(), None);
        fs::write(&path, "abc").unwrap();
        assert_eq!(read_limited(&path, 3).unwrap().unwrap(), b"abc");
        assert!(read_limited(&path, 2).unwrap_err().to_string().contains("larger than 2 bytes"));
    }

    #[test]
    fn directories_are_made_with_the_mode_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        create_dir_all(&deep, 0o700).unwrap();
        create_dir_all(&deep, 0o755).unwrap();
        assert_eq!(mode(&deep).unwrap(), 0o700);
    }
}

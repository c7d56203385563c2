//! Files that a verb writes: their paths as they are shown, and why one was not written.

use std::io;
use std::path::{Component, Path, PathBuf};

use steeple_runtime::fsx;

use crate::dispatch::Failure;

/// Replaces a file with `content`; gives the path as Go's `filepath.Clean` would write it.
pub(super) fn write(
    path: &Path,
    content: &[u8],
    mode: u32,
    what: &str,
) -> Result<PathBuf, Failure> {
    let path = clean(path);
    fsx::write_atomic(&path, content, mode)
        .map_err(|error| Failure(format!("unable to write {what}: {}", told(&path, &error))))?;
    Ok(path)
}

/// Nobody knows of the temporary file that could not be made in a missing folder.
fn told(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("open {}: no such file or directory", path.display()),
        io::ErrorKind::PermissionDenied => format!("open {}: permission denied", path.display()),
        io::ErrorKind::NotADirectory => format!("open {}: not a directory", path.display()),
        _ => error.to_string(),
    }
}

fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => match cleaned.components().next_back() {
                Some(Component::Normal(_)) => {
                    cleaned.pop();
                }
                Some(Component::RootDir) => {}
                _ => cleaned.push(".."),
            },
            other => cleaned.push(other),
        }
    }
    if cleaned.as_os_str().is_empty() { PathBuf::from(".") } else { cleaned }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_shown_without_detours() {
        for (given, shown) in
            [("./a", "a"), ("a//b/../c", "a/c"), ("/../a/", "/a"), ("../a", "../a"), (".", ".")]
        {
            assert_eq!(clean(Path::new(given)), Path::new(shown), "{given}");
        }
    }

    #[test]
    fn a_missing_folder_is_told_in_gos_words() {
        let error = write(Path::new("/nonexistent/./x"), b"", 0o600, "token").unwrap_err();
        assert_eq!(
            error.0,
            "unable to write token: open /nonexistent/x: no such file or directory"
        );
    }
}

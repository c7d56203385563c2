//! The files of wrapped keys: one each, replaced whole.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use steeple_runtime::{fsx, gotext};
use steeple_tpm::Wrapped;

/// Where the files are.
pub(super) struct Folder(PathBuf);

/// A key as it was kept.
pub(super) struct Stored {
    pub(super) id: String,
    /// The name of the key that it is encrypted by.
    pub(super) parent_name: Vec<u8>,
    pub(super) wrapped: Wrapped,
}

/// Why keys cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    #[error("directory {path}: {}", gotext::system(.source))]
    System { path: String, source: io::Error },
    #[error("{0} is not a key that was kept by this plugin; restore or remove it")]
    Malformed(String),
    #[error("directory {0} has more than {MAX_FILES} keys")]
    TooMany(String),
}

#[derive(Serialize, Deserialize)]
pub(super) struct File {
    pub(super) version: u32,
    pub(super) key_id: String,
    pub(super) parent_name: String,
    pub(super) public: String,
    pub(super) private: String,
}

impl Folder {
    /// Makes the folder when it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn open(path: &Path) -> Result<Self, FolderError> {
        let folder = Self(path.to_owned());
        fsx::create_dir_all(path, 0o700).map_err(|source| folder.failed(source))?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// All keys that are kept.
    ///
    /// # Errors
    /// When one cannot be read: going on without it would mean to make another in its place.
    pub(super) fn load(&self) -> Result<Vec<Stored>, FolderError> {
        let mut keys = Vec::new();
        for entry in std::fs::read_dir(&self.0).map_err(|source| self.failed(source))? {
            let path = entry.map_err(|source| self.failed(source))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.ends_with(SUFFIX) || name.starts_with('.') {
                continue;
            }
            if keys.len() == MAX_FILES {
                return Err(FolderError::TooMany(self.0.display().to_string()));
            }
            let malformed = || FolderError::Malformed(path.display().to_string());
            let text = fsx::read_limited(&path, MAX_FILE).map_err(|source| self.failed(source))?;
            let stored = text.and_then(|text| parse(&text)).ok_or_else(malformed)?;
            // A copy under another name would be a key of the same id.
            if file_name(&stored.id) != name {
                return Err(malformed());
            }
            keys.push(stored);
        }
        Ok(keys)
    }

    /// Keeps a key in place of the one before. When this returns, it survives a power failure.
    ///
    /// # Errors
    /// When it cannot be written; the one before is still there.
    pub(super) fn store(
        &self,
        id: &str,
        parent_name: &[u8],
        wrapped: &Wrapped,
    ) -> Result<(), FolderError> {
        let file = File {
            version: VERSION,
            key_id: id.to_owned(),
            parent_name: STANDARD.encode(parent_name),
            public: STANDARD.encode(&wrapped.public),
            private: STANDARD.encode(&wrapped.private),
        };
        let text = serde_json::to_vec_pretty(&file).map_err(io::Error::from);
        let written =
            text.and_then(|text| fsx::write_atomic(&self.0.join(file_name(id)), &text, 0o600));
        written.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> FolderError {
        FolderError::System { path: self.0.display().to_string(), source }
    }
}

fn parse(text: &[u8]) -> Option<Stored> {
    let file: File = serde_json::from_slice(text).ok()?;
    if file.version != VERSION {
        return None;
    }
    let public = STANDARD.decode(file.public).ok()?;
    let private = STANDARD.decode(file.private).ok()?;
    let parent_name = STANDARD.decode(file.parent_name).ok()?;
    Some(Stored { id: file.key_id, parent_name, wrapped: Wrapped { public, private } })
}

/// The name of the file of a key; different for different ids, and never a path.
fn file_name(id: &str) -> String {
    let mut name = String::with_capacity(id.len() + SUFFIX.len());
    for byte in id.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    name + SUFFIX
}

const VERSION: u32 = 1;
const SUFFIX: &str = ".tpm.json";
const MAX_FILE: u64 = 16 * 1024;
const MAX_FILES: usize = 64;

//! `keys.json`, byte for byte as SPIRE writes it, so that either program can take over from the
//! other: `{"keys": {"<id>": "<base64 of PKCS#8>"}}`, indented by tabs, ids sorted.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use steeple_pki::{KeyKind, PrivateKey};
use steeple_runtime::fsx;
use zeroize::Zeroizing;

use super::go_json;
use super::local::Keys;

/// Only the owner may read or write it.
const MODE: u32 = 0o600;
/// Far more than any set of keys takes.
const MAX_SIZE: u64 = 16 * 1024 * 1024;
/// Room for a key of 4096 bits with its id, so that a buffer rarely grows.
const ROOM_PER_KEY: usize = 4096;
/// How much of an id an error repeats.
const MAX_ECHO: usize = 64;

/// The file of one manager. It is only ever replaced as a whole.
#[derive(Debug)]
pub(crate) struct KeysFile {
    path: PathBuf,
}

/// Why the keys in a file cannot be used; the file is left as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("unable to read keys: {0}")]
    Read(#[from] io::Error),
    #[error("unable to decode keys JSON: {error} ({})", Mend(path))]
    Json { path: PathBuf, error: JsonError },
    #[error("unable to parse key {:?}: {error} ({})", shorten(id), Mend(path))]
    Key { path: PathBuf, id: String, error: steeple_pki::KeyError },
    #[error(
        "unable to make entry {shown:?}: unable to make key entry for key {shown:?}: {kind} \
         ({mend})",
        shown = shorten(id),
        mend = Mend(path)
    )]
    Kind { path: PathBuf, id: String, kind: UnusableKind },
}

/// Where the trouble is, and what an operator can do about it.
struct Mend<'a>(&'a Path);

impl fmt::Display for Mend<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.display();
        write!(f, "in {path}; restore it from a copy, or move it away to start with new keys")
    }
}

/// What is wrong with the text, without the text: there are keys in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    #[error("{what} at line {line} column {column}")]
    Syntax { what: &'static str, line: usize, column: usize },
    #[error("illegal base64 data for key {:?}", shorten(.0))]
    Base64(String),
}

/// A kind of key that managers do not make, in the words that SPIRE has for it.
#[derive(Debug)]
pub(crate) struct UnusableKind(KeyKind);

impl fmt::Display for UnusableKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            KeyKind::Rsa(bits) => write!(f, "no RSA key type for key bit length: {bits}"),
            kind => write!(f, "no key type for {kind}"),
        }
    }
}

#[derive(Deserialize)]
struct Contents {
    #[serde(default)]
    keys: Option<BTreeMap<String, Encoded>>,
}

/// A private key in base64, wiped when it is dropped.
#[derive(Deserialize)]
#[serde(from = "String")]
struct Encoded(Zeroizing<String>);

impl From<String> for Encoded {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl KeysFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The keys in the file; none when there is no file.
    pub(crate) fn load(&self) -> Result<Keys, LoadError> {
        let Some(contents) = fsx::read_limited(&self.path, MAX_SIZE)?.map(Zeroizing::new) else {
            return Ok(Keys::new());
        };
        warn_if_exposed(&self.path);
        let json = |error| LoadError::Json { path: self.path.clone(), error };
        let contents: Contents =
            serde_json::from_slice(&contents).map_err(|error| json(JsonError::from(&error)))?;
        let mut keys = Keys::new();
        for (id, text) in contents.keys.unwrap_or_default() {
            let pkcs8 = decode(&text.0).ok_or_else(|| json(JsonError::Base64(id.clone())))?;
            let key = PrivateKey::from_pkcs8_der(&pkcs8).map_err(|error| LoadError::Key {
                path: self.path.clone(),
                id: id.clone(),
                error,
            })?;
            if key.public_key().key_type().is_none() {
                let kind = UnusableKind(key.public_key().kind());
                return Err(LoadError::Kind { path: self.path.clone(), id, kind });
            }
            keys.insert(id, Arc::new(key));
        }
        Ok(keys)
    }

    /// Replaces the file; when this returns, `keys` are on disk.
    pub(crate) fn write(&self, keys: &Keys) -> io::Result<()> {
        fsx::write_atomic(&self.path, render(keys).as_bytes(), MODE).map_err(|error| {
            io::Error::new(error.kind(), format!("unable to write entries: {error}"))
        })
    }
}

impl From<&serde_json::Error> for JsonError {
    fn from(error: &serde_json::Error) -> Self {
        let what = match error.classify() {
            serde_json::error::Category::Eof => "unexpected end of JSON input",
            serde_json::error::Category::Data => "not an object of keys",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "invalid JSON",
        };
        Self::Syntax { what, line: error.line(), column: error.column() }
    }
}

fn render(keys: &Keys) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(64 + keys.len() * ROOM_PER_KEY));
    out.push_str("{\n\t\"keys\": {");
    for (index, (id, key)) in keys.iter().enumerate() {
        out.push_str(if index == 0 { "\n\t\t" } else { ",\n\t\t" });
        go_json::push_string(&mut out, id);
        out.push_str(": \"");
        STANDARD.encode_string(key.to_pkcs8_der().as_slice(), &mut out);
        out.push('"');
    }
    out.push_str(if keys.is_empty() { "}\n}" } else { "\n\t}\n}" });
    out
}

/// Base64 as Go reads it: with padding, line ends ignored.
fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    if text.contains(['\n', '\r']) {
        let joined = Zeroizing::new(text.replace(['\n', '\r'], ""));
        return STANDARD.decode(joined.as_bytes()).ok().map(Zeroizing::new);
    }
    STANDARD.decode(text).ok().map(Zeroizing::new)
}

fn warn_if_exposed(path: &Path) {
    if fsx::mode(path).is_ok_and(|mode| mode & 0o077 != 0) {
        tracing::warn!(path = %path.display(), "Private keys can be read by others than the owner");
    }
}

fn shorten(id: &str) -> String {
    id.chars().take(MAX_ECHO).collect()
}

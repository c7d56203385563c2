//! Which endorsement keys the operator trusts: those that certificates lead to, and those on a
//! list. Both are read again when they change, so that a new machine needs no restart.

use std::collections::HashSet;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use steeple_pki::envelope::Sha2;
use steeple_pki::{Certificate, PublicKey};
use steeple_runtime::{fsx, gotext};

use super::NAME;

/// SHA-256 of an endorsement key's SubjectPublicKeyInfo.
pub(super) type Hash = [u8; 32];

/// The hash of a key.
pub(super) fn hash(key: &PublicKey) -> Hash {
    let digest = Sha2::Sha256.digest(&[key.spki_der()]);
    digest.try_into().unwrap_or_default()
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Why a file or folder is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrustError {
    #[error("{}: {}", .path.display(), gotext::system(.source))]
    System { path: PathBuf, source: io::Error },
    #[error(transparent)]
    File(io::Error),
    #[error("{} has more than {MAX_ENTRIES} entries", .0.display())]
    TooMany(PathBuf),
    #[error("{}: {reason}", .path.display())]
    Certificates { path: PathBuf, reason: String },
    #[error("{} has no certificate", .0.display())]
    NoCertificate(PathBuf),
    #[error("{}, line {line}: not the SHA-256 of a key in hexadecimal", .path.display())]
    Line { path: PathBuf, line: usize },
}

/// Something that is made of a file or a folder, as it was when it last changed.
pub(super) struct Watched<T> {
    path: PathBuf,
    read: fn(&Path) -> Result<T, TrustError>,
    pause: Duration,
    state: Mutex<State<T>>,
}

struct State<T> {
    seen: Option<Stamp>,
    value: Arc<T>,
    /// When it was last looked at.
    looked: Instant,
    /// As what it could not be read last.
    failed: Option<Option<Stamp>>,
}

/// What shows that a file or folder changed.
#[derive(PartialEq, Eq)]
struct Stamp(Vec<(u64, u64, i64, i64)>);

impl<T> Watched<T> {
    /// Reads it for the first time.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn open(
        path: PathBuf,
        read: fn(&Path) -> Result<T, TrustError>,
    ) -> Result<Self, TrustError> {
        let seen = Stamp::of(&path).ok();
        let value = Arc::new(read(&path)?);
        let state = State { seen, value, looked: Instant::now(), failed: None };
        Ok(Self { path, read, pause: PAUSE, state: Mutex::new(state) })
    }

    /// As it is now. While it cannot be read, what it was before counts. Strangers make us look:
    /// at a large folder, or at what could not be read, not more often than once a second.
    pub(super) fn now(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = state.looked.elapsed() < self.pause;
        if lately && state.seen.as_ref().is_some_and(Stamp::is_large) {
            return Arc::clone(&state.value);
        }
        let stamp = Stamp::of(&self.path).ok();
        let is_known = stamp.is_some() && state.seen == stamp;
        if is_known || lately && state.failed.as_ref() == Some(&stamp) {
            return Arc::clone(&state.value);
        }
        state.looked = Instant::now();
        match (self.read)(&self.path) {
            Ok(value) => {
                tracing::info!(plugin_name = NAME, path = %self.path.display(), "Reloaded");
                let (value, looked) = (Arc::new(value), state.looked);
                *state = State { seen: stamp, value, looked, failed: None };
            }
            Err(reason) => {
                tracing::error!(
                    plugin_name = NAME,
                    %reason,
                    "Could not reload what endorsement keys are trusted by; going on with what it was"
                );
                state.failed = Some(stamp);
            }
        }
        Arc::clone(&state.value)
    }
}

impl Stamp {
    /// Whether looking at it takes long.
    fn is_large(&self) -> bool {
        self.0.len() > LARGE
    }

    fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        let one = |it: &Metadata| (it.ino(), it.len(), it.mtime(), it.mtime_nsec());
        let mut all = vec![one(&metadata)];
        if metadata.is_dir() {
            for entry in std::fs::read_dir(path)?.take(MAX_ENTRIES) {
                all.push(one(&std::fs::metadata(entry?.path())?));
            }
        }
        Ok(Self(all))
    }
}

/// The certificates in a file or in the files of a folder, PEM or DER.
///
/// # Errors
/// When there is none, or one cannot be read.
pub(super) fn authorities(path: &Path) -> Result<Vec<Certificate>, TrustError> {
    let mut found = Vec::new();
    for file in files(path)? {
        found.extend(certificates(&file)?);
    }
    if found.is_empty() {
        return Err(TrustError::NoCertificate(path.to_owned()));
    }
    Ok(found)
}

/// The certificates in one file: PEM, or one in DER.
///
/// # Errors
/// When it cannot be read.
pub(super) fn certificates(path: &Path) -> Result<Vec<Certificate>, TrustError> {
    let contents = contents(path)?;
    let failed = |reason: String| TrustError::Certificates { path: path.to_owned(), reason };
    if contents.first() == Some(&0x30) {
        let certificate = Certificate::from_der(contents);
        return certificate.map(|it| vec![it]).map_err(|reason| failed(reason.to_string()));
    }
    let text = String::from_utf8(contents).map_err(|_| failed("neither PEM nor DER".into()))?;
    Certificate::parse_pem_bundle(&text).map_err(|reason| failed(reason.to_string()))
}

/// The hashes in a file, one a line; or, as names of files, in a folder.
///
/// # Errors
/// When one is none, or it cannot be read. An empty list trusts nobody.
pub(super) fn hashes(path: &Path) -> Result<HashSet<Hash>, TrustError> {
    let system = |source| TrustError::System { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(system)?.is_dir() {
        // What is called otherwise may be somebody's README.
        let name = |file: &PathBuf| parse_hash(file.file_name()?.to_str()?);
        return Ok(files(path)?.iter().filter_map(name).collect());
    }
    let contents = contents(path)?;
    let text = String::from_utf8_lossy(&contents);
    let mut found = HashSet::new();
    for (number, line) in text.lines().enumerate() {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        let wrong = || TrustError::Line { path: path.to_owned(), line: number + 1 };
        found.insert(parse_hash(entry).ok_or_else(wrong)?);
    }
    Ok(found)
}

fn parse_hash(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(hash)
}

/// The path itself, or the files in it, by name.
fn files(path: &Path) -> Result<Vec<PathBuf>, TrustError> {
    let system = |source| TrustError::System { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(system)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(system)? {
        let file = entry.map_err(system)?.path();
        if files.len() == MAX_ENTRIES {
            return Err(TrustError::TooMany(path.to_owned()));
        }
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        // Kubernetes' volumes have folders beside the files.
        if !hidden && file.is_file() {
            files.push(file);
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn contents(path: &Path) -> Result<Vec<u8>, TrustError> {
    let missing = || io::Error::from_raw_os_error(2);
    let contents = fsx::read_limited(path, MAX_FILE).map_err(TrustError::File)?;
    contents.ok_or_else(|| TrustError::System { path: path.to_owned(), source: missing() })
}

const MAX_FILE: u64 = 16 * 1024 * 1024;
const MAX_ENTRIES: usize = 100_000;
/// More entries than are looked at for every attestation.
const LARGE: usize = 256;
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    #[test]
    fn a_large_folder_is_not_looked_at_for_every_stranger() {
        let folder = tempfile::tempdir().unwrap();
        let add = |number: usize| {
            std::fs::write(folder.path().join(format!("{number:064x}")), "").unwrap();
        };
        (0..LARGE).for_each(add);
        let mut watched = Watched::open(folder.path().to_owned(), hashes).unwrap();
        watched.pause = LONG;
        add(LARGE);
        assert_eq!(watched.now().len(), LARGE);
        watched.pause = Duration::ZERO;
        assert_eq!(watched.now().len(), LARGE + 1);
    }

    #[test]
    fn what_cannot_be_read_is_not_read_for_every_stranger() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static READ: AtomicUsize = AtomicUsize::new(0);
        fn read(path: &Path) -> Result<HashSet<Hash>, TrustError> {
            READ.fetch_add(1, Ordering::Relaxed);
            hashes(path)
        }
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list");
        std::fs::write(&list, "00".repeat(32)).unwrap();
        let mut watched = Watched::open(list.clone(), read).unwrap();
        watched.pause = LONG;
        std::fs::write(&list, "no hash").unwrap();
        (0..9).for_each(|_| assert_eq!(watched.now().len(), 1));
        assert_eq!(READ.load(Ordering::Relaxed), 2);
        std::fs::remove_file(&list).unwrap();
        (0..9).for_each(|_| assert_eq!(watched.now().len(), 1));
        assert_eq!(READ.load(Ordering::Relaxed), 3);
        std::fs::write(&list, "").unwrap();
        assert!(watched.now().is_empty(), "a change is seen at once");
    }
}

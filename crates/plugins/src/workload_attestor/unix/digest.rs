//! SHA-256 of executables, a slice at a time, remembered while a file stays the same.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use steeple_pki::digest::Sha256;
use steeple_runtime::Clock;
use tokio::sync::Semaphore;

use super::cache::Cache;
use super::process::PathError;

/// How many digests are remembered.
const CAPACITY: usize = 1024;
/// How much of a file is hashed before it is another file's turn.
const SLICE: u64 = 32 * 1024 * 1024;
const BUFFER: usize = 64 * 1024;
/// A file that changed this recently may change again without its times showing it, since they
/// tick coarsely; its digest is not remembered.
const SETTLED: Duration = Duration::from_secs(2);

/// What makes two files the same one with the same contents. The status change time is nobody's
/// to set, so contents cannot change under it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

pub(super) struct Digests {
    clock: Arc<dyn Clock>,
    known: Arc<Mutex<Cache<Identity, Arc<str>>>>,
    /// As many files as there are processors are hashed at a time, in turns: neither a giant
    /// file nor many of them keep a small one waiting for long.
    turns: Semaphore,
}

/// Why an executable has no digest.
#[derive(Debug, thiserror::Error)]
pub(super) enum DigestError {
    #[error("SHA256 digest: {0}")]
    Path(#[from] PathError),
    #[error("SHA256 digest: workload {path} exceeds size limit ({size} > {limit})")]
    TooLarge { path: String, size: u64, limit: u64 },
    #[error("SHA256 digest: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}

impl Digests {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let known = Arc::new(Mutex::new(Cache::new(CAPACITY)));
        Self { clock, known, turns: Semaphore::new(processors) }
    }

    /// The digest of `file` in hexadecimal; `path` is what errors call it. A `limit` above 0 is
    /// the most bytes that the file may have.
    ///
    /// When the future is dropped, hashing ends with the slice at hand.
    pub(super) async fn sha256(
        &self,
        file: File,
        path: &Path,
        limit: i64,
    ) -> Result<Arc<str>, DigestError> {
        let metadata = file.metadata().map_err(|error| PathError::new("stat", path, error))?;
        let limit = u64::try_from(limit).unwrap_or(0);
        if limit > 0 && metadata.len() > limit {
            let (path, size) = (path.display().to_string(), metadata.len());
            return Err(DigestError::TooLarge { path, size, limit });
        }
        let identity = Identity::of(&metadata);
        let started = self.clock.now();
        let mut work = Work { file, context: Sha256::new(), finished: false };
        while !work.finished {
            // Asked before each slice: of many callers with one program, the first to finish
            // spares the others the rest.
            if let Some(digest) = self.known(&identity) {
                return Ok(digest);
            }
            let _turn = self.turns.acquire().await.expect("the semaphore is never closed");
            work = tokio::task::spawn_blocking(move || work.advance())
                .await?
                .map_err(|error| PathError::new("read", path, error))?;
        }
        let digest: Arc<str> = hexadecimal(&work.context.finish()).into();
        let unchanged = work.file.metadata().is_ok_and(|after| Identity::of(&after) == identity);
        if unchanged && identity.settled_at(started) {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(identity, Arc::clone(&digest));
        }
        Ok(digest)
    }

    fn known(&self, identity: &Identity) -> Option<Arc<str>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(identity).cloned()
    }

    #[cfg(test)]
    fn remembered(&self) -> usize {
        self.known.lock().unwrap().len()
    }
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn settled_at(&self, now: SystemTime) -> bool {
        let (Ok(seconds), Ok(nanos)) =
            (u64::try_from(self.changed.0), u32::try_from(self.changed.1))
        else {
            return false;
        };
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        now.duration_since(changed).is_ok_and(|age| age >= SETTLED)
    }
}

struct Work {
    file: File,
    context: Sha256,
    finished: bool,
}

impl Work {
    /// Hashes one slice. Blocks.
    fn advance(mut self) -> io::Result<Self> {
        let mut buffer = vec![0; BUFFER];
        let mut left = SLICE;
        while left > 0 {
            let read = match self.file.read(&mut buffer) {
                Ok(0) => {
                    self.finished = true;
                    break;
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.context.update(&buffer[..read]);
            left = left.saturating_sub(read as u64);
        }
        Ok(self)
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes any text");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use steeple_runtime::ManualClock;

    use super::*;

    const OF_DATA: &str = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7";

    fn digests(after_now: Duration) -> Digests {
        Digests::new(Arc::new(ManualClock::new(SystemTime::now() + after_now)))
    }

    async fn digest(digests: &Digests, path: &Path, limit: i64) -> Result<Arc<str>, DigestError> {
        digests.sha256(File::open(path).unwrap(), path, limit).await
    }

    #[tokio::test]
    async fn the_limit_is_inclusive_and_zero_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exe");
        fs::write(&path, "data").unwrap();
        let digests = digests(Duration::ZERO);
        for limit in [0, 4, i64::MAX] {
            assert_eq!(&*digest(&digests, &path, limit).await.unwrap(), OF_DATA);
        }
        let error = digest(&digests, &path, 2).await.unwrap_err().to_string();
        let path = path.display();
        let expected = format!("SHA256 digest: workload {path} exceeds size limit (4 > 2)");
        assert_eq!(error, expected);
    }

    #[tokio::test]
    async fn a_settled_file_is_hashed_once_and_a_changed_one_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exe");
        fs::write(&path, "data").unwrap();
        let digests = digests(SETTLED * 2);
        let first = digest(&digests, &path, 0).await.unwrap();
        let second = digest(&digests, &path, 0).await.unwrap();
        assert!(Arc::ptr_eq(&first, &second), "the second answer was not remembered");
        fs::write(&path, "atad").unwrap();
        assert_ne!(digest(&digests, &path, 0).await.unwrap(), first);
        assert_eq!(digests.remembered(), 2);
    }

    #[tokio::test]
    async fn a_file_that_just_changed_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exe");
        fs::write(&path, "data").unwrap();
        let digests = digests(Duration::ZERO);
        digest(&digests, &path, 0).await.unwrap();
        assert_eq!(digests.remembered(), 0);
    }

    #[tokio::test]
    async fn files_of_several_slices_are_hashed_whole_and_side_by_side() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exe");
        File::create(&path).unwrap().set_len(SLICE * 2 + 1).unwrap();
        let digests = digests(Duration::ZERO);
        let (one, two) = tokio::join!(digest(&digests, &path, 0), digest(&digests, &path, 0));
        let zeros = vec![0; usize::try_from(SLICE * 2 + 1).unwrap()];
        let expected = hexadecimal(&Sha256::of(&zeros));
        assert_eq!((&*one.unwrap(), &*two.unwrap()), (&*expected, &*expected));
    }
}

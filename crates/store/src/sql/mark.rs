//! Whether anybody has committed to a SQLite database: read from the header of its WAL index.
//!
//! In WAL mode each commit, of any process, counts up in the first 48 bytes of the file `-shm`
//! before it is reported done (<https://www.sqlite.org/walformat.html>, section 2.1). SQLite tells
//! by these bytes whether the pages it remembers are still good; they tell the same of what is
//! remembered here, for two system calls instead of a query.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::feed::{MARK_LEN, Mark};

/// The version of the format that is understood here.
const VERSION: u32 = 3_007_000;

/// Where the header says that it is in use.
const IS_INIT: usize = 12;

/// The WAL index of one database.
#[derive(Debug)]
pub(super) struct WalIndex(Arc<File>);

/// WAL indexes that were opened, by device and inode, for good: closing one would take away the
/// locks that SQLite holds on the file in this process (POSIX: with any descriptor that is closed).
static OPENED: Mutex<Vec<(u64, u64, Arc<File>)>> = Mutex::new(Vec::new());

impl WalIndex {
    /// The WAL index beside the database at `path`, which must be open in WAL mode; none if there
    /// is none that is understood.
    pub(super) fn open(path: &Path) -> Option<Self> {
        // SQLite follows links before it appends.
        let mut path = fs::canonicalize(path).ok()?.into_os_string();
        path.push("-shm");
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        let found = fs::metadata(&path).ok()?;
        let place = (found.dev(), found.ino());
        if let Some((.., file)) = opened.iter().find(|it| (it.0, it.1) == place) {
            return Some(Self(Arc::clone(file)));
        }
        let file = Arc::new(File::open(&path).ok()?);
        let (dev, ino) = file.metadata().map_or(place, |it| (it.dev(), it.ino()));
        opened.push((dev, ino, Arc::clone(&file)));
        let index = Self(file);
        index.mark().is_some().then_some(index)
    }

    /// Where the database is now; none while somebody is writing the header, and when the file is
    /// not the database's any more.
    pub(super) fn mark(&self) -> Option<Mark> {
        if self.0.metadata().ok()?.nlink() == 0 {
            return None;
        }
        // It is there twice, and written the second one first.
        let mut both = [0; 2 * MARK_LEN];
        self.0.read_exact_at(&mut both, 0).ok()?;
        let (first, second) = both.split_at(MARK_LEN);
        let version = u32::from_ne_bytes(first[..4].try_into().ok()?);
        if first != second || version != VERSION || first[IS_INIT] != 1 {
            return None;
        }
        Some(Mark(first.try_into().ok()?))
    }
}

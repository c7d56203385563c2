//! TPMs for async callers: one conversation with a TPM at a time, on a thread that may wait.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::device::DeviceError;
use crate::session::{Tpm, TpmError};

/// The TPM at a path, shared by all of this process that use it.
#[derive(Debug)]
pub struct Access {
    path: PathBuf,
    turn: Arc<Semaphore>,
}

/// TPMs in use. Without a resource manager there is room for three keys, so conversations must not
/// overlap.
static KNOWN: Mutex<Vec<Weak<Access>>> = Mutex::new(Vec::new());

impl Access {
    /// The TPM at `path`; whether it is there shows when it is used.
    #[must_use]
    pub fn to(path: &Path) -> Arc<Self> {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|access| access.strong_count() > 0);
        let same = known.iter().filter_map(Weak::upgrade).find(|access| access.path == path);
        same.unwrap_or_else(|| {
            let access =
                Arc::new(Self { path: path.to_owned(), turn: Arc::new(Semaphore::new(1)) });
            known.push(Arc::downgrade(&access));
            access
        })
    }

    /// Where the TPM is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has a conversation with the TPM, for at most `patience`, waiting for the turn included. It
    /// goes to its end even when whoever asked goes away.
    ///
    /// # Errors
    /// Those of `work`, and that the TPM is in use, away or late.
    pub async fn run<T, E>(
        &self,
        patience: Duration,
        work: impl FnOnce(&mut Tpm) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<TpmError> + Send + 'static,
    {
        let deadline = Instant::now() + patience;
        let shown = || self.path.display().to_string();
        let turn = tokio::time::timeout(patience, Arc::clone(&self.turn).acquire_owned());
        let Ok(Ok(turn)) = turn.await else { return Err(TpmError::Busy(shown()).into()) };
        let path = self.path.clone();
        let talk = move || {
            let _turn = turn;
            let mut tpm = Tpm::open(&path, deadline)?;
            work(&mut tpm)
        };
        // The device keeps the deadline; an old kernel's may not.
        let talk = tokio::time::timeout(patience + GRACE, tokio::task::spawn_blocking(talk));
        match talk.await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_panicked)) => Err(TpmError::Ended.into()),
            Err(_late) => Err(TpmError::from(DeviceError::Late(shown())).into()),
        }
    }
}

/// What flushing may take after the deadline.
const GRACE: Duration = Duration::from_secs(3);

//! Where signatures are made: beside the async workers, a bounded number at once.
//!
//! Verifying a CSR and signing its certificate is pure CPU. On the runtime's
//! own threads a batch of 500 would hold up every other call for its length.

use std::future::Future;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// A bounded number of jobs at once; the others wait their turn.
#[derive(Clone, Debug)]
pub struct SigningPool {
    slots: Arc<Semaphore>,
}

impl SigningPool {
    /// A pool with a slot per core.
    #[must_use]
    pub fn per_core() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { slots: Arc::new(Semaphore::new(cores)) }
    }

    /// Runs a job on a thread where it may take its time. A job that was begun
    /// runs to its end, even when nobody waits for it any more.
    ///
    /// # Panics
    /// When the job does.
    pub async fn run<T, F>(&self, job: F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let slot = Arc::clone(&self.slots);
        let slot = slot.acquire_owned().await.expect("nobody closes the semaphore");
        let runtime = Handle::current();
        let done = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            runtime.block_on(job)
        });
        match done.await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that shuts down cancels; then nobody reads this either.
                Err(_cancelled) => std::future::pending().await,
            },
        }
    }
}

//! Where signatures are made, and in whose turn.
//!
//! Verifying a CSR and signing its certificate is pure CPU. With a key that signs in microseconds
//! it is done where it is asked for: a change of threads and back costs more than the signature.
//! Everything else is done beside the async workers, a bounded number at once.
//!
//! Whoever asks for much asks in pieces, gives way after each, and has no more pieces under way at
//! once than half of the cores: so turns go round between callers, and a batch of hundreds does not
//! stand before another's single one.

use std::future::Future;
use std::sync::Arc;

use steeple_pki::Effort;
use steeple_runtime::PerKey;
use steeple_spiffe::SpiffeId;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// A bounded number of jobs at once; the others wait their turn. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SigningPool {
    slots: Arc<Semaphore>,
    /// For the pieces of each caller that may be under way at once.
    seats: Arc<PerKey<SpiffeId, Semaphore>>,
    each: usize,
}

impl SigningPool {
    /// A pool with a slot per core.
    #[must_use]
    pub fn per_core() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, usize::from))
    }

    fn new(cores: usize) -> Self {
        let slots = Arc::new(Semaphore::new(cores));
        Self { slots, seats: Arc::default(), each: (cores / 2).max(1) }
    }

    /// How many signatures one piece of a batch should have: about a third of a millisecond's
    /// worth, or of those made elsewhere as many as one caller should keep under way.
    #[must_use]
    pub(crate) fn piece(effort: Effort) -> usize {
        match effort {
            Effort::Brief | Effort::Long => 4,
            Effort::Elsewhere => 16,
        }
    }

    /// Does a job that signs with a key of this `effort`: here, or on a thread where it may take
    /// its time. There, a job that was begun runs to its end, even when nobody waits for it any
    /// more.
    ///
    /// # Panics
    /// When the job does.
    pub async fn run<T, F>(&self, effort: Effort, job: F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        if effort == Effort::Brief {
            return job.await;
        }
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

    /// As [`Self::run`], for a piece of what `caller` asked for at once: after it, others have
    /// their turn.
    ///
    /// # Panics
    /// When the job does.
    pub(crate) async fn run_piece<T, F>(&self, caller: &SpiffeId, effort: Effort, job: F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let seats = self.seats.get(caller, || Semaphore::new(self.each));
        let seat = seats.acquire().await.expect("nobody closes the semaphore");
        let done = self.run(effort, job).await;
        if effort == Effort::Brief {
            // Before the next piece of this caller's begins, whichever of its batches that is of.
            tokio::task::yield_now().await;
        }
        drop(seat);
        done
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const ITEMS: usize = 500;

    fn id(path: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
    }

    /// Batches of `agent` under way, whose pieces are counted.
    fn begin_batches(
        pool: &SigningPool,
        agent: &SpiffeId,
        batches: usize,
        effort: Effort,
    ) -> (Arc<AtomicUsize>, Vec<tokio::task::JoinHandle<()>>) {
        let done = Arc::new(AtomicUsize::new(0));
        let begin = |_| {
            let (pool, agent, done) = (pool.clone(), agent.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                for _ in 0..ITEMS {
                    let done = Arc::clone(&done);
                    let piece = async move { done.fetch_add(1, Ordering::SeqCst) };
                    pool.run_piece(&agent, effort, piece).await;
                }
            })
        };
        let under_way = (0..batches).map(begin).collect();
        (done, under_way)
    }

    #[tokio::test]
    async fn a_single_one_does_not_wait_for_the_batches_of_another() {
        let pool = SigningPool::new(1);
        let (done, batches) = begin_batches(&pool, &id("/crowd"), 8, Effort::Brief);
        tokio::task::yield_now().await;
        let begun = done.load(Ordering::SeqCst);
        let mine = pool.run_piece(&id("/other"), Effort::Brief, async { 7 }).await;
        let meanwhile = done.load(Ordering::SeqCst) - begun;
        assert_eq!(mine, 7);
        // One for each time that this task gave way, and not one for each batch.
        assert!(meanwhile <= 3, "{meanwhile} of the crowd's came first");
        for batch in batches {
            batch.await.unwrap();
        }
        assert_eq!(done.load(Ordering::SeqCst), 8 * ITEMS);
    }

    #[tokio::test]
    async fn what_takes_long_is_done_on_other_threads_and_as_fairly() {
        let pool = SigningPool::new(1);
        let (done, batches) = begin_batches(&pool, &id("/crowd"), 2, Effort::Long);
        let here = std::thread::current().id();
        let there = async move { std::thread::current().id() };
        assert_ne!(pool.run_piece(&id("/other"), Effort::Long, there).await, here);
        assert!(done.load(Ordering::SeqCst) < ITEMS, "it waited for all of a batch");
        for batch in batches {
            batch.await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_brief_is_done_where_it_is_asked_for() {
        let here = std::thread::current().id();
        let there = async { std::thread::current().id() };
        assert_eq!(SigningPool::per_core().run(Effort::Brief, there).await, here);
    }

    #[tokio::test]
    async fn a_panic_of_a_job_is_its_askers() {
        let pool = SigningPool::per_core();
        let asked = tokio::spawn(async move {
            pool.run(Effort::Long, async { panic!("on purpose") }).await;
        });
        assert!(asked.await.unwrap_err().is_panic());
    }
}

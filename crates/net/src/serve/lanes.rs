//! Turns on the processor, fairly.
//!
//! A runtime takes ready tasks in the order in which they became ready, so that a thousand
//! connections that one user opens at once all have their turn before the next user's. Here the
//! connections of one user are one task (one for each processor), and the runtime divides its time
//! between users.

mod runner;

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::FutureExt as _;
use steeple_runtime::drain::Tasks;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use runner::Runner;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The lanes of one server, by whom they belong to.
#[derive(Clone)]
pub(super) struct Lanes {
    lanes: Arc<Mutex<HashMap<u32, Weak<Lane>>>>,
    tasks: Tasks,
    width: usize,
}

impl Lanes {
    pub(super) fn new(tasks: Tasks) -> Self {
        let width = std::thread::available_parallelism().map_or(1, usize::from);
        Self { lanes: Arc::default(), tasks, width }
    }

    /// The lane of `owner`, which is there for as long as somebody holds it or works in it.
    pub(super) fn of(&self, owner: u32) -> Arc<Lane> {
        let mut lanes = lock(&self.lanes);
        if let Some(lane) = lanes.get(&owner).and_then(Weak::upgrade) {
            return lane;
        }
        // Whoever left is forgotten when somebody comes.
        lanes.retain(|_, lane| lane.strong_count() > 0);
        // Its number among all lanes of this process.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let runners = (0..self.width).map(|_| {
            let (sender, receiver) = unbounded_channel();
            self.tasks.spawn_isolated("grpc_lane", Runner::new(number, receiver));
            sender
        });
        let lane = Arc::new(Lane { number, runners: runners.collect(), next: AtomicUsize::new(0) });
        lanes.insert(owner, Arc::downgrade(&lane));
        lane
    }
}

/// Where the work of one owner is done.
pub(crate) struct Lane {
    number: u64,
    runners: Vec<UnboundedSender<Work>>,
    next: AtomicUsize,
}

impl Lane {
    /// Does `work` here; a panic in it is logged and takes nothing else down.
    pub(super) fn spawn<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let work = AssertUnwindSafe(work).catch_unwind().map(move |outcome| {
            if outcome.is_err() {
                tracing::error!(task = name, "Task panicked");
            }
        });
        // What a connection has to do stays with it: another thread would have to wake up for it.
        let Some(work) = runner::keep(self.number, Box::pin(work)) else { return };
        let runner = self.next.fetch_add(1, Ordering::Relaxed) % self.runners.len();
        // A runner ends only with the lane, or with the runtime.
        let _ = self.runners[runner].send(work);
    }
}

fn lock<T>(lanes: &Mutex<T>) -> MutexGuard<'_, T> {
    lanes.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_is_done_and_a_panic_stays_where_it_is() {
        let tasks = Tasks::new();
        let lanes = Lanes::new(tasks.clone());
        let lane = lanes.of(7);
        let done = Arc::new(AtomicUsize::new(0));
        for number in 0..100 {
            let done = done.clone();
            lane.spawn("work", async move {
                assert!(number != 50, "on purpose");
                tokio::task::yield_now().await;
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        drop((lane, lanes));
        let joined = tokio::time::timeout(Duration::from_secs(20), tasks.join());
        joined.await.expect("lanes end with their work").unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 99);
    }

    #[tokio::test]
    async fn a_crowd_of_one_owner_does_not_stand_before_another() {
        let lanes = Lanes { width: 1, ..Lanes::new(Tasks::new()) };
        let (crowd, other) = (lanes.of(1), lanes.of(2));
        let (sender, mut finished) = unbounded_channel();
        for number in 0..5_000_u32 {
            let sender = sender.clone();
            crowd.spawn("crowd", async move {
                tokio::task::yield_now().await;
                let _ = sender.send(number);
            });
        }
        let mine = sender.clone();
        other.spawn("other", async move {
            tokio::task::yield_now().await;
            let _ = mine.send(u32::MAX);
        });
        let mut before = 0;
        while finished.recv().await.unwrap() != u32::MAX {
            before += 1;
        }
        assert!(before < 500, "{before} of the crowd came first");
    }

    #[tokio::test]
    async fn lanes_without_anybody_are_forgotten() {
        let lanes = Lanes::new(Tasks::new());
        for owner in 0..100 {
            drop(lanes.of(owner));
        }
        let _kept = lanes.of(100);
        assert_eq!(lock(&lanes.lanes).len(), 1);
    }
}

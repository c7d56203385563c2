//! One list of pods for all who wait for one.
//!
//! Requests to the kubelet begin at least an interval apart, one at a time, and only while
//! somebody waits. What comes of one, everybody gets who waited when it came. The request belongs
//! to nobody who waits: it goes on when they leave.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steeple_runtime::Tasks;
use tokio::sync::watch;
use tokio::time::Instant;

use super::config::KubeletConfig;
use super::kubelet::{Kubelet, KubeletError};
use super::pods::Pods;

/// A list, and how many there were before it.
#[derive(Clone, Debug)]
pub(crate) struct Versioned {
    pub(crate) pods: Arc<Pods>,
    pub(crate) version: u64,
}

/// What came of a request.
type Outcome = Result<Versioned, KubeletError>;

/// Gives the lists.
#[derive(Clone)]
pub(crate) struct Fetcher(Arc<Shared>);

struct Shared {
    config: KubeletConfig,
    interval: Duration,
    tasks: Tasks,
    state: Mutex<State>,
    /// What came last.
    outcomes: watch::Sender<Option<Outcome>>,
}

struct State {
    kubelet: Option<Arc<Kubelet>>,
    /// Whether a request is under way, or waits for its time.
    running: bool,
    waiting: usize,
    last_start: Option<Instant>,
    cached: Option<(Versioned, Instant)>,
    version: u64,
}

impl Fetcher {
    /// A fetcher with what the files say now; blocks for as long as the disk does.
    pub(crate) fn new(config: KubeletConfig, interval: Duration) -> Result<Self, KubeletError> {
        let kubelet = Kubelet::load(&config, None, Instant::now())?;
        let state = State {
            kubelet: Some(kubelet),
            running: false,
            waiting: 0,
            last_start: None,
            cached: None,
            version: 0,
        };
        Ok(Self(Arc::new(Shared {
            config,
            interval,
            tasks: Tasks::new(),
            state: Mutex::new(state),
            outcomes: watch::Sender::new(None),
        })))
    }

    /// A list with a version above `after`: the last one while it is fresh, else the next.
    pub(crate) async fn next(&self, after: u64) -> Outcome {
        let mut outcomes = self.0.outcomes.subscribe();
        let waiting = {
            let mut state = self.0.lock();
            if let Some((cached, start)) = &state.cached
                && cached.version > after
                && start.elapsed() < self.0.interval
            {
                return Ok(cached.clone());
            }
            // Marked here, under the lock that outcomes are told under, so that none is missed.
            outcomes.mark_unchanged();
            state.waiting += 1;
            if !state.running {
                state.running = true;
                let shared = Arc::clone(&self.0);
                self.0.tasks.spawn_isolated("pod-list", async move { shared.round().await });
            }
            Waiting(&self.0)
        };
        let told = outcomes.changed().await;
        drop(waiting);
        let outcome = outcomes.borrow_and_update().clone();
        match (told, outcome) {
            (Ok(()), Some(outcome)) => outcome,
            _ => Err(KubeletError::Config("pod list fetcher is closed".to_owned())),
        }
    }
}

#[cfg(test)]
impl Fetcher {
    /// Whether a request is under way, or waits for its time.
    pub(crate) fn is_running(&self) -> bool {
        self.0.lock().running
    }
}

/// One who waits.
struct Waiting<'a>(&'a Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

/// A request under way; whoever waits is told of its end even if it panics.
struct Round<'a> {
    shared: &'a Shared,
    /// None when there was no request, since nobody waited any more.
    outcome: Option<Outcome>,
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        let Some(outcome) = self.outcome.take() else { return };
        let mut state = self.shared.lock();
        state.running = false;
        if let (Ok(list), Some(start)) = (&outcome, state.last_start) {
            state.cached = Some((list.clone(), start));
        }
        self.shared.outcomes.send_replace(Some(outcome));
    }
}

impl Shared {
    async fn round(&self) {
        let stopped = KubeletError::Config("reading the pod list stopped".to_owned());
        let mut round = Round { shared: self, outcome: Some(Err(stopped)) };
        let last_start = self.lock().last_start;
        if let Some(last_start) = last_start {
            tokio::time::sleep_until(last_start + self.interval).await;
        }
        let kubelet = {
            let mut state = self.lock();
            if state.waiting == 0 {
                // Under the lock: who comes after this begins a round of its own.
                state.running = false;
                round.outcome = None;
                return;
            }
            state.last_start = Some(Instant::now());
            state.kubelet.take()
        };
        round.outcome = Some(self.fetch(kubelet).await);
    }

    async fn fetch(&self, kubelet: Option<Arc<Kubelet>>) -> Outcome {
        let now = Instant::now();
        let kubelet = match kubelet {
            Some(kubelet) if !kubelet.is_stale(now) => kubelet,
            before => {
                let config = self.config.clone();
                let load = move || Kubelet::load(&config, before, now);
                match tokio::task::spawn_blocking(load).await {
                    Ok(loaded) => loaded?,
                    Err(_) => return Err(KubeletError::Config("reading files stopped".into())),
                }
            }
        };
        let answer = kubelet.pods().await;
        let mut state = self.lock();
        // A token that is no longer accepted is read again with the next request.
        if !matches!(answer, Err(KubeletError::Status(401, _))) {
            state.kubelet = Some(kubelet);
        }
        state.version += 1;
        let version = state.version;
        drop(state);
        Ok(Versioned { pods: Arc::new(answer?), version })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

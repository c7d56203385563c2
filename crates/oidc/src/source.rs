//! Where keys come from: asked at an interval, the last answer kept.

mod origin;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use steeple_runtime::drain::{Tasks, Watcher};
use steeple_runtime::duration;
use tokio::time::{Instant, sleep, timeout};

use crate::keys::{Document, Key};
pub(crate) use origin::Origin;

/// How long one question may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// The keys of the moment.
#[derive(Debug, Default)]
pub(crate) struct Source {
    document: ArcSwapOption<Document>,
    last_poll: Mutex<Option<Instant>>,
}

impl Source {
    /// Asks `origin` every `interval`, in `tasks` until `drain` is signalled.
    pub(crate) fn start(
        origin: Origin,
        interval: Duration,
        set_key_use: bool,
        tasks: &Tasks,
        mut drain: Watcher,
    ) -> Arc<Self> {
        let this = Arc::new(Self::default());
        let polled = Arc::clone(&this);
        tasks.spawn("key_source", async move {
            tracing::debug!(interval = %duration::format_go(interval), "Polling started");
            loop {
                let poll = async {
                    match timeout(DEADLINE, origin.fetch()).await {
                        Ok(Some(keys)) => {
                            polled.update(keys, set_key_use, SystemTime::now(), Instant::now());
                        }
                        Ok(None) => {}
                        Err(_) => tracing::warn!(
                            error = "context deadline exceeded",
                            "{}",
                            origin.failure()
                        ),
                    }
                    sleep(interval).await;
                };
                tokio::select! {
                    () = drain.signalled() => break,
                    () = poll => {}
                }
            }
            tracing::debug!(error = "context canceled", "Polling done");
        });
        this
    }

    /// Takes in an answer; the same keys once more are no change.
    pub(crate) fn update(&self, keys: Vec<Key>, set_key_use: bool, now: SystemTime, at: Instant) {
        if self.document().is_none_or(|it| it.keys != keys) {
            let document = Document::new(keys, set_key_use, now);
            self.document.store(Some(Arc::new(document)));
        }
        *self.last_poll.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// The keys; `None` before the first answer.
    pub(crate) fn document(&self) -> Option<Arc<Document>> {
        self.document.load_full()
    }

    /// When the last answer came.
    pub(crate) fn last_poll(&self) -> Option<Instant> {
        *self.last_poll.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

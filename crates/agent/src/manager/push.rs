//! Being told of changes, where the server can (ADR 12): a hint wakes the sync.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use steeple_agent_core::lifetime::heed;
use steeple_agent_core::push::{StreamEnd, StreamRetry};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::{Manager, SUBSYSTEM};
use crate::error::CallError;
use crate::server::Ended;

/// The server gives a sign of life every 30 seconds.
const SILENCE: Duration = Duration::from_secs(75);

impl Manager {
    /// Keeps a stream of hints open, for as long as the server has one to offer.
    pub(super) async fn push_loop(&self) -> Infallible {
        if !self.settings.push {
            return pending().await;
        }
        let mut retry = StreamRetry::new();
        loop {
            let ended = self.follow_hints(&mut retry).await;
            self.book.pushed(false);
            if ended.is_refusal() {
                // The sync finds out, and does what is to be done.
                self.hints.notify_one();
            }
            let reopening = retry.ended(ended.how);
            if reopening.news {
                tell(&ended);
            }
            sleep(pause(reopening.pause, &ended)).await;
        }
    }

    async fn follow_hints(&self, retry: &mut StreamRetry) -> Ended {
        let mut hints = match self.server.watch().await {
            Ok(hints) => hints,
            Err(ended) => return ended,
        };
        loop {
            match timeout(SILENCE, hints.next()).await {
                Ok(Ok(news)) => {
                    retry.works();
                    self.book.pushed(true);
                    // The first hint is one too: what was missed before is learnt by syncing.
                    if news {
                        self.hints.notify_one();
                    }
                }
                Ok(Err(ended)) => return ended,
                Err(_) => return Ended::silent(),
            }
        }
    }
}

/// A server that goes takes the streams of all agents with it; they are not to come back together.
fn pause(own: Duration, ended: &Ended) -> Duration {
    let asked = ended.error.as_ref().and_then(CallError::asked_to_wait);
    let spread = match ended.how {
        StreamEnd::Lost => own.mul_f64(0.5 + fastrand::f64()),
        _ => own,
    };
    heed(spread, asked, None)
}

fn tell(ended: &Ended) {
    let error = ended.error.as_ref().map(CallError::rpc);
    match ended.how {
        StreamEnd::Over(_) => {}
        StreamEnd::NotOffered => debug!(
            subsystem_name = SUBSYSTEM,
            error, "The server does not tell of changes; polling for them"
        ),
        StreamEnd::Lost => {
            debug!(subsystem_name = SUBSYSTEM, error, "Lost the stream that tells of changes");
        }
        StreamEnd::Replaced => warn!(
            subsystem_name = SUBSYSTEM,
            error, "Another process uses this agent's identity, or did; polling for changes"
        ),
    }
}

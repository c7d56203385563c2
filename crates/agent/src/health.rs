//! The agent's health: it is ready when its own Workload API answers.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use steeple_ops::health::{Check, Health, State};

/// What is told when the Workload API does not answer.
const DETAIL: (&str, &str) = ("make_new_x509_err", "workload api is unavailable");

/// How long the Workload API may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the listener waits for the sockets before it serves all the same.
const START_TIMEOUT: Duration = Duration::from_secs(8);

/// Whether the agent's sockets are served; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Started(Arc<AtomicBool>);

impl Started {
    /// They are.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Until the sockets are served, but not for long.
    pub(crate) async fn wait(&self) {
        let waiting = async {
            while !self.is_set() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let _ = tokio::time::timeout(START_TIMEOUT, waiting).await;
    }
}

/// Asks over `socket`; with none (the Workload API is off) the agent is healthy
/// once it has started.
pub(crate) fn checks(socket: Option<PathBuf>, started: Started) -> Arc<Health> {
    let agent: Check = Box::new(move || {
        let (socket, started) = (socket.clone(), started.clone());
        Box::pin(async move {
            let is_started = started.is_set();
            let Some(socket) = socket else {
                return State { starting: !is_started, ready: is_started, ..State::good() };
            };
            let available = is_available(&socket).await;
            let details = || vec![(DETAIL.0, DETAIL.1.to_owned())];
            State {
                starting: !is_started,
                live: !is_started || available,
                ready: available,
                live_details: if available || !is_started { Vec::new() } else { details() },
                ready_details: if available { Vec::new() } else { details() },
            }
        })
    });
    Health::new([("agent", agent)])
}

async fn is_available(socket: &std::path::Path) -> bool {
    let answer = steeple_agent_api::health::fetch_x509_bundles(socket);
    match tokio::time::timeout(CHECK_TIMEOUT, answer).await {
        Ok(Err(status)) => status.code() != tonic::Code::Unavailable,
        Ok(Ok(())) => true,
        Err(_elapsed) => false,
    }
}

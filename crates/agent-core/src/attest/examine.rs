//! Attesting for an operator who wants to see how it goes.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use steeple_peer::Peer;
use steeple_spiffe::Selector;

use super::{AttestError, WorkloadAttestation};

/// One attestor's answer.
#[derive(Clone, Debug)]
pub struct Examined {
    /// The attestor.
    pub attestor: String,
    /// How long it took.
    pub took: Duration,
    /// What it found, or why nothing.
    pub outcome: Result<Vec<Selector>, String>,
}

impl WorkloadAttestation {
    /// Asks every attestor about `pid`, side by side, and tells of each; the
    /// process must be there before and afterwards. `asker` is the operator's user.
    pub async fn examine(&self, pid: i32, asker: u32) -> Result<Vec<Examined>, AttestError> {
        let _turn = self.turn(asker).await?;
        let process =
            Peer::by_pid(pid).map_err(|error| AttestError::AllFailed(error.to_string()))?;
        let examined = join_all(self.attestors.iter().map(|attestor| async move {
            let started = Instant::now();
            let outcome = attestor.about(pid, asker).await.map_err(|failure| failure.message);
            Examined { attestor: attestor.name().to_owned(), took: started.elapsed(), outcome }
        }))
        .await;
        process.is_alive()?;
        Ok(examined)
    }
}

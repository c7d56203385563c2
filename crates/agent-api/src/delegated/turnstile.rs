//! One attestation for many calls of one process.
//!
//! A delegate opens a stream per workload, ten thousand at once. Each call is answered by an
//! attestation that began after it came, as if it were alone; but calls that wait at the same
//! time share one. Nothing is remembered beyond that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use steeple_agent_core::attest::{AttestError, WorkloadAttestation};
use steeple_agent_core::selectors::SelectorSet;
use steeple_peer::Peer;
use tokio::sync::Mutex as Turns;

pub(super) struct Turnstile {
    attestation: Arc<WorkloadAttestation>,
    waiting: Mutex<HashMap<i32, Arc<Rounds>>>,
}

/// The attestations of one process, one after the other.
#[derive(Default)]
struct Rounds {
    begun: Mutex<u64>,
    last: Turns<Option<(u64, SelectorSet)>>,
}

impl Turnstile {
    pub(super) fn new(attestation: Arc<WorkloadAttestation>) -> Self {
        Self { attestation, waiting: Mutex::default() }
    }

    pub(super) async fn attest(&self, peer: &Peer) -> Result<SelectorSet, AttestError> {
        let rounds = Waiting::new(self, peer.pid());
        let seen = *rounds.begun();
        let mut last = rounds.rounds.last.lock().await;
        if let Some((round, selectors)) = &*last
            && *round > seen
        {
            // Found out on another connection, perhaps: this one's process must be the same.
            peer.is_alive()?;
            return Ok(selectors.clone());
        }
        let round = {
            let mut begun = rounds.begun();
            *begun += 1;
            *begun
        };
        let selectors = self.attestation.attest(peer).await?;
        *last = Some((round, selectors.clone()));
        Ok(selectors)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<i32, Arc<Rounds>>> {
        self.waiting.lock().expect("no code panics while it holds the rounds")
    }
}

/// A call that waits; with the last one its process is forgotten.
struct Waiting<'t> {
    turnstile: &'t Turnstile,
    pid: i32,
    rounds: Arc<Rounds>,
}

impl<'t> Waiting<'t> {
    fn new(turnstile: &'t Turnstile, pid: i32) -> Self {
        let rounds = turnstile.waiting().entry(pid).or_default().clone();
        Self { turnstile, pid, rounds }
    }

    fn begun(&self) -> MutexGuard<'_, u64> {
        self.rounds.begun.lock().expect("no code panics while it counts")
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.turnstile.waiting();
        // The map's and this one's.
        if Arc::strong_count(&self.rounds) <= 2 {
            waiting.remove(&self.pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use futures_util::future::join_all;
    use steeple_agent_core::attest::AttestLimits;
    use steeple_plugin::{PluginError, WorkloadAttestor};
    use steeple_spiffe::Selector;
    use tokio::net::UnixStream;

    use super::*;

    struct Counting(AtomicUsize);

    #[async_trait]
    impl WorkloadAttestor for Counting {
        fn name(&self) -> &str {
            "test"
        }

        async fn attest(&self, _: i32) -> Result<Vec<Selector>, PluginError> {
            let round = self.0.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(vec![Selector::new("round", &round.to_string())])
        }
    }

    #[tokio::test]
    async fn calls_that_wait_together_share_an_attestation_that_began_after_they_came() {
        let attestor = Arc::new(Counting(0.into()));
        let attestation =
            WorkloadAttestation::new(vec![attestor.clone()], AttestLimits::default(), -1);
        let turnstile = Turnstile::new(Arc::new(attestation));
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(&ours).unwrap();
        let answers = join_all((0..1000).map(|_| turnstile.attest(&peer))).await;
        assert!(answers.iter().all(Result::is_ok));
        let rounds = attestor.0.load(Ordering::SeqCst);
        assert!(rounds <= 2, "{rounds} attestations for calls that came together");
        let later = turnstile.attest(&peer).await.unwrap();
        assert_eq!(later.to_string(), format!("round:{rounds}"), "nothing is remembered");
        assert!(turnstile.waiting().is_empty());
    }
}

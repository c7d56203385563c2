//! Who asks for little while others ask for too much: an agent, and an operator.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use steeple_net::channel::Channel;
use steeple_proto::spire::api::server::entry::v1::ListEntriesRequest;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use tokio::task::JoinHandle;

use super::tally::{Outcome, attempt};
use super::{Caller, Counts, PATIENCE, Tally};
use crate::error::{Error, Result};

/// Between two calls of the same kind: of those whose class is not the crowd's.
const PACE: Duration = Duration::from_millis(50);
/// Between two signatures: less than the share of each caller, had all the same.
const SIGN_PACE: Duration = Duration::from_secs(1);
/// How many entries an operator lists at once.
const PAGE: i32 = 50;

/// Calls of each kind, one after the other, until they are told to end.
pub struct Probes {
    stop: Arc<AtomicBool>,
    begun: Instant,
    sign: (Arc<Tally>, JoinHandle<()>),
    sync: (Arc<Tally>, JoinHandle<()>),
    admin: (Arc<Tally>, JoinHandle<()>),
}

/// What became of them.
pub struct Meanwhile {
    pub sign: Counts,
    pub sync: Counts,
    pub admin: Counts,
}

impl Probes {
    /// Has `caller` sync, for `expected` entries, and have one SVID signed, and lists entries over
    /// `local`.
    pub fn begin(caller: &Caller, local: Channel, expected: usize) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let agent = Arc::clone(&caller.agent);
        let sync = repeat(&stop, PACE, move || {
            let agent = Arc::clone(&agent);
            async move { agent.try_sync(expected, PATIENCE).await }
        });
        let caller = caller.clone();
        let sign = repeat(&stop, SIGN_PACE, move || {
            let caller = caller.clone();
            async move { caller.sign(1, true).await }
        });
        let admin = repeat(&stop, PACE, move || list(local.clone()));
        Self { stop, begun: Instant::now(), sign, sync, admin }
    }

    /// Ends them.
    ///
    /// # Errors
    /// When an answer was wrong.
    pub async fn end(self) -> Result<Meanwhile> {
        self.stop.store(true, Ordering::Relaxed);
        let begun = self.begun;
        let counts = |(tally, task): (Arc<Tally>, JoinHandle<()>)| async move {
            task.await.expect("a probe does not panic");
            tally.counts(begun.elapsed())
        };
        Ok(Meanwhile {
            sign: counts(self.sign).await?,
            sync: counts(self.sync).await?,
            admin: counts(self.admin).await?,
        })
    }
}

fn repeat<T, F>(
    stop: &Arc<AtomicBool>,
    pace: Duration,
    call: impl Fn() -> F + Send + 'static,
) -> (Arc<Tally>, JoinHandle<()>)
where
    F: Future<Output = Result<Outcome<T>>> + Send,
    T: Send,
{
    let (stop, tally) = (Arc::clone(stop), Arc::<Tally>::default());
    let adds = Arc::clone(&tally);
    let task = tokio::spawn(async move {
        let mut pace = tokio::time::interval(pace);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !stop.load(Ordering::Relaxed) {
            pace.tick().await;
            let begun = Instant::now();
            let outcome = call().await;
            adds.add(outcome, begun, begun + PATIENCE);
        }
    });
    (tally, task)
}

async fn list(local: Channel) -> Result<Outcome<()>> {
    const LIST: &str = "ListEntries";
    let request = ListEntriesRequest { page_size: PAGE, ..Default::default() };
    let mut request = tonic::Request::new(request);
    request.set_timeout(PATIENCE);
    let mut client = EntryClient::new(local);
    match attempt(LIST, PATIENCE, client.list_entries(request)).await? {
        Outcome::Answered(answer) if answer.get_ref().entries.is_empty() => {
            Err(Error::Wrong { call: LIST, what: "no entries".into() })
        }
        Outcome::Answered(_) => Ok(Outcome::Answered(())),
        other => Ok(other.without_answer()),
    }
}

//! The authorised-entry index: one task owns it, everyone reads snapshots.
//!
//! The task follows the store's change feed: a local commit wakes it at once,
//! a peer's is found by the next poll. It builds the next [`Snapshot`] from the
//! changed rows alone and swaps it in; readers hold an `Arc` and never wait.
//! What this process committed to agents, with nobody else's commit between, is
//! taken from memory.
//! The whole is read again only at start, when the feed says that it cannot
//! continue, and once a day to repair what nobody should have been able to
//! break.

mod authorized;
mod load;
mod pages;
mod record;
mod shards;
mod snapshot;
mod tables;
mod touched;
mod wire;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use steeple_runtime::Clock;
use steeple_runtime::Watcher;
use steeple_spiffe::{SpiffeId, TrustDomain};
use steeple_store::{AttestedNode, Mark, OwnChange, Revision, Since, Store, StoreError};
use steeple_telemetry::call;
use tokio::sync::{mpsc, oneshot, watch};

pub use authorized::Authorized;
use load::read_all;
pub use record::EntryRef;
pub(crate) use snapshot::SERVER_PATH;
pub use snapshot::{AliasMiss, Ancestry, Holder, Privileges, Snapshot, Step, StepKind};
pub(crate) use touched::Touched;
use touched::TouchedLog;
pub use wire::Fields;

use crate::time::{unix_millis, unix_seconds};

/// The longest that a writer waits for its own write to show.
const REFRESH_PATIENCE: Duration = Duration::from_secs(1);

/// How many writers may wait for a refresh before more just go on.
const REFRESH_QUEUE: usize = 1024;

/// So often what this process committed is taken over before the database is read after all.
const MOST_OWN: usize = 8;

/// Between two lines in the log that say the same: looks at the feed are more frequent.
const COMPLAIN: Duration = Duration::from_secs(5);

/// Readers' handle on the index. Cheap to clone.
#[derive(Clone)]
pub struct AuthorizedIndex {
    shared: Arc<Shared>,
    refresh: mpsc::Sender<Waiting>,
    /// Counts this process's commits.
    commits: watch::Receiver<u64>,
}

/// A writer that waits for its own write to show.
struct Waiting {
    /// The count of the commits, its own among them.
    commits: u64,
    done: oneshot::Sender<()>,
}

struct Shared {
    current: ArcSwap<Snapshot>,
    /// When the feed was last read to its end, in Unix milliseconds.
    checked_at: AtomicI64,
    /// The count of this process's commits that the snapshot shows.
    shown: AtomicU64,
    /// Where the database was before that, if it can tell.
    mark: Mutex<Option<Mark>>,
    /// What the changes touched, for whoever follows them.
    touched: TouchedLog,
}

/// The periods of the index task.
#[derive(Clone, Copy, Debug)]
pub struct IndexPeriods {
    /// Between two looks at the feed when nothing wakes the task.
    pub poll: Duration,
    /// Between two full reads.
    pub reload: Duration,
}

/// The owner of the index; see [`IndexTask::run`].
pub struct IndexTask {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    trust_domain: TrustDomain,
    periods: IndexPeriods,
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Waiting>,
    revision: Revision,
    reloaded_at: SystemTime,
    /// When it was last said that the feed cannot be followed, while it cannot.
    complained_at: Option<SystemTime>,
}

impl AuthorizedIndex {
    /// Reads the whole once; the returned task keeps it up to date.
    ///
    /// # Errors
    /// The store's, when the first read fails.
    pub async fn load(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        trust_domain: TrustDomain,
        periods: IndexPeriods,
    ) -> Result<(Self, IndexTask), StoreError> {
        let commits = store.wakeups();
        let shown = *commits.borrow();
        let mark = store.mark();
        let (snapshot, revision) = read_all(store.as_ref(), &trust_domain).await?;
        let now = clock.now();
        let shared = Arc::new(Shared {
            current: ArcSwap::from_pointee(snapshot),
            checked_at: AtomicI64::new(unix_millis(now)),
            shown: AtomicU64::new(shown),
            mark: Mutex::new(mark),
            touched: TouchedLog::default(),
        });
        let (refresh, requests) = mpsc::channel(REFRESH_QUEUE);
        let index = Self { shared: Arc::clone(&shared), refresh, commits };
        let task = IndexTask {
            store,
            clock,
            trust_domain,
            periods,
            shared,
            requests,
            revision,
            reloaded_at: now,
            complained_at: None,
        };
        Ok((index, task))
    }

    /// The snapshot of this moment.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.current.load_full()
    }

    /// What an agent may have now, from memory.
    #[must_use]
    pub fn authorized(&self, agent: &SpiffeId, now: SystemTime) -> Authorized {
        let snapshot = self.snapshot();
        let handles = snapshot.authorized_handles(agent, unix_seconds(now));
        Authorized::new(snapshot, handles)
    }

    /// What was touched since this was last asked, once there is something. For one follower.
    /// The snapshot has it already when this answers: the one of the edition answered, and each
    /// after it.
    pub(crate) async fn touched(&self) -> (Touched, u64) {
        self.shared.touched.take().await
    }

    /// How old the knowledge behind the snapshot is.
    #[must_use]
    pub fn staleness(&self, now: SystemTime) -> Duration {
        let age = unix_millis(now) - self.shared.checked_at.load(Ordering::Relaxed);
        Duration::from_millis(u64::try_from(age).unwrap_or(0))
    }

    /// Whether nobody has committed anything since the snapshot was true. Costs no query; where
    /// only a query could tell, the answer is no.
    #[must_use]
    pub fn is_current(&self, store: &dyn Store) -> bool {
        let mark = self.shared.mark();
        mark.is_some() && store.mark() == mark
    }

    /// Waits until what this process committed before this call shows in the snapshot.
    /// Gives up after a second: the write stands, it only shows later.
    pub async fn refresh(&self) {
        let commits = *self.commits.borrow();
        if self.shared.shown.load(Ordering::Acquire) >= commits {
            return;
        }
        let (done, wait) = oneshot::channel();
        if self.refresh.try_send(Waiting { commits, done }).is_ok() {
            let _late_or_gone = tokio::time::timeout(REFRESH_PATIENCE, wait).await;
        }
    }
}

impl Shared {
    /// Puts a snapshot in the place of the one before it.
    fn show(&self, mut next: Snapshot, touched: Touched) {
        let edition = self.current.load().edition + 1;
        next.edition = edition;
        self.current.store(Arc::new(next));
        self.touched.add(touched, edition);
    }

    fn mark(&self) -> Option<Mark> {
        *self.mark.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says at which mark the snapshot that is shown is true.
    fn set_mark(&self, mark: Option<Mark>) {
        *self.mark.lock().unwrap_or_else(PoisonError::into_inner) = mark;
    }
}

impl IndexTask {
    /// Follows the feed until the drain begins.
    pub async fn run(mut self, mut drain: Watcher) {
        let mut wakeups = self.store.wakeups();
        let mut waiting: Vec<Waiting> = Vec::new();
        loop {
            if waiting.is_empty() {
                tokio::select! {
                    () = drain.signalled() => return,
                    Ok(()) = wakeups.changed() => {}
                    Some(writer) = self.requests.recv() => waiting.push(writer),
                    () = tokio::time::sleep(self.periods.poll) => {}
                }
            } else if drain.is_signalled() {
                return;
            }
            // One look serves everyone who asked before it began.
            while let Ok(writer) = self.requests.try_recv() {
                waiting.push(writer);
            }
            let commits = *wakeups.borrow_and_update();
            let shows = self.catch_up().await;
            if shows {
                self.shared.shown.store(commits, Ordering::Release);
            }
            for writer in waiting.drain(..) {
                let _writer_left = writer.done.send(());
            }
            // And those who asked meanwhile, if what they wait for was there already.
            while let Ok(writer) = self.requests.try_recv() {
                if shows && writer.commits <= commits {
                    let _writer_left = writer.done.send(());
                } else {
                    waiting.push(writer);
                }
            }
        }
    }

    /// Reads what happened, and answers whether that went well.
    async fn catch_up(&mut self) -> bool {
        let now = self.clock.now();
        let due = now.duration_since(self.reloaded_at).is_ok_and(|age| age >= self.periods.reload);
        let call = call(&["entry", "cache", "reload"]);
        let outcome = if !due && self.take_own(now) {
            Ok(())
        } else {
            // Taken first: what is read after it may be newer, and is never taken for older.
            let mark = self.store.mark();
            let outcome = if due { self.reload(now).await } else { self.follow(now).await };
            if outcome.is_ok() {
                self.shared.set_mark(mark);
            }
            outcome
        };
        call.outcome(&outcome);
        self.shared.current.load().tell();
        match outcome {
            Ok(()) => {
                self.shared.checked_at.store(unix_millis(now), Ordering::Relaxed);
                if self.complained_at.take().is_some() {
                    tracing::info!(
                        subsystem_name = "endpoints",
                        "Entry cache is being updated again"
                    );
                }
                true
            }
            Err(error) => {
                let silent = |at: SystemTime| now.duration_since(at).is_ok_and(|it| it < COMPLAIN);
                if self.complained_at.is_some_and(silent) {
                    return false;
                }
                self.complained_at = Some(now);
                tracing::error!(
                    subsystem_name = "endpoints",
                    %error,
                    "Failed to update the entry cache"
                );
                false
            }
        }
    }

    /// Takes over what this process committed since, and answers whether that is all there is.
    fn take_own(&mut self, now: SystemTime) -> bool {
        // Whoever commits faster than this has it read together.
        for _ in 0..MOST_OWN {
            let (Some(known), Some(mark)) = (self.shared.mark(), self.store.mark()) else {
                return false;
            };
            if mark == known {
                return true;
            }
            let Some(own) = self.store.own_commits(&self.revision, known) else { return false };
            let mut next = None;
            let mut touched = Touched::default();
            for change in own.agents {
                let next = next.get_or_insert_with(|| Snapshot::clone(&self.shared.current.load()));
                let node = match change {
                    OwnChange::Agent(node) => node,
                    OwnChange::Renewed { spiffe_id, serial_number, expires_at } => {
                        // A row that is not as it should be is in no snapshot.
                        let Some(node) = next.node(&spiffe_id) else { continue };
                        let mut node = AttestedNode::clone(node);
                        (node.new_serial_number, node.new_expires_at) = (serial_number, expires_at);
                        node
                    }
                };
                put_node(next, &mut touched, &node.spiffe_id.clone(), Some(node), now);
            }
            if let Some(next) = next {
                self.shared.show(next, touched);
            }
            self.revision = own.revision;
            self.shared.set_mark(Some(own.mark));
        }
        false
    }

    async fn follow(&mut self, now: SystemTime) -> Result<(), StoreError> {
        match self.store.changes_since(&self.revision).await? {
            Since::Changes(changes) => {
                if !changes.is_empty() {
                    let mut next = Snapshot::clone(&self.shared.current.load());
                    let mut touched = Touched::default();
                    for change in changes.entries {
                        let before = next.entry(&change.entry_id).map(EntryRef::to_entry);
                        touched.entry(before.as_ref(), change.entry.as_ref());
                        next.put_entry(&change.entry_id, change.entry.as_ref());
                    }
                    for change in changes.nodes {
                        put_node(&mut next, &mut touched, &change.spiffe_id, change.node, now);
                    }
                    self.shared.show(next, touched);
                }
                self.revision = changes.revision;
                Ok(())
            }
            Since::ResnapshotNeeded(reason) => {
                tracing::warn!(
                    subsystem_name = "endpoints",
                    %reason,
                    "Reading all entries again: the change feed cannot continue"
                );
                self.reload(now).await
            }
        }
    }

    async fn reload(&mut self, now: SystemTime) -> Result<(), StoreError> {
        let (snapshot, revision) = read_all(self.store.as_ref(), &self.trust_domain).await?;
        self.shared.show(snapshot, Touched::everything());
        self.revision = revision;
        self.reloaded_at = now;
        Ok(())
    }
}

/// Puts an agent into a snapshot, and notes whom that touches.
fn put_node(
    snapshot: &mut Snapshot,
    touched: &mut Touched,
    agent: &SpiffeId,
    node: Option<AttestedNode>,
    now: SystemTime,
) {
    let before = snapshot.node(agent).map(Arc::as_ref);
    touched.node(agent, before, node.as_ref(), unix_seconds(now));
    snapshot.put_node(agent, node);
}

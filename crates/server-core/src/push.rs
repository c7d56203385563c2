//! Telling agents that it is worth asking (ADR 12).
//!
//! [`Push`] is what streams wait on, [`PushTask`] what follows the index and the bundles. A hint
//! is a set of flags: what an agent has not read yet is merged with what comes, so that a slow one
//! costs nothing. Where many are touched they are told one after the other, since each will ask.

mod interest;
mod queue;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steeple_pki::Bundle;
use steeple_runtime::{Clock, Watcher};
use steeple_spiffe::{SpiffeId, TrustDomain};
use steeple_store::{Store, StoreError};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use self::interest::Interest;
use self::queue::Queue;
use crate::access::{AgentCaller, AgentFault};
use crate::bundles::Bundles;
use crate::index::{AuthorizedIndex, Snapshot, Touched};

/// So many are told at once; more wait their turn.
const AT_ONCE: usize = 64;
/// Of those that wait, how many are told every [`TICK`]: 2,000 a second.
const PER_TICK: usize = 20;
const TICK: Duration = Duration::from_millis(10);
/// After a change that touched a fleet, changes are collected for so long.
const COLLECT: Duration = Duration::from_millis(50);
/// Between two attempts to read bundles that cannot be read.
const READ_AGAIN: Duration = Duration::from_secs(1);

type Flags = u8;
const ENTRIES: Flags = 1;
const BUNDLES: Flags = 2;
const STANDING: Flags = 4;
const REPLACED: Flags = 8;
const CLOSED: Flags = 16;

/// What an agent's stream is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct News {
    /// Its authorised entries may have changed.
    pub entries: bool,
    /// A bundle that it should have may have changed.
    pub bundles: bool,
    /// Whether it may still be an agent may have changed.
    pub standing: bool,
    /// This is the last: why.
    pub end: Option<End>,
}

/// Why there is no more news.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The agent opened another stream.
    Replaced,
    /// The server stops.
    Closed,
}

/// Where agents' streams are told. Cheap to clone.
#[derive(Clone)]
pub struct Push {
    index: AuthorizedIndex,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    closed: bool,
    opened: u64,
    listeners: HashMap<Arc<str>, Listener>,
    interest: Interest,
    queue: Queue,
}

struct Listener {
    number: u64,
    /// The edition of the index when its first news was put there.
    since: u64,
    mailbox: Arc<Mailbox>,
}

#[derive(Default)]
struct Mailbox {
    flags: AtomicU8,
    ready: Notify,
}

/// One agent's stream; dropping it ends it.
pub struct Listening {
    push: Push,
    agent: SpiffeId,
    number: u64,
    mailbox: Arc<Mailbox>,
}

impl Push {
    /// Nobody listens yet.
    #[must_use]
    pub fn new(index: AuthorizedIndex) -> Self {
        Self { index, state: Arc::default() }
    }

    /// Begins to collect news for an agent; a stream that it has already ends. The first news is
    /// there at once: with what the agent asks for after it, nothing is missed.
    #[must_use]
    pub fn listen(&self, agent: &AgentCaller) -> Listening {
        let agent = agent.id().clone();
        let mailbox = Arc::new(Mailbox::default());
        mailbox.put(ENTRIES | BUNDLES);
        let mut state = self.state();
        if state.closed {
            mailbox.put(CLOSED);
        }
        state.opened += 1;
        let number = state.opened;
        // Within the lock, so that a change of the node comes before or after all of this.
        let snapshot = self.index.snapshot();
        let since = snapshot.edition;
        // A ban that it was let past just before is not told again.
        if fault(&snapshot, &agent) == Some(AgentFault::Banned) {
            mailbox.put(STANDING);
        }
        let listener = Listener { number, since, mailbox: Arc::clone(&mailbox) };
        if let Some(older) = state.listeners.insert(agent.path().into(), listener) {
            older.mailbox.put(REPLACED);
        }
        state.interest.put(&agent, &snapshot);
        drop(state);
        Listening { push: self.clone(), agent, number, mailbox }
    }

    /// How many agents listen.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.state().listeners.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whom a change touches that shows from an edition on. Answers how many that are.
    fn on_touched(&self, touched: &Touched, edition: u64) -> usize {
        let snapshot = self.index.snapshot();
        let mut state = self.state();
        let state = &mut *state;
        let everybody = touched.everything.then(|| state.interest.everybody());
        let changed = everybody.as_ref().unwrap_or(&touched.agents);
        let trust_domain = snapshot.trust_domain();
        for path in changed.iter().filter(|path| state.listeners.contains_key(*path)) {
            if let Ok(agent) = SpiffeId::from_path(trust_domain, path) {
                state.interest.put(&agent, &snapshot);
            }
        }
        let mut told = state.interest.touched(&snapshot, touched);
        // Whoever came after it has it with the first news.
        told.retain(|path| state.listeners.get(path).is_some_and(|it| it.since < edition));
        let count = told.len();
        let (themselves, others) = told.into_iter().partition(|path| changed.contains(path));
        state.tell(themselves, ENTRIES | STANDING);
        state.tell(others, ENTRIES);
        count
    }

    /// Tells whom changed bundles concern.
    fn on_bundles(&self, own: bool, others: &HashSet<TrustDomain>) {
        let snapshot = self.index.snapshot();
        let mut state = self.state();
        let agents = match own {
            true => state.interest.everybody(),
            false => state.interest.federating(&snapshot, others),
        };
        state.tell(agents, BUNDLES);
    }

    /// Tells the next of those that wait.
    fn on_tick(&self) {
        let mut state = self.state();
        for (agent, news) in state.queue.next(PER_TICK) {
            state.deliver(&agent, news);
        }
    }

    fn has_queue(&self) -> bool {
        !self.state().queue.is_empty()
    }

    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.listeners.values().for_each(|listener| listener.mailbox.put(CLOSED));
    }
}

impl State {
    fn tell(&mut self, agents: HashSet<Arc<str>>, news: Flags) {
        if agents.len() > AT_ONCE {
            self.queue.extend(agents, news);
            return;
        }
        for agent in &agents {
            let waiting = self.queue.take(agent);
            self.deliver(agent, news | waiting);
        }
    }

    fn deliver(&self, agent: &str, news: Flags) {
        // One that has gone while it waited is told nothing.
        if let Some(listener) = self.listeners.get(agent) {
            listener.mailbox.put(news);
        }
    }
}

impl Mailbox {
    fn put(&self, flags: Flags) {
        self.flags.fetch_or(flags, Ordering::AcqRel);
        self.ready.notify_one();
    }

    async fn take(&self) -> Flags {
        loop {
            let flags = self.flags.swap(0, Ordering::AcqRel);
            if flags != 0 {
                return flags;
            }
            self.ready.notified().await;
        }
    }
}

impl Listening {
    /// Waits for news; what came up since the last is one.
    pub async fn news(&self) -> News {
        let flags = self.mailbox.take().await;
        let end = if flags & REPLACED != 0 {
            Some(End::Replaced)
        } else if flags & CLOSED != 0 {
            Some(End::Closed)
        } else {
            None
        };
        News {
            entries: flags & ENTRIES != 0,
            bundles: flags & BUNDLES != 0,
            standing: flags & STANDING != 0,
            end,
        }
    }

    /// How many agents listen, with this one.
    #[must_use]
    pub fn company(&self) -> usize {
        self.push.listeners()
    }

    /// What is wrong with the agent, by the index.
    #[must_use]
    pub fn fault(&self) -> Option<AgentFault> {
        fault(&self.push.index.snapshot(), &self.agent)
    }
}

fn fault(snapshot: &Snapshot, agent: &SpiffeId) -> Option<AgentFault> {
    match snapshot.node(agent) {
        None => Some(AgentFault::NotAttested),
        Some(node) if node.serial_number.is_empty() => Some(AgentFault::Banned),
        Some(_) => None,
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut state = self.push.state();
        let path = self.agent.path();
        if state.listeners.get(path).is_some_and(|listener| listener.number == self.number) {
            state.listeners.remove(path);
            state.interest.remove(path);
            state.queue.take(path);
        }
    }
}

/// Follows what agents are told of; see [`PushTask::run`].
pub struct PushTask {
    push: Push,
    store: Arc<dyn Store>,
    bundles: Bundles,
    clock: Arc<dyn Clock>,
    /// Says when a bundle may have changed.
    wakeups: watch::Receiver<u64>,
    /// The bundles as agents were last told of them.
    known: HashMap<TrustDomain, Bundle>,
}

impl PushTask {
    /// A task that tells the listeners of `push`; `bundles` is kept as fresh as its hints. To be
    /// called before anybody listens.
    ///
    /// # Errors
    /// The store's, when the bundles cannot be read.
    pub async fn load(
        push: Push,
        store: Arc<dyn Store>,
        bundles: Bundles,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let wakeups = store.bundle_wakeups();
        let known = read_bundles(store.as_ref()).await?;
        Ok(Self { push, store, bundles, clock, wakeups, known })
    }

    /// Tells until the drain begins; then every stream ends.
    pub async fn run(mut self, mut drain: Watcher) {
        let index = self.push.index.clone();
        let mut read_at: Option<Instant> = None;
        let mut quiet_until = Instant::now();
        let mut waiting = false;
        let mut turns = interval(TICK);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let collecting = Instant::now() < quiet_until;
            tokio::select! {
                () = drain.signalled() => break,
                (touched, edition) = index.touched(), if !collecting => {
                    if self.push.on_touched(&touched, edition) > AT_ONCE {
                        quiet_until = Instant::now() + COLLECT;
                    }
                }
                () = sleep_until(quiet_until), if collecting => {}
                _ = turns.tick(), if waiting => self.push.on_tick(),
                Ok(()) = self.wakeups.changed(), if read_at.is_none() => {
                    read_at = Some(Instant::now());
                }
                () = sleep_until(read_at.unwrap_or_else(Instant::now)), if read_at.is_some() => {
                    // A commit from here on is read in the next round.
                    self.wakeups.mark_unchanged();
                    read_at = match self.compare_bundles().await {
                        Ok(()) => None,
                        Err(error) => {
                            tracing::debug!(subsystem_name = "push", %error, "Bundles cannot be read");
                            Some(Instant::now() + READ_AGAIN)
                        }
                    };
                }
            }
            waiting = self.push.has_queue();
        }
        self.push.close();
    }

    async fn compare_bundles(&mut self) -> Result<(), StoreError> {
        let read = read_bundles(self.store.as_ref()).await?;
        let known = std::mem::replace(&mut self.known, read);
        let read = &self.known;
        let mut changed: HashSet<TrustDomain> = HashSet::new();
        for (domain, bundle) in read {
            if known.get(domain) != Some(bundle) {
                self.bundles.learn(bundle, self.clock.now());
                changed.insert(domain.clone());
            }
        }
        for domain in known.keys().filter(|domain| !read.contains_key(domain)) {
            self.bundles.unlearn(domain);
            changed.insert(domain.clone());
        }
        if !changed.is_empty() {
            let own = changed.contains(self.bundles.trust_domain());
            self.push.on_bundles(own, &changed);
        }
        Ok(())
    }
}

async fn read_bundles(store: &dyn Store) -> Result<HashMap<TrustDomain, Bundle>, StoreError> {
    let (read, _) = store.list_bundles(None).await?;
    Ok(read.into_iter().map(|bundle| (bundle.trust_domain.clone(), bundle)).collect())
}

#[cfg(test)]
mod tests;

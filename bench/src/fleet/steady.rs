//! A fleet as it is most of the time, and the moment after its server was away.
//!
//! Each agent syncs every five seconds, listens for hints where the server has them, connects anew
//! about as often as servers end connections, and has its own SVID and those of its workloads
//! renewed at half of their hour. What of that happens seldom is spread over the fleet, so that a
//! minute sees a minute's share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use steeple_proto::spire::api::types::Entry;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::agent::{Agent, Prepared, Recruit};
use super::site::{Front, Site};
use super::{attest, enlist, recovery, register};
use crate::error::{Error, Result};
use crate::figures::{Better, Figure, lower};
use crate::load::Clocks;
use crate::postgres;
use crate::scenario::{Context, Scenario, idle::mib};
use crate::server::Options;
use crate::stats::quantile;

/// How often agents sync.
const SYNC: Duration = Duration::from_secs(5);
/// When SVIDs of an hour are renewed.
const RENEWED: Duration = Duration::from_secs(1800);
/// How old servers let a connection become.
const CONNECTION: Duration = Duration::from_secs(180);
/// How many workloads an agent has, each with an entry.
pub const EACH: usize = 2;
/// The longest until every agent has synced once.
const BEGUN: Duration = Duration::from_secs(180);

/// What is measured, and how.
pub const SCENARIO: Scenario = Scenario::alone(
    "fleet",
    "agents with two workloads each at work, then all back at once after the server was killed",
    &[
        lower("fleet.cpu", "Fleet at work: server CPU", "% of a core"),
        lower("fleet.rss", "Fleet at work: server (RSS)", "MiB"),
        lower("fleet.connection", "Fleet at work: memory per agent (RSS)", "KiB"),
        lower("fleet.peak", "Fleet at work: server, peak memory", "MiB"),
        lower("fleet.latency", "Fleet at work: a sync, median", "ms"),
        lower("fleet.latency99", "Fleet at work: a sync, p99", "ms"),
        lower("fleet.bytes", "Fleet at work: bytes per agent, both ways", "B/s"),
        lower("fleet.statements", "Fleet at work: statements per agent and minute", ""),
        lower("fleet.failed", "Fleet at work: calls that failed", ""),
        Figure {
            better: Better::Higher,
            ..lower("fleet.syncs", "Fleet at work: syncs made, of those due", "%")
        },
        lower("fleet.generator", "Fleet at work: CPU of the load generator", "% of a core"),
        lower("recovery.start", "Recovery: server killed, start to first answer", "ms"),
        lower("recovery.half", "Recovery: half of the agents served", "s"),
        lower("recovery.all", "Recovery: all agents served", "s"),
        lower("recovery.cpu", "Recovery: server CPU until all are", "s"),
        lower("recovery.peak", "Recovery: server, peak memory", "MiB"),
        lower("recovery.once", "Recovery: agents that saw an error", ""),
        lower("recovery.twice", "Recovery: agents that saw two or more", ""),
        lower("recovery.generator", "Recovery: CPU of the load generator", "s"),
    ],
    |context| Box::pin(run(context)),
)
.at_most(1);

async fn run(context: &mut Context<'_>) -> Result<()> {
    let options = Options { rate_limits: true, ..Options::of(context.args) };
    let mut site = Site::start(context.folder(), &options).await?;
    let empty = site.server.memory()?.rss;
    let count = context.args.agents;
    let recruits = enlist(&site, count).await?;
    let parents: Vec<String> = recruits.iter().map(Recruit::path).collect();
    register(&site, &parents, EACH).await?;
    let agents = attest(&site, recruits, context.args.verify_every == 1).await?;

    at_work(&site, context, &agents, empty).await?;
    recovery::run(&mut site, context, &agents).await?;
    site.server.stop();
    Ok(())
}

/// What the whole fleet did.
#[derive(Debug, Default)]
struct Tally {
    syncs: AtomicU64,
    failed: AtomicU64,
    /// Agents that have synced once.
    begun: AtomicU64,
    /// How long syncs took, in ms.
    took: Mutex<Vec<f64>>,
}

/// What an agent is to do next, beside syncing.
#[derive(Clone, Copy, Debug)]
enum Order {
    Sign,
    Renew,
    Connect,
}

async fn at_work(
    site: &Site,
    context: &mut Context<'_>,
    agents: &[Arc<Agent>],
    empty: u64,
) -> Result<()> {
    let tally = Arc::new(Tally::default());
    let key: Arc<[Prepared]> = [Prepared::new("")?].into();
    let mut work = JoinSet::new();
    let mut orders = Vec::with_capacity(agents.len());
    for (number, agent) in agents.iter().enumerate() {
        let (order, waiting) = mpsc::unbounded_channel();
        orders.push(order);
        let first = SYNC.mul_f64(number as f64 / agents.len() as f64);
        let life = Life {
            agent: Arc::clone(agent),
            key: Arc::clone(&key),
            tally: Arc::clone(&tally),
            orders: waiting,
            fully: context.args.verify_every == 1,
        };
        work.spawn(life.live(first));
    }
    until_all(&tally, agents.len()).await?;
    let orders: Arc<[_]> = orders.into();
    for (order, each) in [
        (Order::Sign, RENEWED.div_f64((agents.len() * EACH) as f64)),
        (Order::Renew, RENEWED.div_f64(agents.len() as f64)),
        (Order::Connect, CONNECTION.div_f64(agents.len() as f64)),
    ] {
        work.spawn(give(order, each, Arc::clone(&orders)));
    }

    let (clocks, before) = (Clocks::read(&site.server)?, Counts::of(&tally, &site.front));
    tally.took.lock().expect("nobody panics while holding it").clear();
    let asked = postgres::statements(&context.folder().label);
    tokio::time::sleep(context.args.steady).await;
    let asked = postgres::statements(&context.folder().label).zip(asked);
    let now = Counts::of(&tally, &site.front);
    let spent = clocks.spent(&site.server, now.syncs - before.syncs)?;
    context.samples.beside(spent);
    let (memory, seconds) = (site.server.memory()?, spent.wall.as_secs_f64());
    let share = |cpu: Duration| cpu.as_secs_f64() / seconds * 100.0;
    let due = agents.len() as f64 * seconds / SYNC.as_secs_f64();
    let took = std::mem::take(&mut *tally.took.lock().expect("nobody panics while holding it"));
    let bytes = (now.bytes - before.bytes) as f64;
    context.add("fleet.cpu", share(spent.server));
    context.add("fleet.generator", share(spent.own));
    context.add("fleet.rss", mib(memory.rss));
    context.add("fleet.peak", mib(memory.peak));
    let grown = memory.rss.saturating_sub(empty) as f64;
    context.add("fleet.connection", grown / agents.len() as f64);
    context.add("fleet.latency", quantile(&took, 0.5));
    context.add("fleet.latency99", quantile(&took, 0.99));
    context.add("fleet.bytes", bytes / seconds / agents.len() as f64);
    if let Some((now, before)) = asked {
        let minutes = seconds / 60.0;
        context.add("fleet.statements", (now - before) / minutes / agents.len() as f64);
    }
    context.add("fleet.failed", (now.failed - before.failed) as f64);
    context.add("fleet.syncs", spent.calls as f64 / due * 100.0);
    Ok(())
}

async fn until_all(tally: &Tally, count: usize) -> Result<()> {
    let end = Instant::now() + BEGUN;
    while (tally.begun.load(Ordering::Relaxed) as usize) < count {
        if Instant::now() >= end {
            let what = format!("only {:?} of {count} agents got their entries", tally.begun);
            return Err(Error::Wrong { call: super::agent::SYNC, what });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Gives an order to one agent after the other, one every `each`.
async fn give(order: Order, each: Duration, to: Arc<[mpsc::UnboundedSender<Order>]>) {
    let mut pace = tokio::time::interval(each);
    loop {
        for agent in &*to {
            pace.tick().await;
            let _ = agent.send(order);
        }
    }
}

/// Counters at one moment.
struct Counts {
    syncs: u64,
    failed: u64,
    bytes: u64,
}

impl Counts {
    fn of(tally: &Tally, front: &Front) -> Self {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (syncs, failed) = (get(&tally.syncs), get(&tally.failed));
        Self { syncs, failed, bytes: front.traffic.bytes() }
    }
}

/// One agent at work.
struct Life {
    agent: Arc<Agent>,
    key: Arc<[Prepared]>,
    tally: Arc<Tally>,
    orders: mpsc::UnboundedReceiver<Order>,
    /// Whether every answer is verified.
    fully: bool,
}

/// What an agent woke for.
enum Event {
    Time,
    Hint(bool),
    Over,
    Order(Order),
}

impl Life {
    /// Goes on until it is dropped; its first sync is after `first`.
    async fn live(mut self, first: Duration) {
        let mut next = tokio::time::Instant::now() + first;
        tokio::time::sleep_until(next).await;
        let mut entries = self.begin().await;
        // However long that took, the fleet stays spread over the interval.
        while next <= tokio::time::Instant::now() {
            next += SYNC;
        }
        let mut hints = self.agent.watch().await.ok().flatten();
        let hinted = hints.is_some();
        loop {
            let event = tokio::select! {
                () = tokio::time::sleep_until(next) => Event::Time,
                Some(order) = self.orders.recv() => Event::Order(order),
                hint = async {
                    match &mut hints {
                        Some(hints) => hints.message().await,
                        None => std::future::pending().await,
                    }
                } => match hint {
                    Ok(Some(hint)) => Event::Hint(hint.entries || hint.bundles),
                    _ => Event::Over,
                },
            };
            let done = match event {
                Event::Time => {
                    next = (next + SYNC).max(tokio::time::Instant::now());
                    self.sync(&mut entries).await
                }
                Event::Hint(true) => self.sync(&mut entries).await,
                Event::Hint(false) => Ok(()),
                Event::Over => {
                    hints = self.agent.watch().await.ok().flatten();
                    Ok(())
                }
                Event::Order(Order::Sign) => {
                    self.agent.sign(&entries[..entries.len().min(1)], &self.key, self.fully).await
                }
                Event::Order(Order::Renew) => self.agent.renew(self.fully).await,
                Event::Order(Order::Connect) => {
                    hints = None;
                    self.agent.link.release().await;
                    match hinted {
                        true => self.agent.watch().await.map(|stream| hints = stream),
                        false => Ok(()),
                    }
                }
            };
            if let Err(error) = done
                && self.tally.failed.fetch_add(1, Ordering::Relaxed) == 0
            {
                eprintln!("an agent's call failed: {error}");
            }
        }
    }

    /// Syncs until the server has what was registered.
    async fn begin(&mut self) -> Vec<Entry> {
        loop {
            match self.agent.sync(EACH).await {
                Ok(entries) => {
                    self.tally.begun.fetch_add(1, Ordering::Relaxed);
                    return entries;
                }
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }

    async fn sync(&self, entries: &mut Vec<Entry>) -> Result<()> {
        let begun = Instant::now();
        *entries = self.agent.sync(EACH).await?;
        self.agent.bundle().await?;
        let took = begun.elapsed().as_secs_f64() * 1e3;
        self.tally.took.lock().expect("nobody panics while holding it").push(took);
        self.tally.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

//! Everything at once for a long time: does memory, or do files, grow?

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use steeple_net::channel::Channel;
use tokio::task::JoinSet;

use super::idle::mib;
use super::{Context, Scenario, entries, fetch, mint};
use crate::deployment::{self, Deployment};
use crate::error::{Error, Result};
use crate::figures::lower;
use crate::process::Memory;
use crate::stats::{median, slope};

/// How often memory is read, unless the whole is short.
const EVERY: Duration = Duration::from_secs(10);
/// Between two rounds of calls of one kind.
const PACE: Duration = Duration::from_millis(50);
/// How many streams are open at a time, and for how long.
const STREAMS: usize = 50;
const OPEN: Duration = Duration::from_secs(5);
/// How many entries are created, listed and deleted again together.
const ENTRIES: usize = 50;
const PARENT: &str = "/spire/agent/bench/soak";

/// What is measured, and how.
pub const SCENARIO: Scenario = Scenario::shared(
    "soak",
    "mints, fetches, streams and changing entries for --soak; what grows",
    &[
        lower("soak.server.growth", "Server, growth in the second half", "KiB/min"),
        lower("soak.agent.growth", "Agent, growth in the second half", "KiB/min"),
        lower("soak.server.early", "Server, memory in the second quarter", "MiB"),
        lower("soak.server.late", "Server, memory in the last quarter", "MiB"),
        lower("soak.agent.early", "Agent, memory in the second quarter", "MiB"),
        lower("soak.agent.late", "Agent, memory in the last quarter", "MiB"),
        lower("soak.server.files", "Server, open files more than before", ""),
        lower("soak.agent.files", "Agent, open files more than before", ""),
    ],
    |deployment, context| Box::pin(run(deployment, context)),
)
.by_hand();

/// What all kinds of callers share.
#[derive(Clone)]
struct Shared {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    server: Channel,
    agent: PathBuf,
}

impl Shared {
    /// Whether to go on, after a pause.
    async fn goes_on(&self) -> bool {
        tokio::time::sleep(PACE).await;
        !self.stop.load(Ordering::Relaxed)
    }

    fn called(&self, times: u64) {
        self.calls.fetch_add(times, Ordering::Relaxed);
    }
}

async fn run(deployment: &Deployment, context: &mut Context<'_>) -> Result<()> {
    let before = (deployment.server.memory()?, deployment.agent.memory()?);
    let shared = Shared {
        stop: Arc::default(),
        calls: Arc::default(),
        server: deployment.server_channel(),
        agent: deployment.agent_socket().to_owned(),
    };
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    tasks.spawn(mints(shared.clone(), deployment.answers.clone()));
    tasks.spawn(fetches(shared.clone()));
    tasks.spawn(changes(shared.clone()));
    for _ in 0..STREAMS.min(context.args.streams) {
        tasks.spawn(streams(shared.clone()));
    }
    let readings = watch(deployment, context.args.soak, &shared, &mut tasks).await?;
    shared.stop.store(true, Ordering::Relaxed);
    while let Some(done) = tasks.join_next().await {
        done.expect("a caller does not panic")?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = (deployment.server.memory()?, deployment.agent.memory()?);

    let of = |pick: fn(&(f64, Memory, Memory)) -> u64, from: f64, to: f64| -> Vec<(f64, f64)> {
        let count = readings.len() as f64;
        let (from, to) = ((count * from) as usize, (count * to) as usize);
        readings[from..to].iter().map(|it| (it.0, pick(it) as f64)).collect()
    };
    let middle = |points: Vec<(f64, f64)>| {
        median(&points.into_iter().map(|it| it.1).collect::<Vec<_>>()) / 1024.0
    };
    let server = |it: &(f64, Memory, Memory)| it.1.rss;
    let agent = |it: &(f64, Memory, Memory)| it.2.rss;
    context.add("soak.server.growth", slope(&of(server, 0.5, 1.0)) * 60.0);
    context.add("soak.agent.growth", slope(&of(agent, 0.5, 1.0)) * 60.0);
    context.add("soak.server.early", middle(of(server, 0.25, 0.5)));
    context.add("soak.server.late", middle(of(server, 0.75, 1.0)));
    context.add("soak.agent.early", middle(of(agent, 0.25, 0.5)));
    context.add("soak.agent.late", middle(of(agent, 0.75, 1.0)));
    context.add("soak.server.files", after.0.files as f64 - before.0.files as f64);
    context.add("soak.agent.files", after.1.files as f64 - before.1.files as f64);
    Ok(())
}

/// Reads both programs' memory until the time is over, or a caller fails.
async fn watch(
    deployment: &Deployment,
    time: Duration,
    shared: &Shared,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<Vec<(f64, Memory, Memory)>> {
    let begun = Instant::now();
    let mut readings = Vec::new();
    let mut tick = tokio::time::interval(EVERY.min(time / 8));
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            Some(done) = tasks.join_next() => {
                done.expect("a caller does not panic")?;
                return Err(Error::Wrong { call: "soak", what: "a caller stopped".into() });
            }
        }
        let (server, agent) = (deployment.server.memory()?, deployment.agent.memory()?);
        readings.push((begun.elapsed().as_secs_f64(), server, agent));
        if readings.len() % 30 == 1 {
            eprintln!(
                "  {:5.0} s: {} calls; server {:.1} MiB, {} files; agent {:.1} MiB, {} files",
                begun.elapsed().as_secs_f64(),
                shared.calls.load(Ordering::Relaxed),
                mib(server.rss),
                server.files,
                mib(agent.rss),
                agent.files,
            );
        }
        if begun.elapsed() >= time {
            return Ok(readings);
        }
    }
}

async fn mints(shared: Shared, answers: crate::check::Answers) -> Result<()> {
    while shared.goes_on().await {
        mint::once(shared.server.clone(), &answers).await?;
        shared.called(2);
    }
    Ok(())
}

/// X.509 on a new connection, a cached token, and one for a new audience.
async fn fetches(shared: Shared) -> Result<()> {
    let mut number = 0;
    while shared.goes_on().await {
        let channel = steeple_net::channel::unix(&shared.agent);
        let update = fetch::first_update(channel.clone()).await;
        update.map_err(Error::call("FetchX509SVID"))?;
        fetch::token(channel.clone(), "bench").await?;
        fetch::token(channel, &format!("soak-{number}")).await?;
        number += 1;
        shared.called(3);
    }
    Ok(())
}

/// Entries that come and go, and lists of them.
async fn changes(shared: Shared) -> Result<()> {
    let mut number = 0;
    while shared.goes_on().await {
        let entry =
            |index| deployment::entry(&format!("/soak/{number}/{index}"), PARENT, 200_000 + index);
        let entries = (0..ENTRIES as u32).map(entry).collect();
        let made = entries::create_all(shared.server.clone(), entries).await?;
        entries::walk(shared.server.clone(), 500).await?;
        let ids = made.into_iter().map(|entry| entry.id).collect();
        entries::delete_all(shared.server.clone(), ids).await?;
        number += 1;
        shared.called(3);
        // SPIRE keeps an event of every change for a day.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// A stream that is opened, kept for a while, and left.
async fn streams(shared: Shared) -> Result<()> {
    while shared.goes_on().await {
        let mut client = fetch::client(steeple_net::channel::unix(&shared.agent));
        let pending = client.fetch_x509svid(fetch::request());
        let mut stream = pending.await.map_err(Error::call("FetchX509SVID"))?.into_inner();
        fetch::next(&mut stream).await.map_err(Error::call("FetchX509SVID"))?;
        shared.called(1);
        let end = Instant::now() + OPEN;
        while Instant::now() < end && !shared.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Ok(())
}

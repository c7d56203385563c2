//! What workloads see of an agent that is replaced by another process of it.
//!
//! An agent that can hand its sockets over (it has a `handover.sock` in its data directory) is
//! replaced by starting the new one beside it; any other is ended, and started again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{Context, Scenario, fetch};
use crate::deployment::Deployment;
use crate::error::{Error, Result};
use crate::figures::lower;

/// How long everything is given to be well again.
const LIMIT: Duration = Duration::from_secs(180);
/// How long a workload waits before it tries again.
const RETRY: Duration = Duration::from_millis(10);
/// How many workloads have a stream open at most.
const STREAMS: usize = 300;
/// How many workloads fetch anew all the time.
const FETCHERS: usize = 4;

/// A workload's stream as it sees it.
#[derive(Clone, Copy)]
struct View {
    openings: u32,
    open: bool,
    /// The longest time from an end to the next update.
    down: Duration,
}

type Views = Arc<Mutex<Vec<View>>>;

/// What is measured, and how.
pub const SCENARIO: Scenario = Scenario::shared(
    "restart",
    "the agent is replaced under open streams",
    &[
        lower("restart.failed", "Agent replaced: fetches that failed", ""),
        lower("restart.gap", "Agent replaced: longest time without a fetch", "ms"),
        lower("restart.down", "Agent replaced: longest end of a stream", "ms"),
    ],
    |deployment, context| Box::pin(run(deployment, context)),
)
.at_most(2);

async fn run(deployment: &mut Deployment, context: &mut Context<'_>) -> Result<()> {
    let socket = deployment.agent_socket().to_owned();
    let count = context.args.streams.min(STREAMS);
    let fresh = View { openings: 0, open: false, down: Duration::ZERO };
    let views: Views = Arc::new(Mutex::new(vec![fresh; count]));
    let mut tasks = JoinSet::new();
    for index in 0..count {
        tasks.spawn(stream(socket.clone(), index, views.clone()));
    }
    all(&views, 1).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let failed = Arc::new(AtomicU64::new(0));
    let mut fetchers = JoinSet::new();
    for _ in 0..FETCHERS {
        fetchers.spawn(fetcher(socket.clone(), stop.clone(), failed.clone()));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The old process is gone when this is done, so what is open then is open at the new one.
    deployment.replace_agent().await?;
    all(&views, 2).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    let mut gap = Duration::ZERO;
    while let Some(done) = fetchers.join_next().await {
        gap = gap.max(done.expect("a fetcher does not panic"));
    }
    tasks.shutdown().await;
    let down = lock(&views).iter().map(|view| view.down).max().unwrap_or_default();
    context.add("restart.failed", failed.load(Ordering::Relaxed) as f64);
    context.add("restart.gap", gap.as_secs_f64() * 1e3);
    context.add("restart.down", down.as_secs_f64() * 1e3);
    Ok(())
}

/// Keeps a stream open, and opens it again whenever it ends.
async fn stream(socket: PathBuf, index: usize, views: Views) {
    let mut ended: Option<Instant> = None;
    loop {
        let mut client = fetch::client(steeple_net::channel::unix(&socket));
        if let Ok(stream) = client.fetch_x509svid(fetch::request()).await {
            let mut stream = stream.into_inner();
            while fetch::next(&mut stream).await.is_ok() {
                let view = &mut lock(&views)[index];
                if !view.open {
                    view.open = true;
                    view.openings += 1;
                    view.down = view.down.max(ended.map_or(Duration::ZERO, |it| it.elapsed()));
                }
            }
            let view = &mut lock(&views)[index];
            if view.open {
                view.open = false;
                ended = Some(Instant::now());
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn lock(views: &Views) -> std::sync::MutexGuard<'_, Vec<View>> {
    views.lock().expect("nobody panics while holding the views")
}

/// Waits until every stream is open, and was opened at least so often.
async fn all(views: &Views, openings: u32) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        let (there, count) = {
            let views = lock(views);
            let there = views.iter().filter(|it| it.open && it.openings >= openings).count();
            (there, views.len())
        };
        if there == count {
            return Ok(());
        }
        if Instant::now() >= end {
            let what = format!("{there} streams of {count} within {LIMIT:?}");
            return Err(Error::Wrong { call: "FetchX509SVID", what });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Fetches on a new connection each time; gives the longest time between two that succeeded.
async fn fetcher(socket: PathBuf, stop: Arc<AtomicBool>, failed: Arc<AtomicU64>) -> Duration {
    let (mut last, mut gap) = (Instant::now(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        match fetch::first_update(steeple_net::channel::unix(&socket)).await {
            Ok(_) => {
                gap = gap.max(last.elapsed());
                last = Instant::now();
            }
            Err(_) => {
                failed.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    gap.max(last.elapsed())
}

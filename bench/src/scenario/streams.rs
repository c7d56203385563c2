//! Many workloads, each with a stream of X.509 updates open on a connection of its own.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use steeple_net::channel::Channel;

use super::idle::mib;
use super::{Context, Scenario, fetch, fully};
use crate::deployment::Deployment;
use crate::error::{Error, Result};
use crate::figures::{CONNECTION, cost, lower};
use crate::load::{Clocks, Gate, answer, drive};

const CALL: &str = "FetchX509SVID";
/// How long the agent has to come to rest after the last stream was opened, or closed.
const SETTLE: Duration = Duration::from_secs(2);
/// How long its CPU is watched with all streams open.
const WATCH: Duration = Duration::from_secs(5);
/// How long opening all streams may take.
const OPEN: Duration = Duration::from_secs(120);

/// What streams that are open cost the agent.
pub struct Cost {
    /// Memory per stream in KiB.
    pub rss: f64,
    pub pss: f64,
    pub files: f64,
    /// CPU of opening one, in µs.
    pub open: f64,
    /// The agent's memory with all of them, and after them, in MiB.
    pub agent: f64,
    pub left: f64,
    /// CPU with all of them idle, in ms per second.
    pub cpu: f64,
}

/// What is measured, and how.
pub const SCENARIO: Scenario = Scenario::shared(
    "streams",
    "open FetchX509SVID streams, a connection each",
    &[
        lower("streams.rss", "Memory per open stream (RSS)", "KiB"),
        lower("streams.pss", "Memory per open stream (PSS)", "KiB"),
        lower("streams.files", "Open files per open stream", ""),
        cost("streams.open", "Opening a stream to stay, agent CPU").limit(CONNECTION),
        lower("streams.agent", "Agent with all streams open (RSS)", "MiB"),
        lower("streams.left", "Agent after all are closed (RSS)", "MiB"),
        lower("streams.cpu", "Agent with all streams open, idle CPU", "ms/s"),
    ],
    |deployment, context| Box::pin(run(deployment, context)),
);

async fn run(deployment: &Deployment, context: &mut Context<'_>) -> Result<()> {
    let every = context.args.verify_every;
    let answers = deployment.answers.clone();
    let number = Arc::new(AtomicU64::new(0));
    let cost = measure(deployment, context, CALL, move |channel| {
        let (answers, number) = (answers.clone(), number.clone());
        async move {
            let mut client = fetch::client(channel);
            let mut stream =
                answer(CALL, client.fetch_x509svid(fetch::request())).await?.into_inner();
            let update = answer(CALL, fetch::next(&mut stream)).await?;
            let number = number.fetch_add(1, Ordering::Relaxed);
            answers.update(&update, "/bench", fully(number, every))?;
            Ok((client, stream))
        }
    })
    .await?;
    context.add("streams.rss", cost.rss);
    context.add("streams.pss", cost.pss);
    context.add("streams.files", cost.files);
    context.add("streams.open", cost.open);
    context.add("streams.agent", cost.agent);
    context.add("streams.left", cost.left);
    context.add("streams.cpu", cost.cpu);
    Ok(())
}

/// Opens as many streams as asked for, keeps them, and says what they cost.
///
/// # Errors
/// When one does not open, or files stay open after all.
pub async fn measure<F, Fut, T>(
    deployment: &Deployment,
    context: &mut Context<'_>,
    call: &'static str,
    open: F,
) -> Result<Cost>
where
    F: Fn(Channel) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<T>> + Send,
    T: Send + 'static,
{
    let wanted = context.args.streams as u64;
    let before = deployment.agent.memory()?;
    let (keep, mut kept) = tokio::sync::mpsc::unbounded_channel();
    let callers = vec![keep; context.args.connections];
    let spent = drive(deployment, callers, Gate::new(OPEN, wanted), |keep, gate| {
        let (socket, open) = (deployment.agent_socket().to_owned(), open.clone());
        async move {
            let mut opened = 0;
            while gate.next().is_some() {
                // The receiver outlives every caller.
                let _ = keep.send(open(steeple_net::channel::unix(&socket)).await?);
                opened += 1;
            }
            Ok(opened)
        }
    })
    .await?;
    context.samples.beside(spent);
    let mut streams = Vec::with_capacity(context.args.streams);
    while let Some(stream) = kept.recv().await {
        streams.push(stream);
    }
    if spent.calls != wanted {
        let what = format!("{} streams of {wanted} within {OPEN:?}", spent.calls);
        return Err(Error::Wrong { call, what });
    }
    tokio::time::sleep(SETTLE.min(context.args.idle)).await;
    let open = deployment.agent.memory()?;
    let clocks = Clocks::read(deployment)?;
    tokio::time::sleep(WATCH.min(context.args.idle)).await;
    let watched = clocks.spent(deployment, 0)?;
    drop(streams);
    let end = Instant::now() + OPEN;
    while deployment.agent.memory()?.files > before.files + wanted / 10 {
        if Instant::now() >= end {
            let files = deployment.agent.memory()?.files;
            let what = format!("{files} files open after all streams were closed");
            return Err(Error::Wrong { call, what });
        }
        tokio::time::sleep(SETTLE / 10).await;
    }
    tokio::time::sleep(SETTLE.min(context.args.idle)).await;
    let after = deployment.agent.memory()?;
    let per_stream = |before: u64, open: u64| open.saturating_sub(before) as f64 / wanted as f64;
    Ok(Cost {
        rss: per_stream(before.rss, open.rss),
        pss: per_stream(before.pss, open.pss),
        files: per_stream(before.files, open.files),
        open: spent.per_call(spent.agent),
        agent: mib(open.rss),
        left: mib(after.rss),
        cpu: watched.agent.as_secs_f64() * 1e3 / watched.wall.as_secs_f64(),
    })
}

//! Many workloads, each with a stream of X.509 updates open on a connection of its own.

use std::time::Duration;

use super::idle::mib;
use super::{Context, fetch, fully};
use crate::deployment::Deployment;
use crate::error::{Error, Result};
use crate::load::{Clocks, Gate, answer, drive};

/// How long the agent has to come to rest after the last stream was opened, or closed.
const SETTLE: Duration = Duration::from_secs(2);
/// How long its CPU is watched with all streams open.
const WATCH: Duration = Duration::from_secs(5);
/// How long opening all streams may take.
const OPEN: Duration = Duration::from_secs(120);

pub async fn run(deployment: &Deployment, context: &mut Context<'_>) -> Result<()> {
    let wanted = context.args.streams as u64;
    let every = context.args.verify_every;
    let before = deployment.agent.memory()?;
    let (keep, mut kept) = tokio::sync::mpsc::unbounded_channel();
    let callers = vec![keep; context.args.connections];
    let spent = drive(deployment, callers, Gate::new(OPEN, wanted), |keep, gate| {
        let (socket, answers) = (deployment.agent_socket().to_owned(), deployment.answers.clone());
        async move {
            let mut opened = 0;
            while let Some(number) = gate.next() {
                let channel = steeple_net::channel::unix(&socket);
                let (mut client, call) = (fetch::client(channel), "FetchX509SVID");
                let mut stream =
                    answer(call, client.fetch_x509svid(fetch::request())).await?.into_inner();
                let update = answer(call, fetch::next(&mut stream)).await?;
                answers.update(&update, "/bench", fully(number, every))?;
                // The receiver outlives every caller.
                let _ = keep.send((client, stream));
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
        return Err(Error::Wrong { call: "FetchX509SVID", what });
    }
    tokio::time::sleep(SETTLE).await;
    let open = deployment.agent.memory()?;
    let clocks = Clocks::read(deployment)?;
    tokio::time::sleep(WATCH.min(context.args.idle)).await;
    let watched = clocks.spent(deployment, 0)?;
    drop(streams);
    tokio::time::sleep(SETTLE).await;
    let after = deployment.agent.memory()?;
    if after.files > before.files + wanted / 10 {
        let what = format!("{} files open after all streams were closed", after.files);
        return Err(Error::Wrong { call: "FetchX509SVID", what });
    }

    let per_stream = |before: u64, open: u64| open.saturating_sub(before) as f64 / wanted as f64;
    context.add("streams.rss", per_stream(before.rss, open.rss));
    context.add("streams.pss", per_stream(before.pss, open.pss));
    context.add("streams.files", per_stream(before.files, open.files));
    context.add("streams.open", spent.per_call(spent.agent));
    context.add("streams.agent", mib(open.rss));
    context.add("streams.left", mib(after.rss));
    let cpu = watched.agent.as_secs_f64() * 1e3 / watched.wall.as_secs_f64();
    context.add("streams.cpu", cpu);
    Ok(())
}

//! What both programs occupy, and do, while nobody asks them anything.

use std::time::Duration;

use super::{Context, Scenario};
use crate::deployment::Deployment;
use crate::error::Result;
use crate::figures::lower;
use crate::load::Clocks;

/// How long what started up has to come to rest.
const SETTLE: Duration = Duration::from_secs(3);

/// What is measured, and how.
pub const SCENARIO: Scenario = Scenario::shared(
    "idle",
    "memory, threads, open files and CPU at rest",
    &[
        lower("idle.server.rss", "Server, idle (RSS)", "MiB"),
        lower("idle.server.pss", "Server, idle (PSS)", "MiB"),
        lower("idle.server.anonymous", "Server, idle (anonymous)", "MiB"),
        lower("idle.server.cpu", "Server, idle CPU", "ms/s"),
        lower("idle.server.threads", "Server, idle, threads", ""),
        lower("idle.server.files", "Server, idle, open files", ""),
        lower("idle.agent.rss", "Agent, idle (RSS)", "MiB"),
        lower("idle.agent.pss", "Agent, idle (PSS)", "MiB"),
        lower("idle.agent.anonymous", "Agent, idle (anonymous)", "MiB"),
        lower("idle.agent.cpu", "Agent, idle CPU", "ms/s"),
        lower("idle.agent.threads", "Agent, idle, threads", ""),
        lower("idle.agent.files", "Agent, idle, open files", ""),
    ],
    |deployment, context| Box::pin(run(deployment, context)),
);

async fn run(deployment: &Deployment, context: &mut Context<'_>) -> Result<()> {
    tokio::time::sleep(SETTLE.min(context.args.idle)).await;
    let clocks = Clocks::read(deployment)?;
    tokio::time::sleep(context.args.idle).await;
    let spent = clocks.spent(deployment, 0)?;
    context.samples.beside(spent);
    let per_second = |cpu: Duration| cpu.as_secs_f64() * 1e3 / spent.wall.as_secs_f64();
    context.add("idle.server.cpu", per_second(spent.server));
    context.add("idle.agent.cpu", per_second(spent.agent));

    let (server, agent) = (deployment.server.memory()?, deployment.agent.memory()?);
    context.add("idle.server.rss", mib(server.rss));
    context.add("idle.server.pss", mib(server.pss));
    context.add("idle.server.anonymous", mib(server.anonymous));
    context.add("idle.server.threads", server.threads as f64);
    context.add("idle.server.files", server.files as f64);
    context.add("idle.agent.rss", mib(agent.rss));
    context.add("idle.agent.pss", mib(agent.pss));
    context.add("idle.agent.anonymous", mib(agent.anonymous));
    context.add("idle.agent.threads", agent.threads as f64);
    context.add("idle.agent.files", agent.files as f64);
    Ok(())
}

/// KiB as MiB.
pub fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

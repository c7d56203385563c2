//! What both programs occupy, and do, while nobody asks them anything.

use std::time::Duration;

use super::Context;
use crate::deployment::Deployment;
use crate::error::Result;
use crate::load::Clocks;

/// How long what started up has to come to rest.
const SETTLE: Duration = Duration::from_secs(3);

pub async fn run(deployment: &Deployment, context: &mut Context<'_>) -> Result<()> {
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

//! An agent that starts with thousands of entries to sign.

use std::time::{Duration, Instant};

use steeple_proto::spire::api::server::entry::v1::BatchCreateEntryRequest;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;

use super::{Context, Scenario, fetch};
use crate::deployment::Deployment;
use crate::error::{Error, Result};
use crate::figures::{SVID_BYTES, lower};
use crate::load::answer;

/// How long the agent has to come to rest before its memory is read.
const SETTLE: Duration = Duration::from_secs(2);
/// How many entries go into one call that creates them.
const BATCH: usize = 500;
const CREATE: &str = "BatchCreateEntry";

/// What is measured, and how.
pub const SCENARIO: Scenario = Scenario::shared(
    "fill",
    "the agent starts with thousands of entries",
    &[
        lower("fill.time", "Agent start to all SVIDs of thousands", "s"),
        lower("fill.rss", "Memory per SVID held (RSS)", "KiB").limit(SVID_BYTES),
        lower("fill.peak", "Peak memory per SVID held", "KiB").limit(SVID_BYTES),
    ],
    |deployment, context| Box::pin(run(deployment, context)),
)
.at_most(1);

async fn run(deployment: &mut Deployment, context: &mut Context<'_>) -> Result<()> {
    let wanted = context.args.fill;
    deployment.restart_agent()?;
    fetch::until(deployment.agent_channel(), 1).await?;
    tokio::time::sleep(SETTLE.min(context.args.idle)).await;
    let empty = deployment.agent.memory()?;
    deployment.agent.stop();

    let paths: Vec<_> = (0..wanted).map(|number| format!("/filled/{number}")).collect();
    let mut client = EntryClient::new(deployment.server_channel());
    for batch in paths.chunks(BATCH) {
        let entries = batch.iter().map(|path| deployment.own_entry(path)).collect();
        let request = BatchCreateEntryRequest { entries, output_mask: None };
        let answer = answer(CREATE, client.batch_create_entry(request)).await?.into_inner();
        let refused = answer.results.into_iter().filter_map(|it| it.status);
        if let Some(status) = refused.into_iter().find(|status| status.code != 0) {
            return Err(Error::Call { call: CREATE, status: status.message });
        }
    }
    // Servers that look at their entries from time to time have looked by then.
    let pause = if context.args.is_quick() { SETTLE / 4 } else { Duration::from_secs(6) };
    tokio::time::sleep(pause).await;

    let begun = Instant::now();
    deployment.restart_agent()?;
    fetch::until(deployment.agent_channel(), wanted + 1).await?;
    context.add("fill.time", begun.elapsed().as_secs_f64());
    tokio::time::sleep(SETTLE.min(context.args.idle)).await;
    let full = deployment.agent.memory()?;
    context.add("fill.rss", full.rss.saturating_sub(empty.rss) as f64 / wanted as f64);
    context.add("fill.peak", full.peak.saturating_sub(empty.rss) as f64 / wanted as f64);
    Ok(())
}

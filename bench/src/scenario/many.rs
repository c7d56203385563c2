//! Fetching as a caller that many entries match.

use super::{Context, Scenario, entries, fetch};
use crate::deployment::Deployment;
use crate::error::{Error, Result};
use crate::figures::{CONNECTION, EXCHANGE, cost, rate};
use crate::load::{Gate, Spent, answer, drive};

/// How many identities the caller has.
pub const IDENTITIES: usize = 50;
const CALL: &str = "FetchX509SVID";

/// What is measured, and how.
pub const SCENARIO: Scenario = Scenario::shared(
    "many",
    "FetchX509SVID by a caller with 50 identities",
    &[
        rate("many_new.rate", "FetchX509SVID of 50, connection each"),
        cost("many_new.cpu", "FetchX509SVID of 50, connection each, agent CPU").limit(CONNECTION),
        rate("many_reused.rate", "FetchX509SVID of 50, one connection"),
        cost("many_reused.cpu", "FetchX509SVID of 50, one connection, agent CPU").limit(EXCHANGE),
    ],
    |deployment, context| Box::pin(run(deployment, context)),
)
.at_most(2);

async fn run(deployment: &Deployment, context: &mut Context<'_>) -> Result<()> {
    let mut ids = Vec::new();
    for number in 1..IDENTITIES {
        let entry = deployment.own_entry(&format!("/bench/{number}"));
        ids.push(entries::create(deployment.server_channel(), entry).await?);
    }
    fetch::until(deployment.agent_channel(), IDENTITIES).await?;
    let new = load(deployment, context, true).await?;
    context.add("many_new.rate", new.per_second());
    context.add("many_new.cpu", new.per_call(new.agent));
    let reused = load(deployment, context, false).await?;
    context.add("many_reused.rate", reused.per_second());
    context.add("many_reused.cpu", reused.per_call(reused.agent));
    for id in ids {
        entries::delete(deployment.server_channel(), id).await?;
    }
    fetch::until(deployment.agent_channel(), 1).await
}

async fn load(
    deployment: &Deployment,
    context: &mut Context<'_>,
    connection_each: bool,
) -> Result<Spent> {
    let callers = fetch::clients(deployment, context.args.connections).await?;
    let gate = Gate::new(context.args.load, u64::MAX);
    let spent = drive(deployment, callers, gate, |mut client, gate| {
        let socket = deployment.agent_socket().to_owned();
        async move {
            let mut calls = 0;
            while gate.next().is_some() {
                if connection_each {
                    client = fetch::client(steeple_net::channel::unix(&socket));
                }
                let pending = client.fetch_x509svid(fetch::request());
                let mut stream = answer(CALL, pending).await?.into_inner();
                let count = answer(CALL, fetch::next(&mut stream)).await?.svids.len();
                if count != IDENTITIES {
                    let what = format!("{count} SVIDs instead of {IDENTITIES}");
                    return Err(Error::Wrong { call: CALL, what });
                }
                calls += 1;
            }
            Ok(calls)
        }
    })
    .await?;
    context.samples.beside(spent);
    Ok(spent)
}

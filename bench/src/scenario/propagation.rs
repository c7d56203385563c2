//! How long it takes from an entry that is created, or deleted, to the stream of its workload.

use std::time::{Duration, Instant};

use steeple_proto::workload::X509svidResponse;
use tonic::Streaming;

use super::{Context, Scenario, entries, fetch};
use crate::check::TRUST_DOMAIN;
use crate::deployment::Deployment;
use crate::error::{Error, Result};
use crate::figures::lower;
use crate::load::answer;
use crate::stats::median;

/// The longest that a change may take.
const LIMIT: Duration = Duration::from_secs(180);

/// What is measured, and how.
pub const SCENARIO: Scenario = Scenario::shared(
    "propagation",
    "from an entry created or deleted to an open stream",
    &[
        lower("propagation.create", "Entry created to SVID on a stream", "s"),
        lower("propagation.delete", "Entry deleted to SVID gone from it", "s"),
    ],
    |deployment, context| Box::pin(run(deployment, context)),
)
.at_most(2);

async fn run(deployment: &Deployment, context: &mut Context<'_>) -> Result<()> {
    let mut client = fetch::client(deployment.agent_channel());
    let pending = client.fetch_x509svid(fetch::request());
    let mut stream = answer("FetchX509SVID", pending).await?.into_inner();
    answer("FetchX509SVID", fetch::next(&mut stream)).await?;
    let (mut creations, mut deletions) = (Vec::new(), Vec::new());
    for number in 0..context.args.changes {
        let path = format!("/propagated/{number}");
        let begun = Instant::now();
        let entry = deployment.own_entry(&path);
        let id = entries::create(deployment.server_channel(), entry).await?;
        until(&mut stream, &path, true).await?;
        creations.push(begun.elapsed().as_secs_f64());

        let begun = Instant::now();
        entries::delete(deployment.server_channel(), id).await?;
        until(&mut stream, &path, false).await?;
        deletions.push(begun.elapsed().as_secs_f64());
        // So that the next change does not always fall on the same moment of a period.
        let pause = Duration::from_millis(1700 * (number as u64 + 1) % 5000);
        if number + 1 < context.args.changes {
            tokio::time::sleep(pause).await;
        }
    }
    context.add("propagation.create", median(&creations));
    context.add("propagation.delete", median(&deletions));
    Ok(())
}

/// Reads updates until one has, or has not, the identity with `path`.
async fn until(stream: &mut Streaming<X509svidResponse>, path: &str, present: bool) -> Result<()> {
    let id = format!("spiffe://{TRUST_DOMAIN}{path}");
    let updates = async {
        loop {
            let update = fetch::next(stream).await.map_err(Error::call("FetchX509SVID"))?;
            if update.svids.iter().any(|svid| svid.spiffe_id == id) == present {
                return Ok(());
            }
        }
    };
    let late = || {
        let what = format!("{path} not {} in {LIMIT:?}", if present { "there" } else { "gone" });
        Error::Wrong { call: "FetchX509SVID", what }
    };
    tokio::time::timeout(LIMIT, updates).await.unwrap_or_else(|_| Err(late()))
}

//! Simulated agents, thousands in one process: each with its own key, SVID, address and mutual TLS
//! connection, and answers that are checked.
//!
//! Not here: workloads. What an agent would do for them it does for made-up ones.

mod agent;
pub mod calls;
mod link;
pub mod overload;
mod recovery;
mod site;
pub mod steady;
mod tls;

use std::sync::Arc;

use steeple_proto::spire::api::server::entry::v1::BatchCreateEntryRequest;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use steeple_proto::spire::api::types::{Entry, Selector, Spiffeid};
use tokio::task::JoinSet;

use crate::check::TRUST_DOMAIN;
use crate::error::{Error, Result};
use crate::load::answer;
use agent::{Agent, Recruit};
use site::Site;

/// How many callers make a fleet, each with a connection of its own to the server's socket.
const MAKERS: usize = 8;
/// How many entries go into one call that creates them.
const BATCH: usize = 250;
const CREATE: &str = "BatchCreateEntry";

/// Makes `count` join tokens, with a key for each.
async fn enlist(site: &Site, count: usize) -> Result<Vec<Recruit>> {
    let mut makers = JoinSet::new();
    for maker in 0..MAKERS {
        let channel = site.server.channel();
        makers.spawn(async move {
            let mut recruits = Vec::new();
            for number in (maker..count).step_by(MAKERS) {
                recruits.push(Recruit::enlist(channel.clone(), number).await?);
            }
            Ok::<_, Error>(recruits)
        });
    }
    let mut recruits = Vec::with_capacity(count);
    while let Some(made) = makers.join_next().await {
        recruits.extend(made.expect("a maker does not panic")?);
    }
    recruits.sort_by_key(Recruit::number);
    Ok(recruits)
}

/// Creates `each` entries for each of `parents`, all with selectors of their own.
async fn register(site: &Site, parents: &[String], each: usize) -> Result<()> {
    let mut client = EntryClient::new(site.server.channel());
    let count = parents.len() * each;
    for first in (0..count).step_by(BATCH) {
        let numbers = first..count.min(first + BATCH);
        let entries = numbers.map(|number| entry(number, &parents[number / each])).collect();
        let request = BatchCreateEntryRequest { entries, output_mask: None };
        let answer = answer(CREATE, client.batch_create_entry(request)).await?.into_inner();
        let refused = answer.results.into_iter().filter_map(|it| it.status);
        if let Some(status) = refused.into_iter().find(|status| status.code != 0) {
            return Err(Error::Call { call: CREATE, status: status.message });
        }
    }
    Ok(())
}

/// Entry `number` of a fleet: as long as such things are in a cluster, with two selectors.
fn entry(number: usize, parent: &str) -> Entry {
    let id = |path: String| Spiffeid { trust_domain: TRUST_DOMAIN.into(), path };
    let selector = |value: String| Selector { r#type: "k8s".into(), value };
    Entry {
        spiffe_id: Some(id(format!("/ns/team-{}/sa/service-{number}", number % 100))),
        parent_id: Some(id(parent.to_owned())),
        selectors: vec![
            selector(format!("ns:team-{}", number % 100)),
            selector(format!("sa:service-{number}")),
        ],
        ..Default::default()
    }
}

/// Attests them all, several at a time.
async fn attest(site: &Site, recruits: Vec<Recruit>, fully: bool) -> Result<Vec<Arc<Agent>>> {
    let mut agents = Vec::with_capacity(recruits.len());
    let mut waiting = recruits.into_iter();
    let mut work = JoinSet::new();
    loop {
        while work.len() < MAKERS
            && let Some(recruit) = waiting.next()
        {
            let front = Arc::clone(&site.front);
            work.spawn(async move { recruit.attest(&front, fully).await });
        }
        match work.join_next().await {
            Some(done) => agents.push(Arc::new(done.expect("an agent does not panic")?)),
            None => break,
        }
    }
    Ok(agents)
}

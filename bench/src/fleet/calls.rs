//! What each of an agent's calls costs the server: attestation, connection, sync, renewal,
//! signatures.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use steeple_proto::spire::api::types::Entry;

use super::agent::{Agent, Prepared, Recruit};
use super::site::Site;
use super::{enlist, register};
use crate::error::{Error, Result};
use crate::figures::{ATTEST, HANDSHAKE, SIGN, SIGN_VERIFY, TLS_EXCHANGE, cost, lower, rate};
use crate::load::{Gate, Spent, drive};
use crate::postgres;
use crate::scenario::{Context, Scenario, fully};
use crate::server::Options;

/// How many agents are attested.
const AGENTS: usize = 400;
/// How many entries each agent has.
const EACH: usize = 10;
/// How many parents there are in the store, for each agent that is attested at the most: with
/// [`EACH`], 10,000 entries.
const PARENTS: usize = 1000;
/// The longest that a server may take to authorise agents for what was just registered.
const SETTLED: Duration = Duration::from_secs(60);
/// For loads that end by their number.
const UNTIL_DONE: Duration = Duration::from_secs(3600);
/// Sizes of the batches that are signed.
const BATCHES: [(usize, &str, &str); 3] = [
    (1, "agents.sign1.rate", "agents.sign1.cpu"),
    (10, "agents.sign10.rate", "agents.sign10.cpu"),
    (50, "agents.sign50.rate", "agents.sign50.cpu"),
];

/// What is measured, and how.
pub const SCENARIO: Scenario = Scenario::alone(
    "agents",
    "simulated agents over mutual TLS: attest, connect, sync (10 of 10,000 entries), renew, sign",
    &[
        rate("agents.attest.rate", "AttestAgent (join token), connection each"),
        cost("agents.attest.cpu", "AttestAgent and its connection, server CPU").limit(ATTEST),
        lower("agents.attest.statements", "AttestAgent, statements", ""),
        cost("agents.connect.cpu", "Agent connects (mutual TLS), first call, server CPU")
            .limit(HANDSHAKE),
        lower("agents.connect.bytes", "Agent connects, first call, bytes both ways", "B"),
        lower("agents.connect.statements", "Agent connects, first call, statements", ""),
        rate("agents.sync.rate", "SyncAuthorizedEntries, 10 of 10,000, one connection"),
        cost("agents.sync.cpu", "SyncAuthorizedEntries, server CPU").limit(TLS_EXCHANGE),
        lower("agents.sync.bytes", "SyncAuthorizedEntries, bytes both ways", "B"),
        lower("agents.sync.statements", "SyncAuthorizedEntries, statements", ""),
        cost("agents.get.cpu", "GetAuthorizedEntries, server CPU").limit(TLS_EXCHANGE),
        cost("agents.bundle.cpu", "GetBundle, server CPU").limit(TLS_EXCHANGE),
        lower("agents.bundle.bytes", "GetBundle, bytes both ways", "B"),
        rate("agents.renew.rate", "RenewAgent"),
        cost("agents.renew.cpu", "RenewAgent, server CPU").limit(SIGN_VERIFY),
        lower("agents.renew.bytes", "RenewAgent, bytes both ways", "B"),
        lower("agents.renew.statements", "RenewAgent, statements", ""),
        rate("agents.sign1.rate", "BatchNewX509SVID of 1: SVIDs"),
        cost("agents.sign1.cpu", "BatchNewX509SVID of 1, server CPU per SVID").limit(SIGN_VERIFY),
        lower("agents.sign1.bytes", "BatchNewX509SVID of 1, bytes both ways", "B"),
        lower("agents.sign1.statements", "BatchNewX509SVID of 1, statements", ""),
        rate("agents.sign10.rate", "BatchNewX509SVID of 10: SVIDs"),
        cost("agents.sign10.cpu", "BatchNewX509SVID of 10, server CPU per SVID").limit(SIGN_VERIFY),
        rate("agents.sign50.rate", "BatchNewX509SVID of 50: SVIDs"),
        cost("agents.sign50.cpu", "BatchNewX509SVID of 50, server CPU per SVID").limit(SIGN_VERIFY),
        rate("agents.jwt.rate", "NewJWTSVID"),
        cost("agents.jwt.cpu", "NewJWTSVID, server CPU").limit(SIGN),
        lower("agents.jwt.bytes", "NewJWTSVID, bytes both ways", "B"),
        lower("agents.jwt.statements", "NewJWTSVID, statements", ""),
        lower("agents.idle.statements", "Server with these agents, idle, statements", "/s"),
    ],
    |context| Box::pin(run(context)),
);

async fn run(context: &mut Context<'_>) -> Result<()> {
    let mut site = Site::start(context.folder(), &Options::of(context.args)).await?;
    let count = context.args.agents.min(AGENTS);
    let recruits = enlist(&site, count).await?;
    let mut parents: Vec<String> = recruits.iter().map(Recruit::path).collect();
    let others = if count < AGENTS { count } else { PARENTS - count };
    parents.extend((0..others).map(|number| format!("/spire/agent/join_token/other-{number}")));
    register(&site, &parents, EACH).await?;

    let mut agents = attest(&site, context, recruits).await?;
    connect(&site, context, &agents).await?;
    agents.truncate(context.args.connections);
    let entries = settled(&agents, EACH).await?;
    let callers: Vec<Caller> = agents
        .into_iter()
        .zip(entries)
        .map(|(agent, entries)| Caller { agent, entries: entries.into() })
        .collect();
    reads(&site, context, &callers).await?;
    renewals(&site, context, &callers).await?;
    signatures(&site, context, &callers).await?;
    idle(context).await;
    site.server.stop();
    Ok(())
}

/// An agent that is connected, and its entries.
#[derive(Clone)]
struct Caller {
    agent: Arc<Agent>,
    entries: Arc<[Entry]>,
}

async fn attest(
    site: &Site,
    context: &mut Context<'_>,
    recruits: Vec<Recruit>,
) -> Result<Vec<Arc<Agent>>> {
    let every = context.args.verify_every;
    let before = Counts::now(site, context);
    let agents = Arc::new(Mutex::new(Vec::with_capacity(recruits.len())));
    let gate = Gate::new(UNTIL_DONE, recruits.len() as u64);
    let recruits = Arc::new(Mutex::new(recruits));
    let callers = vec![(); context.args.connections];
    let spent = drive(&site.server, callers, gate, |(), gate| {
        let (front, recruits) = (Arc::clone(&site.front), Arc::clone(&recruits));
        let agents = Arc::clone(&agents);
        async move {
            let mut calls = 0;
            while let Some(number) = gate.next() {
                let next = recruits.lock().expect("nobody panics while holding it").pop();
                let Some(recruit) = next else { break };
                let agent = recruit.attest(&front, fully(number, every)).await?;
                agents.lock().expect("nobody panics while holding it").push(Arc::new(agent));
                calls += 1;
            }
            Ok(calls)
        }
    })
    .await?;
    context.samples.beside(spent);
    context.add("agents.attest.rate", spent.per_second());
    context.add("agents.attest.cpu", spent.per_call(spent.server));
    let (_, statements) = before.per_call(site, context, spent.calls);
    add(context, "agents.attest.statements", statements);
    Ok(std::mem::take(&mut *agents.lock().expect("nobody panics while holding it")))
}

async fn connect(site: &Site, context: &mut Context<'_>, agents: &[Arc<Agent>]) -> Result<()> {
    let before = Counts::now(site, context);
    let gate = Gate::new(UNTIL_DONE, agents.len() as u64);
    let agents: Arc<[Arc<Agent>]> = agents.into();
    let callers = vec![(); context.args.connections];
    let spent = drive(&site.server, callers, gate, |(), gate| {
        let agents = Arc::clone(&agents);
        async move {
            let mut calls = 0;
            while let Some(number) = gate.next() {
                agents[number as usize].bundle().await?;
                calls += 1;
            }
            Ok(calls)
        }
    })
    .await?;
    context.samples.beside(spent);
    context.add("agents.connect.cpu", spent.per_call(spent.server));
    let (bytes, statements) = before.per_call(site, context, spent.calls);
    context.add("agents.connect.bytes", bytes);
    add(context, "agents.connect.statements", statements);
    Ok(())
}

/// Waits until the server authorises each agent for what it registered; the entries of each.
pub(super) async fn settled(agents: &[Arc<Agent>], each: usize) -> Result<Vec<Vec<Entry>>> {
    let end = Instant::now() + SETTLED;
    let mut all = Vec::new();
    for agent in agents {
        all.push(loop {
            match agent.sync(each).await {
                Ok(entries) => break entries,
                Err(Error::Wrong { .. }) if Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error),
            }
        });
    }
    Ok(all)
}

async fn reads(site: &Site, context: &mut Context<'_>, callers: &[Caller]) -> Result<()> {
    let did = repeat(site, context, callers, |caller, _| async move {
        caller.agent.sync(EACH).await.map(drop)
    })
    .await?;
    context.add("agents.sync.rate", did.spent.per_second());
    context.add("agents.sync.cpu", did.spent.per_call(did.spent.server));
    context.add("agents.sync.bytes", did.bytes);
    add(context, "agents.sync.statements", did.statements);

    let did = repeat(site, context, callers, |caller, _| async move {
        caller.agent.entries(EACH).await.map(drop)
    })
    .await?;
    context.add("agents.get.cpu", did.spent.per_call(did.spent.server));

    let did =
        repeat(site, context, callers, |caller, _| async move { caller.agent.bundle().await })
            .await?;
    context.add("agents.bundle.cpu", did.spent.per_call(did.spent.server));
    context.add("agents.bundle.bytes", did.bytes);
    Ok(())
}

async fn renewals(site: &Site, context: &mut Context<'_>, callers: &[Caller]) -> Result<()> {
    let every = context.args.verify_every;
    let did = repeat(site, context, callers, move |caller, number| async move {
        caller.agent.renew(fully(number, every)).await
    })
    .await?;
    context.add("agents.renew.rate", did.spent.per_second());
    context.add("agents.renew.cpu", did.spent.per_call(did.spent.server));
    context.add("agents.renew.bytes", did.bytes);
    add(context, "agents.renew.statements", did.statements);
    Ok(())
}

async fn signatures(site: &Site, context: &mut Context<'_>, callers: &[Caller]) -> Result<()> {
    let every = context.args.verify_every;
    let keys: Result<Vec<Prepared>> = (0..64).map(|_| Prepared::new("")).collect();
    let keys: Arc<[Prepared]> = keys?.into();
    for (batch, rate, cpu) in BATCHES {
        // An agent's entries again and again, if it has less than are wanted.
        let callers: Vec<Caller> = callers
            .iter()
            .map(|it| {
                let entries = it.entries.iter().cycle().take(batch).cloned().collect();
                Caller { agent: Arc::clone(&it.agent), entries }
            })
            .collect();
        let keys = Arc::clone(&keys);
        let did = repeat(site, context, &callers, move |caller, number| {
            let keys = Arc::clone(&keys);
            async move { caller.agent.sign(&caller.entries, &keys, fully(number, every)).await }
        })
        .await?;
        context.add(rate, did.spent.per_second() * batch as f64);
        context.add(cpu, did.spent.per_call(did.spent.server) / batch as f64);
        if batch == 1 {
            context.add("agents.sign1.bytes", did.bytes);
            add(context, "agents.sign1.statements", did.statements);
        }
    }
    let did = repeat(site, context, callers, move |caller, number| async move {
        let entry = &caller.entries[number as usize % caller.entries.len()];
        caller.agent.sign_token(entry, fully(number, every)).await
    })
    .await?;
    context.add("agents.jwt.rate", did.spent.per_second());
    context.add("agents.jwt.cpu", did.spent.per_call(did.spent.server));
    context.add("agents.jwt.bytes", did.bytes);
    add(context, "agents.jwt.statements", did.statements);
    Ok(())
}

/// What the database is asked while nobody asks the server.
async fn idle(context: &mut Context<'_>) {
    let label = &context.folder().label;
    if let Some(before) = postgres::statements(label) {
        let begun = Instant::now();
        tokio::time::sleep(context.args.idle).await;
        let now = postgres::statements(label).unwrap_or(before);
        context.add("agents.idle.statements", (now - before) / begun.elapsed().as_secs_f64());
    }
}

/// Adds a sample, if there is one.
fn add(context: &mut Context<'_>, id: &'static str, value: Option<f64>) {
    if let Some(value) = value {
        context.add(id, value);
    }
}

/// Bytes of the agents' connections and statements of the database so far.
struct Counts {
    bytes: u64,
    statements: Option<f64>,
}

impl Counts {
    fn now(site: &Site, context: &Context<'_>) -> Self {
        let statements = postgres::statements(&context.folder().label);
        Self { bytes: site.front.traffic.bytes(), statements }
    }

    /// What came since, for each of `calls`.
    fn per_call(&self, site: &Site, context: &Context<'_>, calls: u64) -> (f64, Option<f64>) {
        let (now, calls) = (Self::now(site, context), calls.max(1) as f64);
        let statements = now.statements.zip(self.statements);
        let statements = statements.map(|(now, before)| (now - before) / calls);
        ((now.bytes - self.bytes) as f64 / calls, statements)
    }
}

/// What a load took: bytes and statements for each call.
struct Did {
    spent: Spent,
    bytes: f64,
    statements: Option<f64>,
}

/// Lets every caller make its call again and again while a load lasts.
async fn repeat<F, Fut>(
    site: &Site,
    context: &mut Context<'_>,
    callers: &[Caller],
    call: F,
) -> Result<Did>
where
    F: Fn(Caller, u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let before = Counts::now(site, context);
    let gate = Gate::new(context.args.load, u64::MAX);
    let spent = drive(&site.server, callers.to_vec(), gate, |caller, gate| {
        let call = call.clone();
        async move {
            let mut calls = 0;
            while let Some(number) = gate.next() {
                call(caller.clone(), number).await?;
                calls += 1;
            }
            Ok(calls)
        }
    })
    .await?;
    context.samples.beside(spent);
    let (bytes, statements) = before.per_call(site, context, spent.calls);
    Ok(Did { spent, bytes, statements })
}

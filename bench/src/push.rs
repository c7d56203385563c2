//! `bench push`: how long a change takes to an open stream, of every pair of programs, and beside a
//! fleet of agents that listen.
//!
//! Changes are made at a fixed pace, whether or not earlier ones have arrived, so that where agents
//! poll they fall on every moment of the period.

mod fleet;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use steeple_net::channel::Channel;
use steeple_proto::workload::X509svidResponse;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Streaming;

use crate::args::Bin;
use crate::check::TRUST_DOMAIN;
use crate::deployment::Deployment;
use crate::error::{Error, Result};
use crate::floors::Yardstick;
use crate::load::answer;
use crate::machine;
use crate::process;
use crate::scenario::{entries, fetch};
use crate::stats::{quantile, spread};

use fleet::Fleet;

const HELP: &str = "\
Measures how long a change takes from the server to an open stream.

  bench push --bin [LABEL=]FOLDER [--bin [LABEL=]FOLDER] [options]

  --bin [LABEL=]FOLDER  server and agent of this folder together; of two, also the agent of the
                        last on the server of the first
  --changes N           entries that are created and deleted again (200)
  --pace MS             between two of them (250)
  --agents N            in the end, with so many simulated agents beside that of the last
                        folder, each with its SVID, connection, stream and polls (1000)
";

/// The longest that a change may take.
const LIMIT: Duration = Duration::from_secs(60);

struct Options {
    bins: Vec<Bin>,
    changes: usize,
    pace: Duration,
    agents: usize,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let pace = Duration::from_millis(250);
        let mut options = Self { bins: Vec::new(), changes: 200, pace, agents: 1000 };
        while let Some(word) = words.next() {
            if matches!(word.as_str(), "-h" | "--help") {
                return Ok(None);
            }
            let wrong = || Error::Usage(format!("{word} needs a value that makes sense"));
            let value = words.next().ok_or_else(wrong)?;
            let number = || value.parse::<usize>().ok().filter(|it| *it <= 100_000);
            match word.as_str() {
                "--bin" => options.bins.push(Bin::parse(&value)?),
                "--changes" => options.changes = number().ok_or_else(wrong)?,
                "--pace" => {
                    options.pace = Duration::from_millis(number().ok_or_else(wrong)? as u64);
                }
                "--agents" => options.agents = number().ok_or_else(wrong)?,
                _ => return Err(Error::Usage(format!("unknown option {word:?}"))),
            }
        }
        if options.bins.is_empty() {
            return Err(Error::Usage("no folder of binaries: --bin FOLDER".into()));
        }
        Ok(Some(options))
    }
}

/// Runs `bench push`.
///
/// # Errors
/// When something is not started, answered or seen.
pub fn main(words: impl Iterator<Item = String>) -> Result<()> {
    let Some(options) = Options::parse(words)? else {
        print!("{HELP}");
        return Ok(());
    };
    process::limit_open_files(u64::MAX)?;
    let runtime = tokio::runtime::Runtime::new().map_err(Error::io("runtime"))?;
    runtime.block_on(async {
        tokio::select! {
            done = Box::pin(run(&options)) => done,
            _ = tokio::signal::ctrl_c() => Err(Error::Stopped),
        }
    })
}

async fn run(options: &Options) -> Result<()> {
    let mut yardstick = Yardstick::new();
    println!("{}", machine::description());
    println!("load average before: {}", machine::load_average());
    println!("| server | agent | change | p50 ms | p99 ms | most ms |");
    println!("|---|---|---|---|---|---|");
    let last = options.bins.last().expect("there is one at least");
    let mut pairs: Vec<(&Bin, &Bin)> = options.bins.iter().map(|bin| (bin, bin)).collect();
    if options.bins.len() > 1 {
        pairs.push((&options.bins[0], last));
    }
    for (server, agent) in pairs {
        let deployment = Deployment::pair(server, agent).await?;
        let took = changes(&deployment, options, &mut yardstick).await?;
        took.print(&server.label, &agent.label);
        deployment.stop();
    }
    if options.agents > 0 {
        beside_a_fleet(last, options, &mut yardstick).await?;
    }
    println!("load average after: {}", machine::load_average());
    println!("spread of the yardstick: {:.0} %", spread(&yardstick.wall()));
    Ok(())
}

async fn beside_a_fleet(bin: &Bin, options: &Options, yardstick: &mut Yardstick) -> Result<()> {
    let deployment = Deployment::pair(bin, bin).await?;
    let fleet = Fleet::attest(&deployment, options.agents).await?;
    fleet.connect().await?;
    let connected = deployment.server.memory()?.anonymous;
    fleet.listen().await?;
    let listening = deployment.server.memory()?.anonymous;
    let of_stream = (listening.saturating_sub(connected)) as f64 / options.agents as f64;
    fleet.keep_polling();
    let label = format!("{} + {}", bin.label, options.agents);
    changes(&deployment, options, yardstick).await?.print(&label, &bin.label);
    let told = fleet.told_of_a_bundle(&deployment).await?;
    row(&label, "simulated", "bundle, until hinted", &told);
    println!(
        "server's memory: {:.1} MiB with all connected, {:.1} KiB more for each stream of hints",
        connected as f64 / 1024.0,
        of_stream
    );
    deployment.stop();
    Ok(())
}

/// Milliseconds of every change.
struct Took {
    created: Vec<f64>,
    deleted: Vec<f64>,
}

impl Took {
    fn print(&self, server: &str, agent: &str) {
        row(server, agent, "created, until the stream has it", &self.created);
        row(server, agent, "deleted, until it is gone from there", &self.deleted);
    }
}

fn row(server: &str, agent: &str, change: &str, took: &[f64]) {
    let at = |share| quantile(took, share);
    println!(
        "| {server} | {agent} | {change} | {:.1} | {:.1} | {:.1} |",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// What the open stream shows.
type Shown = watch::Receiver<Arc<HashSet<String>>>;

async fn changes(
    deployment: &Deployment,
    options: &Options,
    yardstick: &mut Yardstick,
) -> Result<Took> {
    let mut client = fetch::client(deployment.agent_channel());
    let pending = client.fetch_x509svid(fetch::request());
    let stream = answer("FetchX509SVID", pending).await?.into_inner();
    let (show, shown) = watch::channel(Arc::default());
    let mut work = JoinSet::new();
    work.spawn(async move { follow(stream, &show).await.map(|()| (0.0, 0.0)) });
    // The agent's first syncs come one after the other; let it settle.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let server = deployment.server_channel();
    let mut took = Took { created: Vec::new(), deleted: Vec::new() };
    let mut begun = 0;
    let mut pace = tokio::time::interval(options.pace);
    while took.created.len() < options.changes {
        tokio::select! {
            _ = pace.tick(), if begun < options.changes => {
                let path = format!("/pushed/{begun}");
                let entry = deployment.own_entry(&path);
                work.spawn(change(server.clone(), entry, path, shown.clone()));
                begun += 1;
                if begun % 50 == 0 {
                    yardstick.burst();
                }
            }
            Some(done) = work.join_next() => {
                let broke = |error: tokio::task::JoinError| Error::io("a task")(error.into());
                let (created, deleted) = done.map_err(broke)??;
                took.created.push(created);
                took.deleted.push(deleted);
            }
        }
    }
    Ok(took)
}

async fn follow(
    mut stream: Streaming<X509svidResponse>,
    show: &watch::Sender<Arc<HashSet<String>>>,
) -> Result<()> {
    loop {
        let pending = stream.message().await.map_err(Error::call("FetchX509SVID"))?;
        let ended = || Error::Wrong { call: "FetchX509SVID", what: "the stream ended".into() };
        let update = pending.ok_or_else(ended)?;
        show.send_replace(Arc::new(update.svids.into_iter().map(|it| it.spiffe_id).collect()));
    }
}

/// Creates an entry and deletes it again; how long each took to show, in ms.
async fn change(
    server: Channel,
    entry: steeple_proto::spire::api::types::Entry,
    path: String,
    mut shown: Shown,
) -> Result<(f64, f64)> {
    let id = format!("spiffe://{TRUST_DOMAIN}{path}");
    let begun = Instant::now();
    let entry = entries::create(server.clone(), entry).await?;
    until(&mut shown, &id, true).await?;
    let created = begun.elapsed().as_secs_f64() * 1e3;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    entries::delete(server, entry).await?;
    until(&mut shown, &id, false).await?;
    Ok((created, begun.elapsed().as_secs_f64() * 1e3))
}

async fn until(shown: &mut Shown, id: &str, present: bool) -> Result<()> {
    let seen = shown.wait_for(|ids| ids.contains(id) == present);
    match tokio::time::timeout(LIMIT, seen).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(Error::Wrong { call: "FetchX509SVID", what: format!("{id} did not change") }),
    }
}

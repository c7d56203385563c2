//! How long the programs take to their first answer, the server also with a great many entries in
//! its database, and what an entry takes of its memory.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use prost::Message;
use steeple_proto::spire::api::server::entry::v1::ListEntriesRequest;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;

use super::{Context, Scenario, entries, fetch, idle::mib};
use crate::check::TRUST_DOMAIN;
use crate::deployment::Deployment;
use crate::error::{Error, Result};
use crate::figures::{ENTRY_BYTES, Size, lower};
use crate::load::answer;
use crate::process::Memory;
use crate::server::{Options, Server};

/// How long the server has to come to rest before its memory is read.
const SETTLE: Duration = Duration::from_secs(3);
/// Of how many agents the entries are.
const AGENTS: usize = 10_000;

/// The figures of a server with many entries.
struct Ids {
    time: &'static str,
    cpu: &'static str,
    rss: &'static str,
    anonymous: &'static str,
    peak: &'static str,
}

const FIRST: Ids = Ids {
    time: "start.some.time",
    cpu: "start.some.cpu",
    rss: "start.some.rss",
    anonymous: "start.some.anonymous",
    peak: "start.some.peak",
};
const SECOND: Ids = Ids {
    time: "start.many.time",
    cpu: "start.many.cpu",
    rss: "start.many.rss",
    anonymous: "start.many.anonymous",
    peak: "start.many.peak",
};

/// What is measured, and how.
pub const SCENARIO: Scenario = Scenario::alone(
    "start",
    "from the start of a process to its first answer; memory per entry",
    &[
        lower("start.server", "Server, first start to first answer", "ms"),
        lower("start.server.again", "Server, next start to first answer, no entries", "ms"),
        lower("start.agent", "Agent, first start to any answer", "ms"),
        lower("start.agent.svid", "Agent, first start to first SVID", "ms"),
        lower("start.agent.again", "Agent, next start to first SVID", "ms"),
        lower("start.some.time", "Server, start with 100,000 entries", "s"),
        lower("start.some.cpu", "Server, start with 100,000 entries, CPU", "s"),
        lower("start.some.rss", "Memory per entry of 100,000 (RSS)", "B").limit(ENTRY_BYTES),
        lower("start.some.anonymous", "Memory per entry of 100,000 (anonymous)", "B")
            .limit(ENTRY_BYTES),
        lower("start.some.peak", "Server, peak of a start with 100,000 entries", "MiB"),
        lower("start.many.time", "Server, start with 1,000,000 entries", "s"),
        lower("start.many.cpu", "Server, start with 1,000,000 entries, CPU", "s"),
        lower("start.many.rss", "Memory per entry of 1,000,000 (RSS)", "B").limit(ENTRY_BYTES),
        lower("start.many.anonymous", "Memory per entry of 1,000,000 (anonymous)", "B")
            .limit(ENTRY_BYTES),
        lower("start.many.peak", "Server, peak of a start with 1,000,000 entries", "MiB"),
    ],
    |context| Box::pin(run(context)),
);

async fn run(context: &mut Context<'_>) -> Result<()> {
    let bin = context.folder().clone();
    let mut server = Server::start(&bin, &Options::default()).await?;
    context.add("start.server", server.started);
    let again = server.again().await?;
    context.add("start.server.again", again);
    tokio::time::sleep(SETTLE.min(context.args.idle)).await;
    let empty = server.memory()?;

    let mut deployment = Deployment::with(server, &bin).await?;
    let (answer, svid) = deployment.started;
    context.add("start.agent", answer);
    context.add("start.agent.svid", svid);
    let begun = std::time::Instant::now();
    deployment.restart_agent()?;
    fetch::until(deployment.agent_channel(), 1).await?;
    context.add("start.agent.again", begun.elapsed().as_secs_f64() * 1e3);
    deployment.stop();

    let [some, many] = context.args.filled;
    filled(context, some, empty, &FIRST).await?;
    if context.round < context.args.filled_rounds {
        filled(context, many, empty, &SECOND).await?;
    } else {
        context.prepared.remove(&(context.bin, many));
    }
    Ok(())
}

/// Starts a server whose database has so many entries, which are made in the first round.
async fn filled(context: &mut Context<'_>, count: usize, empty: Memory, ids: &Ids) -> Result<()> {
    let key = (context.bin, count);
    let mut server = match context.prepared.remove(&key) {
        Some(server) => server,
        None => {
            let mut server = Server::start(context.folder(), &Options::default()).await?;
            server.stop();
            if !fill(&server, count)? {
                eprintln!("no start with entries: there is no sqlite3 to make them");
                return Ok(());
            }
            server
        }
    };
    let took = server.again().await?;
    let cpu = server.cpu()?;
    let found = entries::count(server.channel()).await?;
    if found != count {
        let what = format!("{found} entries instead of {count}");
        return Err(Error::Wrong { call: "CountEntries", what });
    }
    tokio::time::sleep(SETTLE.min(context.args.idle)).await;
    let full = server.memory()?;
    let each = |empty: u64, full: u64| full.saturating_sub(empty) as f64 * 1024.0 / count as f64;
    context.add(ids.time, took / 1e3);
    context.add(ids.cpu, cpu.as_secs_f64());
    context.add(ids.rss, each(empty.rss, full.rss));
    context.add(ids.anonymous, each(empty.anonymous, full.anonymous));
    context.add(ids.peak, mib(full.peak));
    let size = entry_bytes(&server).await?;
    context.samples.size(Size::Entry, size);
    server.stop();
    context.prepared.insert(key, server);
    Ok(())
}

/// The size of one of the entries as a message.
async fn entry_bytes(server: &Server) -> Result<usize> {
    let mut client = EntryClient::new(server.channel());
    let request = ListEntriesRequest { page_size: 1, ..Default::default() };
    let page = answer("ListEntries", client.list_entries(request)).await?.into_inner();
    Ok(page.entries.first().map_or(0, Message::encoded_len))
}

/// Puts entries with two selectors each into the database of a server that does not run, by SQL:
/// the same rows whoever's server it is. `false` when there is nothing to do that with.
fn fill(server: &Server, count: usize) -> Result<bool> {
    let child = Command::new("sqlite3")
        .args(["-bail", "-batch"])
        .arg(server.datastore())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        child => child.map_err(Error::io("sqlite3"))?,
    };
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(statements(count).as_bytes()).map_err(Error::io("sqlite3"))?;
    }
    let output = child.wait_with_output().map_err(Error::io("sqlite3"))?;
    if !output.status.success() {
        let status = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Call { call: "sqlite3", status });
    }
    Ok(true)
}

fn statements(count: usize) -> String {
    let now = "'2026-01-01 00:00:00+00:00'";
    // Nothing reads along, and what is lost in a crash is made again.
    let mut sql = "PRAGMA journal_mode = OFF;\nPRAGMA synchronous = OFF;\n\
                   PRAGMA cache_size = -400000;\nBEGIN;\n"
        .to_owned();
    let _ = write!(
        sql,
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < \
         {count})\n\
         INSERT INTO registered_entries (created_at, updated_at, entry_id, spiffe_id, parent_id, \
         ttl, admin, downstream, expiry, revision_number, store_svid, hint, jwt_svid_ttl)\n\
         SELECT {now}, {now}, printf('%08x-0000-4000-8000-%012x', n, n),\n\
         printf('spiffe://{TRUST_DOMAIN}/ns/team-%d/sa/service-%d', n % 100, n),\n\
         printf('spiffe://{TRUST_DOMAIN}/spire/agent/bench/node-%d', n % {AGENTS}),\n\
         0, 0, 0, 0, 0, 0, '', 0 FROM numbers;\n"
    );
    for value in ["'ns:team-' || (id % 100)", "'sa:service-' || id"] {
        let _ = write!(
            sql,
            "INSERT INTO selectors (created_at, updated_at, registered_entry_id, type, value)\n\
             SELECT {now}, {now}, id, 'k8s', {value} FROM registered_entries;\n"
        );
    }
    sql + "COMMIT;\nPRAGMA journal_mode = WAL;\n"
}

//! The command line on an empty store, and how large the programs are.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use super::{Context, Scenario};
use crate::error::{Error, Result};
use crate::figures::lower;
use crate::server::{Options, Server};
use crate::stats::median;

const SHOW: &str = "spire-server entry show";

/// What is measured, and how.
pub const SCENARIO: Scenario = Scenario::alone(
    "cli",
    "`spire-server entry show` on an empty store; the size of the stripped programs",
    &[
        lower("cli.show", "`entry show` on an empty store", "ms"),
        lower("cli.show.cpu", "`entry show` on an empty store, CPU of the command", "ms"),
        lower("size.server", "spire-server, stripped", "MB"),
        lower("size.agent", "spire-agent, stripped", "MB"),
    ],
    |context| Box::pin(run(context)),
);

async fn run(context: &mut Context<'_>) -> Result<()> {
    let bin = context.folder().clone();
    let mut server = Server::start(&bin, &Options::of(context.args)).await?;
    let socket = server.folder().join("server.sock");
    let (mut took, before) = (Vec::new(), children()?);
    let calls = context.args.commands;
    for _ in 0..calls {
        let begun = Instant::now();
        let mut command = Command::new(bin.folder.join("spire-server"));
        let output = command.args(["entry", "show", "-socketPath"]).arg(&socket).output();
        let output = output.map_err(Error::io(SHOW))?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || !text.contains("Found 0 entries") {
            let status = format!("{}: {text}{}", output.status, lossy(&output.stderr));
            return Err(Error::Call { call: SHOW, status });
        }
    }
    let cpu = children()? - before;
    context.add("cli.show", median(&took));
    context.add("cli.show.cpu", cpu.as_secs_f64() * 1e3 / calls as f64);
    for (program, id) in [("spire-server", "size.server"), ("spire-agent", "size.agent")] {
        match stripped(&bin.folder.join(program), server.folder()) {
            Some(bytes) => context.add(id, bytes as f64 / 1e6),
            None => eprintln!("{program} is not weighed: there is no strip (apt: binutils)"),
        }
    }
    server.stop();
    Ok(())
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// CPU time of the children that have ended.
fn children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN);
    let usage = usage.map_err(|error| Error::io("CPU time of children")(error.into()))?;
    let time = usage.user_time() + usage.system_time();
    let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
    Ok(Duration::from_micros(micros.unsigned_abs()))
}

/// The bytes of a program without its symbols; `None` where nothing can strip it.
fn stripped(program: &Path, folder: &Path) -> Option<u64> {
    let copy = folder.join("stripped");
    let done = Command::new("strip").arg("-o").arg(&copy).arg(program).status().ok()?;
    done.success().then_some(())?;
    std::fs::metadata(&copy).ok().map(|it| it.len())
}

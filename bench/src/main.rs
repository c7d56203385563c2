//! A load generator for SPIFFE servers and agents with SPIRE's interfaces: the same run measures
//! several folders of binaries in alternation, and says how far its figures are to be believed.
//!
//! Not here: anything that the programs under test are made of, but for the generated messages and
//! the code that checks answers.
//!
//! Start at `run`; the list of what is measured is in `scenario.rs`.

mod args;
mod check;
mod deployment;
mod error;
mod figures;
mod fleet;
mod floors;
mod load;
mod machine;
mod model;
mod pictures;
mod postgres;
mod process;
mod push;
mod report;
mod sampler;
mod scenario;
mod server;
mod stats;
mod svg;

use std::collections::BTreeMap;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use args::Args;
use deployment::Deployment;
use error::{Error, Result};
use figures::{Samples, Size};
use floors::Yardstick;
use report::Report;
use sampler::Sampler;
use scenario::{Context, Run};
use server::{Options, Server};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("model") {
        return ended(model::main(std::env::args().skip(2)));
    }
    if std::env::args().nth(1).as_deref() == Some("push") {
        return ended(push::main(std::env::args().skip(2)));
    }
    let done = match Args::parse(std::env::args().skip(1)) {
        Ok(Some(args)) => measure(&args),
        Ok(None) => {
            print!("{}", args::help());
            Ok(())
        }
        Err(error) => Err(error),
    };
    ended(done)
}

fn ended(done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(if matches!(error, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}

/// Runs until done, out of time, or told to stop; what was started ends with it in each case.
fn measure(args: &Args) -> Result<()> {
    process::limit_open_files(u64::MAX)?;
    let runtime = tokio::runtime::Runtime::new().map_err(Error::io("runtime"))?;
    let report = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("signals"))?;
        tokio::select! {
            done = tokio::time::timeout(args.limit, Box::pin(run(args))) => {
                done.unwrap_or_else(|_| Err(Error::Limit(args.limit.as_secs())))
            }
            _ = tokio::signal::ctrl_c() => Err(Error::Stopped),
            _ = terminate.recv() => Err(Error::Stopped),
        }
    })?;
    print!("{}", report.table());
    if args.is_quick() {
        println!("\n{}", report.counts());
    }
    if let Some(folder) = &args.svg {
        report.draw(folder)?;
    }
    match &args.json {
        Some(path) => report.write_json(path),
        None => Ok(()),
    }
}

async fn run(args: &Args) -> Result<Report<'_>> {
    let folder = tempfile::tempdir().map_err(Error::io("temporary folder"))?;
    let mut report = Report::begin(args);
    let mut yardstick = Yardstick::new();
    let mut floors = yardstick.floors(folder.path())?;
    let (mut samples, mut prepared) = (Samples::default(), BTreeMap::new());
    for round in 0..args.rounds {
        self::round(args, round, &mut samples, &mut yardstick, &mut prepared).await?;
    }
    floors.svid = samples.least(Size::Svid);
    floors.update = samples.least(Size::Update);
    floors.entry = samples.least(Size::Entry);
    report.end(floors, yardstick, samples);
    Ok(report)
}

/// Starts every folder's programs anew and takes one sample of everything, the folders in turn,
/// from the first to the last or the other way round.
async fn round(
    args: &Args,
    round: usize,
    samples: &mut Samples,
    yardstick: &mut Yardstick,
    prepared: &mut BTreeMap<(usize, usize), Server>,
) -> Result<()> {
    let mut order: Vec<usize> = (0..args.bins.len()).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    let (shared, alone) = scenario::of_round(args, round);
    let mut deployments = Vec::new();
    for &bin in order.iter().filter(|_| !shared.is_empty()) {
        let deployment = Deployment::start(&args.bins[bin], &Options::of(args)).await?;
        deployments.push((bin, deployment));
    }
    let say = |scenario: &str, bin: usize| {
        let label = &args.bins[bin].label;
        eprintln!("round {} of {}: {scenario}: {label}", round + 1, args.rounds);
    };
    for scenario in shared {
        let Run::Shared(run) = scenario.run else { continue };
        for (bin, deployment) in &mut deployments {
            say(scenario.name, *bin);
            yardstick.burst();
            let prepared = &mut *prepared;
            let mut context = Context { args, samples: &mut *samples, bin: *bin, round, prepared };
            let sampler = Sampler::begin(&args.bins[*bin].label);
            run(deployment, &mut context).await?;
            deployment.alive()?;
            taken(samples, scenario.name, *bin, sampler);
        }
    }
    for (_, deployment) in deployments {
        deployment.stop();
    }
    for scenario in alone {
        let Run::Alone(run) = scenario.run else { continue };
        for &bin in &order {
            say(scenario.name, bin);
            yardstick.burst();
            let sampler = Sampler::begin(&args.bins[bin].label);
            let prepared = &mut *prepared;
            run(&mut Context { args, samples: &mut *samples, bin, round, prepared }).await?;
            taken(samples, scenario.name, bin, sampler);
        }
    }
    Ok(())
}

fn taken(samples: &mut Samples, scenario: &'static str, bin: usize, sampler: Sampler) {
    for (program, usage) in sampler.end() {
        samples.usage(scenario, program, bin, usage);
    }
}

//! All agents come back in the moment in which their server, which was killed, answers again.
//!
//! Each connects, syncs and fetches the bundle; one in ten also renews its SVID, and another one
//! in ten has its workloads' signed. Who is refused comes again when the server says so, or else
//! as SPIRE's agent does: after five seconds, then half as long again each time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::agent::{Agent, Prepared};
use super::site::Site;
use super::steady::EACH;
use crate::error::{Error, Result};
use crate::load::Clocks;
use crate::scenario::{Context, idle::mib};
use crate::stats::quantile;

/// How long the server is away.
const AWAY: Duration = Duration::from_secs(5);
/// Of so many agents one renews, and one has SVIDs signed.
const SHARE: usize = 10;
/// The first pause of an agent that was refused and not told when to come again.
const PAUSE: Duration = Duration::from_secs(5);
/// How much longer each pause is than the one before.
const LONGER: f64 = 1.5;
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(120);
/// The longest until all are served.
const LIMIT: Duration = Duration::from_secs(600);

/// What became of one agent.
struct Served {
    after: Duration,
    errors: u32,
}

pub async fn run(site: &mut Site, context: &mut Context<'_>, agents: &[Arc<Agent>]) -> Result<()> {
    for agent in agents {
        agent.link.release().await;
    }
    site.server.kill();
    tokio::time::sleep(AWAY.min(context.args.steady)).await;
    let started = site.server.again().await?;
    context.add("recovery.start", started);

    let clocks = Clocks::read(&site.server)?;
    let keys: Result<Vec<Prepared>> = (0..EACH).map(|_| Prepared::new("")).collect();
    let (keys, begun): (Arc<[Prepared]>, _) = (keys?.into(), Instant::now());
    let mut work = JoinSet::new();
    for (number, agent) in agents.iter().enumerate() {
        work.spawn(back(number, Arc::clone(agent), Arc::clone(&keys), begun));
    }
    let mut served = Vec::with_capacity(agents.len());
    let all = async {
        while let Some(done) = work.join_next().await {
            served.push(done.expect("an agent does not panic"));
        }
    };
    let late = tokio::time::timeout(LIMIT, all).await.is_err();
    site.server.alive()?;
    if late {
        let what = format!("only {} of {} agents were served", served.len(), agents.len());
        return Err(Error::Wrong { call: super::agent::SYNC, what });
    }
    let spent = clocks.spent(&site.server, served.len() as u64)?;
    context.samples.beside(spent);
    let after: Vec<f64> = served.iter().map(|it| it.after.as_secs_f64()).collect();
    let erring = |least: u32| served.iter().filter(|it| it.errors >= least).count() as f64;
    context.add("recovery.half", quantile(&after, 0.5));
    context.add("recovery.all", quantile(&after, 1.0));
    context.add("recovery.cpu", spent.server.as_secs_f64());
    context.add("recovery.generator", spent.own.as_secs_f64());
    context.add("recovery.peak", mib(site.server.memory()?.peak));
    context.add("recovery.once", erring(1));
    context.add("recovery.twice", erring(2));
    Ok(())
}

/// Tries until everything that this agent wants was done.
async fn back(number: usize, agent: Arc<Agent>, keys: Arc<[Prepared]>, begun: Instant) -> Served {
    let mut errors = 0;
    loop {
        match attempt(number, &agent, &keys).await {
            Ok(()) => return Served { after: begun.elapsed(), errors },
            Err(error) => {
                if errors == 0 && number == 0 {
                    eprintln!("agent 0 was refused: {error}");
                }
                tokio::time::sleep(pause(number, errors, &error)).await;
                errors += 1;
            }
        }
    }
}

async fn attempt(number: usize, agent: &Agent, keys: &[Prepared]) -> Result<()> {
    let entries = agent.sync(EACH).await?;
    agent.bundle().await?;
    match number % SHARE {
        0 => agent.renew(false).await,
        1 => agent.sign(&entries, keys, false).await,
        _ => Ok(()),
    }
}

/// How long an agent waits after its error number `before` (from 0): a tenth more or less than
/// others.
fn pause(number: usize, before: u32, error: &Error) -> Duration {
    if let Error::Refused { again, .. } = error {
        return *again;
    }
    let pause = PAUSE.mul_f64(LONGER.powi(before.min(20) as i32)).min(LONGEST);
    pause.mul_f64(0.9 + 0.2 * ((number * 7919) % 1000) as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Error {
        Error::Call { call: "SyncAuthorizedEntries", status: "Unavailable".into() }
    }

    #[test]
    fn who_is_told_when_to_come_again_comes_then() {
        let again = Duration::from_secs(3);
        let error = Error::Refused { call: "RenewAgent", status: String::new(), again };
        assert_eq!(pause(17, 4, &error), again);
    }

    #[test]
    fn who_is_told_nothing_waits_longer_each_time_and_up_to_two_minutes() {
        let pauses: Vec<u64> = (0..20).map(|it| pause(500, it, &lost()).as_secs()).collect();
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert!((4..=5).contains(&pauses[0]) && (108..=132).contains(&pauses[19]), "{pauses:?}");
    }

    #[test]
    fn agents_do_not_wait_equally_long() {
        let pauses: std::collections::BTreeSet<_> =
            (0..1000).map(|it| pause(it, 0, &lost())).collect();
        assert_eq!(pauses.len(), 1000);
    }
}

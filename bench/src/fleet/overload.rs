//! Ten times as much as a server can do, for longer than its callers have patience.
//!
//! First what it carries is measured: a few callers, each sending its next call when the last one
//! is answered. Then ten times that rate is offered by callers who do not care how the others
//! fared, come again at once whatever they are told, and stop waiting after some seconds, as
//! SPIRE's agents do (those, refused, would come by a connection of their own each time, which is
//! another load). Meanwhile an agent that asks for little, and an operator, ask as ever. Then as
//! many callers want as much, and come again when they are told to.
//!
//! A call has ten X509-SVIDs signed. The server has half of the cores, and the load generator the
//! other half: what offers ten times the load of two cores takes more than what those two can do.

mod cores;
mod phases;
mod probes;
pub mod tally;

use std::sync::Arc;
use std::time::Duration;

use steeple_proto::spire::api::types::Entry;

use self::cores::Cores;
use self::probes::Probes;
use self::tally::{Counts, Tally};
use super::agent::{Agent, Prepared, Recruit, SIGN};
use super::calls::settled;
use super::site::Site;
use super::{attest, enlist, register};
use crate::error::{Error, Result};
use crate::figures::{Better, Figure, lower, rate};
use crate::scenario::{Context, Scenario, idle::mib};
use crate::server::Options;
use crate::stats::quantile;

/// How many agents ask for too much together, at most.
const CROWD: usize = 150;
/// How many entries each agent has, and so how many SVIDs it has signed in a call.
const EACH: usize = 10;
/// How many times as much is offered as the server carries.
const TIMES: f64 = 10.0;
/// How long a caller waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many times as long as other loads this one is: longer than callers are patient.
const LONGER: u32 = 4;
/// Until the server has to be back to how it was.
const BACK: Duration = Duration::from_secs(60);

/// What is measured, and how.
pub const SCENARIO: Scenario = Scenario::alone(
    "overload",
    "ten times the load that the server carries, by callers who take no hints and by those who do",
    &[
        rate("overload.carried", "Overload: carried, calls with ten SVIDs each"),
        lower("overload.carried50", "Overload: carried, median", "ms"),
        lower("overload.carried99", "Overload: carried, p99", "ms"),
        more("overload.offered", "Overload: offered, times what it carries", "×"),
        more("overload.goodput", "Overload: answered in time, of what it carries", "%"),
        more("overload.cpu", "Overload: answered in time for the same server CPU", "%"),
        lower("overload.refused", "Overload: refused, of all calls", "%"),
        more("overload.hinted", "Overload: refused with a hint, of those refused", "%"),
        lower("overload.late", "Overload: not answered in time, of all calls", "%"),
        lower("overload.lost", "Overload: calls whose connection broke, of all", "%"),
        lower("overload.p50", "Overload: answered calls, median", "ms"),
        lower("overload.p99", "Overload: answered calls, p99", "ms"),
        more("overload.modest", "Overload: one SVID for who asks for little, answered", "%"),
        lower("overload.modest99", "Overload: one SVID for who asks for little, p99", "ms"),
        more("overload.sync", "Overload: its syncs, answered", "%"),
        lower("overload.sync99", "Overload: its syncs, p99", "ms"),
        more("overload.admin", "Overload: an operator's lists of entries, answered", "%"),
        lower("overload.admin99", "Overload: an operator's lists of entries, p99", "ms"),
        lower("overload.back", "Overload: until it answers as before, after its end", "s"),
        lower("overload.peak", "Overload: server, peak memory", "MiB"),
        lower("overload.grown", "Overload: server, peak memory beyond that before", "MiB"),
        more("overload.polite", "With hints obeyed: answered in time, of what it carries", "%"),
        lower("overload.polite99", "With hints obeyed: answered calls, p99", "ms"),
        lower("overload.polite_refused", "With hints obeyed: refused, of all calls", "%"),
        lower("overload.polite_late", "With hints obeyed: not answered in time, of all calls", "%"),
        lower(
            "overload.polite_twice",
            "With hints obeyed: refused twice in a row, of callers",
            "%",
        ),
    ],
    |context| Box::pin(run(context)),
)
.at_most(2);

const fn more(id: &'static str, label: &'static str, unit: &'static str) -> Figure {
    Figure { better: Better::Higher, ..lower(id, label, unit) }
}

/// An agent, what it may have signed, and the keys for that.
#[derive(Clone)]
struct Caller {
    agent: Arc<Agent>,
    entries: Arc<[Entry]>,
    keys: Arc<[Prepared]>,
}

async fn run(context: &mut Context<'_>) -> Result<()> {
    let cores = Cores::split();
    cores.to_server();
    let site = Site::start(context.folder(), &Options::of(context.args)).await;
    cores.to_generator();
    let mut site = site?;
    let (crowd, modest) = callers(&site, context).await?;
    let crowd: Arc<[Caller]> = crowd.into();
    measure(&mut site, context, &crowd, &modest).await?;
    site.server.stop();
    Ok(())
}

/// The crowd, and one beside it. All have their entries, and a connection.
async fn callers(site: &Site, context: &Context<'_>) -> Result<(Vec<Caller>, Caller)> {
    let recruits = enlist(site, context.args.agents.min(CROWD) + 1).await?;
    let parents: Vec<String> = recruits.iter().map(Recruit::path).collect();
    register(site, &parents, EACH).await?;
    let agents = attest(site, recruits, context.args.is_quick()).await?;
    let entries = settled(&agents, EACH).await?;
    let keys: Result<Vec<Prepared>> = (0..EACH).map(|_| Prepared::new("")).collect();
    let keys: Arc<[Prepared]> = keys?.into();
    let both = agents.into_iter().zip(entries);
    let mut callers: Vec<Caller> = both
        .map(|(agent, entries)| Caller { agent, entries: entries.into(), keys: Arc::clone(&keys) })
        .collect();
    let modest = callers.pop().expect("there is one more than the crowd has");
    Ok((callers, modest))
}

async fn measure(
    site: &mut Site,
    context: &mut Context<'_>,
    crowd: &Arc<[Caller]>,
    modest: &Caller,
) -> Result<()> {
    let (load, every) = (context.args.load, context.args.verify_every);
    let count = context.args.connections.min(crowd.len());
    let begun = site.server.cpu()?;
    let carried = phases::carried(&crowd[..count], load, every).await?;
    let each = (site.server.cpu()? - begun).as_secs_f64() / carried.within.max(1) as f64;
    let (least, usual) = (carried.per_second(), quantile(&carried.took, 0.99));
    context.add("overload.carried", least);
    context.add("overload.carried50", quantile(&carried.took, 0.5));
    context.add("overload.carried99", usual);
    if least == 0.0 {
        return Err(Error::Wrong { call: SIGN, what: "nothing was answered".into() });
    }

    let before = site.server.memory()?.rss;
    let probes = Probes::begin(modest, site.server.channel(), EACH);
    let begun = site.server.cpu()?;
    let rude = phases::rude(crowd, least * TIMES, load * LONGER, every).await?;
    let spent = (site.server.cpu()? - begun).as_secs_f64();
    let meanwhile = probes.end().await?;
    let back = phases::back(modest, usual, BACK).await?;
    site.server.alive()?;
    let peak = site.server.memory()?.peak;
    for (answered, p99, figures) in [
        ("overload.modest", "overload.modest99", &meanwhile.sign),
        ("overload.sync", "overload.sync99", &meanwhile.sync),
        ("overload.admin", "overload.admin99", &meanwhile.admin),
    ] {
        context.add(answered, figures.share(figures.took.len()));
        context.add(p99, quantile(&figures.took, 0.99));
    }
    context.add("overload.offered", rude.offered() / least);
    context.add("overload.goodput", rude.per_second() / least * 100.0);
    context.add("overload.cpu", rude.took.len() as f64 * each / spent * 100.0);
    context.add("overload.refused", rude.share(rude.refused));
    if rude.refused > 0 {
        context.add("overload.hinted", rude.hinted as f64 / rude.refused as f64 * 100.0);
    }
    context.add("overload.late", rude.share(rude.late));
    context.add("overload.lost", rude.share(rude.lost));
    context.add("overload.p50", quantile(&rude.took, 0.5));
    context.add("overload.p99", quantile(&rude.took, 0.99));
    context.add("overload.back", back);
    context.add("overload.peak", mib(peak));
    context.add("overload.grown", mib(peak.saturating_sub(before)));

    let polite = phases::polite(crowd, least * TIMES, load * LONGER, every).await?;
    site.server.alive()?;
    context.add("overload.polite", polite.per_second() / least * 100.0);
    context.add("overload.polite99", quantile(&polite.took, 0.99));
    context.add("overload.polite_refused", polite.share(polite.refused));
    context.add("overload.polite_late", polite.share(polite.late));
    context.add("overload.polite_twice", polite.twice);
    Ok(())
}

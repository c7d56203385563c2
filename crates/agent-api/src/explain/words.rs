//! The verdict and the findings, in sentences for an operator.

use std::time::{Duration, SystemTime};

use steeple_agent_core::cache::Identity;
use steeple_agent_core::explain::Matched;
use steeple_runtime::duration::format_go;

use super::{Findings, Sight};

/// How an entry that matches stands, and why.
pub(super) fn state(found: &Findings, position: usize, it: &Matched) -> (&'static str, String) {
    if let Some(identity) = it.identity.as_deref() {
        let left = until(identity.expires_at(), found.now);
        if found.hidden.contains(&position) {
            let why = format!("an older entry has the same hint {:?}", it.entry.hint);
            return ("hidden", why);
        }
        return ("served", format!("its X509-SVID is valid for another {left}"));
    }
    let why = if it.failures > 0 {
        let retry = until(it.retry_at, found.now);
        format!(
            "the server refused to sign its X509-SVID {} times; next attempt in {retry}",
            it.failures
        )
    } else if it.entry.disable_x509_svid_prefetch {
        "its X509-SVID is signed when a workload asks for it".to_owned()
    } else {
        "its X509-SVID is not signed yet; a caller waits for it".to_owned()
    };
    ("waiting", why)
}

pub(super) fn verdict(found: &Findings, sight: &Sight) -> String {
    if !found.attestors.is_empty() && found.attestors.iter().all(|it| it.outcome.is_err()) {
        return "No identity: every workload attestor failed, so that a caller is told \
                \"workload attestation failed\"."
            .to_owned();
    }
    let served = served(found);
    if let [first, rest @ ..] = served.as_slice() {
        let id = &first.entry().spiffe_id;
        return match rest.len() {
            0 => format!("One identity: {id}."),
            n => format!("{} identities, of which {id} is the default one.", n + 1),
        };
    }
    if let Some((position, it)) = found.cache.matched.iter().enumerate().next() {
        let (_, why) = state(found, position, it);
        let waits = found.cache.matched.len();
        return match waits {
            1 => format!("The entry of {} matches, but {why}.", it.entry.spiffe_id),
            n => format!("{n} entries match, but have no X509-SVID: of the first, {why}."),
        };
    }
    if let Some(entry) = found.stored.first() {
        return format!(
            "No identity: the entry of {} matches, but its SVID goes to SVID stores only.",
            entry.spiffe_id
        );
    }
    if found.entries == 0 {
        return format!(
            "No identity: this agent, {}, is authorized for no entry at all.",
            found.agent_id
        );
    }
    if found.shown.is_empty() {
        return "No identity: the attestors found no selectors.".to_owned();
    }
    match found.cache.missed.first() {
        Some(near) => {
            let missing = sight.texts(near.missing.iter()).join(", ");
            format!(
                "No identity: no entry matches. The nearest one, of {}, also wants {missing}.",
                near.entry.spiffe_id
            )
        }
        None => format!(
            "No identity: none of the {} entries that this agent is authorized for comes near.",
            found.entries
        ),
    }
}

pub(super) fn findings(found: &Findings) -> Vec<String> {
    let mut told = Vec::new();
    if found.agent_ends.is_some_and(|ends| ends <= found.now) {
        told.push("the agent's own SVID has expired: it cannot have anything signed".to_owned());
    }
    sync(found, &mut told);
    for it in &found.attestors {
        let name = &it.attestor;
        if let Err(error) = &it.outcome {
            told.push(format!(
                "workload attestor {name:?} failed: {error}; its selectors are missing"
            ));
        } else if it.took >= SLOW {
            told.push(format!("workload attestor {name:?} took {}", format_go(round(it.took))));
        }
    }
    for it in &found.cache.matched {
        for domain in &it.missing_bundles {
            let id = &it.entry.spiffe_id;
            told.push(format!(
                "{id} federates with {domain}, whose bundle the server does not give"
            ));
        }
    }
    for position in &found.hidden {
        let it = &found.cache.matched[*position];
        let (id, hint) = (&it.entry.id, &it.entry.hint);
        told.push(format!("entry {id} is left out: an older one has the same hint {hint:?}"));
    }
    if found.processes > 1 {
        let (n, pid) = (found.processes, found.pid);
        told.push(format!("the container has {n} processes; process {pid} was attested"));
    }
    if served(found).is_empty() {
        advice(found, &mut told);
    }
    told
}

/// What the last contact to the server means for what is told here.
fn sync(found: &Findings, told: &mut Vec<String>) {
    let notes = &found.notes;
    let age = notes.last_success.map(|at| found.now.duration_since(at).unwrap_or_default());
    match (&notes.last_failure, age) {
        (Some((_, error)), Some(age)) => {
            let age = format_go(round(age));
            told.push(format!("the last sync failed; what is told here is {age} old: {error}"));
        }
        (Some((_, error)), None) => {
            told.push(format!("no sync has succeeded since the agent started: {error}"));
        }
        (None, Some(age)) if age > found.interval * 5 + SLACK => {
            told.push(format!("the last sync was {} ago", format_go(round(age))));
        }
        (None, _) => {}
    }
}

fn advice(found: &Findings, told: &mut Vec<String>) {
    let agent = &found.agent_id;
    if found.entries == 0 {
        told.push(format!(
            "an entry reaches this agent if its parent is {agent}, or an alias whose selectors \
             the node has: spire-server entry explain -spiffeID <id> -agent {agent}"
        ));
    } else if found.cache.matched.is_empty() {
        told.push(format!(
            "an entry that is not listed here is not authorized for this agent, or was made a \
             moment ago: spire-server entry explain -spiffeID <id> -agent {agent}"
        ));
    }
}

/// What a caller would get, in the order in which it would.
fn served(found: &Findings) -> Vec<&Identity> {
    let matched = found.cache.matched.iter().enumerate();
    matched
        .filter(|(position, _)| !found.hidden.contains(position))
        .filter_map(|(_, it)| it.identity.as_deref())
        .collect()
}

fn until(at: SystemTime, now: SystemTime) -> String {
    format_go(round(at.duration_since(now).unwrap_or_default()))
}

/// To whole seconds, or milliseconds below ten.
fn round(it: Duration) -> Duration {
    if it >= Duration::from_secs(10) {
        Duration::from_secs(it.as_secs())
    } else {
        Duration::from_millis(u64::try_from(it.as_millis()).unwrap_or(0))
    }
}

const SLOW: Duration = Duration::from_secs(1);
const SLACK: Duration = Duration::from_secs(30);

//! The verdict and the findings, in sentences for an operator.

use std::time::SystemTime;

use steeple_spiffe::{Selector, SpiffeId};
use steeple_store::model::Entry;

use super::{AgentState, Explanation};
use crate::index::{SERVER_PATH, Snapshot, StepKind};
use crate::time::{from_unix_seconds, rfc3339, unix_seconds};

/// Fills in what the rest of the explanation comes to.
pub(super) fn say(
    it: &mut Explanation,
    snapshot: &Snapshot,
    agent: Option<&SpiffeId>,
    shown: &[Selector],
    now: SystemTime,
) {
    for standing in
        it.agents.iter().filter(|it| it.via.is_none()).map(|it| it.id.clone()).collect::<Vec<_>>()
    {
        let reason = why_not(it, &standing, now);
        for agent in it.agents.iter_mut().filter(|it| it.id == standing) {
            agent.reason.clone_from(&reason);
        }
    }
    it.findings = findings(it, snapshot, now);
    it.verdict = verdict(it, agent, shown, now);
}

/// Why `other` is named beside `entry`.
pub(super) fn alike(entry: &Entry, other: &Entry) -> &'static str {
    match (other.spiffe_id == entry.spiffe_id, other.selectors == entry.selectors) {
        (true, true) => "the same identity for the same workloads",
        (true, false) => "the same identity by other selectors",
        (false, true) => "another identity for the same workloads",
        (false, false) => "the same hint: a workload that matches both gets the older one only",
    }
}

fn verdict(
    it: &Explanation,
    agent: Option<&SpiffeId>,
    shown: &[Selector],
    now: SystemTime,
) -> String {
    let seconds = unix_seconds(now);
    if is_expired(&it.entry, seconds) {
        return format!("Nobody gets it: the entry expired at {}.", when(it.entry.expires_at));
    }
    let is_alias = it.entry.parent_id.path() == SERVER_PATH;
    if let (Some(agent), [standing]) = (agent, it.agents.as_slice()) {
        if !standing.reason.is_empty() {
            return format!("Agent {agent} does not get it: {}.", standing.reason);
        }
        match standing.state(now) {
            AgentState::Active if is_alias => return format!("Agent {agent} has this alias."),
            AgentState::Active => {}
            AgentState::Banned => return format!("Agent {agent} does not get it: it is banned."),
            AgentState::Expired => {
                return format!("Agent {agent} does not get it: its own SVID has expired.");
            }
            AgentState::Unknown => {
                return format!("Agent {agent} does not get it: it is not attested.");
            }
        }
    }
    let live = it.agents.iter().filter(|it| it.state(now) == AgentState::Active).count();
    if is_alias {
        return match it.authorized_agents {
            0 => "It is an alias, and no attested agent has all its selectors.".to_owned(),
            n => format!(
                "It is an alias: {} all its selectors.",
                count(n, "agent has", "agents have")
            ),
        };
    }
    if it.authorized_agents == 0 {
        return format!("Nobody gets it: {}.", nobody(it));
    }
    if live == 0 {
        return "Nobody gets it: every agent that is authorised for it is banned or expired."
            .into();
    }
    if !it.missing_selectors.is_empty() {
        let lacks = list(&it.missing_selectors);
        return format!("A workload with these selectors does not get it: it lacks {lacks}.");
    }
    if it.entry.store_svid {
        return "Its SVID goes to SVID stores; the Workload API does not serve it.".to_owned();
    }
    match (agent, shown) {
        (Some(agent), []) => format!("Agent {agent} gives it to workloads with all its selectors."),
        (Some(agent), _) => format!("Agent {agent} gives it to a workload with these selectors."),
        (None, []) => {
            let who = count(it.authorized_agents, "agent gives", "agents give");
            format!("{who} it to workloads with all its selectors.")
        }
        (None, _) => {
            let who = count(it.authorized_agents, "agent gives", "agents give");
            format!("{who} it to a workload with these selectors.")
        }
    }
}

/// Why no agent has it.
fn nobody(it: &Explanation) -> String {
    let dead = it.chain.iter().find_map(|step| match &step.kind {
        StepKind::Nothing => Some(&step.id),
        _ => None,
    });
    let has_alias = it.chain.iter().any(|step| matches!(step.kind, StepKind::Alias(_)));
    match dead {
        Some(id) if id == &it.entry.parent_id => {
            format!("its parent {id} is neither an attested agent nor an entry's SPIFFE ID")
        }
        _ if has_alias => "no attested agent has all selectors of the alias above it".to_owned(),
        Some(id) => format!("above it is {id}, neither an attested agent nor an entry's SPIFFE ID"),
        None => "nothing above it leads to an agent".to_owned(),
    }
}

/// Why this agent has not.
fn why_not(it: &Explanation, agent: &SpiffeId, now: SystemTime) -> String {
    let standing = it.agents.iter().find(|standing| standing.id == *agent);
    match standing.map(|standing| standing.state(now)) {
        Some(AgentState::Unknown) | None => return "it is not attested".to_owned(),
        Some(AgentState::Banned) => return "it is banned".to_owned(),
        Some(AgentState::Expired) => return "its own SVID has expired".to_owned(),
        Some(AgentState::Active) => {}
    }
    if is_expired(&it.entry, unix_seconds(now)) {
        return "the entry has expired".to_owned();
    }
    match it.near_misses.iter().find(|miss| miss.agent == *agent) {
        Some(miss) => {
            let lacks = list(&miss.missing);
            format!("for the alias {} it lacks {lacks}", miss.alias.spiffe_id)
        }
        None => "nothing above the entry leads to it".to_owned(),
    }
}

fn findings(it: &Explanation, snapshot: &Snapshot, now: SystemTime) -> Vec<String> {
    let seconds = unix_seconds(now);
    let entry = &it.entry;
    let mut found = Vec::new();
    if !snapshot.has_entry(entry) {
        found.push(
            "this server does not use the entry as it stands in the datastore: \
             it was written a moment ago, or belongs to another trust domain"
                .to_owned(),
        );
    }
    for step in &it.chain {
        let (what, id) = (&step.kind, &step.id);
        match what {
            StepKind::Nothing => {
                found.push(format!("{id} is neither an attested agent nor an entry's SPIFFE ID"));
            }
            StepKind::Entry(above) | StepKind::Alias(above) if is_expired(above, seconds) => {
                found.push(format!(
                    "entry {} of {id} expired at {}",
                    above.entry_id,
                    when(above.expires_at)
                ));
            }
            _ => {}
        }
    }
    for agent in it.agents.iter().filter(|agent| agent.via.is_some()) {
        match agent.state(now) {
            AgentState::Banned => found.push(format!("agent {} is banned", agent.id)),
            AgentState::Expired => {
                found.push(format!("the SVID of agent {} has expired", agent.id));
            }
            AgentState::Active | AgentState::Unknown => {}
        }
    }
    for other in it.federates_with.iter().filter(|other| !other.has_bundle) {
        let hint = if other.has_relationship {
            "its federation relationship has not brought one yet"
        } else {
            "set one, or create a federation relationship"
        };
        found.push(format!("the bundle of {} is missing: {hint}", other.trust_domain));
    }
    if entry.store_svid {
        found.push("its SVID goes to SVID stores; the Workload API does not serve it".to_owned());
    }
    for (other, why) in &it.similar {
        if !entry.hint.is_empty() && other.hint == entry.hint {
            let text = format!(
                "entry {} has the same hint; a workload that matches both gets the older one",
                other.entry_id
            );
            found.push(text);
        } else if other.spiffe_id == entry.spiffe_id && other.selectors == entry.selectors {
            found.push(format!("entry {} gives {why}", other.entry_id));
        }
    }
    if entry.expires_at > seconds {
        found.push(format!("the entry ends at {}", when(entry.expires_at)));
    }
    for (flag, what) in [
        (entry.admin, "its holder may use the server's admin API"),
        (entry.downstream, "its holder may ask for a CA certificate of its own"),
    ] {
        if flag {
            found.push(what.to_owned());
        }
    }
    found
}

fn is_expired(entry: &Entry, now: i64) -> bool {
    entry.expires_at != 0 && entry.expires_at <= now
}

fn when(seconds: i64) -> String {
    from_unix_seconds(seconds).map(rfc3339).unwrap_or_default()
}

fn list(selectors: &[Selector]) -> String {
    let texts: Vec<String> = selectors.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

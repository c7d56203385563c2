//! `entry explain`: who gets an entry, and who does not and why. Ours.

use std::fmt::Write as _;
use std::time::Duration;

use async_trait::async_trait;
use steeple_proto::steeple::server::explain::v1::explain_client::ExplainClient;
use steeple_proto::steeple::server::explain::v1::{
    Agent, ExplainEntryRequest, Explanation, Lifetime,
};
use steeple_runtime::duration;
use tonic::Code;

use super::SOCKET;
use super::entry_text;
use crate::dispatch::{Failure, Verb};
use crate::gofmt::{plural, utc_seconds};
use crate::output::{Named, Output, proto_line};
use crate::{Env, FlagSet};

pub(super) struct Explain;

#[async_trait]
impl Verb for Explain {
    fn path(&self) -> &'static str {
        "entry explain"
    }

    fn synopsis(&self) -> &'static str {
        "Explains which agents get a registration entry, and why others do not"
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        Output::declare(flags);
        flags.text("entryID", "", "The entry to explain");
        flags.text("spiffeID", "", "Explain every entry with this SPIFFE ID");
        flags.text("agent", "", "Explain for the agent with this SPIFFE ID only (optional)");
        flags.repeated(
            "selector",
            "A type:value selector of a workload to explain for (optional). Can be used more than once",
        );
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let (entry_id, spiffe_id) = (flags.str("entryID"), flags.str("spiffeID"));
        match (entry_id, spiffe_id) {
            ("", "") => return Err("either -entryID or -spiffeID is required".into()),
            (id, other) if !id.is_empty() && !other.is_empty() => {
                return Err("the -entryID flag can't be combined with -spiffeID".into());
            }
            _ => {}
        }
        for (flag, text) in [("spiffeID", spiffe_id), ("agent", flags.str("agent"))] {
            if !text.is_empty() {
                entry_text::wire_id(text)
                    .map_err(|error| error.context(&format!("error parsing -{flag} {text:?}")))?;
            }
        }
        let request = ExplainEntryRequest {
            entry_id: entry_id.to_owned(),
            spiffe_id: spiffe_id.to_owned(),
            agent_id: flags.str("agent").to_owned(),
            selectors: entry_text::selectors(&flags.list("selector"))
                .map_err(|error| error.context("error parsing selectors"))?,
        };
        let mut client = ExplainClient::new(SOCKET.channel(flags, env)?);
        let response = client.explain_entry(request).await.map_err(|status| {
            if status.code() == Code::Unimplemented {
                return Failure(
                    "this server cannot explain entries: it is no Steeple server, or an older one"
                        .to_owned(),
                );
            }
            status.into()
        })?;
        let response = response.into_inner();
        if Output::of(flags).is_json() {
            let name = "steeple.server.explain.v1.ExplainEntryResponse";
            env.out(&proto_line(&Named(name, &response))?);
            return Ok(());
        }
        let texts: Vec<String> = response.explanations.iter().map(text).collect();
        env.out(&texts.join("\n"));
        if response.truncated {
            env.out("\nMore entries have this SPIFFE ID; ask for them by -entryID.\n");
        }
        Ok(())
    }
}

fn text(it: &Explanation) -> String {
    let mut out = format!("{}\n", it.verdict);
    for finding in &it.findings {
        let _ = writeln!(out, "  - {finding}");
    }
    out.push('\n');
    if let Some(entry) = &it.entry {
        out.push_str(entry_text::entry(entry).trim_end());
        out.push('\n');
    }
    chain(&mut out, it);
    agents(&mut out, it);
    near_misses(&mut out, it);
    out.push_str("\nLifetime of an SVID issued now:\n");
    for (name, lifetime) in [("X509-SVID", &it.x509_svid), ("JWT-SVID", &it.jwt_svid)] {
        if let Some(lifetime) = lifetime {
            let _ = writeln!(out, "  {name:9}  {}", life(lifetime));
        }
    }
    if !it.federates_with.is_empty() {
        out.push_str("\nFederates with:\n");
    }
    for other in &it.federates_with {
        let bundle = if other.has_bundle { "has a bundle" } else { "NO BUNDLE" };
        let relation = if other.has_relationship { "refreshed" } else { "set by hand" };
        let _ = writeln!(out, "  {}: {bundle}, {relation}", other.trust_domain);
    }
    if !it.similar.is_empty() {
        out.push_str("\nSimilar entries:\n");
    }
    for other in &it.similar {
        let _ = writeln!(out, "  {}  {}: {}", other.entry_id, other.spiffe_id, other.why);
    }
    out
}

fn chain(out: &mut String, it: &Explanation) {
    out.push_str("\nAbove it:\n");
    for step in &it.chain {
        let indent = usize::try_from(step.depth.clamp(1, 20)).unwrap_or(1) * 2;
        let _ = write!(out, "{:indent$}{} ({}", "", step.spiffe_id, step.kind);
        if !step.entry_id.is_empty() {
            let _ = write!(out, " {}", step.entry_id);
        }
        out.push(')');
        if !step.detail.is_empty() {
            let _ = write!(out, ": {}", step.detail);
        }
        out.push('\n');
    }
}

fn agents(out: &mut String, it: &Explanation) {
    let total = usize::try_from(it.authorized_agents).unwrap_or(0);
    let _ = writeln!(out, "\nAuthorized: {}", plural(total, "agent", "agents"));
    for agent in &it.agents {
        let _ = writeln!(out, "  {}", standing(agent));
    }
    let more = total.saturating_sub(it.agents.len());
    if more > 0 && it.agents.iter().all(|agent| agent.authorized) && it.agents.len() > 1 {
        let _ = writeln!(out, "  … and {more} more");
    }
}

fn standing(agent: &Agent) -> String {
    let mut text = format!("{}: {}", agent.spiffe_id, agent.state);
    if !agent.attestation_type.is_empty() {
        let _ = write!(text, ", {}", agent.attestation_type);
    }
    if agent.expires_at != 0 {
        let _ = write!(text, ", SVID until {}", utc_seconds(agent.expires_at));
    }
    if !agent.via.is_empty() && agent.via != agent.spiffe_id {
        let _ = write!(text, ", by alias {}", agent.via);
    }
    if !agent.reason.is_empty() {
        let _ = write!(text, "; not authorized: {}", agent.reason);
    }
    text
}

fn near_misses(out: &mut String, it: &Explanation) {
    if it.near_misses.is_empty() {
        return;
    }
    out.push_str("\nAgents that nearly have the alias above it:\n");
    for miss in &it.near_misses {
        let missing = miss.missing.join(", ");
        let _ = writeln!(out, "  {} lacks {missing} for {}", miss.agent_id, miss.alias_spiffe_id);
    }
}

fn life(lifetime: &Lifetime) -> String {
    let seconds = Duration::from_secs(u64::try_from(lifetime.seconds).unwrap_or(0));
    format!("{} ({})", duration::format_go(seconds), lifetime.reason)
}

#[cfg(test)]
mod tests {
    use steeple_proto::steeple::server::explain::v1::{NearMiss, Step};

    use super::*;

    #[test]
    fn an_explanation_reads_from_the_answer_down_to_the_details() {
        let shown = text(&Explanation {
            verdict: "Nobody gets it: because.".to_owned(),
            findings: vec!["first".to_owned()],
            chain: vec![Step {
                depth: 1,
                spiffe_id: "spiffe://td/cluster".to_owned(),
                kind: "alias".to_owned(),
                entry_id: "e1".to_owned(),
                detail: "k:a".to_owned(),
            }],
            near_misses: vec![NearMiss {
                agent_id: "spiffe://td/agent".to_owned(),
                alias_spiffe_id: "spiffe://td/cluster".to_owned(),
                missing: vec!["k:a".to_owned()],
                ..NearMiss::default()
            }],
            x509_svid: Some(Lifetime { seconds: 3600, reason: "the default".to_owned() }),
            ..Explanation::default()
        });
        assert_eq!(
            shown,
            "Nobody gets it: because.\n  - first\n\n\nAbove it:\n  spiffe://td/cluster (alias e1): \
             k:a\n\nAuthorized: 0 agents\n\nAgents that nearly have the alias above it:\n  \
             spiffe://td/agent lacks k:a for spiffe://td/cluster\n\nLifetime of an SVID issued \
             now:\n  X509-SVID  1h0m0s (the default)\n"
        );
    }
}

//! `agent explain`: how an agent stands, and who was refused and why. Ours.

use std::fmt::Write as _;

use async_trait::async_trait;
use steeple_proto::steeple::server::explain::v1::explain_client::ExplainClient;
use steeple_proto::steeple::server::explain::v1::{
    AttestedAgent, ExplainAgentRequest, ExplainAgentResponse, Refusal,
};
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
        "agent explain"
    }

    fn synopsis(&self) -> &'static str {
        "Explains how an agent stands, and which attestations were refused and why"
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        Output::declare(flags);
        flags.text("spiffeID", "", "The SPIFFE ID of the agent to explain (optional)");
        flags.text("address", "", "Show refusals of this IP address only (optional)");
        flags.text("attestor", "", "Show refusals of this node attestor only (optional)");
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let spiffe_id = flags.str("spiffeID");
        if !spiffe_id.is_empty() {
            entry_text::wire_id(spiffe_id).map_err(|error| {
                error.context(&format!("error parsing -spiffeID {spiffe_id:?}"))
            })?;
        }
        let request = ExplainAgentRequest {
            spiffe_id: spiffe_id.to_owned(),
            address: flags.str("address").to_owned(),
            attestor: flags.str("attestor").to_owned(),
        };
        let mut client = ExplainClient::new(SOCKET.channel(flags, env)?);
        let response = client.explain_agent(request).await.map_err(|status| {
            if status.code() == Code::Unimplemented {
                return Failure(
                    "this server cannot explain agents: it is no Steeple server, or an older one"
                        .to_owned(),
                );
            }
            status.into()
        })?;
        let response = response.into_inner();
        if Output::of(flags).is_json() {
            let name = "steeple.server.explain.v1.ExplainAgentResponse";
            env.out(&proto_line(&Named(name, &response))?);
            return Ok(());
        }
        env.out(&text(&response));
        Ok(())
    }
}

fn text(it: &ExplainAgentResponse) -> String {
    let mut out = format!("{}\n", it.verdict);
    for finding in &it.findings {
        let _ = writeln!(out, "  - {finding}");
    }
    if let Some(agent) = &it.agent {
        self::agent(&mut out, agent);
    }
    if !it.refusals.is_empty() {
        let count = plural(it.refusals.len(), "refusal", "refusals");
        let _ = writeln!(out, "\nRemembered: {count}, the last first");
    }
    for refusal in &it.refusals {
        self::refusal(&mut out, refusal);
    }
    out
}

fn agent(out: &mut String, it: &AttestedAgent) {
    let _ = writeln!(out, "\nSPIFFE ID         : {}", plain(&it.spiffe_id));
    let _ = writeln!(out, "State             : {}", it.state);
    let _ = writeln!(out, "Attestation type  : {}", it.attestation_type);
    if !it.parts.is_empty() {
        let _ = writeln!(out, "Parts             : {}", plain(&it.parts.join(", ")));
    }
    if !it.serial_number.is_empty() {
        let _ = writeln!(out, "Serial number     : {}", it.serial_number);
    }
    let _ = writeln!(out, "SVID until        : {}", utc_seconds(it.expires_at));
    if it.new_expires_at != 0 {
        let until = utc_seconds(it.new_expires_at);
        let _ = writeln!(out, "Newer SVID        : {}, until {until}", it.new_serial_number);
    }
    let _ = writeln!(out, "Can re-attest     : {}", it.can_reattest);
    if !it.version.is_empty() {
        let _ = writeln!(out, "Version           : {}", plain(&it.version));
    }
    let _ = writeln!(out, "Authorized entries: {}", it.entries);
    let policy = if it.policy_violation.is_empty() { "satisfied" } else { &it.policy_violation };
    let _ = writeln!(out, "Attestation policy: {}", plain(policy));
    for selector in &it.selectors {
        let _ = writeln!(out, "Selector          : {}", plain(selector));
    }
}

fn refusal(out: &mut String, it: &Refusal) {
    let from = if it.address.is_empty() { "the local socket" } else { &it.address };
    let attestor = plain(&it.attestor);
    let _ = write!(out, "\n  {}  {attestor} from {}", utc_seconds(it.at), plain(from));
    if it.count > 1 {
        let _ = write!(out, ", {} times since {}", it.count, utc_seconds(it.since));
    }
    let _ = writeln!(out, "\n    {}", plain(&it.reason));
    if !it.agent_id.is_empty() {
        let _ = writeln!(out, "    would be: {}", plain(&it.agent_id));
    }
    for selector in &it.selectors {
        let _ = writeln!(out, "    selector: {}", plain(selector));
    }
}

/// A text in which nothing moves a terminal's cursor, makes a line of its own, or turns around
/// what is read: strangers have a say in it.
fn plain(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() || turns(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_reads_from_the_answer_down_to_the_refusals() {
        let shown = text(&ExplainAgentResponse {
            verdict: "spiffe://td/a is banned.".to_owned(),
            findings: vec!["Evict it.".to_owned()],
            agent: Some(AttestedAgent {
                spiffe_id: "spiffe://td/a".to_owned(),
                state: "banned".to_owned(),
                attestation_type: "composite".to_owned(),
                parts: vec!["tpm".to_owned(), "aws_iid".to_owned()],
                expires_at: 60,
                selectors: vec!["tpm:a".to_owned()],
                ..AttestedAgent::default()
            }),
            refusals: vec![Refusal {
                at: 120,
                since: 60,
                count: 2,
                address: "10.0.0.1".to_owned(),
                attestor: "tpm".to_owned(),
                agent_id: "spiffe://td/b".to_owned(),
                reason: "rule \"x\" wants".to_owned(),
                rule: "x".to_owned(),
                selectors: vec!["tpm:b".to_owned()],
            }],
        });
        assert_eq!(
            shown,
            "spiffe://td/a is banned.\n  - Evict it.\n\nSPIFFE ID         : spiffe://td/a\nState       \
             \x20     : banned\nAttestation type  : composite\nParts             : tpm, aws_iid\nSVID \
             until        : 1970-01-01 00:01:00 +0000 UTC\nCan re-attest     : false\nAuthorized \
             entries: 0\nAttestation policy: satisfied\nSelector          : tpm:a\n\nRemembered: 1 \
             refusal, the last first\n\n  1970-01-01 00:02:00 +0000 UTC  tpm from 10.0.0.1, 2 times \
             since 1970-01-01 00:01:00 +0000 UTC\n    rule \"x\" wants\n    would be: \
             spiffe://td/b\n    selector: tpm:b\n"
        );
    }

    #[test]
    fn what_strangers_say_neither_moves_the_cursor_nor_makes_lines() {
        let shown = text(&ExplainAgentResponse {
            refusals: vec![Refusal {
                attestor: "\x1b]0;owned\x07k\u{202e}".to_owned(),
                reason: "no\r\n\n  1970-01-01  forged from 10.0.0.1".to_owned(),
                selectors: vec!["k:\u{9b}2J".to_owned()],
                ..Refusal::default()
            }],
            ..ExplainAgentResponse::default()
        });
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        assert!(!shown.contains("\n  1970-01-01  forged"), "{shown:?}");
        assert!(shown.contains(r"\u{1b}]0;owned\u{7}k\u{202e} from"), "{shown:?}");
        assert!(shown.contains(r"selector: k:\u{9b}2J"), "{shown:?}");
    }
}

//! `agent purge`: evicts agents whose SVID expired long ago and that can attest
//! again by themselves.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::Serialize;
use steeple_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use steeple_proto::spire::api::server::agent::v1::{
    DeleteAgentRequest, ListAgentsRequest, list_agents_request,
};
use steeple_proto::spire::api::types::AgentMask;

use super::SOCKET;
use super::entry_text::text_id;
use crate::client::rpc;
use crate::dispatch::{Failure, Verb};
use crate::gofmt;
use crate::output::{Output, line};
use crate::{Env, FlagSet};

pub(super) struct Purge;

#[derive(Serialize)]
struct Report {
    expired_agents: Vec<Expired>,
}

#[derive(Serialize)]
struct Expired {
    agent_id: String,
    deleted: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

#[async_trait]
impl Verb for Purge {
    fn path(&self) -> &'static str {
        "agent purge"
    }

    fn synopsis(&self) -> &'static str {
        "Purge expired agents that were attested using a non-TOFU security model"
    }

    fn flags(&self, flags: &mut FlagSet) {
        SOCKET.declare(flags);
        Output::declare(flags);
        let month = Duration::from_secs(30 * 24 * 3600);
        flags.duration("expiredFor", month, "How long ago the SVID of an agent must have expired");
        flags.switch("dryRun", "Only print the agents that would be purged");
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let dry_run = flags.is_set("dryRun");
        let mut client = AgentClient::new(SOCKET.channel(flags, env)?);
        let request = ListAgentsRequest {
            filter: Some(list_agents_request::Filter {
                by_can_reattest: Some(true),
                ..Default::default()
            }),
            output_mask: Some(AgentMask { x509svid_expires_at: true, ..Default::default() }),
            ..Default::default()
        };
        let agents = client
            .list_agents(request)
            .await
            .map_err(|status| Failure::from(status).context("failed to list agents"))?
            .into_inner()
            .agents;
        let now = SystemTime::now();
        let mut report = Report { expired_agents: Vec::new() };
        for agent in agents {
            let expired = gofmt::from_seconds(agent.x509svid_expires_at);
            let age = now.duration_since(expired).unwrap_or_default();
            if age <= flags.dur("expiredFor") {
                continue;
            }
            let mut row = Expired {
                agent_id: text_id(agent.id.as_ref()),
                deleted: false,
                error: String::new(),
            };
            if !dry_run {
                match client.delete_agent(DeleteAgentRequest { id: agent.id }).await {
                    Ok(_) => row.deleted = true,
                    Err(status) => row.error = rpc(&status),
                }
            }
            report.expired_agents.push(row);
        }
        if Output::of(flags).is_json() {
            env.out(&line(&serde_json::to_value(&report)?));
            return Ok(());
        }
        env.out(&text(&report.expired_agents, dry_run));
        Ok(())
    }
}

fn text(agents: &[Expired], dry_run: bool) -> String {
    if agents.is_empty() {
        return "No agents to purge.\n".to_owned();
    }
    let word = if agents.len() == 1 { "agent" } else { "agents" };
    let mut text = format!("Found {} expired {word}\n\n", agents.len());
    let id = |text: &mut String, agent: &Expired| {
        text.push_str(&format!("SPIFFE ID         : {}\n", agent.agent_id));
    };
    if dry_run {
        text.push_str("\nAgents that can be purged:\n");
        agents.iter().for_each(|agent| id(&mut text, agent));
        return text;
    }
    let (done, failed): (Vec<_>, Vec<_>) = agents.iter().partition(|agent| agent.deleted);
    if !done.is_empty() {
        text.push_str("Agents purged:\n");
        done.iter().for_each(|agent| id(&mut text, agent));
    }
    if !failed.is_empty() {
        text.push_str("Agents not purged:\n");
        for agent in failed {
            id(&mut text, agent);
            text.push_str(&format!("Error             : {}\n", agent.error));
        }
    }
    text
}

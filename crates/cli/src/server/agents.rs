//! `agent ban|count|evict|list|show`.

use std::fmt::Write as _;

use async_trait::async_trait;
use steeple_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use steeple_proto::spire::api::server::agent::v1::{
    BanAgentRequest, CountAgentsRequest, DeleteAgentRequest, GetAgentRequest, ListAgentsRequest,
    ListAgentsResponse, count_agents_request, list_agents_request,
};
use steeple_proto::spire::api::types::{Agent, Spiffeid};

use super::SOCKET;
use super::agents_filter::{self, Filter};
use super::entry_text::{text_id, wire_id};
use crate::dispatch::{Failure, Verb};
use crate::gofmt;
use crate::output::{Named, Output, proto_line};
use crate::{Env, FlagSet};

pub(super) struct Ban;
pub(super) struct Count;
pub(super) struct Evict;
pub(super) struct List;
pub(super) struct Show;

/// Well under the message limit whatever the agents carry.
const PAGE_SIZE: i32 = 1000;

fn declare_id(flags: &mut FlagSet, usage: &'static str) {
    SOCKET.declare(flags);
    Output::declare(flags);
    flags.text("spiffeID", "", usage);
}

fn given_id(flags: &FlagSet) -> Result<Option<Spiffeid>, Failure> {
    match flags.str("spiffeID") {
        "" => Err("a SPIFFE ID is required".into()),
        id => wire_id(id).map(Some),
    }
}

#[async_trait]
impl Verb for Ban {
    fn path(&self) -> &'static str {
        "agent ban"
    }

    fn synopsis(&self) -> &'static str {
        "Ban an attested agent given its SPIFFE ID"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare_id(flags, "The SPIFFE ID of the agent to ban (agent identity)");
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let request = BanAgentRequest { id: given_id(flags)? };
        AgentClient::new(SOCKET.channel(flags, env)?).ban_agent(request).await?;
        env.out(if Output::of(flags).is_json() { "{}\n" } else { "Agent banned successfully\n" });
        Ok(())
    }
}

#[async_trait]
impl Verb for Evict {
    fn path(&self) -> &'static str {
        "agent evict"
    }

    fn synopsis(&self) -> &'static str {
        "Evicts an attested agent given its SPIFFE ID"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare_id(flags, "The SPIFFE ID of the agent to evict (agent identity)");
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let request = DeleteAgentRequest { id: given_id(flags)? };
        AgentClient::new(SOCKET.channel(flags, env)?).delete_agent(request).await?;
        env.out(if Output::of(flags).is_json() { "{}\n" } else { "Agent evicted successfully\n" });
        Ok(())
    }
}

#[async_trait]
impl Verb for Show {
    fn path(&self) -> &'static str {
        "agent show"
    }

    fn synopsis(&self) -> &'static str {
        "Shows the details of an attested agent given its SPIFFE ID"
    }

    fn flags(&self, flags: &mut FlagSet) {
        declare_id(flags, "The SPIFFE ID of the agent to show (agent identity)");
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let request = GetAgentRequest { id: given_id(flags)?, output_mask: None };
        let mut client = AgentClient::new(SOCKET.channel(flags, env)?);
        let agent = client.get_agent(request).await?.into_inner();
        if Output::of(flags).is_json() {
            env.out(&proto_line(&Named("spire.api.types.Agent", &agent))?);
            return Ok(());
        }
        env.out("Found an attested agent given its SPIFFE ID\n\n");
        env.out(&text(&agent));
        for selector in &agent.selectors {
            env.out(&format!("Selectors         : {}:{}\n", selector.r#type, selector.value));
        }
        Ok(())
    }
}

#[async_trait]
impl Verb for List {
    fn path(&self) -> &'static str {
        "agent list"
    }

    fn synopsis(&self) -> &'static str {
        "Lists attested agents and their SPIFFE IDs"
    }

    fn flags(&self, flags: &mut FlagSet) {
        agents_filter::declare(flags);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let filter = Filter::of(flags)?;
        let filter = list_agents_request::Filter {
            by_attestation_type: filter.attestation_type,
            by_selector_match: filter.selectors,
            by_banned: filter.banned,
            by_can_reattest: filter.can_reattest,
            by_expires_before: filter.expires_before,
        };
        let mut client = AgentClient::new(SOCKET.channel(flags, env)?);
        let mut agents = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListAgentsRequest {
                filter: Some(filter.clone()),
                output_mask: None,
                page_size: PAGE_SIZE,
                page_token,
            };
            let page = client.list_agents(request).await?.into_inner();
            agents.extend(page.agents);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        if Output::of(flags).is_json() {
            let response = ListAgentsResponse { agents, next_page_token: String::new() };
            let name = "spire.api.server.agent.v1.ListAgentsResponse";
            env.out(&proto_line(&Named(name, &response))?);
            return Ok(());
        }
        if agents.is_empty() {
            env.out("No attested agents found\n");
            return Ok(());
        }
        let word = if agents.len() == 1 { "agent" } else { "agents" };
        env.out(&format!("Found {} attested {word}:\n\n", agents.len()));
        for agent in &agents {
            env.out(&text(agent));
        }
        Ok(())
    }
}

#[async_trait]
impl Verb for Count {
    fn path(&self) -> &'static str {
        "agent count"
    }

    fn synopsis(&self) -> &'static str {
        "Count attested agents"
    }

    fn flags(&self, flags: &mut FlagSet) {
        agents_filter::declare(flags);
    }

    async fn run(&self, flags: &FlagSet, env: &mut Env) -> Result<(), Failure> {
        let filter = Filter::of(flags)?;
        let filter = count_agents_request::Filter {
            by_attestation_type: filter.attestation_type,
            by_selector_match: filter.selectors,
            by_banned: filter.banned,
            by_can_reattest: filter.can_reattest,
            by_expires_before: filter.expires_before,
        };
        let mut client = AgentClient::new(SOCKET.channel(flags, env)?);
        let response =
            client.count_agents(CountAgentsRequest { filter: Some(filter) }).await?.into_inner();
        if Output::of(flags).is_json() {
            let name = "spire.api.server.agent.v1.CountAgentsResponse";
            env.out(&proto_line(&Named(name, &response))?);
            return Ok(());
        }
        let word = if response.count == 1 { "agent" } else { "agents" };
        env.out(&format!("{} attested {word}\n", response.count));
        Ok(())
    }
}

/// The lines of one agent, with the empty line that ends it.
fn text(agent: &Agent) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{label:18}: {value}");
    };
    line("SPIFFE ID", &text_id(agent.id.as_ref()));
    line("Attestation type", &agent.attestation_type);
    line("Expiration time", &gofmt::local_seconds(agent.x509svid_expires_at));
    if agent.banned {
        line("Banned", &true);
    } else {
        line("Serial number", &agent.x509svid_serial_number);
    }
    line("Can re-attest", &agent.can_reattest);
    if !agent.agent_version.is_empty() {
        line("Agent version", &agent.agent_version);
    }
    text.push('\n');
    text
}

//! `spire.api.server.agent.v1.Agent`.

pub(crate) mod attest;

use std::sync::Arc;

use steeple_proto::spire::api::server::agent::v1 as pb;
use steeple_proto::spire::api::types;
use steeple_server_core::agents::{AgentError, AgentSvid, Agents, JoinTokenRequest, RawNodeFilter};
use steeple_server_core::ids::RawId;
use steeple_server_core::time::parse_filter_time;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::agent::attest::Attestations;
use crate::call::{About, Call, log_call};
use crate::convert::{
    self, UnknownMatch, agent_message, count, raw_id, selector_match, x509_svid_message,
};
use crate::status::Answer;

/// The Agent service.
pub(crate) struct AgentService {
    pub(crate) agents: Arc<Agents>,
    pub(crate) attestations: Attestations,
}

/// A filter of either method that has one.
struct Filter {
    attestation_type: String,
    selectors: Option<types::SelectorMatch>,
    banned: Option<bool>,
    can_reattest: Option<bool>,
    expires_before: String,
}

/// A filter that means nothing.
#[derive(Debug, thiserror::Error)]
enum BadFilter {
    #[error("failed to parse selectors")]
    Match(#[source] UnknownMatch),
    #[error("failed to parse expires-before filter: expected \"2006-01-02 15:04:05 -0700 -07\"")]
    ExpiresBefore,
}

impl Answer for BadFilter {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

#[tonic::async_trait]
impl pb::agent_server::Agent for AgentService {
    async fn count_agents(
        &self,
        request: Request<pb::CountAgentsRequest>,
    ) -> Result<Response<pb::CountAgentsResponse>, Status> {
        let call = Call::of(&request)?;
        let filter = raw_filter(request.into_inner().filter.map(Filter::from));
        let filter = filter.map_err(|error| call.fail(&error))?;
        let counted = self.agents.count(call.operator()?, filter).await;
        let counted = counted.map_err(|error| call.fail(&error))?;
        Ok(Response::new(pb::CountAgentsResponse { count: count(counted) }))
    }

    async fn list_agents(
        &self,
        request: Request<pb::ListAgentsRequest>,
    ) -> Result<Response<pb::ListAgentsResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let filter = raw_filter(request.filter.map(Filter::from));
        let filter = filter.map_err(|error| call.fail(&error))?;
        let page = convert::page(request.page_size, request.page_token);
        let listed = self.agents.list(call.operator()?, filter, page).await;
        let (nodes, next) = listed.map_err(|error| call.fail(&error))?;
        let mask = request.output_mask.as_ref();
        Ok(Response::new(pb::ListAgentsResponse {
            agents: nodes.iter().map(|node| agent_message(node, mask)).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn get_agent(
        &self,
        request: Request<pb::GetAgentRequest>,
    ) -> Result<Response<types::Agent>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let id = request.id.map(raw_id);
        let node = self.agents.get(call.operator()?, id.as_ref()).await;
        let node = node.map_err(|error| fail_of(&call, &error, id.as_ref()))?;
        Ok(Response::new(agent_message(&node, request.output_mask.as_ref())))
    }

    async fn delete_agent(
        &self,
        request: Request<pb::DeleteAgentRequest>,
    ) -> Result<Response<()>, Status> {
        let call = Call::of(&request)?;
        let id = request.into_inner().id.map(raw_id);
        let deleted = self.agents.delete(call.operator()?, id.as_ref()).await;
        let id = deleted.map_err(|error| fail_of(&call, &error, id.as_ref()))?;
        log_call!(info, call, { spiffe_id = %id, }, "Agent deleted");
        Ok(Response::new(()))
    }

    async fn ban_agent(
        &self,
        request: Request<pb::BanAgentRequest>,
    ) -> Result<Response<()>, Status> {
        let call = Call::of(&request)?;
        let id = request.into_inner().id.map(raw_id);
        let banned = self.agents.ban(call.operator()?, id.as_ref()).await;
        let id = banned.map_err(|error| fail_of(&call, &error, id.as_ref()))?;
        log_call!(info, call, { spiffe_id = %id, }, "Agent banned");
        Ok(Response::new(()))
    }

    type AttestAgentStream = attest::Conversation;

    async fn attest_agent(
        &self,
        request: Request<Streaming<pb::AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        let call = Call::of(&request)?;
        let (agents, attestations) = (Arc::clone(&self.agents), self.attestations.clone());
        Ok(Response::new(attest::begin(call, agents, attestations, request.into_inner())))
    }

    async fn renew_agent(
        &self,
        request: Request<pb::RenewAgentRequest>,
    ) -> Result<Response<pb::RenewAgentResponse>, Status> {
        let call = Call::of(&request)?;
        let csr = request.into_inner().params.map(|params| params.csr.to_vec());
        log_call!(info, call, {}, "Renewing agent SVID");
        let renewed = self.agents.renew(call.agent()?, csr, call.now()).await;
        let svid = renewed.map_err(|error| call.fail(&error))?;
        Ok(Response::new(pb::RenewAgentResponse { svid: Some(svid_message(&svid)) }))
    }

    async fn create_join_token(
        &self,
        request: Request<pb::CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let wish = JoinTokenRequest {
            ttl: request.ttl,
            token: request.token,
            agent_id: request.agent_id.map(raw_id),
        };
        let token = self.agents.create_join_token(call.operator()?, wish, call.now()).await;
        let token = token.map_err(|error| call.fail(&error))?;
        Ok(Response::new(types::JoinToken { value: token.token, expires_at: token.expires_at }))
    }

    async fn post_status(
        &self,
        request: Request<pb::PostStatusRequest>,
    ) -> Result<Response<pb::PostStatusResponse>, Status> {
        let call = Call::of(&request)?;
        let version = request.into_inner().agent_version;
        let agent = call.agent()?;
        call.note(|fields| fields.text("spiffe_id", agent.id()));
        let posted = self.agents.post_status(agent, &version).await;
        let about = About { spiffe_id: Some(agent.id().as_str()), ..About::default() };
        posted.map_err(|error| call.fail_about(&error, about))?;
        if !version.is_empty() {
            let fields = (agent.id(), version);
            log_call!(
                debug,
                call,
                { spiffe_id = %fields.0, agent_version = fields.1, },
                "Agent status updated"
            );
        }
        Ok(Response::new(pb::PostStatusResponse {}))
    }
}

/// Fails a call about one agent, and says in the log which, unless that is what was wrong.
fn fail_of(call: &Call, error: &AgentError, id: Option<&RawId>) -> Status {
    let id = id.filter(|_| !matches!(error, AgentError::Id(_)));
    let id = id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path));
    call.fail_about(error, About { spiffe_id: id.as_deref(), ..About::default() })
}

fn svid_message(svid: &AgentSvid) -> types::X509svid {
    x509_svid_message(&svid.id, &svid.chain)
}

fn raw_filter(filter: Option<Filter>) -> Result<RawNodeFilter, BadFilter> {
    let Some(filter) = filter else { return Ok(RawNodeFilter::default()) };
    let expires_before = match filter.expires_before.as_str() {
        "" => None,
        text => Some(parse_filter_time(text).ok_or(BadFilter::ExpiresBefore)?),
    };
    Ok(RawNodeFilter {
        attestation_type: filter.attestation_type,
        selectors: filter.selectors.map(selector_match).transpose().map_err(BadFilter::Match)?,
        banned: filter.banned,
        can_reattest: filter.can_reattest,
        expires_before,
    })
}

impl From<pb::list_agents_request::Filter> for Filter {
    fn from(filter: pb::list_agents_request::Filter) -> Self {
        Self {
            attestation_type: filter.by_attestation_type,
            selectors: filter.by_selector_match,
            banned: filter.by_banned,
            can_reattest: filter.by_can_reattest,
            expires_before: filter.by_expires_before,
        }
    }
}

impl From<pb::count_agents_request::Filter> for Filter {
    fn from(filter: pb::count_agents_request::Filter) -> Self {
        Self {
            attestation_type: filter.by_attestation_type,
            selectors: filter.by_selector_match,
            banned: filter.by_banned,
            can_reattest: filter.by_can_reattest,
            expires_before: filter.by_expires_before,
        }
    }
}

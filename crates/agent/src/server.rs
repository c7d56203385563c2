//! The SPIRE server as the agent calls it.
//!
//! Calls share one connection, which shows the agent's SVID. While that SVID
//! is being replaced no call begins: a server that has seen the new one
//! refuses the old one for good.

mod jwt;
mod sync;

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use steeple_agent_core::entry::EntryId;
use steeple_net::channel::{self, Channel};
use steeple_net::tls::ClientTls;
use steeple_pki::{Bundle, Certificate};
use steeple_proto::spire::api::server::agent::v1 as agent_api;
use steeple_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use steeple_proto::spire::api::server::bundle::v1 as bundle_api;
use steeple_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use steeple_proto::spire::api::server::svid::v1 as svid_api;
use steeple_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use steeple_spiffe::TrustDomain;
use tokio::sync::{RwLock, RwLockWriteGuard};

use tonic::{Code, Status};
use tracing::{debug, error, warn};

use crate::convert;
use crate::error::{AgentError, CallError};

pub(crate) use self::jwt::ServerJwtSource;

/// A client of one server, known by its SPIFFE ID.
pub(crate) struct ServerClient {
    channel: Channel,
    rotating: RwLock<()>,
}

impl ServerClient {
    pub(crate) fn new(host: &str, port: u16, tls: ClientTls) -> Result<Self, AgentError> {
        Ok(Self { channel: channel::tls(host, port, tls)?, rotating: RwLock::new(()) })
    }

    /// Waits for calls under way and keeps new ones from beginning.
    pub(crate) async fn pause(&self) -> RwLockWriteGuard<'_, ()> {
        self.rotating.write().await
    }

    /// Asks for a new agent SVID; the caller holds [`Self::pause`].
    pub(crate) async fn renew_agent(
        &self,
        _paused: &RwLockWriteGuard<'_, ()>,
        csr: Vec<u8>,
    ) -> Result<Vec<Certificate>, AgentError> {
        let what = "failed to renew agent";
        let params = Some(agent_api::AgentX509svidParams { csr: csr.into() });
        let answer = self.timed(RPC_TIMEOUT, async |channel| {
            AgentClient::new(channel).renew_agent(agent_api::RenewAgentRequest { params }).await
        });
        let answer =
            answer.await.map_err(|status| log_failure(what, "Failed to renew agent", status))?;
        let svid = answer.into_inner().svid.ok_or_else(|| missing("renewed SVID"))?;
        convert::chain(svid).map_err(AgentError::Answer)
    }

    /// Tells the server which version this agent is.
    pub(crate) async fn post_status(&self, version: &str) -> Result<(), CallError> {
        let request = agent_api::PostStatusRequest {
            agent_version: version.to_owned(),
            ..Default::default()
        };
        let answer =
            self.call(async |channel| AgentClient::new(channel).post_status(request).await);
        answer.await.map(drop).map_err(|status| {
            let error = CallError::new("failed to post agent status", status);
            warn!(subsystem_name = SUBSYSTEM, error = %error.rpc(), "Failed to post agent status");
            error
        })
    }

    /// The own trust domain's bundle and those of `federated` that the server
    /// has.
    pub(crate) async fn bundles(
        &self,
        federated: BTreeSet<TrustDomain>,
    ) -> Result<Vec<Bundle>, AgentError> {
        let own = self.own_bundle().await.map_err(|status| {
            AgentError::from(log_failure(
                "failed to fetch bundle",
                "Failed to fetch bundle",
                status,
            ))
        })?;
        let others: Vec<Option<Bundle>> = stream::iter(federated)
            .map(|trust_domain| self.federated_bundle(trust_domain))
            .buffer_unordered(MAX_BUNDLE_CALLS)
            .try_collect()
            .await?;
        let own = convert::bundle(own).map_err(AgentError::Answer)?;
        Ok(std::iter::once(own).chain(others.into_iter().flatten()).collect())
    }

    async fn own_bundle(&self) -> Result<steeple_proto::spire::api::types::Bundle, Status> {
        let request = bundle_api::GetBundleRequest { output_mask: None };
        let answer =
            self.call(async |channel| BundleClient::new(channel).get_bundle(request).await);
        answer.await.map(tonic::Response::into_inner)
    }

    async fn federated_bundle(
        &self,
        trust_domain: TrustDomain,
    ) -> Result<Option<Bundle>, AgentError> {
        let request = bundle_api::GetFederatedBundleRequest {
            trust_domain: trust_domain.to_string(),
            output_mask: None,
        };
        let answer = self
            .call(async |channel| BundleClient::new(channel).get_federated_bundle(request).await)
            .await;
        let federated_bundle = trust_domain.id_string();
        match answer {
            Ok(answer) => Ok(convert::bundle(answer.into_inner())
                .inspect_err(|error| warn!(subsystem_name = SUBSYSTEM, error, federated_bundle,
                    "Received malformed bundle from SPIRE server; are the server and agent versions compatible?"))
                .ok()),
            Err(status) if status.code() == Code::NotFound => {
                warn!(subsystem_name = SUBSYSTEM, federated_bundle, "Federated bundle not found");
                Ok(None)
            }
            Err(status) => {
                let error = CallError::new("failed to fetch federated bundle", status);
                error!(subsystem_name = SUBSYSTEM, federated_bundle, error = %error.rpc(), "Failed to fetch federated bundle");
                Err(error.into())
            }
        }
    }

    /// Has X.509-SVIDs signed; an entry that the server would not sign for is
    /// logged and has no chain.
    pub(crate) async fn sign_x509_svids(
        &self,
        requests: Vec<(EntryId, Vec<u8>)>,
    ) -> Result<Vec<Option<Vec<Certificate>>>, AgentError> {
        let what = "failed to batch new X509 SVID(s)";
        let params = requests
            .iter()
            .map(|(entry_id, csr)| svid_api::NewX509svidParams {
                entry_id: entry_id.to_string(),
                csr: csr.clone().into(),
            })
            .collect();
        let request = svid_api::BatchNewX509svidRequest { params };
        let answer = self
            .call(async |channel| SvidClient::new(channel).batch_new_x509svid(request).await)
            .await
            .map_err(|status| log_failure(what, "Failed to batch new X509 SVID(s)", status))?;
        let results = answer.into_inner().results;
        if results.len() != requests.len() {
            return Err(AgentError::Answer(format!(
                "{what}: {} results for {} requests",
                results.len(),
                requests.len()
            )));
        }
        Ok(requests
            .iter()
            .zip(results)
            .map(|((entry_id, _), result)| signed(entry_id, result))
            .collect())
    }

    /// A call on the shared connection; none begins while the SVID is replaced.
    async fn call<T>(
        &self,
        call: impl AsyncFnOnce(Channel) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let _calling = self.rotating.read().await;
        self.timed(RPC_TIMEOUT, call).await
    }

    /// After a failure the next call begins on a new connection.
    async fn timed<T>(
        &self,
        timeout: Duration,
        call: impl AsyncFnOnce(Channel) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let outcome = match tokio::time::timeout(timeout, call(self.channel.clone())).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
        };
        if outcome.is_err() {
            self.channel.release().await;
        }
        outcome
    }
}

fn signed(
    entry_id: &EntryId,
    result: svid_api::batch_new_x509svid_response::Result,
) -> Option<Vec<Certificate>> {
    let status = result.status.unwrap_or_default();
    if status.code != 0 {
        warn!(subsystem_name = SUBSYSTEM, entry_id = %entry_id, status = status.code, error = status.message, "Failed to mint X509 SVID");
        return None;
    }
    let Some(svid) = result.svid else {
        debug!(subsystem_name = SUBSYSTEM, entry_id = %entry_id, "Entry not found");
        return None;
    };
    convert::chain(svid)
        .inspect_err(|error| warn!(subsystem_name = SUBSYSTEM, entry_id = %entry_id, error, "Failed to mint X509 SVID"))
        .ok()
}

fn log_failure(what: &'static str, line: &'static str, status: Status) -> CallError {
    let error = CallError::new(what, status);
    error!(subsystem_name = SUBSYSTEM, error = %error.rpc(), "{line}");
    error
}

fn missing(what: &str) -> AgentError {
    AgentError::Answer(format!("the server's answer has no {what}"))
}

const SUBSYSTEM: &str = "manager";
const RPC_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_BUNDLE_CALLS: usize = 10;

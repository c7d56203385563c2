//! The SPIRE server as the agent calls it.
//!
//! Calls share one connection to whichever server answers, which shows the
//! agent's SVID. While that SVID is being replaced no call begins: a server
//! that has seen the new one refuses the old one for good.

mod jwt;
mod push;
mod sync;
mod wit;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use steeple_agent_core::entry::EntryId;
use steeple_net::channel::{self, Channel, connect_error};
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
use crate::error::{AgentError, CallError, asked_to_wait};

pub(crate) use self::jwt::ServerJwtSource;
pub(crate) use self::push::Ended;
pub(crate) use self::wit::ServerWitSource;

/// A client of servers that are as good as one another, known by their SPIFFE ID.
pub(crate) struct ServerClient {
    channel: Channel,
    rotating: RwLock<()>,
}

impl ServerClient {
    /// `seed` says with which of the servers to begin.
    pub(crate) fn new(
        servers: &[(String, u16)],
        tls: ClientTls,
        seed: u64,
    ) -> Result<Self, AgentError> {
        Ok(Self { channel: channel::tls_any(servers, tls, seed)?, rotating: RwLock::new(()) })
    }

    /// Whether a server can be reached, whatever it would say.
    pub(crate) async fn is_reachable(&self) -> bool {
        self.channel.connect().await.is_ok()
    }

    /// Lets go of the connection, which may be dead without anybody having noticed.
    pub(crate) async fn release(&self) {
        self.channel.release().await;
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
        let request = agent_api::RenewAgentRequest { params };
        let answer = self.timed(RPC_TIMEOUT, |channel| {
            let request = request.clone();
            async move { AgentClient::new(channel).renew_agent(request).await }
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
        let answer = self.call(|channel| {
            let request = request.clone();
            async move { AgentClient::new(channel).post_status(request).await }
        });
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
        let answer = self
            .call(|channel| async move { BundleClient::new(channel).get_bundle(request).await });
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
            .call(|channel| {
                let request = request.clone();
                async move { BundleClient::new(channel).get_federated_bundle(request).await }
            })
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
            .call(|channel| {
                let request = request.clone();
                async move { SvidClient::new(channel).batch_new_x509svid(request).await }
            })
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

    /// A call on the shared connection; none begins while the SVID is replaced. It must be safe to
    /// make twice: it is, once and by another server if there is one, when its connection broke or
    /// that server keeps silent.
    async fn call<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let _calling = self.rotating.read().await;
        let begun = Instant::now();
        let patience = if self.channel.has_alternatives() { FIRST_ANSWER } else { RPC_TIMEOUT };
        let outcome = self.timed(patience, &call).await;
        let left = RPC_TIMEOUT.saturating_sub(begun.elapsed());
        match outcome {
            Err(status) if is_worth_another(&status) && !left.is_zero() => {
                debug!(subsystem_name = SUBSYSTEM, %status, "Trying again on another connection");
                self.timed(left, &call).await
            }
            outcome => outcome,
        }
    }

    /// After a failure the next call begins on a new connection, unless there is one already: calls
    /// that hang fail one after the other, and must not undo what the first of them led to.
    async fn timed<T, F>(&self, timeout: Duration, call: impl Fn(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let channel = self.channel.anew();
        let outcome = match tokio::time::timeout(timeout, call(channel.clone())).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
        };
        // Another connection to a server that is overloaded would only cost it more.
        let busy = |status| asked_to_wait(status).is_some() && !channel.has_alternatives();
        if outcome.as_ref().is_err_and(|status| !busy(status)) {
            channel.release_used().await;
        }
        outcome
    }
}

/// Whether a server said nothing for long, or the connection to it broke. Where no connection
/// could be made everybody was asked already.
fn is_worth_another(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => connect_error(status).is_none() && asked_to_wait(status).is_none(),
        Code::DeadlineExceeded => true,
        _ => false,
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
/// For the first of several servers.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
const MAX_BUNDLE_CALLS: usize = 10;

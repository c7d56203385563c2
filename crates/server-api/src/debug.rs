//! `spire.api.server.debug.v1.Debug`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use steeple_pki::Certificate;
use steeple_proto::spire::api::server::debug::v1 as pb;
use steeple_server_core::ServerSvid;
use steeple_server_core::access::Operator;
use steeple_server_core::bundles::{BundleError, Bundles};
use steeple_spiffe::SpiffeId;
use steeple_store::model::{EntryFilter, NodeFilter};
use steeple_store::{Store, StoreError};
use tokio::sync::{Mutex, watch};
use tonic::{Code, Request, Response, Status};

use crate::call::Call;
use crate::convert::{count, expires_at, id_message};
use crate::name::go_name;
use crate::status::Answer;

/// How long an answer is good for.
const FRESH: Duration = Duration::from_secs(5);

/// The Debug service.
pub(crate) struct DebugService {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) bundles: Bundles,
    pub(crate) svid: watch::Receiver<ServerSvid>,
    pub(crate) started: Instant,
    pub(crate) recent: Mutex<Option<(Instant, pb::GetInfoResponse)>>,
}

#[derive(Debug, thiserror::Error)]
enum InfoError {
    #[error("failed to count agents")]
    Agents(#[source] StoreError),
    #[error("failed to count entries")]
    Entries(#[source] StoreError),
    #[error("failed to count bundles")]
    Bundles(#[source] StoreError),
    #[error("trust domain bundle not found")]
    NoBundle,
    #[error("failed to fetch trust domain bundle")]
    Bundle(#[source] BundleError),
}

impl Answer for InfoError {
    fn code(&self) -> Code {
        if matches!(self, Self::NoBundle) { Code::NotFound } else { Code::Internal }
    }
}

#[tonic::async_trait]
impl pb::debug_server::Debug for DebugService {
    async fn get_info(
        &self,
        request: Request<pb::GetInfoRequest>,
    ) -> Result<Response<pb::GetInfoResponse>, Status> {
        let call = Call::of(&request)?;
        let operator = call.operator()?;
        let mut recent = self.recent.lock().await;
        let now = Instant::now();
        if let Some((at, info)) = recent.as_ref().filter(|(at, _)| now - *at < FRESH) {
            let _age = at;
            return Ok(Response::new(info.clone()));
        }
        let info = self.look(operator, &call).await.map_err(|error| call.fail(&error))?;
        *recent = Some((now, info.clone()));
        Ok(Response::new(info))
    }
}

impl DebugService {
    async fn look(
        &self,
        _operator: &Operator,
        call: &Call,
    ) -> Result<pb::GetInfoResponse, InfoError> {
        let agents = self.store.count_nodes(&NodeFilter::default()).await;
        let entries = self.store.count_entries(&EntryFilter::default()).await;
        let bundles = self.store.count_bundles().await;
        Ok(pb::GetInfoResponse {
            svid_chain: self.chain(call).await?,
            uptime: count(self.started.elapsed().as_secs()),
            agents_count: count(agents.map_err(InfoError::Agents)?),
            federated_bundles_count: count(bundles.map_err(InfoError::Bundles)?),
            entries_count: count(entries.map_err(InfoError::Entries)?),
        })
    }

    /// The server's chain with the root that it ends at.
    async fn chain(&self, call: &Call) -> Result<Vec<pb::get_info_response::Cert>, InfoError> {
        let bundle = self.bundles.own(call.now()).await.map_err(|error| match error {
            BundleError::NotFound => InfoError::NoBundle,
            other => InfoError::Bundle(other),
        })?;
        let mut chain = self.svid.borrow().chain.clone();
        let top = chain.last().cloned();
        let root =
            bundle.x509_authorities.iter().map(|authority| &authority.certificate).find(|root| {
                top.as_ref().is_some_and(|top| top.verify_signed_by(root.public_key()).is_ok())
            });
        chain.extend(root.cloned());
        Ok(chain.iter().map(cert_message).collect())
    }
}

fn cert_message(certificate: &Certificate) -> pb::get_info_response::Cert {
    let id = certificate.uri_sans().first().and_then(|uri| SpiffeId::parse(uri).ok());
    pb::get_info_response::Cert {
        id: id.as_ref().map(id_message),
        expires_at: expires_at(certificate.not_after()),
        subject: certificate.subject().map_or_else(|_| String::new(), |name| go_name(&name)),
    }
}

//! The kinds whose calls are one question and one answer.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use prost::Message;
use steeple_pki::x509::Certificate;
use steeple_pki::{Bundle, PrivateKey, PublicKey};
use steeple_plugin::{
    BundlePublisher, Code, CredentialComposer, Notifier, StoredX509Svid, SvidStore,
    WorkloadAttestor, WorkloadReference,
};
use steeple_proto::spiffe::broker::WorkloadPidReference;
use steeple_proto::spire::plugin::agent::svidstore::v1 as stores;
use steeple_proto::spire::plugin::agent::workloadattestor::v1 as workloads;
use steeple_proto::spire::plugin::server::bundlepublisher::v1 as publishers;
use steeple_proto::spire::plugin::server::credentialcomposer::v1 as composers;
use steeple_proto::spire::plugin::server::notifier::v1 as notifiers;
use steeple_proto::spire::plugin::types;
use steeple_spiffe::{Selector, SpiffeId, TrustDomain};
use tonic::{Request, Response, Status};

use super::Adapted;
use crate::wire;

const PID_REFERENCE: &str = "type.googleapis.com/spiffe.broker.WorkloadPIDReference";

/// The metadata that names the broker.
const CALLER: &str = "spire-agent-broker-caller-id";

fn invalid(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

fn bundle(bundle: Option<types::Bundle>) -> Result<Bundle, Status> {
    let bundle = bundle.ok_or_else(|| invalid("missing bundle"))?;
    wire::bundle_in(bundle).map_err(invalid)
}

#[tonic::async_trait]
impl notifiers::notifier_server::Notifier for Adapted<Arc<dyn Notifier>> {
    async fn notify(
        &self,
        request: Request<notifiers::NotifyRequest>,
    ) -> Result<Response<notifiers::NotifyResponse>, Status> {
        if let Some(notifiers::notify_request::Event::BundleUpdated(updated)) =
            request.into_inner().event
        {
            let bundle = bundle(updated.bundle)?;
            self.0.bundle_updated(&bundle).await.map_err(|error| wire::status(&error))?;
        }
        Ok(Response::new(notifiers::NotifyResponse {}))
    }

    async fn notify_and_advise(
        &self,
        request: Request<notifiers::NotifyAndAdviseRequest>,
    ) -> Result<Response<notifiers::NotifyAndAdviseResponse>, Status> {
        if let Some(notifiers::notify_and_advise_request::Event::BundleLoaded(loaded)) =
            request.into_inner().event
        {
            let bundle = bundle(loaded.bundle)?;
            self.0.bundle_loaded(&bundle).await.map_err(|error| wire::status(&error))?;
        }
        Ok(Response::new(notifiers::NotifyAndAdviseResponse {}))
    }
}

#[tonic::async_trait]
impl publishers::bundle_publisher_server::BundlePublisher for Adapted<Arc<dyn BundlePublisher>> {
    async fn publish_bundle(
        &self,
        request: Request<publishers::PublishBundleRequest>,
    ) -> Result<Response<publishers::PublishBundleResponse>, Status> {
        let bundle = bundle(request.into_inner().bundle)?;
        self.0.publish_bundle(&bundle).await.map_err(|error| wire::status(&error))?;
        Ok(Response::new(publishers::PublishBundleResponse {}))
    }
}

#[tonic::async_trait]
impl workloads::workload_attestor_server::WorkloadAttestor for Adapted<Arc<dyn WorkloadAttestor>> {
    async fn attest(
        &self,
        request: Request<workloads::AttestRequest>,
    ) -> Result<Response<workloads::AttestResponse>, Status> {
        let selector_values = self.values(request.into_inner().pid).await?;
        Ok(Response::new(workloads::AttestResponse { selector_values }))
    }

    async fn attest_reference(
        &self,
        request: Request<workloads::AttestReferenceRequest>,
    ) -> Result<Response<workloads::AttestReferenceResponse>, Status> {
        let caller = caller(request.metadata()).map_err(invalid)?;
        let reference = request.into_inner().reference.unwrap_or_default();
        let reference = WorkloadReference { type_url: reference.type_url, value: reference.value };
        let answer = self.0.attest_reference(&reference, caller.as_ref()).await;
        let selector_values = match answer {
            // Whoever knows processes knows references to them.
            Err(error)
                if error.code == Code::Unimplemented && reference.type_url == PID_REFERENCE =>
            {
                let pid = WorkloadPidReference::decode(&*reference.value).map_err(invalid)?.pid;
                self.values(pid).await?
            }
            answer => values(&answer.map_err(|error| wire::status(&error))?),
        };
        Ok(Response::new(workloads::AttestReferenceResponse { selector_values }))
    }
}

impl Adapted<Arc<dyn WorkloadAttestor>> {
    async fn values(&self, pid: i32) -> Result<Vec<String>, Status> {
        let selectors = self.0.attest(pid).await.map_err(|error| wire::status(&error))?;
        Ok(values(&selectors))
    }
}

fn values(selectors: &[Selector]) -> Vec<String> {
    selectors.iter().map(|selector| selector.value.to_string()).collect()
}

/// The broker that asks, as the agent names it.
fn caller(metadata: &tonic::metadata::MetadataMap) -> Result<Option<SpiffeId>, String> {
    let mut named = metadata.get_all(CALLER).iter();
    match (named.next(), named.next()) {
        (None, _) => Ok(None),
        (Some(caller), None) => {
            let caller = caller.to_str().map_err(|error| error.to_string())?;
            let parsed = SpiffeId::parse(caller);
            parsed.map(Some).map_err(|it| format!("invalid broker caller SPIFFE ID: {it}"))
        }
        (Some(_), Some(_)) => Err("multiple broker caller SPIFFE IDs provided".into()),
    }
}

#[tonic::async_trait]
impl stores::svid_store_server::SvidStore for Adapted<Arc<dyn SvidStore>> {
    async fn put_x509svid(
        &self,
        request: Request<stores::PutX509svidRequest>,
    ) -> Result<Response<stores::PutX509svidResponse>, Status> {
        let svid = stored(request.into_inner()).map_err(invalid)?;
        self.0.put_x509_svid(&svid).await.map_err(|error| wire::status(&error))?;
        Ok(Response::new(stores::PutX509svidResponse {}))
    }

    async fn delete_x509svid(
        &self,
        request: Request<stores::DeleteX509svidRequest>,
    ) -> Result<Response<stores::DeleteX509svidResponse>, Status> {
        let metadata = request.into_inner().metadata;
        self.0.delete_x509_svid(&metadata).await.map_err(|error| wire::status(&error))?;
        Ok(Response::new(stores::DeleteX509svidResponse {}))
    }
}

fn stored(request: stores::PutX509svidRequest) -> Result<StoredX509Svid, String> {
    let svid = request.svid.ok_or("missing SVID")?;
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let spiffe_id = SpiffeId::parse(&svid.spiffe_id).map_err(|error| text(&error))?;
    let certificates = |ders: Vec<bytes::Bytes>| {
        let parsed = ders.into_iter().map(Certificate::from_der);
        parsed.collect::<Result<Vec<_>, _>>().map_err(|error| text(&error))
    };
    let federated_bundles = request
        .federated_bundles
        .into_iter()
        .map(|(name, ders)| {
            let name = TrustDomain::from_name_or_id(&name).map_err(|error| text(&error))?;
            let roots = Certificate::parse_concatenated_der(&ders).map_err(|error| text(&error))?;
            Ok(Bundle::from_certificates(name, roots))
        })
        .collect::<Result<Vec<_>, String>>()?;
    let expires_at = Duration::from_secs(svid.expires_at.max(0).unsigned_abs());
    Ok(StoredX509Svid {
        chain: certificates(svid.cert_chain)?,
        private_key: PrivateKey::from_pkcs8_der(&svid.private_key).map_err(|error| text(&error))?,
        bundle: Bundle::from_certificates(spiffe_id.trust_domain(), certificates(svid.bundle)?),
        federated_bundles,
        expires_at: UNIX_EPOCH.checked_add(expires_at).ok_or("the SVID never expires")?,
        metadata: request.metadata,
        spiffe_id,
    })
}

#[tonic::async_trait]
impl composers::credential_composer_server::CredentialComposer
    for Adapted<Arc<dyn CredentialComposer>>
{
    async fn compose_server_x509ca(
        &self,
        request: Request<composers::ComposeServerX509caRequest>,
    ) -> Result<Response<composers::ComposeServerX509caResponse>, Status> {
        let given = request.into_inner().attributes.unwrap_or_default();
        let given = wire::ca_in(given).map_err(invalid)?;
        let made = self.0.compose_server_x509_ca(given).await;
        let attributes = Some(wire::ca_out(&made.map_err(|error| wire::status(&error))?));
        Ok(Response::new(composers::ComposeServerX509caResponse { attributes }))
    }

    async fn compose_server_x509svid(
        &self,
        request: Request<composers::ComposeServerX509svidRequest>,
    ) -> Result<Response<composers::ComposeServerX509svidResponse>, Status> {
        let given = request.into_inner().attributes.unwrap_or_default();
        let given = wire::svid_in(given).map_err(invalid)?;
        let made = self.0.compose_server_x509_svid(given).await;
        let attributes = Some(wire::svid_out(&made.map_err(|error| wire::status(&error))?));
        Ok(Response::new(composers::ComposeServerX509svidResponse { attributes }))
    }

    async fn compose_agent_x509svid(
        &self,
        request: Request<composers::ComposeAgentX509svidRequest>,
    ) -> Result<Response<composers::ComposeAgentX509svidResponse>, Status> {
        let request = request.into_inner();
        let (id, key) = whose(&request.spiffe_id, &request.public_key)?;
        let given = wire::svid_in(request.attributes.unwrap_or_default()).map_err(invalid)?;
        let made = self.0.compose_agent_x509_svid(&id, &key, given).await;
        let attributes = Some(wire::svid_out(&made.map_err(|error| wire::status(&error))?));
        Ok(Response::new(composers::ComposeAgentX509svidResponse { attributes }))
    }

    async fn compose_workload_x509svid(
        &self,
        request: Request<composers::ComposeWorkloadX509svidRequest>,
    ) -> Result<Response<composers::ComposeWorkloadX509svidResponse>, Status> {
        let request = request.into_inner();
        let (id, key) = whose(&request.spiffe_id, &request.public_key)?;
        let given = wire::svid_in(request.attributes.unwrap_or_default()).map_err(invalid)?;
        let made = self.0.compose_workload_x509_svid(&id, &key, given).await;
        let attributes = Some(wire::svid_out(&made.map_err(|error| wire::status(&error))?));
        Ok(Response::new(composers::ComposeWorkloadX509svidResponse { attributes }))
    }

    async fn compose_workload_jwtsvid(
        &self,
        request: Request<composers::ComposeWorkloadJwtsvidRequest>,
    ) -> Result<Response<composers::ComposeWorkloadJwtsvidResponse>, Status> {
        let request = request.into_inner();
        let id = SpiffeId::parse(&request.spiffe_id).map_err(invalid)?;
        let given = request.attributes.and_then(|it| it.claims).unwrap_or_default();
        let given = wire::claims_in(given).map_err(invalid)?;
        let made = self.0.compose_workload_jwt_svid(&id, given).await;
        let claims = Some(wire::claims_out(&made.map_err(|error| wire::status(&error))?));
        let attributes = Some(composers::JwtsvidAttributes { claims });
        Ok(Response::new(composers::ComposeWorkloadJwtsvidResponse { attributes }))
    }
}

fn whose(id: &str, key: &[u8]) -> Result<(SpiffeId, PublicKey), Status> {
    let id = SpiffeId::parse(id).map_err(invalid)?;
    let key = PublicKey::from_spki_der(key).map_err(invalid)?;
    Ok((id, key))
}

//! A server with just what an agent calls, and switches to misbehave.
//!
//! It is strict where SPIRE's is: it knows the serial number of the agent's
//! SVID, accepts a renewed one from its first use on, and refuses the old one
//! afterwards.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt as _};
use steeple_net::serve::{Limits, Router, serve};
use steeple_net::status::{pack, with_details};
use steeple_net::tls::{Identity, IdentitySlot, ServerTls, TlsIncoming, TlsLimits, TlsPeer};
use steeple_pki::csr::Csr;
use steeple_pki::x509::{
    DistinguishedName, Issuer, KeyUsage, SerialNumber, Template, issue, self_sign,
};
use steeple_pki::{Certificate, KeyType, PrivateKey, PublicKey, Signer};
use steeple_proto::spire::api::server::agent::v1 as agent;
use steeple_proto::spire::api::server::agent::v1::attest_agent_request::Step;
use steeple_proto::spire::api::server::agent::v1::attest_agent_response::Step as Answer;
use steeple_proto::spire::api::server::bundle::v1 as bundle;
use steeple_proto::spire::api::server::entry::v1 as entry;
use steeple_proto::spire::api::server::svid::v1 as svid;
use steeple_proto::spire::api::types;
use steeple_proto::spire::api::types::permission_denied_details::Reason;
use steeple_runtime::{Drain, Tasks, drain};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower_service::Service;

pub(crate) const AGENT_ID: &str = "spiffe://example.org/spire/agent/join_token/t";

/// What the server knows, and how it is to behave.
pub(crate) struct State {
    pub(crate) entries: BTreeMap<String, types::Entry>,
    pub(crate) svid_ttl: Duration,
    pub(crate) agent_ttl: Duration,
    pub(crate) reattestable: bool,
    pub(crate) refusal: Option<Reason>,
    pub(crate) page_size: Option<usize>,
    pub(crate) without_sync: bool,
    pub(crate) max_batch: usize,
    pub(crate) attestations: usize,
    pub(crate) renewals: usize,
    pub(crate) minted: BTreeMap<String, usize>,
    pub(crate) requested: Vec<usize>,
    pub(crate) reported_version: Option<String>,
    serial: Option<String>,
    next_serial: Option<String>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            svid_ttl: Duration::from_secs(3600),
            agent_ttl: Duration::from_secs(3600),
            reattestable: false,
            refusal: None,
            page_size: None,
            without_sync: false,
            max_batch: usize::MAX,
            attestations: 0,
            renewals: 0,
            minted: BTreeMap::new(),
            requested: Vec::new(),
            reported_version: None,
            serial: None,
            next_serial: None,
        }
    }
}

/// An authority that outlives the server's restarts.
pub(crate) struct Authority {
    pub(crate) certificate: Certificate,
    key: Arc<PrivateKey>,
}

impl Authority {
    pub(crate) async fn new() -> Self {
        let key = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
        let mut template =
            template(key.public_key(), "spiffe://example.org", Duration::from_secs(7200));
        template.ca = true;
        template.key_usage = KeyUsage::CA;
        let signer: Arc<dyn Signer> = key.clone();
        Self { certificate: self_sign(&template, signer).await.unwrap(), key }
    }

    async fn sign(&self, key: &PublicKey, id: &str, ttl: Duration) -> Certificate {
        let issuer = Issuer::new(&self.certificate, self.key.clone());
        issue(&template(key, id, ttl), &issuer).await.unwrap()
    }
}

fn template(key: &PublicKey, uri: &str, ttl: Duration) -> Template {
    let now = SystemTime::now();
    Template {
        subject: DistinguishedName { country: vec!["US".into()], ..Default::default() },
        public_key: key.clone(),
        serial: SerialNumber::random(),
        not_before: now,
        not_after: now + ttl,
        ca: false,
        key_usage: KeyUsage::SVID,
        ext_key_usage: Vec::new(),
        uri_sans: vec![uri.into()],
        dns_names: Vec::new(),
        policies: vec![],
        extra_extensions: vec![],
    }
}

/// The server; it stops when this is dropped or told to.
pub(crate) struct Server {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) address: SocketAddr,
    running: Option<(Drain, tokio::task::JoinHandle<()>)>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let authority = Arc::new(Authority::new().await);
        let mut server = Self {
            state: Arc::default(),
            authority,
            address: "127.0.0.1:0".parse().unwrap(),
            running: None,
        };
        server.resume().await;
        server
    }

    /// Listens again where it listened before.
    pub(crate) async fn resume(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let key = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
        let id = "spiffe://example.org/spire/server";
        let leaf = self.authority.sign(key.public_key(), id, Duration::from_secs(3600)).await;
        let tls = ServerTls::new(IdentitySlot::from(Identity::new(&[leaf], key)));
        let incoming = TlsIncoming::new(listener, &tls, TlsLimits::default(), Tasks::new());
        let fake = Fake { state: self.state.clone(), authority: self.authority.clone() };
        let router = Router::new()
            .add_service(AgentApi(fake.clone()))
            .add_service(EntryApi(fake.clone()))
            .add_service(SvidApi(fake.clone()))
            .add_service(BundleApi(fake));
        let (drain, watcher) = drain::channel();
        let limits = Limits { drain_grace: Duration::from_millis(100), ..Limits::tcp() };
        self.running = Some((drain, tokio::spawn(serve(incoming, router, limits, watcher))));
    }

    /// Comes back with an authority that no agent knows.
    pub(crate) async fn replace_authority(&mut self) {
        self.stop().await;
        self.authority = Arc::new(Authority::new().await);
        self.resume().await;
    }

    pub(crate) async fn stop(&mut self) {
        if let Some((drain, serving)) = self.running.take() {
            drain.drain(Duration::from_secs(5)).await;
            let _ = serving.await;
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// An entry for whoever runs these tests.
    pub(crate) fn add_entry(&self, id: &str) {
        let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
        self.add_entry_for(id, &format!("uid:{uid}"));
    }

    pub(crate) fn add_entry_for(&self, id: &str, selector: &str) {
        let entry = types::Entry {
            id: id.into(),
            spiffe_id: Some(types::Spiffeid {
                trust_domain: "example.org".into(),
                path: format!("/{id}"),
            }),
            selectors: vec![types::Selector { r#type: "unix".into(), value: selector.into() }],
            created_at: 1,
            ..Default::default()
        };
        self.state().entries.insert(id.into(), entry);
    }
}

#[derive(Clone)]
struct Fake {
    state: Arc<Mutex<State>>,
    authority: Arc<Authority>,
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What every call but the first contact must pass.
    fn authorize(&self, peer: Option<&TlsPeer>) -> Result<(), Status> {
        let denied = |reason: Reason| {
            let details = types::PermissionDeniedDetails { reason: reason.into() };
            let details = pack("spire.api.types.PermissionDeniedDetails", &details);
            with_details(Code::PermissionDenied, "authorization denied", vec![details])
        };
        let mut state = self.state();
        if let Some(reason) = state.refusal {
            return Err(denied(reason));
        }
        let chain = peer.and_then(|peer| peer.chain().ok()).unwrap_or_default();
        let leaf =
            chain.first().ok_or_else(|| Status::permission_denied("no client certificate"))?;
        let serial = Some(leaf.serial_decimal());
        if serial == state.next_serial {
            state.serial = state.next_serial.take();
        }
        if serial == state.serial { Ok(()) } else { Err(denied(Reason::AgentNotActive)) }
    }

    async fn agent_svid(&self, csr: &[u8]) -> (types::X509svid, String) {
        let csr = Csr::parse(csr).unwrap();
        let ttl = self.state().agent_ttl;
        let leaf = self.authority.sign(csr.public_key(), AGENT_ID, ttl).await;
        let svid = types::X509svid { cert_chain: vec![leaf.der_bytes()], ..Default::default() };
        (svid, leaf.serial_decimal())
    }

    async fn attest(
        &self,
        mut steps: Streaming<agent::AttestAgentRequest>,
    ) -> Result<Answer, Status> {
        let step = steps.message().await?.and_then(|request| request.step);
        let Some(Step::Params(params)) = step else {
            return Err(Status::invalid_argument("params"));
        };
        let data = params.data.unwrap_or_default();
        if (data.r#type.as_str(), &data.payload[..]) != ("join_token", b"token") {
            return Err(Status::permission_denied("bad token"));
        }
        let (svid, serial) = self.agent_svid(&params.params.unwrap_or_default().csr).await;
        let mut state = self.state();
        state.attestations += 1;
        state.serial = Some(serial);
        state.refusal = None;
        let reattestable = state.reattestable;
        Ok(Answer::Result(agent::attest_agent_response::Result { svid: Some(svid), reattestable }))
    }

    async fn renew(
        &self,
        request: agent::RenewAgentRequest,
    ) -> Result<agent::RenewAgentResponse, Status> {
        let (svid, serial) = self.agent_svid(&request.params.unwrap_or_default().csr).await;
        let mut state = self.state();
        state.renewals += 1;
        state.next_serial = Some(serial);
        Ok(agent::RenewAgentResponse { svid: Some(svid) })
    }

    async fn sign(
        &self,
        request: svid::BatchNewX509svidRequest,
    ) -> Result<svid::BatchNewX509svidResponse, Status> {
        let (ttl, max_batch) = {
            let mut state = self.state();
            state.requested.push(request.params.len());
            (state.svid_ttl, state.max_batch)
        };
        if request.params.len() > max_batch {
            return Err(Status::resource_exhausted("too many"));
        }
        let mut results = Vec::new();
        for params in request.params {
            let known = self.state().entries.contains_key(&params.entry_id);
            let csr = Csr::parse(&params.csr).unwrap();
            let result = if known {
                let id = format!("spiffe://example.org/{}", params.entry_id);
                let leaf = self.authority.sign(csr.public_key(), &id, ttl).await;
                *self.state().minted.entry(params.entry_id).or_default() += 1;
                let svid =
                    types::X509svid { cert_chain: vec![leaf.der_bytes()], ..Default::default() };
                svid::batch_new_x509svid_response::Result {
                    status: Some(types::Status::default()),
                    svid: Some(svid),
                }
            } else {
                let status = types::Status { code: 5, message: "entry not found".into() };
                svid::batch_new_x509svid_response::Result { status: Some(status), svid: None }
            };
            results.push(result);
        }
        Ok(svid::BatchNewX509svidResponse { results })
    }

    fn own_bundle(&self) -> types::Bundle {
        types::Bundle {
            trust_domain: "example.org".into(),
            x509_authorities: vec![types::X509Certificate {
                asn1: self.authority.certificate.der_bytes(),
                tainted: false,
            }],
            ..Default::default()
        }
    }

    /// Sparse when pages are asked for, full otherwise.
    fn sync(
        self,
        requests: Streaming<entry::SyncAuthorizedEntriesRequest>,
    ) -> BoxStream<'static, Result<entry::SyncAuthorizedEntriesResponse, Status>> {
        let pages = move |request: entry::SyncAuthorizedEntriesRequest| {
            let state = self.state();
            let Some(size) = state.page_size else {
                let entries = state.entries.values().cloned().collect();
                return vec![Ok(entry::SyncAuthorizedEntriesResponse {
                    entries,
                    ..Default::default()
                })];
            };
            if !request.ids.is_empty() {
                let wanted = |id: &String| state.entries.get(id).cloned();
                let entries = request.ids.iter().filter_map(wanted).collect();
                return vec![Ok(entry::SyncAuthorizedEntriesResponse {
                    entries,
                    ..Default::default()
                })];
            }
            let revisions: Vec<_> = state
                .entries
                .values()
                .map(|e| entry::EntryRevision {
                    id: e.id.clone(),
                    revision_number: e.revision_number,
                    created_at: e.created_at,
                })
                .collect();
            let count = revisions.chunks(size).count();
            revisions
                .chunks(size)
                .enumerate()
                .map(|(at, page)| {
                    Ok(entry::SyncAuthorizedEntriesResponse {
                        entry_revisions: page.to_vec(),
                        more: at + 1 < count,
                        ..Default::default()
                    })
                })
                .collect()
        };
        let responses = requests.flat_map(move |request| {
            futures_util::stream::iter(match request {
                Ok(request) => pages(request),
                Err(status) => vec![Err(status)],
            })
        });
        responses.boxed()
    }

    async fn route(self, request: http::Request<Body>) -> http::Response<Body> {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let peer = request.extensions().get::<TlsPeer>().cloned();
        let open = matches!(method.as_str(), "AttestAgent" | "GetBundle");
        if !open && let Err(status) = self.authorize(peer.as_ref()) {
            return status.into_http();
        }
        match method.as_str() {
            "AttestAgent" => {
                let handler = tower::service_fn(
                    move |request: Request<Streaming<agent::AttestAgentRequest>>| {
                        let fake = self.clone();
                        async move {
                            let step = fake.attest(request.into_inner()).await?;
                            let answer = agent::AttestAgentResponse { step: Some(step) };
                            Ok::<_, Status>(Response::new(
                                futures_util::stream::iter([Ok(answer)]).boxed(),
                            ))
                        }
                    },
                );
                grpc().streaming(handler, request).await
            }
            "RenewAgent" => unary(request, async move |message| self.renew(message).await).await,
            "PostStatus" => {
                unary(request, async move |message: agent::PostStatusRequest| {
                    self.state().reported_version = Some(message.agent_version);
                    Ok(agent::PostStatusResponse {})
                })
                .await
            }
            "SyncAuthorizedEntries" if self.state().without_sync => {
                Status::unimplemented("no such method").into_http()
            }
            "SyncAuthorizedEntries" => {
                let handler = tower::service_fn(
                    move |request: Request<Streaming<entry::SyncAuthorizedEntriesRequest>>| {
                        let responses = self.clone().sync(request.into_inner());
                        async move { Ok::<_, Status>(Response::new(responses)) }
                    },
                );
                grpc().streaming(handler, request).await
            }
            "GetAuthorizedEntries" => {
                unary(request, async move |_: entry::GetAuthorizedEntriesRequest| {
                    let entries = self.state().entries.values().cloned().collect();
                    Ok(entry::GetAuthorizedEntriesResponse { entries })
                })
                .await
            }
            "BatchNewX509SVID" => {
                unary(request, async move |message| self.sign(message).await).await
            }
            "GetBundle" => {
                unary(request, async move |_: bundle::GetBundleRequest| Ok(self.own_bundle())).await
            }
            _ => Status::unimplemented(method).into_http(),
        }
    }
}

fn grpc<Encode, Decode>() -> Grpc<ProstCodec<Encode, Decode>>
where
    Encode: prost::Message + 'static,
    Decode: prost::Message + Default + 'static,
{
    Grpc::new(ProstCodec::default())
}

async fn unary<Asked, Answered, Handled>(
    request: http::Request<Body>,
    handler: impl FnOnce(Asked) -> Handled + Send + 'static,
) -> http::Response<Body>
where
    Asked: prost::Message + Default + 'static,
    Answered: prost::Message + 'static,
    Handled: Future<Output = Result<Answered, Status>> + Send + 'static,
{
    let mut handler = Some(handler);
    let service = tower::service_fn(move |request: Request<Asked>| {
        let answer = handler.take().expect("called once")(request.into_inner());
        async move { answer.await.map(Response::new) }
    });
    grpc().unary(service, request).await
}

macro_rules! service {
    ($name:ident, $path:literal) => {
        #[derive(Clone)]
        struct $name(Fake);

        impl NamedService for $name {
            const NAME: &'static str = $path;
        }

        impl Service<http::Request<Body>> for $name {
            type Response = http::Response<Body>;
            type Error = Infallible;
            type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<Body>) -> Self::Future {
                let fake = self.0.clone();
                Box::pin(async move { Ok(fake.route(request).await) })
            }
        }
    };
}

service!(AgentApi, "spire.api.server.agent.v1.Agent");
service!(EntryApi, "spire.api.server.entry.v1.Entry");
service!(SvidApi, "spire.api.server.svid.v1.SVID");
service!(BundleApi, "spire.api.server.bundle.v1.Bundle");

//! Simulated agents: each has an SVID, a connection, a stream of hints, and polls.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use steeple_net::channel::{self, Channel};
use steeple_net::tls::{ClientTls, Identity, Roots};
use steeple_pki::x509::DistinguishedName;
use steeple_pki::{Certificate, KeyType, PrivateKey};
use steeple_proto::spire::api::server::agent::v1 as agent_api;
use steeple_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use steeple_proto::spire::api::server::agent::v1::attest_agent_request::{Params, Step};
use steeple_proto::spire::api::server::agent::v1::attest_agent_response::Step as Answer;
use steeple_proto::spire::api::server::bundle::v1::GetBundleRequest;
use steeple_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use steeple_proto::spire::api::server::entry::v1::SyncAuthorizedEntriesRequest;
use steeple_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use steeple_proto::spire::api::server::localauthority::v1::PrepareX509AuthorityRequest;
use steeple_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use steeple_proto::spire::api::types::AttestationData;
use steeple_proto::steeple::server::push::v1::WatchRequest;
use steeple_proto::steeple::server::push::v1::push_client::PushClient;
use steeple_spiffe::{SpiffeId, TrustDomain};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::check::TRUST_DOMAIN;
use crate::deployment::Deployment;
use crate::error::{Error, Result};

/// How often agents poll.
const POLL: Duration = Duration::from_secs(5);
/// The longest that the fleet may take to hear of something.
const LIMIT: Duration = Duration::from_secs(60);

/// The agents; dropping it ends them.
pub struct Fleet {
    channels: Vec<Channel>,
    work: std::sync::Mutex<JoinSet<()>>,
    /// A bundle was hinted at.
    hints: mpsc::UnboundedSender<Instant>,
    hinted: tokio::sync::Mutex<mpsc::UnboundedReceiver<Instant>>,
    open: Arc<AtomicUsize>,
}

impl Fleet {
    /// Attests `count` agents, each with a join token.
    pub async fn attest(deployment: &Deployment, count: usize) -> Result<Self> {
        let wrong = |what: String| Error::Wrong { call: "AttestAgent", what };
        let domain = TrustDomain::parse(TRUST_DOMAIN).map_err(|e| wrong(e.to_string()))?;
        let roots: std::result::Result<Vec<_>, _> = deployment
            .server
            .bundle
            .x509_authorities
            .iter()
            .map(|authority| Certificate::from_der(authority.asn1.clone()))
            .collect();
        let roots = Roots::new(roots.map_err(|error| wrong(error.to_string()))?);
        let tls = |identity: Option<Identity>| {
            let tls =
                ClientTls::new(SpiffeId::server(&domain), roots.clone(), identity.map(Into::into));
            channel::tls("127.0.0.1", deployment.server.port, tls).expect("it is an address")
        };
        let (anonymous, local) = (tls(None), deployment.server_channel());
        let mut channels = Vec::with_capacity(count);
        for _ in 0..count {
            let (chain, key) = attest(&anonymous, &local).await?;
            channels.push(tls(Some(Identity::new(&chain, Arc::new(key)))));
        }
        let (hints, hinted) = mpsc::unbounded_channel();
        let hinted = tokio::sync::Mutex::new(hinted);
        let (work, open) = (std::sync::Mutex::default(), Arc::default());
        Ok(Self { channels, work, hints, hinted, open })
    }

    /// Opens each agent's connection, by a call that takes little of the server.
    pub async fn connect(&self) -> Result<()> {
        for channel in &self.channels {
            bundle(channel).await?;
        }
        Ok(())
    }

    /// Opens every agent's stream, and waits for the first hint of each.
    pub async fn listen(&self) -> Result<()> {
        for channel in &self.channels {
            let (channel, hints, open) =
                (channel.clone(), self.hints.clone(), Arc::clone(&self.open));
            self.spawn(async move {
                loop {
                    let Ok(stream) = PushClient::new(channel.clone()).watch(WatchRequest {}).await
                    else {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        continue;
                    };
                    let mut stream = stream.into_inner();
                    let mut first = true;
                    while let Ok(Some(hint)) = stream.message().await {
                        if std::mem::take(&mut first) {
                            open.fetch_add(1, Ordering::Relaxed);
                            continue;
                        }
                        if hint.bundles {
                            let _ = hints.send(Instant::now());
                        }
                        if hint.entries || hint.bundles {
                            let _ = poll(&channel).await;
                        }
                    }
                    open.fetch_sub(1, Ordering::Relaxed);
                }
            });
        }
        let end = Instant::now() + LIMIT;
        while self.open.load(Ordering::Relaxed) < self.channels.len() {
            if Instant::now() > end {
                let what = format!("{:?} of the streams opened", self.open);
                return Err(Error::Wrong { call: "Watch", what });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    }

    /// Lets each agent poll as agents do.
    pub fn keep_polling(&self) {
        for (number, channel) in self.channels.iter().enumerate() {
            let channel = channel.clone();
            let first = POLL.mul_f64(number as f64 / self.channels.len() as f64);
            self.spawn(async move {
                tokio::time::sleep(first).await;
                loop {
                    let _ = poll(&channel).await;
                    tokio::time::sleep(POLL).await;
                }
            });
        }
    }

    /// Changes the trust bundle; how long each agent took to be told, in ms.
    pub async fn told_of_a_bundle(&self, deployment: &Deployment) -> Result<Vec<f64>> {
        let mut hinted = self.hinted.lock().await;
        while hinted.try_recv().is_ok() {}
        let begun = Instant::now();
        let mut client = LocalAuthorityClient::new(deployment.server_channel());
        let prepared = client.prepare_x509_authority(PrepareX509AuthorityRequest {}).await;
        prepared.map_err(Error::call("PrepareX509Authority"))?;
        let mut took = Vec::new();
        while took.len() < self.channels.len() {
            let late = || Error::Wrong { call: "Watch", what: "no hint of the bundle".into() };
            let told = tokio::time::timeout(LIMIT, hinted.recv()).await.map_err(|_| late())?;
            let told = told.ok_or_else(late)?;
            took.push(told.saturating_duration_since(begun).as_secs_f64() * 1e3);
        }
        Ok(took)
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.work.lock().expect("nobody panics while holding it").spawn(work);
    }
}

async fn poll(channel: &Channel) -> Result<()> {
    let requests = tokio_stream::once(SyncAuthorizedEntriesRequest::default());
    let call = EntryClient::new(channel.clone()).sync_authorized_entries(requests).await;
    let mut pages = call.map_err(Error::call("SyncAuthorizedEntries"))?.into_inner();
    let page = pages.message().await;
    page.map_err(Error::call("SyncAuthorizedEntries"))?;
    bundle(channel).await
}

async fn bundle(channel: &Channel) -> Result<()> {
    let bundle = BundleClient::new(channel.clone()).get_bundle(GetBundleRequest::default()).await;
    bundle.map(drop).map_err(Error::call("GetBundle"))
}

async fn attest(server: &Channel, local: &Channel) -> Result<(Vec<Certificate>, PrivateKey)> {
    const CALL: &str = "AttestAgent";
    let wrong = |what: String| Error::Wrong { call: CALL, what };
    let request = agent_api::CreateJoinTokenRequest { ttl: 600, ..Default::default() };
    let token = AgentClient::new(local.clone()).create_join_token(request).await;
    let token = token.map_err(Error::call("CreateJoinToken"))?.into_inner().value;
    let key = PrivateKey::generate(KeyType::EcP256).map_err(|error| wrong(error.to_string()))?;
    let csr = steeple_pki::csr::create(&key, &DistinguishedName::default(), &[]);
    let csr = csr.map_err(|error| wrong(error.to_string()))?;
    let data = AttestationData { r#type: "join_token".into(), payload: token.into() };
    let params = agent_api::AgentX509svidParams { csr: csr.into() };
    let step = Step::Params(Params { data: Some(data), params: Some(params) });
    let requests = tokio_stream::once(agent_api::AttestAgentRequest { step: Some(step) });
    let call = AgentClient::new(server.clone()).attest_agent(requests).await;
    let answer = call.map_err(Error::call(CALL))?.into_inner().message().await;
    let answer = answer.map_err(Error::call(CALL))?.and_then(|answer| answer.step);
    let Some(Answer::Result(result)) = answer else { return Err(wrong("no result".into())) };
    let chain: std::result::Result<Vec<_>, _> =
        result.svid.unwrap_or_default().cert_chain.into_iter().map(Certificate::from_der).collect();
    Ok((chain.map_err(|error| wrong(error.to_string()))?, key))
}

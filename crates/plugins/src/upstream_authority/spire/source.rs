//! Our identity and the roots of our trust domain, as the agent beside us gives them.
//!
//! The Workload API's stream is read when somebody is about to need what it says: before each
//! call. In between, what has come waits in the connection.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use steeple_net::channel::{self, Channel};
use steeple_net::tls::{Identity, IdentitySlot, Roots};
use steeple_pki::PrivateKey;
use steeple_pki::x509::Certificate;
use steeple_plugin::{Code, Kind, PluginError};
use steeple_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use steeple_proto::workload::{X509svid, X509svidRequest, X509svidResponse};
use steeple_runtime::backoff::Backoff;
use steeple_spiffe::{SpiffeId, TrustDomain};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};

use super::error;

/// The first and the longest wait between two attempts to reach the agent.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long the first identity is waited for; less than a mint may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the agent may take to attest us and answer.
const OPEN_DEADLINE: Duration = Duration::from_secs(15);

/// Follows the Workload API.
pub(super) struct Source {
    channel: Channel,
    trust_domain: TrustDomain,
    identity: IdentitySlot,
    roots: Roots,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stream: Option<Streaming<X509svidResponse>>,
    has_identity: bool,
}

/// Why the agent's answer is of no use.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("rpc error: code = {:?} desc = {}", .0.code(), .0.message())]
    Call(#[from] Status),
    #[error("no answer within {} seconds", OPEN_DEADLINE.as_secs())]
    Late,
    #[error("the Workload API ended the stream")]
    Ended,
    #[error("there is no X509-SVID in the answer")]
    Empty,
    #[error("X509-SVID is not of trust domain {0}")]
    Foreign(TrustDomain),
    #[error("malformed X509-SVID: {0}")]
    Malformed(String),
}

impl Source {
    /// The identity that the agent at `socket` gives to this process.
    pub(super) fn new(socket: &str, trust_domain: TrustDomain) -> Self {
        let path = socket
            .strip_prefix("unix:")
            .map_or(socket, |path| path.strip_prefix("//").unwrap_or(path));
        Self {
            channel: channel::unix(Path::new(path)),
            trust_domain,
            identity: IdentitySlot::new(),
            roots: Roots::new(Vec::new()),
            state: Mutex::default(),
        }
    }

    pub(super) fn identity(&self) -> IdentitySlot {
        self.identity.clone()
    }

    pub(super) fn roots(&self) -> Roots {
        self.roots.clone()
    }

    /// Comes back when there is an identity, the newest one. The agent may be starting, or about
    /// to hear of our entry, so this waits for a while.
    ///
    /// # Errors
    /// There is none yet; says why.
    pub(super) async fn ready(&self) -> Result<(), PluginError> {
        let mut state = self.state.lock().await;
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        let end = Instant::now() + PATIENCE;
        loop {
            let Err(reason) = self.catch_up(&mut state).await else { return Ok(()) };
            tell(&reason);
            if state.has_identity {
                return Ok(());
            }
            let wait = backoff.next();
            if Instant::now() + wait > end {
                let text = format!("unable to get an identity from the Workload API: {reason}");
                return Err(error(Code::Unavailable, text));
            }
            sleep(wait).await;
        }
    }

    /// Takes up what has come since. Without the agent, what it said last stays.
    pub(super) async fn refresh(&self) {
        let mut state = self.state.lock().await;
        if let Err(error) = self.catch_up(&mut state).await {
            tell(&error);
        }
    }

    async fn catch_up(&self, state: &mut State) -> Result<(), Unusable> {
        loop {
            let Some(stream) = &mut state.stream else {
                let mut stream = self.open().await?;
                let first = timeout(OPEN_DEADLINE, stream.message()).await;
                let first = first.map_err(|_| Unusable::Late)??.ok_or(Unusable::Ended)?;
                self.take(&first)?;
                state.has_identity = true;
                state.stream = Some(stream);
                continue;
            };
            match stream.message().now_or_never() {
                None => return Ok(()),
                Some(Ok(Some(update))) => self.take(&update)?,
                // Begin anew.
                Some(Ok(None) | Err(_)) => state.stream = None,
            }
        }
    }

    async fn open(&self) -> Result<Streaming<X509svidResponse>, Unusable> {
        let mut request = Request::new(X509svidRequest {});
        let header = MetadataValue::from_static("true");
        request.metadata_mut().insert("workload.spiffe.io", header);
        let mut client = SpiffeWorkloadApiClient::new(self.channel.clone());
        let opening = client.fetch_x509svid(request);
        let opened = timeout(OPEN_DEADLINE, opening).await.map_err(|_| Unusable::Late)??;
        Ok(opened.into_inner())
    }

    /// Uses the first SVID, which is the default one.
    fn take(&self, update: &X509svidResponse) -> Result<(), Unusable> {
        let svid = update.svids.first().ok_or(Unusable::Empty)?;
        let malformed = |reason: String| Unusable::Malformed(reason);
        let id = SpiffeId::parse(&svid.spiffe_id).map_err(|it| malformed(it.to_string()))?;
        if !id.is_member_of(&self.trust_domain) {
            return Err(Unusable::Foreign(self.trust_domain.clone()));
        }
        let (chain, key, roots) = parts(svid).map_err(malformed)?;
        self.roots.set(roots);
        self.identity.set(Identity::new(&chain, Arc::new(key)));
        Ok(())
    }
}

type Parts = (Vec<Certificate>, PrivateKey, Vec<Certificate>);

fn parts(svid: &X509svid) -> Result<Parts, String> {
    let certificates = |der| {
        let parsed = Certificate::parse_concatenated_der(der);
        parsed.map_err(|error| error.to_string())
    };
    let chain = certificates(&svid.x509_svid)?;
    let key = PrivateKey::from_pkcs8_der(&svid.x509_svid_key).map_err(|error| error.to_string())?;
    match chain.first() {
        Some(leaf) if leaf.public_key() == key.public_key() => {}
        _ => return Err("certificate and key do not belong together".to_owned()),
    }
    Ok((chain, key, certificates(&svid.bundle)?))
}

fn tell(error: &Unusable) {
    tracing::warn!(
        plugin_name = super::NAME,
        plugin_type = Kind::UpstreamAuthority.name(),
        %error,
        "Failed to watch the Workload API"
    );
}

//! The server's APIs on a datastore, as the port serves them, without sockets, TLS and HTTP/2:
//! what is left is the server's own.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, Full};
use prost::Message;
use steeple_ca::{CaConfig, CaManager, Credentials};
use steeple_federation::{HttpsFetch, Manager, ManagerConfig, Relationships, StoreKeep};
use steeple_net::tls::TlsPeer;
use steeple_pki::{KeyType, PrivateKey};
use steeple_plugins::key_manager::memory;
use steeple_runtime::log::{self, LogConfig};
use steeple_runtime::{Clock, ManualClock, Tasks, drain};
use steeple_server_api::{GrpcService, LimitBy, LoadLimits, Parts, RateLimits, apis};
use steeple_server_core::access::{Gatekeeper, Trust};
use steeple_server_core::admission::Admission;
use steeple_server_core::agents::{Agents, AgentsConfig};
use steeple_server_core::authorities::Authorities;
use steeple_server_core::bundles::Bundles;
use steeple_server_core::entries::Entries;
use steeple_server_core::explain::Explainer;
use steeple_server_core::explain::agent::AgentExplainer;
use steeple_server_core::federation::Federation;
use steeple_server_core::index::{AuthorizedIndex, IndexPeriods};
use steeple_server_core::svids::Svids;
use steeple_server_core::tokens::Tokens;
use steeple_server_core::{DatastoreAuthorities, ServerSvidRotator, SigningPool};
use steeple_spiffe::{Selector, SpiffeId, TrustDomain};
use steeple_store::model::{AttestedNode, NewEntry};
use steeple_store::{Store, StoreConfig};
use tempfile::TempDir;
use tonic::body::Body;

/// Entries of each agent.
pub(crate) const EACH: usize = 10;

/// The server, and those who may call it.
pub(crate) struct World<S> {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: ManualClock,
    /// The connections of the agents.
    pub(crate) agents: Vec<TlsPeer>,
    /// The ids of the first agent's entries.
    pub(crate) entry_ids: Vec<String>,
    service: S,
    stop: drain::Drain,
    tasks: Tasks,
}

/// A datastore that tells its statements, in a directory that goes away with it.
pub(crate) async fn sqlite() -> (Arc<dyn Store>, TempDir) {
    let directory = steeple_testkit::temp_dir();
    let path = directory.path().join("datastore.sqlite3");
    let config = StoreConfig::sqlite(path.to_str().unwrap(), "1.15.0");
    let store = steeple_store::open(&StoreConfig { log_sql: true, ..config }).await.unwrap();
    (store, directory)
}

pub(crate) fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

/// A server with so many agents, who have ten entries each, and whose index looks at the datastore
/// as often as `poll` says.
pub(crate) async fn world(
    store: Arc<dyn Store>,
    agents: usize,
    poll: Duration,
) -> World<impl GrpcService> {
    let home = TrustDomain::parse("example.org").unwrap();
    let clock = ManualClock::new(SystemTime::now());
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let authorities = DatastoreAuthorities::new(Arc::clone(&store), home.clone());
    let manager = CaManager::load(
        CaConfig::new(home.clone()),
        memory::new(),
        Arc::new(authorities),
        None,
        Vec::new(),
        Arc::clone(&shared),
    );
    let manager = manager.await.unwrap();
    manager.initialize().await.unwrap();
    let credentials = manager.credentials();
    let agents = attested(store.as_ref(), &credentials, agents, clock.now()).await;
    let entry_ids = filled(store.as_ref(), agents.len()).await;

    let periods = IndexPeriods { poll, reload: Duration::from_secs(24 * 3600) };
    let loading =
        AuthorizedIndex::load(Arc::clone(&store), Arc::clone(&shared), home.clone(), periods);
    let (index, index_task) = loading.await.unwrap();
    let (stop, watcher) = drain::channel();
    let tasks = Tasks::new();
    tasks.spawn("entry_index", index_task.run(watcher));
    let parts = parts(&store, &manager, &index, home, shared, &tasks).await;
    World { store, clock, agents, entry_ids, service: apis(parts).remote, stop, tasks }
}

/// Attested agents, each on a connection of its own.
async fn attested(
    store: &dyn Store,
    credentials: &Credentials,
    count: usize,
    now: SystemTime,
) -> Vec<TlsPeer> {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let mut agents = Vec::with_capacity(count);
    for number in 0..count {
        let spiffe_id = agent(number);
        let chain = credentials.sign_agent_x509_svid(&spiffe_id, key.public_key().clone(), now);
        let chain = chain.await.unwrap();
        let node = AttestedNode {
            spiffe_id,
            attestation_type: "join_token".to_owned(),
            serial_number: chain[0].serial_decimal(),
            expires_at: 4_000_000_000,
            new_serial_number: String::new(),
            new_expires_at: 0,
            can_reattest: false,
            selectors: Vec::new(),
            agent_version: String::new(),
        };
        store.upsert_attested_node(node).await.unwrap();
        let address = "192.0.2.1:1000".parse().unwrap();
        let chain = chain.iter().map(|certificate| certificate.der().to_vec().into());
        agents.push(TlsPeer::new(address, chain.collect()));
    }
    agents
}

fn agent(number: usize) -> SpiffeId {
    id(&format!("/spire/agent/join_token/{number}"))
}

/// Entries of each agent, and the ids of the first one's.
async fn filled(store: &dyn Store, agents: usize) -> Vec<String> {
    let mut first = Vec::new();
    for number in 0..agents {
        let new = |place: usize| {
            let path = format!("/ns/production/sa/service-{number}-{place}");
            let selectors = vec![
                Selector::new("k8s", "ns:production"),
                Selector::new("k8s", &format!("sa:service-{place}")),
            ];
            NewEntry::new(id(&path), agent(number), selectors)
        };
        let made = store.create_entries((0..EACH).map(new).collect()).await;
        let made = made.into_iter().map(|made| made.unwrap().0.entry_id);
        if number == 0 {
            first.extend(made);
        }
    }
    first
}

/// As `steeple_server::app` puts them together.
async fn parts(
    store: &Arc<dyn Store>,
    manager: &CaManager,
    index: &AuthorizedIndex,
    home: TrustDomain,
    clock: Arc<dyn Clock>,
    tasks: &Tasks,
) -> Parts {
    let new_store = || Arc::clone(store);
    let credentials = manager.credentials();
    let pool = SigningPool::per_core();
    let admission = Arc::new(Admission::default());
    let bundles = Bundles::new(new_store(), home.clone()).publishing_by(manager.clone());
    let (_, refresher) = Manager::new(ManagerConfig {
        trust_domain: home.clone(),
        configured: Relationships::new(),
        keep: Arc::new(StoreKeep(new_store())),
        fetch: Arc::new(HttpsFetch::new()),
        clock: Arc::clone(&clock),
        tasks: tasks.clone(),
    });
    let tainted = manager.tainted_authorities();
    let (signer, now) = (credentials.clone(), Arc::clone(&clock));
    let svid = ServerSvidRotator::start(signer, now, KeyType::EcP256, tainted).await.unwrap();
    let trust = Trust { max_staleness: Duration::ZERO, outage_grace: Duration::from_secs(600) };
    let (_, log) = log::subscriber(&LogConfig::default()).unwrap();
    Parts {
        entries: Entries::new(new_store(), index.clone(), home.clone()),
        explainer: Explainer::new(
            new_store(),
            index.clone(),
            credentials.clone(),
            home.clone(),
            true,
        ),
        agent_explainer: AgentExplainer::new(
            new_store(),
            index.clone(),
            Arc::clone(&admission),
            home.clone(),
        ),
        agents: Agents::new(AgentsConfig {
            store: new_store(),
            index: index.clone(),
            credentials: credentials.clone(),
            pool: pool.clone(),
            trust_domain: home.clone(),
            attestors: Vec::new(),
            id_as_selector: false,
            admission,
        }),
        tokens: Tokens::new(new_store(), []),
        svids: Svids::new(new_store(), index.clone(), credentials, pool, home.clone(), true),
        authorities: Authorities::new(manager.clone(), bundles.clone()),
        federation: Federation::new(new_store(), bundles.clone()),
        refresher,
        bundles,
        gatekeeper: Gatekeeper::new(new_store(), index.clone(), [], trust),
        store: new_store(),
        log,
        svid: svid.subscribe(),
        clock,
        push: None,
        policy: None,
        // None of it is to wait for the clock on the wall.
        limits: RateLimits {
            attestation: 0,
            signing: 0,
            publish: 0,
            post_status: 0,
            admin: 0,
            bundle: 0,
            sync: 0,
            by: LimitBy::Address,
        },
        load: LoadLimits::for_cores(2),
        audit: false,
        trust_domain: home,
    }
}

impl<S: GrpcService> World<S> {
    /// Calls a method over a connection; the message of the answer, which is to be one.
    pub(crate) async fn call(&self, peer: &TlsPeer, path: &str, message: &impl Message) -> Bytes {
        let request = request(peer, path, Body::new(framed(message)));
        let mut body = self.answer(request).await.into_body();
        let (mut answer, mut status) = (Bytes::new(), None);
        while let Some(frame) = body.frame().await {
            match frame.unwrap().into_data() {
                Ok(data) => {
                    assert!(answer.is_empty(), "one message, in one piece");
                    answer = data;
                }
                Err(frame) => status = frame.into_trailers().ok(),
            }
        }
        let status = status.as_ref().and_then(|it| it.get("grpc-status"));
        assert_eq!(status.unwrap().as_bytes(), b"0", "{path}");
        answer.slice(PREFIX..)
    }

    /// Calls a method for an answer that nobody waits for any more; the headers of what it is told.
    pub(crate) async fn call_too_late(&self, peer: &TlsPeer, path: &str, body: Body) -> HeaderMap {
        let mut request = request(peer, path, body);
        request.headers_mut().insert("grpc-timeout", header::HeaderValue::from_static("1n"));
        self.answer(request).await.into_parts().0.headers
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let mut service = self.service.clone();
        poll_fn(|context| service.poll_ready(context)).await.unwrap();
        service.call(request).await.unwrap()
    }

    pub(crate) async fn stop(self) {
        assert!(self.stop.drain(Duration::from_secs(30)).await);
        self.tasks.join().await.unwrap();
        self.store.close().await;
    }
}

fn request(peer: &TlsPeer, path: &str, body: Body) -> Request<Body> {
    let mut request = Request::post(path).body(body).unwrap();
    request.extensions_mut().insert(peer.clone());
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, header::HeaderValue::from_static("trailers"));
    request
}

/// gRPC's, before each message.
const PREFIX: usize = 5;

fn framed(message: &impl Message) -> Full<Bytes> {
    let mut frame = BytesMut::with_capacity(PREFIX + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut frame).unwrap();
    Full::new(frame.freeze())
}

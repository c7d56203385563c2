mod proxied;
mod several;

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use rustls::NamedGroup;
use rustls_pki_types::ServerName;
use steeple_pki::verify::VerifyError;
use steeple_pki::x509::{
    self, DistinguishedName, ExtKeyUsage, Issuer, KeyUsage, SerialNumber, Template,
};
use steeple_pki::{KeyType, PrivateKey, PublicKey, SignError, SignatureAlgorithm};
use steeple_proto::spire::service::private::init::v1::init_client::InitClient;
use steeple_proto::spire::service::private::init::v1::init_server::{Init, InitServer};
use steeple_proto::spire::service::private::init::v1::{
    DeinitRequest, DeinitResponse, InitRequest, InitResponse,
};
use steeple_runtime::drain::{self, Drain, Tasks};
use steeple_spiffe::SpiffeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tonic::transport::server::Connected;
use tonic::{Code, Request, Response, Status};

use super::*;
use crate::channel::{self, Channel, ConnectError, connect_error};
use crate::serve::{Accept, Limits, Router, serve};

const SERVER: &str = "spiffe://example.org/spire/server";

/// A certificate authority that lives for a test.
struct Authority {
    certificate: Certificate,
    issuer: Issuer,
}

impl Authority {
    async fn new() -> Self {
        let key: Arc<dyn Signer> = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
        let mut template = template(key.public_key().clone(), "spiffe://example.org");
        template.ca = true;
        template.key_usage = KeyUsage::KEY_CERT_SIGN;
        template.ext_key_usage = Vec::new();
        let certificate = x509::self_sign(&template, Arc::clone(&key)).await.unwrap();
        let issuer = Issuer::new(&certificate, key);
        Self { certificate, issuer }
    }

    async fn certificate(&self, id: &str, key: &PublicKey) -> Certificate {
        x509::issue(&template(key.clone(), id), &self.issuer).await.unwrap()
    }

    async fn identity(&self, id: &str, key_type: KeyType) -> Identity {
        let key = PrivateKey::generate(key_type).unwrap();
        let certificate = self.certificate(id, key.public_key()).await;
        Identity::new(&[certificate], Arc::new(key))
    }

    fn roots(&self) -> Roots {
        Roots::new(vec![self.certificate.clone()])
    }
}

fn template(public_key: PublicKey, id: &str) -> Template {
    let now = SystemTime::now();
    Template {
        subject: DistinguishedName { common_name: "test".into(), ..Default::default() },
        public_key,
        serial: SerialNumber::random(),
        not_before: now - Duration::from_secs(10),
        not_after: now + Duration::from_secs(600),
        ca: false,
        key_usage: KeyUsage::DIGITAL_SIGNATURE,
        ext_key_usage: vec![ExtKeyUsage::ServerAuth, ExtKeyUsage::ClientAuth],
        uri_sans: vec![id.into()],
        dns_names: Vec::new(),
        policies: vec![],
        extra_extensions: vec![],
    }
}

fn server_id() -> SpiffeId {
    SpiffeId::parse(SERVER).unwrap()
}

/// Answers with the URI names of the caller's certificates, and its port.
struct WhoAmI;

#[tonic::async_trait]
impl Init for WhoAmI {
    async fn init(&self, request: Request<InitRequest>) -> Result<Response<InitResponse>, Status> {
        let peer: &TlsPeer = request.extensions().get().unwrap();
        let chain = peer.chain().map_err(|error| Status::internal(error.to_string()))?;
        let mut names: Vec<_> = chain.iter().flat_map(|it| it.uri_sans().to_vec()).collect();
        names.push(peer.remote_addr().port().to_string());
        Ok(Response::new(InitResponse { plugin_service_names: names }))
    }

    async fn deinit(&self, _: Request<DeinitRequest>) -> Result<Response<DeinitResponse>, Status> {
        Ok(Response::new(DeinitResponse {}))
    }
}

struct Server {
    address: SocketAddr,
    identity: IdentitySlot,
    _drain: Drain,
    _tasks: Tasks,
}

async fn start(identity: Option<Identity>, limits: TlsLimits) -> Server {
    let slot = identity.map_or_else(IdentitySlot::new, IdentitySlot::from);
    Server { identity: slot.clone(), ..start_with(ServerTls::new(slot), limits).await }
}

async fn start_with(tls: ServerTls, limits: TlsLimits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tasks = Tasks::new();
    let incoming = TlsIncoming::new(listener, &tls, limits, tasks.clone());
    let address = incoming.local_addr().unwrap();
    let router = Router::new().add_service(InitServer::new(WhoAmI));
    let (drain, watcher) = drain::channel();
    tasks.spawn("server", serve(incoming, router, Limits::tcp(), watcher));
    Server { address, identity: IdentitySlot::new(), _drain: drain, _tasks: tasks }
}

impl Server {
    fn channel(&self, tls: ClientTls) -> Channel {
        channel::tls("localhost", self.address.port(), tls).unwrap()
    }
}

async fn call(channel: &Channel) -> Result<Vec<String>, Status> {
    let mut client = InitClient::new(channel.clone());
    Ok(client.init(InitRequest::default()).await?.into_inner().plugin_service_names)
}

#[tokio::test]
async fn a_client_without_a_certificate_is_served_and_one_with_is_known() {
    let authority = Authority::new().await;
    let identity = authority.identity(SERVER, KeyType::EcP256).await;
    let server = start(Some(identity), TlsLimits::default()).await;

    let anonymous = server.channel(ClientTls::new(server_id(), authority.roots(), None));
    assert_eq!(call(&anonymous).await.unwrap().len(), 1);

    for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let agent = authority.identity("spiffe://example.org/agent", key_type).await;
        let tls = ClientTls::new(server_id(), authority.roots(), Some(agent.into()));
        let names = call(&server.channel(tls)).await.unwrap();
        assert_eq!(names[0], "spiffe://example.org/agent", "{key_type}");
    }
}

#[tokio::test]
async fn a_client_whose_certificate_is_another_s_is_refused() {
    let authority = Authority::new().await;
    let identity = authority.identity(SERVER, KeyType::EcP256).await;
    let server = start(Some(identity), TlsLimits::default()).await;
    let victim = PrivateKey::generate(KeyType::EcP256).unwrap();
    let stolen = authority.certificate("spiffe://example.org/agent", victim.public_key()).await;
    let thief = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
    let identity = Identity::new(&[stolen], thief);
    let tls = ClientTls::new(server_id(), authority.roots(), Some(identity.into()));
    assert!(call(&server.channel(tls)).await.is_err());
}

#[tokio::test]
async fn a_server_under_unknown_roots_is_told_from_the_wrong_server() {
    let (authority, other) = (Authority::new().await, Authority::new().await);
    let identity = authority.identity(SERVER, KeyType::EcP256).await;
    let server = start(Some(identity), TlsLimits::default()).await;

    let status =
        call(&server.channel(ClientTls::new(server_id(), other.roots(), None))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let Some(ConnectError::Peer(error)) = connect_error(&status) else { panic!("{status:?}") };
    assert!(error.is_unknown_authority());
    let text = status.message().to_owned();
    assert_eq!(
        text,
        "connection error: desc = \"transport: authentication handshake failed: x509svid: could \
         not verify leaf certificate: x509: certificate signed by unknown authority\""
    );

    let somebody = SpiffeId::parse("spiffe://example.org/somebody").unwrap();
    let status =
        call(&server.channel(ClientTls::new(somebody, authority.roots(), None))).await.unwrap_err();
    let Some(ConnectError::Peer(error)) = connect_error(&status) else { panic!("{status:?}") };
    assert_eq!(error.to_string(), format!("unexpected ID {SERVER:?}"));

    let elsewhere = SpiffeId::parse("spiffe://else.where/spire/server").unwrap();
    let status = call(&server.channel(ClientTls::new(elsewhere, authority.roots(), None)))
        .await
        .unwrap_err();
    let Some(ConnectError::Peer(error)) = connect_error(&status) else { panic!("{status:?}") };
    assert!(
        matches!(&**error, PeerVerifyError::Svid(VerifyError::UnknownTrustDomain(_))),
        "{error}"
    );
}

#[tokio::test]
async fn an_insecure_first_contact_looks_at_the_name_only() {
    let authority = Authority::new().await;
    let identity = authority.identity(SERVER, KeyType::EcP256).await;
    let server = start(Some(identity), TlsLimits::default()).await;
    call(&server.channel(ClientTls::insecure(server_id(), None))).await.unwrap();
    let somebody = SpiffeId::parse("spiffe://example.org/somebody").unwrap();
    let status = call(&server.channel(ClientTls::insecure(somebody, None))).await.unwrap_err();
    let error = connect_error(&status).unwrap().to_string();
    let expected = "authentication handshake failed: expected server SPIFFE ID \
                    \"spiffe://example.org/somebody\"; got \"spiffe://example.org/spire/server\"";
    assert_eq!(error, expected);
}

#[tokio::test]
async fn changes_of_identity_and_roots_take_effect_with_the_next_call() {
    let authority = Authority::new().await;
    let identity = authority.identity(SERVER, KeyType::EcP256).await;
    let server = start(Some(identity), TlsLimits::default()).await;
    let slot = IdentitySlot::new();
    let roots = authority.roots();
    let channel = server.channel(ClientTls::new(server_id(), roots.clone(), Some(slot.clone())));

    let anonymous = call(&channel).await.unwrap();
    assert_eq!(call(&channel).await.unwrap(), anonymous, "one connection for both");
    slot.set(authority.identity("spiffe://example.org/first", KeyType::EcP256).await);
    assert_eq!(call(&channel).await.unwrap()[0], "spiffe://example.org/first");
    slot.set(authority.identity("spiffe://example.org/second", KeyType::EcP256).await);
    assert_eq!(call(&channel).await.unwrap()[0], "spiffe://example.org/second");

    let next = Authority::new().await;
    roots.set(vec![next.certificate.clone()]);
    assert!(call(&channel).await.is_err(), "the server's authority is gone");
    server.identity.set(next.identity(SERVER, KeyType::EcP256).await);
    assert_eq!(call(&channel).await.unwrap()[0], "spiffe://example.org/second");
}

#[tokio::test]
async fn a_server_without_an_identity_yet_refuses_and_recovers() {
    let authority = Authority::new().await;
    let server = start(None, TlsLimits::default()).await;
    let channel = server.channel(ClientTls::new(server_id(), authority.roots(), None));
    let status = call(&channel).await.unwrap_err();
    assert!(matches!(connect_error(&status), Some(ConnectError::Handshake(_))), "{status:?}");
    server.identity.set(authority.identity(SERVER, KeyType::EcP256).await);
    call(&channel).await.unwrap();
}

async fn shake_hands(
    server: &Server,
    config: Arc<rustls::ClientConfig>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, std::io::Error> {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(config).connect(name, stream).await
}

#[tokio::test]
async fn key_exchange_is_hybrid_and_sessions_are_never_resumed() {
    let authority = Authority::new().await;
    let identity = authority.identity(SERVER, KeyType::EcP256).await;
    let server = start(Some(identity), TlsLimits::default()).await;
    let mut config = (*ClientTls::new(server_id(), authority.roots(), None).config()).clone();
    // Even to a client that would like to.
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    for _ in 0..2 {
        let mut stream = shake_hands(&server, Arc::clone(&config)).await.unwrap();
        // The server's SETTINGS; had it sent tickets, they would have come before.
        stream.read_exact(&mut [0; 9]).await.unwrap();
        let tls = stream.get_ref().1;
        let group = tls.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
        assert_eq!(tls.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(tls.alpn_protocol(), Some(&b"h2"[..]));
    }
}

#[tokio::test]
async fn tls_1_2_with_classic_groups_is_served() {
    let authority = Authority::new().await;
    for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let identity = authority.identity(SERVER, key_type).await;
        let server = start(Some(identity), TlsLimits::default()).await;
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(client::insecure_verifier(server_id()))
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        let stream = shake_hands(&server, Arc::new(config)).await.unwrap();
        let version = stream.get_ref().1.protocol_version();
        assert_eq!(version, Some(rustls::ProtocolVersion::TLSv1_2), "{key_type}");
    }
}

/// A key whose holder answers later, as a plugin does.
struct Remote(PrivateKey);

#[async_trait::async_trait]
impl Signer for Remote {
    fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    async fn sign(&self, alg: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.0.sign(alg, message)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_process_signs_handshakes() {
    let authority = Authority::new().await;
    let remote = Remote(PrivateKey::generate(KeyType::EcP256).unwrap());
    let certificate = authority.certificate(SERVER, remote.public_key()).await;
    let identity = Identity::new(&[certificate], Arc::new(remote));
    let server = start(Some(identity), TlsLimits::default()).await;
    call(&server.channel(ClientTls::new(server_id(), authority.roots(), None))).await.unwrap();
}

#[tokio::test]
async fn unfinished_handshakes_end_in_time_and_keep_nobody_out() {
    let authority = Authority::new().await;
    let identity = authority.identity(SERVER, KeyType::EcP256).await;
    let deadline = Duration::from_millis(1500);
    let limits =
        TlsLimits { deadline, handshakes: 64, handshakes_per_address: 8, ..TlsLimits::default() };
    let server = start(Some(identity), limits).await;
    let begun = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    // One more from this address is closed at once...
    let mut refused = TcpStream::connect(server.address).await.unwrap();
    let _ = refused.read(&mut [0; 1]).await;
    assert!(begun.elapsed() < deadline, "refused after {:?}", begun.elapsed());
    // ... until the others had their time.
    for stream in &mut silent {
        let _ = stream.read(&mut [0; 1]).await;
    }
    assert!(begun.elapsed() >= deadline);
    call(&server.channel(ClientTls::new(server_id(), authority.roots(), None))).await.unwrap();
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_no_more() {
    let authority = Authority::new().await;
    let identity = authority.identity(SERVER, KeyType::EcP256).await;
    let limits = TlsLimits { connections_per_address: 2, ..TlsLimits::default() };
    let server = start(Some(identity), limits).await;
    let channel = || server.channel(ClientTls::new(server_id(), authority.roots(), None));
    let [one, two, three] = [channel(), channel(), channel()];
    call(&one).await.unwrap();
    call(&two).await.unwrap();
    call(&three).await.unwrap_err();
    one.release().await;
    drop(one);
    // Until the server has seen that it is gone.
    let begun = Instant::now();
    while call(&three).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    call(&two).await.unwrap();
}

#[tokio::test]
async fn hostile_bytes_end_a_handshake_and_nothing_else() {
    let authority = Authority::new().await;
    let identity = authority.identity(SERVER, KeyType::EcP256).await;
    let server = start(Some(identity), TlsLimits::default()).await;
    for bytes in [
        vec![0; 1],
        vec![0xff; 100_000],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        [&[22, 3, 1, 0x3f, 0xff, 1, 0xff, 0xff, 0xff][..], &[0; 20_000]].concat(),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(5), reading).await.expect("it closes");
    }
    call(&server.channel(ClientTls::new(server_id(), authority.roots(), None))).await.unwrap();
}

#[tokio::test]
async fn nobody_listening_is_told_in_grpc_gos_words() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let tls = ClientTls::insecure(server_id(), None);
    let channel = channel::tls("127.0.0.1", address.port(), tls).unwrap();
    let status = call(&channel).await.unwrap_err();
    assert_eq!(
        status.message(),
        format!(
            "connection error: desc = \"transport: Error while dialing: dial tcp {address}: \
             connect: connection refused\""
        )
    );
    let path = std::path::Path::new("/nowhere/api.sock");
    let mut client = InitClient::new(channel::unix(path));
    let status = client.init(InitRequest::default()).await.unwrap_err();
    assert_eq!(
        status.message(),
        "connection error: desc = \"transport: Error while dialing: dial unix /nowhere/api.sock: \
         connect: no such file or directory\""
    );
}

#[test]
fn a_channel_needs_an_address() {
    let tls = || ClientTls::insecure(server_id(), None);
    assert!(channel::tls("spire server", 8081, tls()).is_err());
    assert!(channel::tls("", 8081, tls()).is_err());
    assert!(channel::tls("::1", 8081, tls()).is_ok());
}

#[test]
fn a_verdict_is_found_below_other_errors() {
    let verdict = PeerVerifyError::Svid(VerifyError::UnknownAuthority);
    let other = rustls::OtherError(Arc::new(verdict));
    let error = rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other));
    let error = std::io::Error::other(std::io::Error::other(error));
    let error: &(dyn StdError + 'static) = &error;
    assert!(find_peer_error(error).unwrap().is_unknown_authority());
    assert!(find_peer_error(&std::io::Error::other("something else")).is_none());
}

#[tokio::test]
async fn another_protocol_than_grpc_knows_both_ends_too() {
    let authority = Authority::new().await;
    let identity = authority.identity(SERVER, KeyType::EcP256).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = ServerTls::new(identity.into());
    let mut incoming = TlsIncoming::new(listener, &tls, TlsLimits::default(), Tasks::new());
    let serving = async {
        let mut stream = incoming.accept().await;
        let names = stream.connect_info().chain().unwrap()[0].uri_sans().join(" ");
        stream.write_all(names.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let web = authority.identity("spiffe://example.org/web", KeyType::EcP256).await;
    let tls = ClientTls::new(server_id(), authority.roots(), Some(web.into()));
    let calling = async {
        let mut stream = connect(address, &tls).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer, stream.negotiated())
    };
    let ((), (answer, (version, group))) = tokio::join!(serving, calling);
    assert_eq!(answer, "spiffe://example.org/web");
    assert_eq!(version, "TLSv1_3");
    assert_eq!(group, "X25519MLKEM768");
}

#[tokio::test]
async fn another_protocol_than_grpc_refuses_the_wrong_server_too() {
    let authority = Authority::new().await;
    let identity = authority.identity(SERVER, KeyType::EcP256).await;
    let server = start(Some(identity), TlsLimits::default()).await;
    let somebody = SpiffeId::parse("spiffe://example.org/somebody").unwrap();
    let tls = ClientTls::new(somebody, authority.roots(), None);
    let Err(ConnectError::Peer(error)) = connect(server.address, &tls).await else {
        panic!("the server is somebody else");
    };
    assert_eq!(error.to_string(), format!("unexpected ID {SERVER:?}"));
}

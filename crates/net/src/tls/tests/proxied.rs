//! Behind proxies, and with a policy.

use super::*;
use crate::proxy::Ranges;

const LOCALHOST: ([u8; 4], u8) = ([127, 0, 0, 1], 8);
const ELSEWHERE: ([u8; 4], u8) = ([10, 0, 0, 0], 8);
const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 443\r\n";

/// What a server that trusts `range` takes a client for whose proxy sends `header`; none if it
/// does not serve it.
async fn client_of(range: ([u8; 4], u8), header: &[u8], limits: TlsLimits) -> Option<SocketAddr> {
    let authority = Authority::new().await;
    let identity = authority.identity(SERVER, KeyType::EcP256).await;
    let tls = ServerTls::new(identity.into());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ranges = Ranges::new([(range.0.into(), range.1)]);
    let mut incoming = TlsIncoming::new(listener, &tls, limits, Tasks::new()).behind(ranges);
    let client = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // In two parts, as a network may deliver them.
        let (first, rest) = header.split_at(header.len().min(3));
        stream.write_all(first).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
        // Fails if the server has hung up already.
        let _ = stream.write_all(rest).await;
        let config = ClientTls::new(server_id(), authority.roots(), None).config();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(config).connect(name, stream).await
    };
    let serving = tokio::spawn(async move { incoming.accept().await.peer().remote_addr() });
    match client.await {
        Ok(stream) => {
            let own = stream.get_ref().0.local_addr().unwrap();
            let found = serving.await.unwrap();
            // The proxy's own connection is known by its own address.
            Some(if found == own { SocketAddr::from(([0, 0, 0, 0], 0)) } else { found })
        }
        Err(_refused) => {
            serving.abort();
            None
        }
    }
}

fn limits() -> TlsLimits {
    TlsLimits::default()
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_client_is() {
    assert_eq!(
        client_of(LOCALHOST, HEADER, limits()).await,
        Some("192.0.2.7:4711".parse().unwrap())
    );
}

#[tokio::test]
async fn a_header_of_anybody_else_ends_the_connection() {
    assert_eq!(client_of(ELSEWHERE, HEADER, limits()).await, None);
}

#[tokio::test]
async fn a_connection_without_a_header_is_served_whoever_it_is_from() {
    let own = Some(SocketAddr::from(([0, 0, 0, 0], 0)));
    assert_eq!(client_of(LOCALHOST, b"", limits()).await, own);
    assert_eq!(client_of(ELSEWHERE, b"", limits()).await, own);
    assert_eq!(client_of(LOCALHOST, b"PROXY UNKNOWN\r\n", limits()).await, own);
}

#[tokio::test]
async fn a_malformed_header_and_one_that_never_ends_are_not_served() {
    assert_eq!(client_of(LOCALHOST, b"PROXY TCP4 nonsense\r\n", limits()).await, None);
    let hasty = TlsLimits { deadline: Duration::from_millis(300), ..limits() };
    assert_eq!(client_of(LOCALHOST, b"PROXY TCP4", hasty).await, None);
}

#[tokio::test]
async fn handshakes_are_counted_by_the_client_behind_the_proxy() {
    let none = TlsLimits { handshakes_per_address: 0, ..limits() };
    assert_eq!(client_of(LOCALHOST, HEADER, none).await, None);
}

#[tokio::test]
async fn a_policy_for_post_quantum_key_exchange_leaves_no_other() {
    let authority = Authority::new().await;
    let identity = authority.identity(SERVER, KeyType::EcP256).await;
    let policy = TlsPolicy { require_pq_kem: true };
    let classic = {
        use aws_lc_rs::kx_group::{SECP256R1, X25519};
        Arc::new(CryptoProvider {
            kx_groups: vec![X25519, SECP256R1],
            ..aws_lc_rs::default_provider()
        })
    };
    let config = |provider: Arc<CryptoProvider>, version| {
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(client::insecure_verifier(server_id()))
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Arc::new(config)
    };
    let strict = start_with(ServerTls::with_policy(identity.into(), policy), limits()).await;
    let hybrid = shake_hands(&strict, config(provider(), &rustls::version::TLS13)).await.unwrap();
    let group = hybrid.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
    let no_tls12 = config(provider(), &rustls::version::TLS12);
    assert!(shake_hands(&strict, no_tls12).await.is_err());
    let no_hybrid = config(Arc::clone(&classic), &rustls::version::TLS13);
    assert!(shake_hands(&strict, no_hybrid).await.is_err());

    // The client's side: a server that has nothing hybrid.
    let key = authority.identity(SERVER, KeyType::EcP256).await;
    let mut old = rustls::ServerConfig::builder_with_provider(classic)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(CertifiedKey::clone(
            key.certified(),
        ))));
    old.alpn_protocols = vec![ALPN.to_vec()];
    let old = start_with(ServerTls::from(Arc::new(old)), limits()).await;
    let client = || ClientTls::new(server_id(), authority.roots(), None);
    call(&old.channel(client())).await.unwrap();
    assert!(call(&old.channel(client().with_policy(policy))).await.is_err());
    call(&strict.channel(client().with_policy(policy))).await.unwrap();
}

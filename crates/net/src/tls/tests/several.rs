//! Several servers, some of which are dead, deaf or somebody else.

use super::*;
use crate::channel::tls_any;

async fn real(authority: &Authority) -> Server {
    let identity = authority.identity(SERVER, KeyType::EcP256).await;
    start(Some(identity), TlsLimits::default()).await
}

fn at(address: SocketAddr) -> (String, u16) {
    (address.ip().to_string(), address.port())
}

/// Each address in turn is the first; the name that the server gives is the connection's port.
async fn reach(servers: &[(String, u16)], authority: &Authority) -> Result<Instant, Status> {
    for seed in 0..servers.len() as u64 {
        let tls = ClientTls::new(server_id(), authority.roots(), None);
        let channel = tls_any(servers, tls, seed << 33).unwrap();
        call(&channel).await?;
    }
    Ok(Instant::now())
}

#[tokio::test]
async fn a_server_that_is_dead_deaf_or_a_stranger_is_passed_over() {
    let authority = Authority::new().await;
    let good = real(&authority).await;
    // Nobody accepts: the kernel takes the connection and no handshake follows.
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stranger = real(&Authority::new().await).await;
    // Bound and not listening: refused, and nobody else can take the port.
    let dead = tokio::net::TcpSocket::new_v4().unwrap();
    dead.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let servers = [
        at(dead.local_addr().unwrap()),
        at(good.address),
        at(deaf.local_addr().unwrap()),
        at(stranger.address),
        ("no-such-host.invalid".to_owned(), 1),
    ];
    let begun = Instant::now();
    let done = reach(&servers, &authority).await.unwrap();
    assert!(
        done.duration_since(begun) < Duration::from_secs(20),
        "a deaf server costs two seconds"
    );
}

#[tokio::test]
async fn an_unknown_authority_is_the_verdict_only_if_nobody_else_might_be_known() {
    let authority = Authority::new().await;
    let (one, other) = (real(&Authority::new().await).await, real(&Authority::new().await).await);
    let dead = tokio::net::TcpSocket::new_v4().unwrap();
    dead.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let dead = at(dead.local_addr().unwrap());
    let strangers = [at(one.address), at(other.address)];
    let is_unknown = |status: &Status| matches!(connect_error(status), Some(ConnectError::Peer(_)));
    assert!(is_unknown(&reach(&strangers, &authority).await.unwrap_err()));
    for servers in [[strangers[0].clone(), dead.clone()], [dead, strangers[1].clone()]] {
        let status = reach(&servers, &authority).await.unwrap_err();
        assert!(!is_unknown(&status), "{status}");
        assert_eq!(status.code(), Code::Unavailable);
    }
}

#[tokio::test]
async fn clients_spread_over_the_servers_and_go_round() {
    let authority = Authority::new().await;
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let addresses: Vec<_> = listeners.iter().map(|it| at(it.local_addr().unwrap())).collect();
    let mut asked = Vec::new();
    for seed in 0..3 {
        let tls = ClientTls::new(server_id(), authority.roots(), None);
        let channel = tls_any(&addresses, tls, seed << 33).unwrap();
        assert!(channel.has_alternatives());
        // Whoever is asked hangs up; the rest are then asked in turn.
        let connecting = channel.connect();
        tokio::pin!(connecting);
        let mut order = Vec::new();
        while order.len() < 3 {
            let [one, two, three] = &listeners[..] else { unreachable!() };
            let number = tokio::select! {
                outcome = &mut connecting => panic!("{outcome:?} after {order:?}"),
                Ok(_) = one.accept() => 0,
                Ok(_) = two.accept() => 1,
                Ok(_) = three.accept() => 2,
            };
            order.push(number);
        }
        assert_eq!(connecting.await.unwrap_err().code(), Code::Unavailable);
        asked.push(order);
    }
    assert_eq!(asked, [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
}

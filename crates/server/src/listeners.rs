//! The two listeners of the APIs: the Unix socket and TCP with TLS.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use steeple_net::proxy::Ranges;
use steeple_net::serve::{Limits, serve};
use steeple_net::tls::{Identity, IdentitySlot, ServerTls, TlsIncoming, TlsLimits, TlsPolicy};
use steeple_net::unix::{self, UntrackedIncoming};
use steeple_runtime::{Tasks, Watcher};
use steeple_server_api::GrpcService;
use steeple_server_core::ServerSvid;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::error::ServerError;

/// Mode of the private socket, and of its directory when it is made (SC-05).
const SOCKET_MODE: u32 = 0o770;
const DIRECTORY_MODE: u32 = 0o750;

/// How long calls may go on once the process stops (SB-09).
const GRACE: Duration = Duration::from_secs(10);

/// How connections over TCP begin.
pub(crate) struct Handshake {
    /// What the server proves to be.
    pub(crate) identity: IdentitySlot,
    /// Which handshakes to take part in.
    pub(crate) policy: TlsPolicy,
    /// Proxies to believe about a client's address.
    pub(crate) proxies: Ranges,
    /// What connections, and what their handshakes, may cost.
    pub(crate) limits: (Limits, TlsLimits),
}

/// Opens the Unix socket. With `tracked` callers, their processes are held on to for the audit
/// record, and those in a process id namespace that is not ours are refused, as in SPIRE.
pub(crate) fn bind_socket(path: &Path) -> Result<unix::UnixIncoming, ServerError> {
    Ok(unix::bind(path, SOCKET_MODE, DIRECTORY_MODE)?)
}

/// Opens the TCP port.
pub(crate) async fn bind_port(host: &str, port: u16) -> Result<TcpListener, ServerError> {
    TcpListener::bind((host, port))
        .await
        .map_err(|source| ServerError::Tcp { address: format!("{host}:{port}"), source })
}

/// Serves the local APIs until drained.
pub(crate) async fn serve_socket<S: GrpcService>(
    incoming: unix::UnixIncoming,
    tracked: bool,
    service: S,
    drain: Watcher,
) {
    let address = incoming.path().display().to_string();
    let limits = Limits { drain_grace: GRACE, ..Limits::unix() };
    let watcher = drain.clone();
    let serving = async move {
        if tracked {
            serve(incoming, service, limits, drain).await;
        } else {
            serve(UntrackedIncoming::from(incoming), service, limits, drain).await;
        }
    };
    tell_of(serving, "unix", &address, watcher).await;
}

/// Serves the remote APIs until drained, with whatever SVID is the newest.
pub(crate) async fn serve_port<S: GrpcService>(
    listener: TcpListener,
    handshake: Handshake,
    service: S,
    tasks: Tasks,
    drain: Watcher,
) {
    let address = listener.local_addr().map_or_else(|_| "?".to_owned(), |it| it.to_string());
    let Handshake { identity, policy, proxies, limits: (limits, tls_limits) } = handshake;
    let tls = ServerTls::with_policy(identity, policy);
    let incoming = TlsIncoming::new(listener, &tls, tls_limits, tasks).behind(proxies);
    let limits = Limits { drain_grace: GRACE, ..limits };
    let serving = serve(incoming, service, limits, drain.clone());
    tell_of(serving, "tcp", &address, drain).await;
}

/// Puts each new SVID into the slot that handshakes take theirs from.
pub(crate) async fn follow_svid(
    mut svid: watch::Receiver<ServerSvid>,
    identity: IdentitySlot,
    mut drain: Watcher,
) {
    loop {
        tokio::select! {
            () = drain.signalled() => return,
            changed = svid.changed() => {
                if changed.is_err() {
                    return;
                }
                identity.set(identity_of(&svid.borrow_and_update()));
            }
        }
    }
}

/// The TLS identity of an SVID.
pub(crate) fn identity_of(svid: &ServerSvid) -> Identity {
    Identity::new(&svid.chain, Arc::clone(&svid.key) as Arc<dyn steeple_pki::Signer>)
}

/// Logs when serving begins and ends, in the lines that scripts wait for.
async fn tell_of(
    serving: impl Future<Output = ()>,
    network: &str,
    address: &str,
    mut drain: Watcher,
) {
    let log = |message: &str| {
        tracing::info!(subsystem_name = "endpoints", network, address, "{message}");
    };
    log("Starting Server APIs");
    tokio::pin!(serving);
    tokio::select! {
        biased;
        () = drain.signalled() => {
            log("Stopping Server APIs");
            log("Attempting graceful stop");
            let begun = Instant::now();
            // At most the grace of the limits, then what is still open is cut off.
            serving.await;
            if begun.elapsed() < GRACE {
                log("Graceful stop successful");
            }
        }
        () = &mut serving => {}
    }
    log("Server APIs have stopped");
}

//! The server's own X.509-SVID: a key in memory, renewed past half of its life.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_ca::{CaError, Credentials};
use steeple_pki::{Certificate, KeyError, KeyType, PrivateKey};
use steeple_runtime::Clock;
use steeple_runtime::Watcher;
use steeple_telemetry::call;
use tokio::sync::watch;

use crate::time::rfc3339;

/// How often the age is looked at (CR-15).
const TICK: Duration = Duration::from_secs(5);

/// An SVID of the server and its key.
#[derive(Clone)]
pub struct ServerSvid {
    /// Leaf first, then intermediates; never empty.
    pub chain: Vec<Certificate>,
    /// The key of the leaf.
    pub key: Arc<PrivateKey>,
}

/// The server SVID could not be made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum ServerSvidError {
    #[error("unable to generate a key for the server SVID: {0}")]
    Key(#[from] KeyError),
    #[error("unable to sign the server SVID: {0}")]
    Sign(#[from] CaError),
}

/// Keeps the server's SVID fresh.
pub struct ServerSvidRotator {
    credentials: Credentials,
    clock: Arc<dyn Clock>,
    key_type: KeyType,
    current: watch::Sender<ServerSvid>,
    /// Authorities that an operator tainted; what they signed is replaced (CA-17).
    tainted: watch::Receiver<Arc<[Certificate]>>,
}

impl ServerSvidRotator {
    /// Makes the first SVID.
    ///
    /// # Errors
    /// No key could be made, or the CA does not sign.
    pub async fn start(
        credentials: Credentials,
        clock: Arc<dyn Clock>,
        key_type: KeyType,
        tainted: watch::Receiver<Arc<[Certificate]>>,
    ) -> Result<Self, ServerSvidError> {
        let first = make(&credentials, key_type, clock.now()).await?;
        let (current, _) = watch::channel(first);
        Ok(Self { credentials, clock, key_type, current, tainted })
    }

    /// The SVID, and word of each new one.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<ServerSvid> {
        self.current.subscribe()
    }

    /// Renews until the drain begins. A failure is logged and tried again at the next tick.
    pub async fn run(mut self, mut drain: Watcher) {
        let mut tick = tokio::time::interval(TICK);
        let mut forced = false;
        loop {
            tokio::select! {
                () = drain.signalled() => return,
                Ok(()) = self.tainted.changed() => forced |= self.is_tainted(),
                _ = tick.tick() => {}
            }
            // A tainted SVID goes at once: the authority may be revoked a moment from now, and
            // then agents that see it take this server for a stranger, and end.
            let due = forced || is_due(&self.current.borrow().chain[0], self.clock.now());
            if due && self.rotate().await {
                forced = false;
            }
        }
    }

    /// Authorities are tainted only after another one took over, so what is signed next is good.
    fn is_tainted(&mut self) -> bool {
        let tainted = self.tainted.borrow_and_update().clone();
        let chain = &self.current.borrow().chain;
        let top = chain.last().expect("a chain has a leaf");
        let hit =
            tainted.iter().any(|authority| top.verify_signed_by(authority.public_key()).is_ok());
        if hit {
            tracing::info!(
                subsystem_name = "svid_rotator",
                "Server SVID signed using a tainted authority, forcing rotation of the Server SVID"
            );
        }
        hit
    }

    async fn rotate(&self) -> bool {
        tracing::debug!(subsystem_name = "svid_rotator", "Rotating server SVID");
        match make(&self.credentials, self.key_type, self.clock.now()).await {
            Ok(next) => {
                self.current.send_replace(next);
                true
            }
            Err(error) => {
                tracing::error!(
                    subsystem_name = "svid_rotator",
                    %error,
                    "Could not rotate server SVID"
                );
                false
            }
        }
    }
}

async fn make(
    credentials: &Credentials,
    key_type: KeyType,
    now: SystemTime,
) -> Result<ServerSvid, ServerSvidError> {
    let call = call(&["svid", "rotate"]);
    let made = make_one(credentials, key_type, now).await;
    call.outcome(&made);
    made
}

async fn make_one(
    credentials: &Credentials,
    key_type: KeyType,
    now: SystemTime,
) -> Result<ServerSvid, ServerSvidError> {
    let key = PrivateKey::generate(key_type)?;
    let chain = credentials.sign_server_x509_svid(key.public_key().clone(), now).await?;
    tracing::debug!(
        subsystem_name = "svid_rotator",
        spiffe_id = chain[0].uri_sans().first().map(String::as_str),
        expiration = %rfc3339(chain[0].not_after()),
        "Signed X509 SVID"
    );
    Ok(ServerSvid { chain, key: Arc::new(key) })
}

/// Past half of its life, or not valid yet, as after a clock was set back: nobody would accept it.
fn is_due(certificate: &Certificate, now: SystemTime) -> bool {
    let (begin, end) = (certificate.not_before(), certificate.not_after());
    let life = end.duration_since(begin).unwrap_or_default();
    now < begin || now > begin + life / 2
}

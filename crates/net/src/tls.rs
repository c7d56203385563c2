//! TLS by SPIFFE ID: 1.2 and 1.3, post-quantum key exchange first, no resumption.
//!
//! Resumption is off on both sides, so that every connection shows an identity of its own time and
//! a change of identity or roots takes effect with the next connection.

mod client;
mod connect;
mod incoming;
mod local;
mod mutual;
mod server;
mod signing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use steeple_pki::{Certificate, Signer};

pub use client::{ClientTls, PeerVerifyError, find_peer_error};
pub use connect::{ClientStream, connect};
pub use incoming::{TlsIncoming, TlsLimits, TlsPeer, TlsStream};
pub use local::{LocalTlsIncoming, LocalTlsPeer, LocalTlsStream};
pub use mutual::{ClientCheck, ClientRefused};
pub use server::ServerTls;

/// The protocols that gRPC needs: HTTP/2 and nothing else.
const ALPN: &[u8] = b"h2";

/// What one side of a TLS connection proves to be: an X.509-SVID and its key.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
}

impl Identity {
    /// An identity from a chain, leaf first, and the key of the leaf, wherever that is kept.
    ///
    /// A key outside of this process (a plugin's) is asked on the runtime that does the handshake,
    /// which must be a multi-threaded one.
    pub fn new(chain: &[Certificate], key: Arc<dyn Signer>) -> Self {
        let chain = chain.iter().map(|it| CertificateDer::from(it.der().to_vec())).collect();
        Self { certified: Arc::new(CertifiedKey::new(chain, signing::signing_key(key))) }
    }

    /// As rustls wants it.
    pub fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// A value that changes under whoever holds a clone, with a count of the changes.
#[derive(Debug)]
struct Shared<T> {
    value: ArcSwap<T>,
    version: AtomicU64,
}

impl<T> Shared<T> {
    fn new(value: T) -> Arc<Self> {
        Arc::new(Self { value: ArcSwap::from_pointee(value), version: AtomicU64::new(0) })
    }

    fn set(&self, value: T) {
        self.value.store(Arc::new(value));
        self.version.fetch_add(1, Ordering::Release);
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
}

/// The identity that handshakes use at the moment, or none yet. Clones share it.
#[derive(Clone, Debug)]
pub struct IdentitySlot(Arc<Shared<Option<Identity>>>);

impl IdentitySlot {
    /// A slot without an identity: a server refuses handshakes, a client stays anonymous.
    pub fn new() -> Self {
        Self(Shared::new(None))
    }

    /// Uses `identity` from the next handshake on.
    pub fn set(&self, identity: Identity) {
        self.0.set(Some(identity));
    }

    /// What handshakes use now, as rustls wants it.
    pub fn current(&self) -> Option<Arc<CertifiedKey>> {
        (**self.0.value.load()).as_ref().map(|identity| Arc::clone(&identity.certified))
    }

    fn version(&self) -> u64 {
        self.0.version()
    }
}

impl Default for IdentitySlot {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Identity> for IdentitySlot {
    fn from(identity: Identity) -> Self {
        Self(Shared::new(Some(identity)))
    }
}

/// The X.509 authorities of a trust domain, as handshakes use them at the moment. Clones share
/// them.
#[derive(Clone, Debug)]
pub struct Roots(Arc<Shared<Vec<Certificate>>>);

impl Roots {
    /// Roots that begin as `authorities`.
    pub fn new(authorities: Vec<Certificate>) -> Self {
        Self(Shared::new(authorities))
    }

    /// Uses `authorities` from the next handshake on.
    pub fn set(&self, authorities: Vec<Certificate>) {
        self.0.set(authorities);
    }

    fn version(&self) -> u64 {
        self.0.version()
    }
}

/// Which handshakes to take part in, beside what always holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsPolicy {
    /// Only such whose key exchange withstands quantum computers, which takes TLS 1.3.
    pub require_pq_kem: bool,
}

impl TlsPolicy {
    /// The cryptography that the policy leaves.
    pub fn provider(self) -> Arc<CryptoProvider> {
        use aws_lc_rs::kx_group::{SECP256R1MLKEM768, X25519MLKEM768};
        let base = provider();
        if !self.require_pq_kem {
            return base;
        }
        let kx_groups = vec![X25519MLKEM768, SECP256R1MLKEM768];
        Arc::new(CryptoProvider { kx_groups, ..CryptoProvider::clone(&base) })
    }

    /// The versions that the policy leaves.
    pub fn versions(self) -> &'static [&'static rustls::SupportedProtocolVersion] {
        static BOTH: &[&rustls::SupportedProtocolVersion] =
            &[&rustls::version::TLS13, &rustls::version::TLS12];
        if self.require_pq_kem { &BOTH[..1] } else { BOTH }
    }
}

/// aws-lc, with hybrid key exchange offered before the classic groups.
pub fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::kx_group::{SECP256R1, SECP256R1MLKEM768, SECP384R1, X25519, X25519MLKEM768};
    let kx_groups = vec![X25519MLKEM768, SECP256R1MLKEM768, X25519, SECP256R1, SECP384R1];
    Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() })
}

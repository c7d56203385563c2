//! Keys, X.509 certificates and requests, JWT-SVIDs and SPIFFE bundles.
//!
//! Not here: TLS (`steeple-net`), when to issue what and for how long (`steeple-ca`), and where
//! keys are kept (plugins). No other crate but `net` names a crypto library.
//!
//! Invariant: parsed values were checked when they were made. A [`csr::Csr`] proved possession of
//! its key, a [`PublicKey`] is of a supported kind and size, and nothing here reads a clock.
//!
//! Start at [`x509::issue`] for issuing and [`verify::x509_svid`] for checking.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bundle;
pub mod cms;
pub mod csr;
mod der;
pub mod digest;
pub mod envelope;
pub mod external;
mod json;
pub mod jws;
pub mod jwt;
mod keys;
mod oid;
pub mod pem;
pub mod seal;
pub mod ssh;
pub mod verify;
pub mod x509;

pub use bundle::{Bundle, JwtAuthority, X509Authority};
pub use der::DerError;
pub use keys::{
    BadSignature, Effort, KeyError, KeyKind, KeyType, MAX_SPKI_LEN, PrivateKey, PublicKey,
    RsaNumbers, SignError, SignatureAlgorithm, Signer, UnknownKeyType,
};
pub use x509::Certificate;

//! Identifiers of SPIFFE: trust domains, SPIFFE IDs and the selectors that earn them.
//!
//! Not here: keys, certificates, tokens and bundles (`steeple-pki`).
//!
//! Invariant: a value of these types is well-formed by the letter of the SPIFFE ID standard,
//! because text is accepted exactly as it stands or refused; nothing is cleaned up on the way in,
//! so two equal identities are always equal bytes.
//!
//! Start at [`SpiffeId::parse`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
mod id;
mod selector;
mod syntax;
mod trust_domain;

pub use error::IdError;
pub use id::{MAX_ID_LEN, SpiffeId, SpiffeIdRef};
pub use selector::{Selector, SelectorError};
pub use syntax::validate_path;
pub use trust_domain::{MAX_TRUST_DOMAIN_LEN, TrustDomain};

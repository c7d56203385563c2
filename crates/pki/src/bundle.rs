//! Trust bundles: what a trust domain is known by.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use steeple_spiffe::TrustDomain;
use thiserror::Error;

use crate::jwt::{JwtError, JwtKeySource};
use crate::keys::PublicKey;
use crate::verify::X509BundleSource;
use crate::x509::{Certificate, CertificateError};

mod jwk;
mod parse;
mod print;

pub(crate) use jwk::Jwk;
pub use jwk::{private_jwk, public_jwk};
pub use parse::{from_pem, parse};
pub use print::{Indent, jwks, jwt_svid_jwks, pem, spiffe, wit_svid_jwks};

/// The largest bundle document that is looked at, in bytes.
pub const MAX_DOCUMENT_LEN: usize = 4 * 1024 * 1024;
/// More keys than any real bundle has.
pub const MAX_KEYS: usize = 4096;

/// Why a document is not a bundle. The texts are SPIRE's where it has one.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Larger than [`MAX_DOCUMENT_LEN`].
    #[error("bundle is too large: {0} bytes")]
    TooLarge(usize),
    /// More than [`MAX_KEYS`] keys.
    #[error("bundle has too many keys: {0}")]
    TooManyKeys(usize),
    /// Not the JSON that it should be; holds the reason.
    #[error("{0}")]
    Json(String),
    /// A key has no use.
    #[error("missing use for key entry {0}")]
    MissingUse(usize),
    /// A key has a use that SPIFFE does not know.
    #[error("unrecognized use {0:?} for key entry {1}")]
    UnknownUse(String, usize),
    /// An X.509 authority is not exactly one certificate.
    #[error("expected a single certificate in x509-svid entry {entry}; got {count}")]
    CertificateCount {
        /// The entry, from 0.
        entry: usize,
        /// How many it has.
        count: usize,
    },
    /// A JWT or WIT authority has no key id; holds its use and the entry, from 0.
    #[error("missing key ID in {0} entry {1}")]
    MissingKeyId(&'static str, usize),
    /// A key is broken or not supported; holds the entry, from 0, and the reason.
    #[error("invalid key entry {0}: {1}")]
    Key(usize, String),
    /// A certificate in a PEM bundle is malformed.
    #[error("{0}")]
    Certificate(#[from] CertificateError),
}

/// An authority for X509-SVIDs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct X509Authority {
    /// Its certificate.
    pub certificate: Certificate,
    /// It is no longer to be relied on, and about to be revoked.
    pub tainted: bool,
}

impl X509Authority {
    /// An authority that is not tainted.
    #[must_use]
    pub fn new(certificate: Certificate) -> Self {
        Self { certificate, tainted: false }
    }
}

/// An authority for JWT-SVIDs (or WIT-SVIDs).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JwtAuthority {
    /// The `kid` of its tokens.
    pub key_id: String,
    /// Its key.
    pub public_key: PublicKey,
    /// When it ends; unknown for keys of other trust domains.
    pub expires_at: Option<SystemTime>,
    /// It is no longer to be relied on, and about to be revoked.
    pub tainted: bool,
}

/// What a trust domain is known by (SPIFFE Trust Domain and Bundle §4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bundle {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Authorities for X509-SVIDs, without duplicates.
    pub x509_authorities: Vec<X509Authority>,
    /// Authorities for JWT-SVIDs; key ids are unique.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// Authorities for WIT-SVIDs; key ids are unique.
    pub wit_authorities: Vec<JwtAuthority>,
    /// How often to look for changes, in whole seconds; zero for no hint.
    pub refresh_hint: Duration,
    /// Counts the changes; zero when unknown.
    pub sequence_number: u64,
}

impl Bundle {
    /// A bundle without authorities.
    #[must_use]
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            wit_authorities: Vec::new(),
            refresh_hint: Duration::ZERO,
            sequence_number: 0,
        }
    }

    /// A bundle of X.509 authorities.
    #[must_use]
    pub fn from_certificates(trust_domain: TrustDomain, certificates: Vec<Certificate>) -> Self {
        let mut bundle = Self::new(trust_domain);
        for certificate in certificates {
            bundle.add_x509_authority(X509Authority::new(certificate));
        }
        bundle
    }

    /// Adds an X.509 authority unless its certificate is there already. Says whether it did.
    pub fn add_x509_authority(&mut self, authority: X509Authority) -> bool {
        let new = !self.has_x509_authority(&authority.certificate);
        if new {
            self.x509_authorities.push(authority);
        }
        new
    }

    /// Adds a JWT authority, in the place of one with the same key id. Says whether it was new.
    pub fn set_jwt_authority(&mut self, authority: JwtAuthority) -> bool {
        set_by_key_id(&mut self.jwt_authorities, authority)
    }

    /// Adds a WIT authority, in the place of one with the same key id. Says whether it was new.
    pub fn set_wit_authority(&mut self, authority: JwtAuthority) -> bool {
        set_by_key_id(&mut self.wit_authorities, authority)
    }

    /// Whether `certificate` is among the X.509 authorities.
    #[must_use]
    pub fn has_x509_authority(&self, certificate: &Certificate) -> bool {
        self.x509_authorities.iter().any(|it| it.certificate == *certificate)
    }

    /// The JWT authority `key_id`.
    #[must_use]
    pub fn find_jwt_authority(&self, key_id: &str) -> Option<&JwtAuthority> {
        self.jwt_authorities.iter().find(|it| it.key_id == key_id)
    }

    /// The certificates of the X.509 authorities.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.x509_authorities.iter().map(|it| &it.certificate)
    }

    /// The DER certificates of the X.509 authorities, one after the other, as the Workload API
    /// carries them.
    #[must_use]
    pub fn x509_ders(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.certificates().map(|it| it.der().len()).sum());
        self.certificates().for_each(|it| out.extend_from_slice(it.der()));
        out.into()
    }

    /// The X.509 authorities that `newer` has and this one has not.
    pub fn x509_added<'a>(&'a self, newer: &'a Self) -> impl Iterator<Item = &'a X509Authority> {
        newer.x509_authorities.iter().filter(|it| !self.has_x509_authority(&it.certificate))
    }

    /// The X.509 authorities that `newer` marks as tainted and this one does not.
    pub fn x509_newly_tainted<'a>(
        &'a self,
        newer: &'a Self,
    ) -> impl Iterator<Item = &'a X509Authority> {
        newer.x509_authorities.iter().filter(|new| {
            new.tainted
                && !self
                    .x509_authorities
                    .iter()
                    .any(|old| old.tainted && old.certificate == new.certificate)
        })
    }
}

fn set_by_key_id(list: &mut Vec<JwtAuthority>, authority: JwtAuthority) -> bool {
    match list.iter_mut().find(|it| it.key_id == authority.key_id) {
        Some(old) => {
            *old = authority;
            false
        }
        None => {
            list.push(authority);
            true
        }
    }
}

impl X509BundleSource for Bundle {
    fn x509_authorities(&self, trust_domain: &TrustDomain) -> Option<Vec<Certificate>> {
        (self.trust_domain == *trust_domain).then(|| self.certificates().cloned().collect())
    }
}

impl JwtKeySource for Bundle {
    fn jwt_key(&self, trust_domain: &TrustDomain, key_id: &str) -> Result<PublicKey, JwtError> {
        find_key(Some(self).filter(|it| it.trust_domain == *trust_domain), trust_domain, key_id)
    }
}

impl<S: BuildHasher> X509BundleSource for HashMap<TrustDomain, Arc<Bundle>, S> {
    fn x509_authorities(&self, trust_domain: &TrustDomain) -> Option<Vec<Certificate>> {
        self.get(trust_domain)?.x509_authorities(trust_domain)
    }
}

impl<S: BuildHasher> JwtKeySource for HashMap<TrustDomain, Arc<Bundle>, S> {
    fn jwt_key(&self, trust_domain: &TrustDomain, key_id: &str) -> Result<PublicKey, JwtError> {
        find_key(self.get(trust_domain).map(AsRef::as_ref), trust_domain, key_id)
    }
}

impl X509BundleSource for BTreeMap<TrustDomain, Arc<Bundle>> {
    fn x509_authorities(&self, trust_domain: &TrustDomain) -> Option<Vec<Certificate>> {
        self.get(trust_domain)?.x509_authorities(trust_domain)
    }
}

impl JwtKeySource for BTreeMap<TrustDomain, Arc<Bundle>> {
    fn jwt_key(&self, trust_domain: &TrustDomain, key_id: &str) -> Result<PublicKey, JwtError> {
        find_key(self.get(trust_domain).map(AsRef::as_ref), trust_domain, key_id)
    }
}

fn find_key(
    bundle: Option<&Bundle>,
    trust_domain: &TrustDomain,
    key_id: &str,
) -> Result<PublicKey, JwtError> {
    let bundle = bundle.ok_or_else(|| JwtError::UnknownTrustDomain(trust_domain.clone()))?;
    let authority = bundle.find_jwt_authority(key_id).ok_or_else(|| JwtError::UnknownKey {
        key_id: key_id.chars().take(64).collect(),
        trust_domain: trust_domain.clone(),
    })?;
    Ok(authority.public_key.clone())
}

#[cfg(test)]
mod tests;

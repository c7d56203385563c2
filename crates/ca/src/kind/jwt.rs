//! JWT signing keys.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use steeple_pki::{Bundle, JwtAuthority, KeyType, PublicKey, Signer};
use steeple_proto::journal::{Entries, JwtKeyEntry, Status};

use super::{Issuing, Kind, bytes_of, from_unix, unix};
use crate::config::CaConfig;
use crate::credentials::Credentials;
use crate::error::RotationError;
use crate::rotation::{Authority, SlotId};

/// A JWT signing key under its key id.
#[derive(Clone)]
pub struct JwtKey {
    kid: String,
    issued_at: SystemTime,
    not_after: SystemTime,
    signer: Arc<dyn Signer>,
}

impl JwtKey {
    /// A signing key under the key id `kid`.
    #[must_use]
    pub fn new(
        kid: String,
        signer: Arc<dyn Signer>,
        issued_at: SystemTime,
        not_after: SystemTime,
    ) -> Self {
        Self { kid, issued_at, not_after, signer }
    }

    /// A new one of this key, under a random key id.
    pub(super) fn fresh(config: &CaConfig, signer: Arc<dyn Signer>, issued_at: SystemTime) -> Self {
        // Whole seconds, as bundle and journal have them: the same before and after a restart.
        let not_after = from_unix(unix(issued_at + config.ca_ttl));
        Self::new(random_kid(), signer, issued_at, not_after)
    }

    /// One that the journal knows. `None`: the key is another.
    pub(super) fn restored(
        kid: &str,
        public_key: &[u8],
        issued_at: i64,
        not_after: i64,
        signer: &Arc<dyn Signer>,
    ) -> Result<Option<Self>, RotationError> {
        let public_key = PublicKey::from_spki_der(public_key).map_err(|error| {
            RotationError::Entry { what: "public key", reason: error.to_string() }
        })?;
        if public_key != *signer.public_key() {
            return Ok(None);
        }
        let (issued_at, not_after) = (from_unix(issued_at), from_unix(not_after));
        Ok(Some(Self::new(kid.to_owned(), signer.clone(), issued_at, not_after)))
    }

    /// As bundles have it.
    pub(super) fn published(&self) -> JwtAuthority {
        JwtAuthority {
            key_id: self.kid.clone(),
            public_key: self.signer.public_key().clone(),
            expires_at: Some(self.not_after),
            tainted: false,
        }
    }

    /// It is among these, with its key.
    pub(super) fn is_among(&self, keys: &[JwtAuthority]) -> bool {
        let key = keys.iter().find(|key| key.key_id == self.kid);
        key.is_some_and(|key| key.public_key == *self.signer.public_key())
    }

    /// Signs with this key.
    #[must_use]
    pub fn signer(&self) -> &Arc<dyn Signer> {
        &self.signer
    }
}

impl Authority for JwtKey {
    fn id(&self) -> &str {
        &self.kid
    }

    fn issued_at(&self) -> SystemTime {
        self.issued_at
    }

    fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// A WIT signing key under its key id: in nothing but its use another than a JWT key.
pub type WitKey = JwtKey;

/// The kind of [`JwtKey`].
pub(crate) enum Jwt {}

#[async_trait]
impl Kind for Jwt {
    type Authority = JwtKey;
    type Row = JwtKeyEntry;

    const NAME: &'static str = "JWT key";
    const SLOT_NAME: &'static str = "JWT key slot";
    const API_NAME: &'static str = "JWT";
    const KEY_PREFIX: &'static str = "JWT-Signer-";
    const PREPARE: &'static [&'static str] = &["ca", "manager", "jwt_key", "prepare"];
    const ACTIVATED: &'static [&'static str] = &["manager", "jwt_key", "activate"];

    fn key_type(config: &CaConfig) -> KeyType {
        config.jwt_key_type
    }

    async fn issue(
        issuing: Issuing<'_>,
        signer: Arc<dyn Signer>,
        issued_at: SystemTime,
    ) -> Result<JwtKey, RotationError> {
        Ok(JwtKey::fresh(issuing.config, signer, issued_at))
    }

    fn add_to_bundle(bundle: &mut Bundle, authority: &JwtKey) {
        bundle.jwt_authorities.push(authority.published());
    }

    async fn publish(issuing: Issuing<'_>, authority: &JwtKey) -> Result<Bundle, RotationError> {
        if let Some(upstream) = issuing.upstream {
            return upstream.publish_jwt_key(&authority.published()).await;
        }
        let mut addition = Bundle::new(issuing.config.trust_domain.clone());
        Self::add_to_bundle(&mut addition, authority);
        Ok(issuing.store.append_bundle(addition).await?)
    }

    fn is_published(bundle: &Bundle, authority: &JwtKey, _: bool, _: SystemTime) -> bool {
        authority.is_among(&bundle.jwt_authorities)
    }

    fn rows(entries: &Entries) -> &Vec<JwtKeyEntry> {
        &entries.jwt_keys
    }

    fn rows_mut(entries: &mut Entries) -> &mut Vec<JwtKeyEntry> {
        &mut entries.jwt_keys
    }

    fn to_row(slot: SlotId, authority: &JwtKey) -> JwtKeyEntry {
        JwtKeyEntry {
            slot_id: slot.to_string(),
            issued_at: unix(authority.issued_at),
            not_after: unix(authority.not_after),
            kid: authority.kid.clone(),
            public_key: bytes_of(authority.signer.public_key().spki_der()),
            status: Status::Prepared.into(),
            authority_id: authority.kid.clone(),
        }
    }

    fn from_row(
        row: &JwtKeyEntry,
        signer: &Arc<dyn Signer>,
    ) -> Result<Option<JwtKey>, RotationError> {
        JwtKey::restored(&row.kid, &row.public_key, row.issued_at, row.not_after, signer)
    }

    fn install(credentials: &Credentials, authority: &JwtKey) {
        credentials.set_jwt_key(authority);
    }
}

row!(JwtKeyEntry);

/// 32 random letters and digits (CR-23), without a bias: bytes that would cause one are thrown
/// away. The randomness is that of version 4 UUIDs, whose fixed bits are left out.
fn random_kid() -> String {
    let mut kid = String::with_capacity(KID_LEN);
    while kid.len() < KID_LEN {
        for (at, byte) in uuid::Uuid::new_v4().into_bytes().into_iter().enumerate() {
            let fits = usize::from(byte) < 256 / ALPHABET.len() * ALPHABET.len();
            if at != 6 && at != 8 && fits && kid.len() < KID_LEN {
                kid.push(char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
            }
        }
    }
    kid
}

const KID_LEN: usize = 32;
const ALPHABET: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kid_is_32_letters_and_digits_and_never_the_same() {
        let (one, other) = (random_kid(), random_kid());
        assert_eq!(one.len(), 32);
        assert!(one.bytes().all(|byte| ALPHABET.contains(&byte)));
        assert_ne!(one, other);
    }
}

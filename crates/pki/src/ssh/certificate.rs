use std::time::{Duration, SystemTime};

use thiserror::Error;

use super::key::Kind;
use super::signature::Over;
use super::wire::Reader;
use super::{PublicKey, Signature, SshError};

/// The type of a certificate for a host.
pub const HOST: u32 = 2;

/// More names or options than any real certificate has.
const MAX_LIST: usize = 1024;
/// An option that binds users, which servers of SSH enforce; for hosts it says nothing.
const SOURCE_ADDRESS: &str = "source-address";

/// A certificate: its encoding, and what was read from that once.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub(super) blob: Box<[u8]>,
    /// How much of the encoding is signed.
    pub(super) signed: usize,
    key: PublicKey,
    serial: u64,
    kind: u32,
    key_id: String,
    principals: Vec<String>,
    valid_after: u64,
    valid_before: u64,
    critical_options: Vec<(String, Vec<u8>)>,
    extensions: Vec<(String, Vec<u8>)>,
    authority: PublicKey,
    signature: Signature,
}

/// The end of validity that never comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Infinity;

/// Why a certificate is not that of a host.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It is a user's.
    #[error("ssh: certificate presented as a host key has type {0}")]
    Type(u32),
    /// Its authority is not known; holds the host and port that were meant.
    #[error("ssh: no authorities for hostname: {0}")]
    Authority(String),
    /// A critical option that nobody here knows.
    #[error("ssh: unsupported critical option {0:?} in certificate")]
    Option(String),
    /// Its time has not come.
    #[error("ssh: cert is not yet valid")]
    Early,
    /// Its time is over.
    #[error("ssh: cert has expired")]
    Expired,
    /// The authority did not sign it.
    #[error("ssh: certificate signature does not verify")]
    Signature,
}

impl Certificate {
    /// Reads what follows the name of the certificate's kind.
    pub(super) fn read(blob: &[u8], kind: Kind, mut fields: Reader<'_>) -> Result<Self, SshError> {
        let _nonce = fields.string()?;
        let key = PublicKey::read(kind, &mut fields)?;
        let serial = fields.u64()?;
        let certificate_kind = fields.u32()?;
        let key_id = text(fields.string()?);
        let mut names = Reader::new(fields.string()?);
        let mut principals = Vec::new();
        while !names.is_empty() {
            if principals.len() == MAX_LIST {
                return Err(SshError::TooLarge);
            }
            principals.push(text(names.string()?));
        }
        let (valid_after, valid_before) = (fields.u64()?, fields.u64()?);
        let critical_options = options(fields.string()?)?;
        let extensions = options(fields.string()?)?;
        let _reserved = fields.string()?;
        let authority = fields.string()?;
        let name = Reader::new(authority).string()?;
        // Before it is read: certificates in certificates would be a way down without an end.
        if Kind::of_certificate(name).is_some() {
            return Err(SshError::Nested(super::shown(name)));
        }
        let authority = PublicKey::parse(authority)?;
        let signed = blob.len() - fields.rest().len();
        let signature = Signature::parse(fields.string()?)?;
        if !fields.is_empty() {
            return Err(SshError::Form);
        }
        Ok(Self {
            blob: blob.into(),
            signed,
            key,
            serial,
            kind: certificate_kind,
            key_id,
            principals,
            valid_after,
            valid_before,
            critical_options,
            extensions,
            authority,
            signature,
        })
    }

    /// Checks that this is a host's certificate of an authority that `is_authority` knows, valid
    /// at `now`, for `host`, which errors name. The signature comes last, so that nobody's key is
    /// used but that of a known authority.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check_host(
        &self,
        host: &str,
        is_authority: impl FnOnce(&PublicKey) -> bool,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        if self.kind != HOST {
            return Err(Refusal::Type(self.kind));
        }
        if !is_authority(&self.authority) {
            let host: String = host.chars().take(255).collect();
            return Err(Refusal::Authority(format!("{host}:22")));
        }
        let unknown = |(name, _): &&(String, Vec<u8>)| name != SOURCE_ADDRESS;
        if let Some((name, _)) = self.critical_options.iter().find(unknown) {
            return Err(Refusal::Option(name.chars().take(64).collect()));
        }
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        // Times that do not fit into 63 bits are none, but for the one that means forever.
        if i64::try_from(self.valid_after).is_err() || now < self.valid_after {
            return Err(Refusal::Early);
        }
        let forever = self.valid_before == u64::MAX;
        if !forever && (now >= self.valid_before || i64::try_from(self.valid_before).is_err()) {
            return Err(Refusal::Expired);
        }
        self.authority
            .verify(Over::Certificate, &self.blob[..self.signed], &self.signature)
            .map_err(|_| Refusal::Signature)
    }

    /// The encoding of the same certificate with the other signature that everyone can make of an
    /// ECDSA signature: whoever knows certificates by their encodings must know both. None where
    /// there is no other.
    #[must_use]
    pub fn blob_in_other_form(&self) -> Option<Vec<u8>> {
        let signature = self.authority.in_other_form(&self.signature)?;
        let mut out = self.blob[..self.signed].to_vec();
        super::wire::put_string(&mut out, &signature);
        Some(out)
    }

    /// The encoding.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The certified key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The number that the authority gave.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// [`HOST`], or 1 for a user.
    #[must_use]
    pub fn kind(&self) -> u32 {
        self.kind
    }

    /// What the authority called it.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The names that it is valid for.
    #[must_use]
    pub fn principals(&self) -> &[String] {
        &self.principals
    }

    /// The first moment of validity, in seconds since 1970.
    #[must_use]
    pub fn valid_after(&self) -> u64 {
        self.valid_after
    }

    /// The first moment after validity, in seconds since 1970.
    ///
    /// # Errors
    /// [`Infinity`] when there is none.
    pub fn valid_before(&self) -> Result<u64, Infinity> {
        if self.valid_before == u64::MAX { Err(Infinity) } else { Ok(self.valid_before) }
    }

    /// The critical options, sorted by name.
    #[must_use]
    pub fn critical_options(&self) -> &[(String, Vec<u8>)] {
        &self.critical_options
    }

    /// The extensions, sorted by name.
    #[must_use]
    pub fn extensions(&self) -> &[(String, Vec<u8>)] {
        &self.extensions
    }

    /// The authority that is said to have signed.
    #[must_use]
    pub fn authority(&self) -> &PublicKey {
        &self.authority
    }
}

/// Names and values; a value that is not empty is a string in a string.
fn options(list: &[u8]) -> Result<Vec<(String, Vec<u8>)>, SshError> {
    let mut list = Reader::new(list);
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    while !list.is_empty() {
        let name = text(list.string()?);
        let value = list.string()?;
        let value = if value.is_empty() {
            Vec::new()
        } else {
            let mut inner = Reader::new(value);
            let value = inner.string()?.to_vec();
            if !inner.is_empty() {
                return Err(SshError::Trailing);
            }
            value
        };
        if found.last().is_some_and(|(last, _)| *last >= name) {
            return Err(SshError::Options);
        }
        if found.len() == MAX_LIST {
            return Err(SshError::TooLarge);
        }
        found.push((name, value));
    }
    Ok(found)
}

/// Names are text; what is none becomes a name that nobody has.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

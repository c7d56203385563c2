use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::syntax::{SCHEME_PREFIX, is_trust_domain_char};
use crate::{IdError, SpiffeId};

/// The longest trust domain name, in bytes (SPIFFE-ID §2.1).
pub const MAX_TRUST_DOMAIN_LEN: usize = 255;

/// The name of a trust domain, such as `example.org`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a bare trust domain name.
    ///
    /// # Errors
    /// When the name is empty, longer than 255 bytes, or has a character outside `[a-z0-9._-]`.
    pub fn parse(name: &str) -> Result<Self, IdError> {
        if name.is_empty() {
            return Err(IdError::MissingTrustDomain);
        }
        if !name.bytes().all(is_trust_domain_char) {
            return Err(IdError::BadTrustDomainChar);
        }
        if name.len() > MAX_TRUST_DOMAIN_LEN {
            return Err(IdError::TrustDomainTooLong);
        }
        Ok(Self(name.into()))
    }

    /// Parses what configuration and API requests may hold: a trust domain name, or a SPIFFE ID
    /// whose trust domain is meant (its path is checked and dropped).
    ///
    /// # Errors
    /// As [`TrustDomain::parse`], or as [`SpiffeId::parse`] when the text has `:/` in it.
    pub fn from_name_or_id(text: &str) -> Result<Self, IdError> {
        // `:/` instead of `://`, so that `spiffe:/td` is told that its scheme is wrong.
        if text.contains(":/") {
            Ok(SpiffeId::parse(text)?.trust_domain())
        } else {
            Self::parse(text)
        }
    }

    /// Wraps a name that is known to be valid, being part of a parsed ID.
    pub(crate) fn from_valid(name: &str) -> Self {
        Self(name.into())
    }

    /// The name, such as `example.org`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain itself, such as `spiffe://example.org`.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        SpiffeId::of_trust_domain(self)
    }

    /// [`TrustDomain::id`] as text.
    #[must_use]
    pub fn id_string(&self) -> String {
        format!("{SCHEME_PREFIX}{}", self.0)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = IdError;

    fn from_str(name: &str) -> Result<Self, IdError> {
        Self::parse(name)
    }
}

impl AsRef<str> for TrustDomain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use crate::syntax::{SCHEME_PREFIX, is_trust_domain_char, validate_path, validate_segment};
use crate::trust_domain::MAX_TRUST_DOMAIN_LEN;
use crate::{IdError, TrustDomain};

/// The longest SPIFFE ID, in bytes, scheme included (SPIFFE-ID §2.3).
pub const MAX_ID_LEN: usize = 2048;

const SERVER_PATH: &str = "/spire/server";
const AGENT_PREFIX: &str = "/spire/agent/";
const RESERVED_PATH: &str = "/spire";

/// A SPIFFE ID, such as `spiffe://example.org/web`. Cheap to clone.
#[derive(Clone)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path starts in `text`, which is where the trust domain name ends.
    path_start: u16,
}

impl SpiffeId {
    /// Parses a SPIFFE ID (SPIFFE-ID §2).
    ///
    /// # Errors
    /// The first rule that the text breaks, reading from the left; the length rules come last.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        SpiffeIdRef::parse(text).map(SpiffeIdRef::to_owned)
    }

    /// Builds the ID of `path` in `trust_domain`; the path is empty or starts with `/`.
    ///
    /// # Errors
    /// When the path is not valid or the ID gets longer than 2048 bytes.
    pub fn from_path(trust_domain: &TrustDomain, path: &str) -> Result<Self, IdError> {
        if path.len() > 2 * MAX_ID_LEN {
            return Err(IdError::TooLong);
        }
        validate_path(path)?;
        let name = trust_domain.as_str();
        Self::assemble(format!("{SCHEME_PREFIX}{name}{path}").into(), name.len())
    }

    /// Builds the ID whose path consists of `segments`, each given without slashes.
    ///
    /// # Errors
    /// When a segment is not valid or the ID gets longer than 2048 bytes.
    pub fn from_segments(trust_domain: &TrustDomain, segments: &[&str]) -> Result<Self, IdError> {
        let name = trust_domain.as_str();
        let mut text = format!("{SCHEME_PREFIX}{name}");
        for segment in segments {
            validate_segment(segment)?;
            text.push('/');
            text.push_str(segment);
            if text.len() > MAX_ID_LEN {
                return Err(IdError::TooLong);
            }
        }
        Self::assemble(text.into(), name.len())
    }

    /// The SPIFFE ID of a SPIRE server: `spiffe://<trust domain>/spire/server`.
    #[must_use]
    pub fn server(trust_domain: &TrustDomain) -> Self {
        Self::from_path(trust_domain, SERVER_PATH).expect("a fixed short path is valid")
    }

    pub(crate) fn of_trust_domain(trust_domain: &TrustDomain) -> Self {
        Self::from_path(trust_domain, "").expect("the empty path is valid")
    }

    fn assemble(text: Arc<str>, name_len: usize) -> Result<Self, IdError> {
        let path_start = path_start(&text, name_len)?;
        Ok(Self { text, path_start })
    }

    /// The trust domain that the ID belongs to.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain::from_valid(self.trust_domain_name())
    }

    /// The name of the trust domain, without allocation.
    #[must_use]
    pub fn trust_domain_name(&self) -> &str {
        &self.text[SCHEME_PREFIX.len()..usize::from(self.path_start)]
    }

    /// The path: empty, or `/` and the segments.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[usize::from(self.path_start)..]
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the ID belongs to `trust_domain`.
    #[must_use]
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain_name() == trust_domain.as_str()
    }

    /// Whether this is the SPIRE server's own ID.
    #[must_use]
    pub fn is_server(&self) -> bool {
        self.path() == SERVER_PATH
    }

    /// Whether the path lies under `/spire/agent/`, where the IDs of agents live.
    #[must_use]
    pub fn is_agent(&self) -> bool {
        self.path().starts_with(AGENT_PREFIX)
    }

    /// Whether the path is `/spire` or under it: reserved for the system's own identities.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.path()
            .strip_prefix(RESERVED_PATH)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// A SPIFFE ID in a text of somebody else's: as good as [`SpiffeId`], and costs no allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpiffeIdRef<'a> {
    text: &'a str,
    /// Where the path starts in `text`.
    path_start: u16,
}

impl<'a> SpiffeIdRef<'a> {
    /// As [`SpiffeId::parse`].
    ///
    /// # Errors
    /// The first rule that the text breaks, reading from the left; the length rules come last.
    pub fn parse(text: &'a str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        let Some(rest) = text.strip_prefix(SCHEME_PREFIX) else {
            return Err(IdError::WrongScheme);
        };
        // Much longer than the limit: no need to look at every byte of it.
        if text.len() > 2 * MAX_ID_LEN {
            return Err(IdError::TooLong);
        }
        let name_len = rest.find('/').unwrap_or(rest.len());
        let (name, path) = rest.split_at(name_len);
        if !name.bytes().all(is_trust_domain_char) {
            return Err(IdError::BadTrustDomainChar);
        }
        if name.is_empty() {
            return Err(IdError::MissingTrustDomain);
        }
        validate_path(path)?;
        if name_len > MAX_TRUST_DOMAIN_LEN {
            return Err(IdError::TrustDomainTooLong);
        }
        Ok(Self { text, path_start: path_start(text, name_len)? })
    }

    /// The name of the trust domain.
    #[must_use]
    pub fn trust_domain_name(self) -> &'a str {
        &self.text[SCHEME_PREFIX.len()..usize::from(self.path_start)]
    }

    /// The path: empty, or `/` and the segments.
    #[must_use]
    pub fn path(self) -> &'a str {
        &self.text[usize::from(self.path_start)..]
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.text
    }

    /// Whether the ID belongs to `trust_domain`.
    #[must_use]
    pub fn is_member_of(self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain_name() == trust_domain.as_str()
    }

    /// The same, to keep.
    #[must_use]
    pub fn to_owned(self) -> SpiffeId {
        SpiffeId { text: self.text.into(), path_start: self.path_start }
    }
}

impl<'a> From<&'a SpiffeId> for SpiffeIdRef<'a> {
    fn from(id: &'a SpiffeId) -> Self {
        Self { text: &id.text, path_start: id.path_start }
    }
}

/// Where the path starts in a whole ID, unless that is too long.
fn path_start(text: &str, name_len: usize) -> Result<u16, IdError> {
    if text.len() > MAX_ID_LEN {
        return Err(IdError::TooLong);
    }
    Ok(u16::try_from(SCHEME_PREFIX.len() + name_len)
        .expect("a trust domain name has at most 255 bytes"))
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SpiffeId {}

impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl AsRef<str> for SpiffeId {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests;

//! Tokens of other issuers, such as a cloud's: verified with keys that the issuer publishes.
//!
//! [`IssuerKeys`] are read from what the issuer publishes, [`open`] verifies a token's signature,
//! and [`SignedClaims::validate`] gives the claims out once audience, issuer and times hold too.
//! No claim of a token whose signature does not verify is reachable. Nothing here fetches keys:
//! on [`IssuerTokenError::UnknownKey`] it is for the caller to decide whether it asks again, and
//! how often.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};
use thiserror::Error;

use super::{JwtAlg, JwtError, UnverifiedJwt, token};
use crate::bundle::Jwk;
use crate::json;
use crate::keys::PublicKey;
use crate::x509::{Certificate, MAX_CERTIFICATE_LEN};

/// The longest token of an issuer that is looked at, in bytes.
pub const MAX_TOKEN_LEN: usize = 16 * 1024;
/// The largest document of keys that is looked at, in bytes.
pub const MAX_DOCUMENT_LEN: usize = 512 * 1024;
/// More keys than any issuer publishes.
pub const MAX_KEYS: usize = 256;
/// The longest key id that is kept, in bytes.
const MAX_KEY_ID_LEN: usize = 512;
/// How much of a token's words an error repeats.
const MAX_ECHO: usize = 64;
/// How many audiences of a token are compared.
const MAX_AUDIENCES: usize = 64;

/// Why a document holds no keys.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum IssuerKeysError {
    /// Larger than [`MAX_DOCUMENT_LEN`].
    #[error("document of keys is too large: {0} bytes")]
    TooLarge(usize),
    /// More than [`MAX_KEYS`] keys.
    #[error("document has too many keys: {0}")]
    TooManyKeys(usize),
    /// Not the JSON that it should be; holds the reason.
    #[error("{0}")]
    Json(String),
    /// A certificate cannot be read; holds the reason.
    #[error("{0}")]
    Certificate(String),
}

/// Why a token of an issuer was refused. The texts are those of go-jose where it has one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IssuerTokenError {
    /// It is no token, or not of an algorithm that is asked for; holds the reason.
    #[error("{0}")]
    Parse(String),
    /// No key id in the header.
    #[error("token missing key id")]
    MissingKeyId,
    /// The issuer publishes no such key; holds its id, cut short.
    #[error("key id {0:?} not found")]
    UnknownKey(String),
    /// The token is of a kind that is not for this.
    #[error("token header type is not JWT")]
    Type,
    /// The header lists critical extensions, none of which is supported.
    #[error("go-jose/go-jose: unsupported critical header")]
    Critical,
    /// The signature does not verify.
    #[error("go-jose/go-jose: error in cryptographic primitive")]
    Signature,
    /// A claim is not of the type that it should be; holds the reason.
    #[error("{0}")]
    Claims(String),
    /// The issuer is another.
    #[error("go-jose/go-jose/jwt: validation failed, invalid issuer claim (iss)")]
    Issuer,
    /// It is for somebody else.
    #[error("go-jose/go-jose/jwt: validation failed, invalid audience claim (aud)")]
    Audience,
    /// It is not yet `nbf`.
    #[error("go-jose/go-jose/jwt: validation failed, token not valid yet (nbf)")]
    NotYetValid,
    /// It is past `exp`.
    #[error("go-jose/go-jose/jwt: validation failed, token is expired (exp)")]
    Expired,
    /// No `exp`: a token that is good for ever is none.
    #[error("token missing exp claim")]
    MissingExpiry,
    /// The `iat` lies in the future.
    #[error("go-jose/go-jose/jwt: validation field, token issued in the future (iat)")]
    IssuedInFuture,
}

/// The keys that an issuer publishes.
#[derive(Clone, Debug, Default)]
pub struct IssuerKeys {
    keys: Vec<IssuerKey>,
}

#[derive(Clone, Debug)]
struct IssuerKey {
    id: String,
    key: PublicKey,
    /// The only algorithm that it is for, where the issuer says so.
    alg: Option<String>,
    /// Whose tokens it signs, where one document has keys of several issuers.
    issuer: Option<String>,
}

impl IssuerKeys {
    /// Reads a JWK set (RFC 7517 §5). Keys of a kind or size that is not supported, without id, or
    /// for anything but signatures are passed over, as the standard asks.
    ///
    /// # Errors
    /// When it is too large, has too many keys, or is no such document.
    pub fn from_jwks(document: &[u8]) -> Result<Self, IssuerKeysError> {
        let Some(Value::Array(listed)) = object(document)?.remove("keys") else {
            return Err(IssuerKeysError::Json("member \"keys\" is not a list".into()));
        };
        check_count(listed.len())?;
        let keys = listed.into_iter().filter_map(IssuerKey::from_jwk).collect();
        Ok(Self { keys })
    }

    /// Reads an object whose members are key ids, and their values PEM certificates with the keys.
    /// The certificates' names and times have no say.
    ///
    /// # Errors
    /// When it is too large, has too many keys, or a member is no certificate.
    pub fn from_certificates(document: &[u8]) -> Result<Self, IssuerKeysError> {
        let listed = object(document)?;
        check_count(listed.len())?;
        let mut keys = Vec::with_capacity(listed.len());
        for (id, value) in listed {
            let malformed = |reason: &str| IssuerKeysError::Certificate(reason.to_owned());
            let text = value.as_str().ok_or_else(|| malformed("certificate is not a string"))?;
            if text.len() > 2 * MAX_CERTIFICATE_LEN || id.len() > MAX_KEY_ID_LEN {
                return Err(malformed("certificate is too large"));
            }
            let certificate =
                Certificate::from_pem(text).map_err(|err| malformed(&err.to_string()))?;
            let key = certificate.public_key().clone();
            keys.push(IssuerKey { id, key, alg: None, issuer: None });
        }
        Ok(Self { keys })
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Of several keys with one id the first counts.
    fn find(&self, id: &str) -> Option<&IssuerKey> {
        self.keys.iter().find(|key| key.id == id)
    }
}

impl IssuerKey {
    fn from_jwk(value: Value) -> Option<Self> {
        let member = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let (id, alg, issuer) = (member("kid")?, member("alg"), member("issuer"));
        if id.is_empty() || id.len() > MAX_KEY_ID_LEN {
            return None;
        }
        if member("use").is_some_and(|it| !matches!(it.as_str(), "" | "sig")) {
            return None;
        }
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        Some(Self { id, key: jwk.public_key().ok()?, alg, issuer })
    }
}

/// What a token must say besides being signed.
#[derive(Clone, Debug)]
pub struct Expected<'a> {
    /// One of these is among its audiences.
    pub audiences: &'a [&'a str],
    /// Its issuer is one of these; none to take any.
    pub issuers: &'a [&'a str],
    /// The time now.
    pub now: SystemTime,
    /// How far the issuer's clock may be off, either way.
    pub leeway: Duration,
}

/// The claims of a token whose signature was verified, and nothing else yet.
#[derive(Debug)]
pub struct SignedClaims {
    token: UnverifiedJwt,
    key_issuer: Option<String>,
}

/// Verifies the signature of `token` with one of `keys`, by an algorithm out of `algorithms`.
/// Nothing costly happens before the token names an algorithm and a key that are known.
///
/// # Errors
/// The first check that fails.
pub fn open(
    token: &str,
    keys: &IssuerKeys,
    algorithms: &[JwtAlg],
) -> Result<SignedClaims, IssuerTokenError> {
    let parse = |reason: String| IssuerTokenError::Parse(reason);
    if token.len() > MAX_TOKEN_LEN {
        return Err(parse(format!("token is too large: {} bytes", token.len())));
    }
    let token = UnverifiedJwt::parse(token).map_err(|err| parse_error(&err, algorithms))?;
    if !algorithms.contains(&token.alg()) {
        return Err(parse(unexpected_algorithm(token.alg().as_str(), algorithms)));
    }
    let id = token.key_id().filter(|id| !id.is_empty());
    let id = id.ok_or(IssuerTokenError::MissingKeyId)?;
    let key = keys.find(id).ok_or_else(|| IssuerTokenError::UnknownKey(cut(id)))?;
    let is_jwt = |typ: &str| ["", "jwt", "at+jwt"].contains(&typ.to_ascii_lowercase().as_str());
    if !token.typ().is_none_or(is_jwt) {
        return Err(IssuerTokenError::Type);
    }
    if key.alg.as_deref().is_some_and(|alg| alg != token.alg().as_str()) {
        return Err(IssuerTokenError::Signature);
    }
    token.verify_signature(&key.key).map_err(|_| IssuerTokenError::Signature)?;
    token.check_types().map_err(|err| IssuerTokenError::Claims(err.to_string()))?;
    Ok(SignedClaims { token, key_issuer: key.issuer.clone() })
}

impl SignedClaims {
    /// A claim that is a string and not empty: what the caller needs to know what to expect, such
    /// as the tenant. Not to be acted upon before [`SignedClaims::validate`].
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        let claim = self.token.claims().get(name).and_then(Value::as_str);
        claim.filter(|it| !it.is_empty())
    }

    /// Whose tokens the key signs, if the document of keys says so.
    #[must_use]
    pub fn key_issuer(&self) -> Option<&str> {
        self.key_issuer.as_deref()
    }

    /// Gives the claims out, if the token is from and for whom it should be, and in its time.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn validate(self, expected: &Expected<'_>) -> Result<Map<String, Value>, IssuerTokenError> {
        use IssuerTokenError as Refused;
        let malformed = |err: JwtError| Refused::Claims(err.to_string());
        let issued_by = |one: &&str| self.text("iss") == Some(*one);
        if !expected.issuers.is_empty() && !expected.issuers.iter().any(issued_by) {
            return Err(Refused::Issuer);
        }
        let audience = self.token.audience().map_err(malformed)?;
        let mut compared = audience.iter().take(MAX_AUDIENCES);
        if !compared.any(|one| expected.audiences.contains(&one.as_str())) {
            return Err(Refused::Audience);
        }
        let times = self.token.times().map_err(malformed)?;
        let early = expected.now.checked_sub(expected.leeway).unwrap_or(SystemTime::UNIX_EPOCH);
        let late = expected.now.checked_add(expected.leeway).unwrap_or(expected.now);
        let after_late = |seconds: i64| late < token::to_time(seconds);
        if times.not_before.is_some_and(after_late) {
            return Err(Refused::NotYetValid);
        }
        if early > token::to_time(times.expiry.ok_or(Refused::MissingExpiry)?) {
            return Err(Refused::Expired);
        }
        if times.issued_at.is_some_and(after_late) {
            return Err(Refused::IssuedInFuture);
        }
        Ok(self.token.into_claims())
    }
}

fn object(document: &[u8]) -> Result<Map<String, Value>, IssuerKeysError> {
    if document.len() > MAX_DOCUMENT_LEN {
        return Err(IssuerKeysError::TooLarge(document.len()));
    }
    json::parse_object(document).map_err(|err| IssuerKeysError::Json(err.to_string()))
}

fn check_count(count: usize) -> Result<(), IssuerKeysError> {
    if count > MAX_KEYS { Err(IssuerKeysError::TooManyKeys(count)) } else { Ok(()) }
}

/// The reasons of [`UnverifiedJwt::parse`] without the words that SPIRE puts before them for
/// JWT-SVIDs.
fn parse_error(error: &JwtError, algorithms: &[JwtAlg]) -> IssuerTokenError {
    match error {
        JwtError::Critical => IssuerTokenError::Critical,
        JwtError::Type => IssuerTokenError::Type,
        JwtError::Claims(reason) => IssuerTokenError::Claims(reason.clone()),
        JwtError::Algorithm(name) => {
            IssuerTokenError::Parse(unexpected_algorithm(name, algorithms))
        }
        other => {
            let text = other.to_string();
            let reason = text.strip_prefix("unable to parse JWT token: ").unwrap_or(&text);
            IssuerTokenError::Parse(reason.to_owned())
        }
    }
}

fn unexpected_algorithm(found: &str, allowed: &[JwtAlg]) -> String {
    let allowed: Vec<String> = allowed.iter().map(|alg| format!("{:?}", alg.as_str())).collect();
    let allowed = allowed.join(" ");
    format!("unexpected signature algorithm {found:?}; expected [{allowed}]")
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_ECHO).collect()
}

#[cfg(test)]
mod tests;

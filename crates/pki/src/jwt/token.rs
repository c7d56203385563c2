use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{JwtAlg, JwtError, MAX_TOKEN_LEN, ecdsa, go_text};
use crate::keys::PublicKey;

/// A token that was taken apart and not verified: nothing in it is to be believed.
#[derive(Clone, Debug)]
pub struct UnverifiedJwt {
    alg: JwtAlg,
    header: Map<String, Value>,
    claims: Map<String, Value>,
    /// What the signature covers: header and claims as they were sent.
    signed: String,
    signature: Vec<u8>,
}

/// The times in a token, in seconds since 1970.
pub(super) struct Times {
    pub(super) expiry: Option<i64>,
    pub(super) not_before: Option<i64>,
    pub(super) issued_at: Option<i64>,
}

impl UnverifiedJwt {
    pub(super) fn parse(token: &str) -> Result<Self, JwtError> {
        if token.len() > MAX_TOKEN_LEN {
            return Err(JwtError::TooLarge(token.len()));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JwtError::Parts);
        };
        let signed = token[..header.len() + 1 + claims.len()].to_owned();
        let (header, claims, signature) = (decode(header)?, decode(claims)?, decode(signature)?);
        let header = match header.as_slice() {
            b"" => Map::new(),
            text => go_text::object(text, "jose.rawHeader").map_err(JwtError::Header)?,
        };
        let name = parameter(&header, "alg", "algorithm")?.unwrap_or_default();
        let alg = JwtAlg::from_name(name)
            .ok_or_else(|| JwtError::Algorithm(name.chars().take(32).collect()))?;
        parameter(&header, "kid", "key ID")?;
        if header.get("typ").is_some_and(|typ| !typ.is_string()) {
            return Err(JwtError::Type);
        }
        if header.contains_key("crit") {
            return Err(JwtError::Critical);
        }
        let claims = go_text::object(&claims, "jwt.Claims").map_err(JwtError::Claims)?;
        Ok(Self { alg, header, claims, signed, signature })
    }

    /// The algorithm.
    #[must_use]
    pub fn alg(&self) -> JwtAlg {
        self.alg
    }

    /// The header's `kid`.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.header.get("kid").and_then(Value::as_str)
    }

    /// The header's `typ`.
    #[must_use]
    pub fn typ(&self) -> Option<&str> {
        self.header.get("typ").and_then(Value::as_str)
    }

    /// The whole header.
    #[must_use]
    pub fn header(&self) -> &Map<String, Value> {
        &self.header
    }

    /// The claims.
    #[must_use]
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    pub(super) fn into_claims(self) -> Map<String, Value> {
        self.claims
    }

    /// The `sub` claim.
    ///
    /// # Errors
    /// When it is missing, empty or not a string.
    pub fn subject(&self) -> Result<&str, JwtError> {
        let subject = member(&self.claims, "sub").map_err(JwtError::Claims)?;
        subject.filter(|it| !it.is_empty()).ok_or(JwtError::MissingSubject)
    }

    /// The `aud` claim: a string or a list of strings; empty when absent.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn audience(&self) -> Result<Vec<String>, JwtError> {
        let bad = || {
            JwtError::Claims(
                "go-jose/go-jose/jwt: expected string or array value to unmarshal to Audience"
                    .into(),
            )
        };
        match self.claims.get("aud") {
            None => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(vec![one.clone()]),
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(bad)).collect()
            }
            Some(_) => Err(bad()),
        }
    }

    /// The `iat` and `exp` claims, as an agent needs them for its own tokens.
    ///
    /// # Errors
    /// When one is missing or not a number.
    pub fn lifetime(&self) -> Result<(SystemTime, SystemTime), JwtError> {
        let times = self.times()?;
        let issued_at = times.issued_at.ok_or(JwtError::MissingIssuedAt)?;
        let expiry = times.expiry.ok_or(JwtError::MissingExpiry)?;
        Ok((to_time(issued_at), to_time(expiry)))
    }

    pub(super) fn times(&self) -> Result<Times, JwtError> {
        let date = |name| match self.claims.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(number)) => {
                Ok(number.as_i64().or_else(|| seconds(number.as_f64()?)))
            }
            Some(_) => Err(JwtError::Claims(
                "go-jose/go-jose/jwt: expected number value to unmarshal NumericDate".into(),
            )),
        };
        Ok(Times { expiry: date("exp")?, not_before: date("nbf")?, issued_at: date("iat")? })
    }

    /// The registered claims have the types that they should have (RFC 7519 §4.1).
    ///
    /// # Errors
    /// [`JwtError::Claims`].
    pub(super) fn check_types(&self) -> Result<(), JwtError> {
        for name in ["iss", "sub", "jti"] {
            member(&self.claims, name).map_err(JwtError::Claims)?;
        }
        self.audience().map(drop)
    }

    pub(super) fn verify_signature(&self, key: &PublicKey) -> Result<(), JwtError> {
        if !self.alg.goes_with(key.kind()) {
            return Err(JwtError::Signature);
        }
        let converted;
        let signature = match self.alg.coordinate_len() {
            Some(len) => {
                converted = ecdsa::der_from_raw(&self.signature, len).ok_or(JwtError::Signature)?;
                &converted
            }
            None => &self.signature,
        };
        key.verify(self.alg.signature_algorithm(), self.signed.as_bytes(), signature)
            .map_err(|_| JwtError::Signature)
    }
}

/// Seconds since 1970 as a time; what is out of range ends at its end.
pub(super) fn to_time(seconds: i64) -> SystemTime {
    const FAR: Duration = Duration::from_secs(253_402_300_799); // the end of year 9999
    let distance = Duration::from_secs(seconds.unsigned_abs()).min(FAR);
    if seconds < 0 { SystemTime::UNIX_EPOCH - distance } else { SystemTime::UNIX_EPOCH + distance }
}

fn decode(part: &str) -> Result<Vec<u8>, JwtError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|err| {
        JwtError::Base64(match err {
            base64::DecodeError::InvalidByte(offset, _)
            | base64::DecodeError::InvalidLastSymbol(offset, _) => offset,
            // What is left over is one character too many or three too few.
            _ => part.len().saturating_sub(1),
        })
    })
}

/// A date with a fraction, which is dropped. Far beyond any date a number means nothing (Go's
/// conversion makes the smallest one of it): such a token has expired and was never good.
#[allow(clippy::cast_possible_truncation)]
fn seconds(float: f64) -> Option<i64> {
    Some(if float.abs() < 9.2e18 { float as i64 } else { i64::MIN })
}

/// A string among the header's parameters; `what` is go-jose's name for it.
fn parameter<'a>(
    header: &'a Map<String, Value>,
    name: &str,
    what: &str,
) -> Result<Option<&'a str>, JwtError> {
    member(header, name).map_err(|error| {
        let value: String = header[name].to_string().chars().take(64).collect();
        JwtError::Header(format!("failed to unmarshal {what}: {error}: {value:?}"))
    })
}

/// The string member `name`, if there is one.
fn member<'a>(map: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, String> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(go_text::mismatch(other, "string")),
    }
}

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use steeple_spiffe::TrustDomain;

use super::jwk::Jwk;
use super::{Bundle, BundleError, JwtAuthority, MAX_DOCUMENT_LEN, MAX_KEYS, X509Authority};
use crate::json;
use crate::x509::Certificate;

/// The longest refresh hint that is believed: a year.
const MAX_REFRESH_HINT: u64 = 366 * 24 * 60 * 60;

/// Reads a SPIFFE bundle document (SPIFFE Trust Domain and Bundle §4) of `trust_domain`.
///
/// As in SPIRE, every key must say its use, equal X.509 authorities count once, of several keys
/// with one key id the last one counts, and the sequence number is left at zero: it belongs to the
/// publisher's history, not to ours.
///
/// # Errors
/// When the document is too large or malformed, or a key is.
pub fn parse(trust_domain: TrustDomain, document: &[u8]) -> Result<Bundle, BundleError> {
    if document.len() > MAX_DOCUMENT_LEN {
        return Err(BundleError::TooLarge(document.len()));
    }
    let mut members =
        json::parse_object(document).map_err(|err| BundleError::Json(err.to_string()))?;
    let keys = match members.remove("keys") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(keys)) => keys,
        Some(_) => return Err(BundleError::Json("member \"keys\" is not a list".into())),
    };
    if keys.len() > MAX_KEYS {
        return Err(BundleError::TooManyKeys(keys.len()));
    }
    let mut bundle = Bundle::new(trust_domain);
    bundle.refresh_hint = refresh_hint(members.get("spiffe_refresh_hint"))?;
    if !matches!(members.get("spiffe_sequence"), None | Some(Value::Null))
        && members.get("spiffe_sequence").and_then(Value::as_u64).is_none()
    {
        return Err(BundleError::Json("member \"spiffe_sequence\" is not a number".into()));
    }
    for (entry, key) in keys.into_iter().enumerate() {
        add_key(&mut bundle, entry, key)?;
    }
    Ok(bundle)
}

/// Reads the certificates of a PEM text as the X.509 authorities of `trust_domain`.
///
/// # Errors
/// When there is none, or one is malformed.
pub fn from_pem(trust_domain: TrustDomain, text: &str) -> Result<Bundle, BundleError> {
    let certificates = Certificate::parse_pem_bundle(text)?;
    Ok(Bundle::from_certificates(trust_domain, certificates))
}

fn refresh_hint(value: Option<&Value>) -> Result<Duration, BundleError> {
    let seconds = match value {
        None | Some(Value::Null) => 0,
        // A negative hint is none.
        Some(value) => value.as_u64().or_else(|| value.as_i64().map(|_| 0)).ok_or_else(|| {
            BundleError::Json("member \"spiffe_refresh_hint\" is not a whole number".into())
        })?,
    };
    Ok(Duration::from_secs(seconds.min(MAX_REFRESH_HINT)))
}

fn add_key(bundle: &mut Bundle, entry: usize, key: Value) -> Result<(), BundleError> {
    let invalid = |reason: String| BundleError::Key(entry, reason);
    let jwk = Jwk::deserialize(key).map_err(|err| invalid(err.to_string()))?;
    let certificates = jwk.certificates().map_err(invalid)?;
    let public_key = jwk.public_key().map_err(invalid)?;
    if certificates.first().is_some_and(|first| *first.public_key() != public_key) {
        return Err(invalid(
            "go-jose/go-jose: invalid JWK, public keys in key and x5c fields do not match".into(),
        ));
    }
    let authority = |key_use| match jwk.kid.as_deref() {
        None | Some("") => Err(BundleError::MissingKeyId(key_use, entry)),
        Some(key_id) => Ok(JwtAuthority {
            key_id: key_id.to_owned(),
            public_key,
            expires_at: None,
            tainted: false,
        }),
    };
    match jwk.key_use.as_deref() {
        Some("x509-svid") => match <[Certificate; 1]>::try_from(certificates) {
            Ok([certificate]) => {
                bundle.add_x509_authority(X509Authority::new(certificate));
            }
            Err(several) => {
                return Err(BundleError::CertificateCount { entry, count: several.len() });
            }
        },
        Some("jwt-svid") => {
            bundle.set_jwt_authority(authority("jwt-svid")?);
        }
        Some("wit-svid") => {
            bundle.set_wit_authority(authority("wit-svid")?);
        }
        None | Some("") => return Err(BundleError::MissingUse(entry)),
        Some(other) => {
            return Err(BundleError::UnknownUse(other.chars().take(64).collect(), entry));
        }
    }
    Ok(())
}

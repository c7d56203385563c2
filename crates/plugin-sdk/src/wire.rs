//! How the types of the plugin traits look in the plugin protocol, both ways.
//!
//! What comes in is checked; each error is a text that the caller puts behind the plugin's name.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Map, Number, Value};
use steeple_pki::x509::DistinguishedName;
use steeple_pki::{
    Bundle, Certificate, JwtAuthority, KeyType, PublicKey, SignatureAlgorithm, X509Authority,
};
use steeple_plugin::{ExtraExtension, Name, PluginError, X509CaAttributes, X509SvidAttributes};
use steeple_proto::spire::plugin::server::credentialcomposer::v1 as composer;
use steeple_proto::spire::plugin::server::keymanager::v1 as keys;
use steeple_proto::spire::plugin::types;
use tonic::{Code, Status};

/// How deep the claims of a token may nest.
const MAX_DEPTH: usize = 32;

/// A plugin's failure as the protocol carries it.
pub fn status(error: &PluginError) -> Status {
    Status::new(Code::from_i32(error.code.number()), error.message.clone())
}

/// A bundle on its way out.
pub fn bundle_out(bundle: &Bundle) -> types::Bundle {
    types::Bundle {
        trust_domain: bundle.trust_domain.as_str().to_owned(),
        x509_authorities: bundle.x509_authorities.iter().map(x509_out).collect(),
        jwt_authorities: bundle.jwt_authorities.iter().map(jwt_out).collect(),
        refresh_hint: i64::try_from(bundle.refresh_hint.as_secs()).unwrap_or(i64::MAX),
        sequence_number: bundle.sequence_number,
        wit_authorities: bundle
            .wit_authorities
            .iter()
            .map(|key| types::WitKey {
                public_key: Bytes::copy_from_slice(key.public_key.spki_der()),
                key_id: key.key_id.clone(),
                expires_at: expiry_out(key.expires_at),
                tainted: key.tainted,
            })
            .collect(),
    }
}

/// A bundle on its way in.
///
/// # Errors
/// With what is wrong with it.
pub fn bundle_in(bundle: types::Bundle) -> Result<Bundle, String> {
    let trust_domain = steeple_spiffe::TrustDomain::parse(&bundle.trust_domain)
        .map_err(|error| format!("trust domain: {error}"))?;
    let mut made = Bundle::new(trust_domain);
    made.x509_authorities = roots_in(bundle.x509_authorities)?;
    made.jwt_authorities = jwt_keys_in(bundle.jwt_authorities)?;
    let wit = bundle.wit_authorities.into_iter().map(|key| types::JwtKey {
        public_key: key.public_key,
        key_id: key.key_id,
        expires_at: key.expires_at,
        tainted: key.tainted,
    });
    made.wit_authorities = jwt_keys_in(wit.collect())?;
    made.refresh_hint = Duration::from_secs(bundle.refresh_hint.max(0).unsigned_abs());
    made.sequence_number = bundle.sequence_number;
    Ok(made)
}

/// An X.509 authority on its way out.
pub fn x509_out(authority: &X509Authority) -> types::X509Certificate {
    types::X509Certificate { asn1: authority.certificate.der_bytes(), tainted: authority.tainted }
}

/// X.509 authorities on their way in.
///
/// # Errors
/// With what is wrong with one of them.
pub fn roots_in(roots: Vec<types::X509Certificate>) -> Result<Vec<X509Authority>, String> {
    roots
        .into_iter()
        .map(|root| {
            let tainted = root.tainted;
            certificate_in(root.asn1).map(|certificate| X509Authority { certificate, tainted })
        })
        .collect()
}

/// Certificates on their way in; whether they are tainted is left out.
///
/// # Errors
/// With what is wrong with one of them.
pub fn chain_in(chain: Vec<types::X509Certificate>) -> Result<Vec<Certificate>, String> {
    chain.into_iter().map(|certificate| certificate_in(certificate.asn1)).collect()
}

fn certificate_in(der: Bytes) -> Result<Certificate, String> {
    if der.is_empty() {
        return Err("missing X.509 certificate data".to_owned());
    }
    Certificate::from_der(der)
        .map_err(|error| format!("failed to parse X.509 certificate data: {error}"))
}

/// A JWT key on its way out.
pub fn jwt_out(key: &JwtAuthority) -> types::JwtKey {
    types::JwtKey {
        public_key: Bytes::copy_from_slice(key.public_key.spki_der()),
        key_id: key.key_id.clone(),
        expires_at: expiry_out(key.expires_at),
        tainted: key.tainted,
    }
}

/// JWT keys on their way in.
///
/// # Errors
/// With what is wrong with one of them.
pub fn jwt_keys_in(keys: Vec<types::JwtKey>) -> Result<Vec<JwtAuthority>, String> {
    keys.into_iter()
        .map(|key| {
            if key.key_id.is_empty() {
                return Err("missing key ID for JWT key".to_owned());
            }
            let id = shorten(&key.key_id);
            if key.public_key.is_empty() {
                return Err(format!("missing public key for JWT key {id:?}"));
            }
            let public_key = PublicKey::from_spki_der(&key.public_key).map_err(|error| {
                format!("failed to unmarshal public key for JWT key {id:?}: {error}")
            })?;
            Ok(JwtAuthority {
                key_id: key.key_id,
                public_key,
                expires_at: expiry_in(key.expires_at),
                tainted: key.tainted,
            })
        })
        .collect()
}

fn expiry_out(at: Option<SystemTime>) -> i64 {
    let since = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

fn expiry_in(at: i64) -> Option<SystemTime> {
    let seconds = u64::try_from(at).ok().filter(|seconds| *seconds > 0)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// The protocol's number of a key type.
pub fn key_type_out(kind: KeyType) -> keys::KeyType {
    match kind {
        KeyType::EcP256 => keys::KeyType::EcP256,
        KeyType::EcP384 => keys::KeyType::EcP384,
        KeyType::Rsa2048 => keys::KeyType::Rsa2048,
        KeyType::Rsa4096 => keys::KeyType::Rsa4096,
    }
}

/// The key type with the protocol's number `kind`.
pub fn key_type_in(kind: i32) -> Option<KeyType> {
    match keys::KeyType::try_from(kind).ok()? {
        keys::KeyType::EcP256 => Some(KeyType::EcP256),
        keys::KeyType::EcP384 => Some(KeyType::EcP384),
        keys::KeyType::Rsa2048 => Some(KeyType::Rsa2048),
        keys::KeyType::Rsa4096 => Some(KeyType::Rsa4096),
        keys::KeyType::UnspecifiedKeyType => None,
    }
}

/// The options of a signature, and the length of the digest that goes with them; none for what
/// the protocol has no digests for.
pub fn signer_opts_out(
    algorithm: SignatureAlgorithm,
) -> Option<(keys::sign_data_request::SignerOpts, usize)> {
    use SignatureAlgorithm as Alg;
    use keys::HashAlgorithm as Hash;
    let (hash, length) = match algorithm {
        Alg::EcdsaSha256 | Alg::RsaPkcs1Sha256 | Alg::RsaPssSha256 => (Hash::Sha256, 32),
        Alg::EcdsaSha384 | Alg::RsaPkcs1Sha384 | Alg::RsaPssSha384 => (Hash::Sha384, 48),
        Alg::EcdsaSha512 | Alg::RsaPkcs1Sha512 | Alg::RsaPssSha512 => (Hash::Sha512, 64),
        _ => return None,
    };
    let opts = match algorithm {
        Alg::RsaPssSha256 | Alg::RsaPssSha384 | Alg::RsaPssSha512 => {
            keys::sign_data_request::SignerOpts::PssOptions(keys::sign_data_request::PssOptions {
                salt_length: i32::try_from(length).ok()?,
                hash_algorithm: hash.into(),
            })
        }
        _ => keys::sign_data_request::SignerOpts::HashAlgorithm(hash.into()),
    };
    Some((opts, length))
}

/// What goes into a CA certificate, on its way out.
pub fn ca_out(attributes: &X509CaAttributes) -> composer::X509caAttributes {
    composer::X509caAttributes {
        subject: Some(subject_out(&attributes.subject)),
        policy_identifiers: attributes.policy_identifiers.clone(),
        extra_extensions: attributes.extra_extensions.iter().map(extension_out).collect(),
    }
}

/// What goes into a CA certificate, on its way in.
///
/// # Errors
/// With what is wrong with it.
pub fn ca_in(attributes: composer::X509caAttributes) -> Result<X509CaAttributes, String> {
    for policy in &attributes.policy_identifiers {
        check_oid(policy).map_err(|_| "policy identifiers: x509: invalid OID".to_owned())?;
    }
    Ok(X509CaAttributes {
        subject: subject_in(attributes.subject)?,
        policy_identifiers: attributes.policy_identifiers,
        extra_extensions: extensions_in(attributes.extra_extensions)?,
    })
}

/// What goes into an X509-SVID, on its way out.
pub fn svid_out(attributes: &X509SvidAttributes) -> composer::X509svidAttributes {
    composer::X509svidAttributes {
        subject: Some(subject_out(&attributes.subject)),
        dns_sans: attributes.dns_names.clone(),
        extra_extensions: attributes.extra_extensions.iter().map(extension_out).collect(),
    }
}

/// What goes into an X509-SVID, on its way in.
///
/// # Errors
/// With what is wrong with it.
pub fn svid_in(attributes: composer::X509svidAttributes) -> Result<X509SvidAttributes, String> {
    Ok(X509SvidAttributes {
        subject: subject_in(attributes.subject)?,
        dns_names: attributes.dns_sans,
        extra_extensions: extensions_in(attributes.extra_extensions)?,
    })
}

fn subject_out(subject: &Name) -> composer::DistinguishedName {
    let name = subject.name.clone();
    composer::DistinguishedName {
        country: name.country,
        organization: name.organization,
        organizational_unit: name.organizational_unit,
        locality: name.locality,
        province: name.province,
        street_address: name.street_address,
        postal_code: name.postal_code,
        serial_number: name.serial_number,
        common_name: name.common_name,
        extra_names: subject
            .extra
            .iter()
            .map(|(oid, value)| composer::AttributeTypeAndValue {
                oid: oid.clone(),
                string_value: value.clone(),
            })
            .collect(),
    }
}

fn subject_in(subject: Option<composer::DistinguishedName>) -> Result<Name, String> {
    let subject = subject.ok_or("subject: cannot be empty")?;
    let mut extra = Vec::with_capacity(subject.extra_names.len());
    for attribute in subject.extra_names {
        check_oid(&attribute.oid).map_err(|error| format!("subject: extra names: {error}"))?;
        extra.push((attribute.oid, attribute.string_value));
    }
    let name = DistinguishedName {
        country: subject.country,
        organization: subject.organization,
        organizational_unit: subject.organizational_unit,
        locality: subject.locality,
        province: subject.province,
        street_address: subject.street_address,
        postal_code: subject.postal_code,
        serial_number: subject.serial_number,
        common_name: subject.common_name,
        ..DistinguishedName::default()
    };
    Ok(Name { name, extra })
}

fn extension_out(extension: &ExtraExtension) -> composer::X509Extension {
    composer::X509Extension {
        oid: extension.oid.clone(),
        value: Bytes::copy_from_slice(&extension.value),
        critical: extension.critical,
    }
}

fn extensions_in(extensions: Vec<composer::X509Extension>) -> Result<Vec<ExtraExtension>, String> {
    extensions
        .into_iter()
        .map(|extension| {
            check_oid(&extension.oid).map_err(|error| format!("extra extensions: {error}"))?;
            Ok(ExtraExtension {
                oid: extension.oid,
                value: extension.value.into(),
                critical: extension.critical,
            })
        })
        .collect()
}

fn check_oid(oid: &str) -> Result<(), String> {
    match oid.split('.').find(|part| part.parse::<u32>().is_err()) {
        Some(part) => Err(format!("invalid OID: non-integer part {:?}", shorten(part))),
        None => Ok(()),
    }
}

/// Claims on their way out. Numbers become doubles, as the protocol has no others.
pub fn claims_out(claims: &Map<String, Value>) -> prost_types::Struct {
    let fields = claims.iter().map(|(name, value)| (name.clone(), value_out(value))).collect();
    prost_types::Struct { fields }
}

fn value_out(value: &Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        Value::String(value) => Kind::StringValue(value.clone()),
        Value::Array(values) => Kind::ListValue(prost_types::ListValue {
            values: values.iter().map(value_out).collect(),
        }),
        Value::Object(values) => Kind::StructValue(claims_out(values)),
    };
    prost_types::Value { kind: Some(kind) }
}

/// Claims on their way in. A double that is a whole number becomes an integer again.
///
/// # Errors
/// When they nest too deep, or a number is none of JSON's.
pub fn claims_in(claims: prost_types::Struct) -> Result<Map<String, Value>, String> {
    fields_in(claims, 0)
}

fn fields_in(fields: prost_types::Struct, depth: usize) -> Result<Map<String, Value>, String> {
    if depth > MAX_DEPTH {
        return Err("claims nest too deep".to_owned());
    }
    fields.fields.into_iter().map(|(name, it)| Ok((name, value_in(it, depth)?))).collect()
}

fn value_in(value: prost_types::Value, depth: usize) -> Result<Value, String> {
    use prost_types::value::Kind;
    if depth > MAX_DEPTH {
        return Err("claims nest too deep".to_owned());
    }
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(value),
        Some(Kind::NumberValue(value)) => number_in(value)?,
        Some(Kind::StringValue(value)) => Value::String(value),
        Some(Kind::ListValue(list)) => {
            let values = list.values.into_iter().map(|value| value_in(value, depth + 1));
            Value::Array(values.collect::<Result<_, _>>()?)
        }
        Some(Kind::StructValue(fields)) => Value::Object(fields_in(fields, depth + 1)?),
    })
}

#[expect(clippy::cast_possible_truncation, reason = "only whole numbers of exact doubles")]
fn number_in(value: f64) -> Result<Value, String> {
    /// Up to here every whole number is a double.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        return Ok(Value::Number((value as i64).into()));
    }
    Number::from_f64(value).map(Value::Number).ok_or_else(|| "a claim is no number".to_owned())
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_survive_both_ways() {
        let claims = serde_json::json!({
            "exp": 1_800_000_000, "f": 1.5, "aud": ["a", "b"], "o": {"n": null, "t": true}
        });
        let Value::Object(claims) = claims else { unreachable!() };
        let back = claims_in(claims_out(&claims)).unwrap();
        assert_eq!(Value::Object(back), Value::Object(claims));
    }

    #[test]
    fn claims_that_nest_too_deep_are_refused() {
        let mut value = Value::Null;
        for _ in 0..100 {
            value = Value::Array(vec![value]);
        }
        let claims = Map::from_iter([("deep".to_owned(), value)]);
        assert!(claims_in(claims_out(&claims)).is_err());
    }

    #[test]
    fn identifiers_are_dotted_numbers() {
        assert!(check_oid("1.2.840").is_ok());
        assert_eq!(check_oid("1.x").unwrap_err(), "invalid OID: non-integer part \"x\"");
        assert!(check_oid("").is_err());
        assert!(check_oid("1.-2").is_err());
    }

    #[test]
    fn an_attribute_without_subject_is_refused() {
        let error = svid_in(composer::X509svidAttributes::default()).unwrap_err();
        assert_eq!(error, "subject: cannot be empty");
    }
}

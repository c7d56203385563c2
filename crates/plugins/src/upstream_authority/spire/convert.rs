//! Between the messages of the server above and our types.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use steeple_pki::bundle::MAX_KEYS;
use steeple_pki::x509::Certificate;
use steeple_pki::{JwtAuthority, PublicKey, X509Authority};
use steeple_plugin::{Code, LocalBundle, PluginError};
use steeple_proto::spire::api::types;

use super::error;

pub(super) fn chain(chain: &[Bytes]) -> Result<Vec<Certificate>, PluginError> {
    count(chain.len())?;
    chain
        .iter()
        .map(|der| Certificate::from_der(der.clone()))
        .collect::<Result<_, _>>()
        .map_err(|reason| internal(format!("unable to parse CA cert chain: {reason}")))
}

pub(super) fn bundle(bundle: &types::Bundle) -> Result<LocalBundle, PluginError> {
    count(bundle.x509_authorities.len())?;
    let root = |root: &types::X509Certificate| {
        let certificate = Certificate::from_der(root.asn1.clone())?;
        Ok(X509Authority { certificate, tainted: root.tainted })
    };
    let x509_roots = bundle.x509_authorities.iter().map(root).collect::<Result<Vec<_>, _>>();
    let x509_roots = x509_roots.map_err(|reason: steeple_pki::x509::CertificateError| {
        internal(format!("failed to parse X.509 authorities: {reason}"))
    })?;
    Ok(LocalBundle { x509_roots, jwt_keys: jwt_keys(&bundle.jwt_authorities)? })
}

pub(super) fn jwt_keys(keys: &[types::JwtKey]) -> Result<Vec<JwtAuthority>, PluginError> {
    count(keys.len())?;
    let key = |key: &types::JwtKey| {
        if key.key_id.is_empty() {
            return Err("missing key ID for JWT key".to_owned());
        }
        let public_key = PublicKey::from_spki_der(&key.public_key)
            .map_err(|reason| format!("failed to unmarshal public key: {reason}"))?;
        Ok(JwtAuthority {
            key_id: key.key_id.clone(),
            public_key,
            expires_at: from_unix(key.expires_at),
            tainted: key.tainted,
        })
    };
    keys.iter()
        .map(key)
        .collect::<Result<_, _>>()
        .map_err(|reason| internal(format!("failed to parse JWT authorities: {reason}")))
}

pub(super) fn jwt_message(key: &JwtAuthority) -> types::JwtKey {
    types::JwtKey {
        public_key: Bytes::copy_from_slice(key.public_key.spki_der()),
        key_id: key.key_id.clone(),
        expires_at: key.expires_at.map_or(0, to_unix),
        tainted: key.tainted,
    }
}

fn from_unix(seconds: i64) -> Option<SystemTime> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds != 0)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn to_unix(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

fn count(count: usize) -> Result<(), PluginError> {
    if count > MAX_KEYS {
        return Err(internal(format!("answer of the upstream server has {count} authorities")));
    }
    Ok(())
}

fn internal(text: String) -> PluginError {
    error(Code::Internal, text)
}

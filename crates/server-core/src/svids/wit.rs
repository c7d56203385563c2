//! WIT-SVIDs, for operators by wish and for agents by entry.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::join_all;
use steeple_ca::{Credentials, WorkloadWitParams};
use steeple_pki::{Effort, KeyError, KeyKind, PublicKey};
use steeple_spiffe::SpiffeId;
use steeple_store::model::Entry;

use super::{IssuedJwt, SvidError, Svids, lifetime};
use crate::access::{AgentCaller, Operator};
use crate::ids::{self, RawId};
use crate::time::unix_seconds;

/// A workload's key, and what it signs with.
#[derive(Clone, Debug)]
pub struct WitKey {
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
    /// The algorithm, as JOSE names it.
    pub algorithm: String,
}

/// An agent's wish: a WIT-SVID for a key, by an entry.
#[derive(Clone, Debug)]
pub struct WitRequest {
    /// The entry that names the SPIFFE ID.
    pub entry_id: String,
    /// The workload's key.
    pub key: WitKey,
}

/// A key that may not be in a WIT-SVID.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum WitKeyRule {
    #[error("unsupported signing algorithm for {kind} key: {algorithm}")]
    Algorithm { kind: &'static str, algorithm: String },
    #[error("unsupported key type '{0}'")]
    Kind(KeyKind),
}

impl Svids {
    /// Issues a WIT-SVID that an operator wishes for.
    ///
    /// # Errors
    /// [`SvidError`].
    pub async fn mint_wit(
        &self,
        _operator: &Operator,
        id: Option<&RawId>,
        key: WitKey,
        ttl: i32,
        now: SystemTime,
    ) -> Result<IssuedJwt, SvidError> {
        if !self.wit_enabled {
            return Err(SvidError::WitDisabled);
        }
        let id = ids::workload(&self.trust_domain, id).map_err(SvidError::BadId)?;
        let credentials = self.credentials.clone();
        self.pool
            .run(Effort::Long, async move {
                sign(&credentials, id, &key, ttl, SvidError::BadPublicKey, now).await
            })
            .await
    }

    /// Issues a WIT-SVID for each request whose entry the agent is authorised for.
    pub async fn batch_new_wit(
        &self,
        agent: &AgentCaller,
        requests: Vec<WitRequest>,
        now: SystemTime,
    ) -> Vec<Result<IssuedJwt, SvidError>> {
        let entries = {
            let ids: HashSet<&str> =
                requests.iter().map(|request| request.entry_id.as_str()).collect();
            self.index.snapshot().authorized_among(agent.id(), &ids, unix_seconds(now))
        };
        let credentials = self.credentials.clone();
        self.pool
            .run(Effort::Long, async move {
                let signed =
                    requests.iter().map(|request| by_entry(&credentials, &entries, request, now));
                join_all(signed).await
            })
            .await
    }
}

async fn by_entry(
    credentials: &Credentials,
    entries: &HashMap<String, Arc<Entry>>,
    request: &WitRequest,
    now: SystemTime,
) -> Result<IssuedJwt, SvidError> {
    if request.entry_id.is_empty() {
        return Err(SvidError::MissingEntryId);
    }
    if request.key.public_key.is_empty() {
        return Err(SvidError::MissingPublicKey);
    }
    let entry = entries.get(&request.entry_id).ok_or(SvidError::NotAuthorized)?;
    let (id, ttl) = (entry.spiffe_id.clone(), entry.x509_svid_ttl);
    sign(credentials, id, &request.key, ttl, SvidError::MalformedPublicKey, now).await
}

async fn sign(
    credentials: &Credentials,
    id: SpiffeId,
    key: &WitKey,
    ttl: i32,
    bad_key: fn(KeyError) -> SvidError,
    now: SystemTime,
) -> Result<IssuedJwt, SvidError> {
    let public_key = PublicKey::from_spki_der(&key.public_key).map_err(bad_key)?;
    check(&public_key, &key.algorithm).map_err(SvidError::WitKey)?;
    let algorithm = key.algorithm.clone();
    let params =
        WorkloadWitParams { spiffe_id: id.clone(), public_key, algorithm, ttl: lifetime(ttl) };
    let svid = credentials.sign_wit_svid(params, now).await.map_err(SvidError::SignWit)?;
    Ok(IssuedJwt { id, svid, entry_ttl: ttl })
}

/// Whether a key of this kind makes signatures of that algorithm.
fn check(key: &PublicKey, algorithm: &str) -> Result<(), WitKeyRule> {
    let (kind, fits) = match key.kind() {
        KeyKind::Rsa(_) => ("RSA", RSA.contains(&algorithm)),
        KeyKind::P256 => ("ec-p256", algorithm == "ES256"),
        KeyKind::P384 => ("ec-p384", algorithm == "ES384"),
        KeyKind::P521 => ("ec-p521", algorithm == "ES512"),
        other => return Err(WitKeyRule::Kind(other)),
    };
    if fits {
        return Ok(());
    }
    let algorithm = algorithm.chars().take(32).flat_map(char::escape_debug).collect();
    Err(WitKeyRule::Algorithm { kind, algorithm })
}

const RSA: [&str; 6] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];

#[cfg(test)]
mod tests {
    use steeple_pki::{KeyType, PrivateKey};

    use super::*;

    #[test]
    fn a_key_has_only_algorithms_of_its_kind() {
        for (kind, good, bad) in [
            (KeyType::EcP256, "ES256", "ES384"),
            (KeyType::EcP384, "ES384", "ES256"),
            (KeyType::Rsa2048, "PS384", "ES256"),
        ] {
            let key = PrivateKey::generate(kind).unwrap();
            assert_eq!(check(key.public_key(), good), Ok(()));
            for bad in [bad, "", "none", "HS256"] {
                let error = check(key.public_key(), bad).unwrap_err().to_string();
                assert!(error.starts_with("unsupported signing algorithm for "), "{error}");
            }
        }
    }
}

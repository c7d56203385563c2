//! WIT-SVIDs (CR-25): tokens that name the key of the workload that may use them.

use std::time::{Duration, SystemTime};

use serde_json::{Map, json};
use steeple_pki::bundle::public_jwk;
use steeple_pki::{PublicKey, jwt};
use steeple_spiffe::SpiffeId;

use super::{Arc, Credentials, JwtSvid, WitKey, capped, validate};
use crate::error::CaError;
use crate::kind::{from_unix, unix};
use crate::rotation::Authority;

/// What a workload's WIT-SVID is to be.
#[derive(Clone, Debug)]
pub struct WorkloadWitParams {
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// The workload's key.
    pub public_key: PublicKey,
    /// The algorithm that the workload signs with, as JOSE names it.
    pub algorithm: String,
    /// How long it lives; `None` or zero for the default. Never longer than the key.
    pub ttl: Option<Duration>,
}

impl Credentials {
    /// Issues a workload's WIT-SVID.
    ///
    /// # Errors
    /// No key is active or it has expired, the ID is not one of this trust domain, or the key
    /// manager fails.
    pub async fn sign_wit_svid(
        &self,
        params: WorkloadWitParams,
        now: SystemTime,
    ) -> Result<JwtSvid, CaError> {
        let key = self.active_wit(now)?;
        self.check_member("WIT-SVID", &params.spiffe_id)?;
        let issued_at = unix(now);
        let expires_at = unix(capped(now, params.ttl, WIT_SVID_TTL, key.not_after()));
        validate::wit_svid(from_unix(expires_at), now)
            .map_err(|source| CaError::Invalid { what: "workload WIT-SVID", source })?;

        let mut claims = Map::new();
        let jwk = public_jwk(&params.public_key, &params.algorithm);
        claims.insert("cnf".to_owned(), json!({ "jwk": jwk }));
        claims.insert("exp".to_owned(), expires_at.into());
        claims.insert("iat".to_owned(), issued_at.into());
        if let Some(issuer) = &self.0.wit_issuer {
            claims.insert("iss".to_owned(), issuer.as_str().into());
        }
        claims.insert("sub".to_owned(), params.spiffe_id.as_str().into());
        let signing = jwt::sign_as("wit+jwt", &claims, key.id(), key.signer().as_ref());
        let token = signing.await.map_err(CaError::SignJwt)?;
        Ok(JwtSvid { token, issued_at: from_unix(issued_at), expires_at: from_unix(expires_at) })
    }

    fn active_wit(&self, now: SystemTime) -> Result<Arc<WitKey>, CaError> {
        let active = self.0.wit.load_full().ok_or(CaError::NoWitKey)?;
        match active.not_after() {
            not_after if now < not_after => Ok(active),
            not_after => Err(CaError::WitKeyExpired(not_after)),
        }
    }
}

/// Lifetime of a WIT-SVID for which none is asked.
const WIT_SVID_TTL: Duration = Duration::from_secs(60 * 60);

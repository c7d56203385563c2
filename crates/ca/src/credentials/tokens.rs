//! JWT-SVIDs (CR-18 to CR-24).

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use steeple_pki::jwt;
use uuid::Uuid;

use super::compose::{self, Composed};
use super::{Credentials, WorkloadJwtParams, capped, validate};
use crate::error::CaError;
use crate::kind::{from_unix, unix};
use crate::rotation::Authority;

/// A JWT-SVID that was issued. The token is a secret: whoever has it can use it.
#[derive(Clone)]
pub struct JwtSvid {
    /// The token in compact serialisation.
    pub token: String,
    /// Its `iat` claim.
    pub issued_at: SystemTime,
    /// Its `exp` claim.
    pub expires_at: SystemTime,
}

impl Credentials {
    /// Issues a workload's JWT-SVID.
    ///
    /// # Errors
    /// No key is active or it has expired, the ID is not one of this trust domain, there is no
    /// audience, or the key manager fails.
    pub async fn sign_jwt_svid(
        &self,
        params: WorkloadJwtParams,
        now: SystemTime,
    ) -> Result<JwtSvid, CaError> {
        let WorkloadJwtParams { spiffe_id, mut audience, ttl, include_jti } = params;
        let active = self.active_jwt(now)?;
        let key = &active.key;
        audience.retain(|name| !name.is_empty());
        self.check_member("JWT-SVID", &spiffe_id)?;
        if audience.is_empty() {
            return Err(CaError::NoAudience);
        }
        let issued_at = unix(now);
        let expires_at = unix(capped(now, ttl, self.0.jwt_svid_ttl, key.not_after()));
        validate::jwt_svid(from_unix(expires_at), &audience, now)
            .map_err(|source| CaError::Invalid { what: "workload JWT-SVID", source })?;

        // In the order of their names, as Go's encoder leaves them.
        let mut claims = Map::new();
        claims.insert("aud".to_owned(), audience.into());
        claims.insert("exp".to_owned(), expires_at.into());
        claims.insert("iat".to_owned(), issued_at.into());
        if let Some(issuer) = &self.0.jwt_issuer {
            claims.insert("iss".to_owned(), issuer.as_str().into());
        }
        if include_jti {
            claims.insert("jti".to_owned(), URL_SAFE_NO_PAD.encode(Uuid::new_v4()).into());
        }
        claims.insert("sub".to_owned(), Value::from(spiffe_id.as_str()));
        let (mut issued_at, mut expires_at) = (issued_at, expires_at);
        if !self.0.composers.is_empty() {
            let cap = key.not_after();
            let composing =
                compose::workload_claims(&self.0.composers, &spiffe_id, claims, cap, now);
            Composed { claims, issued_at, expires_at } = Box::pin(composing).await?;
        }
        let signer = key.signer().as_ref();
        let token = match &active.header {
            Some(header) => jwt::sign_under(header, &claims, signer).await,
            None => jwt::sign(&claims, key.id(), signer).await,
        };
        let token = token.map_err(CaError::SignJwt)?;
        steeple_telemetry::incr(&["server_ca", "sign", "jwt_svid"], 1.0, &[]);
        Ok(JwtSvid { token, issued_at: from_unix(issued_at), expires_at: from_unix(expires_at) })
    }
}

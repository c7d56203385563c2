//! The two calls about JWT-SVIDs.

use steeple_agent_core::cache::Update;
use steeple_pki::PublicKey;
use steeple_pki::jwt::{JwtError, JwtKeySource, LEEWAY};
use steeple_proto::workload as proto;
use steeple_spiffe::{SpiffeId, TrustDomain};
use tonic::{Response, Status};
use tracing::{debug, error, warn};

use super::{API, MAX_ECHO, WorkloadApi, claims};
use crate::caller::SUBSYSTEM;

impl WorkloadApi {
    pub(super) async fn fetch_jwt_svid(
        &self,
        peer: steeple_peer::Peer,
        request: proto::JwtsvidRequest,
    ) -> Result<Response<proto::JwtsvidResponse>, Status> {
        let pid = peer.pid();
        let (service, method) = (API.logged, "FetchJWTSVID");
        if request.audience.is_empty() {
            error!(
                subsystem_name = SUBSYSTEM,
                service, method, pid, "Missing required audience parameter"
            );
            return Err(Status::invalid_argument("audience must be specified"));
        }
        if !request.spiffe_id.is_empty()
            && let Err(error) = SpiffeId::parse(&request.spiffe_id)
        {
            let spiffe_id: String = request.spiffe_id.chars().take(MAX_ECHO).collect();
            error!(subsystem_name = SUBSYSTEM, service, method, pid, spiffe_id, %error,
                "Invalid requested SPIFFE ID");
            return Err(Status::invalid_argument(format!("invalid requested SPIFFE ID: {error}")));
        }
        let caller = self.callers.attest(&API, peer, method).await?;
        let entries = self.entries_of(&caller);
        let mut svids = Vec::new();
        for entry in entries {
            if !request.spiffe_id.is_empty() && request.spiffe_id != entry.spiffe_id.as_str() {
                continue;
            }
            let now = self.clock.now();
            let svid = self.jwt.fetch(&entry, &request.audience, now).await.map_err(|error| {
                error!(subsystem_name = SUBSYSTEM, service, method, pid, registered = true,
                    spiffe_id = %entry.spiffe_id, error, "Could not fetch JWT-SVID");
                Status::unavailable(format!("could not fetch JWT-SVID: {error}"))
            })?;
            let ttl = svid.expires_at.duration_since(now).unwrap_or_default().as_secs_f64();
            debug!(subsystem_name = SUBSYSTEM, service, method, pid, registered = true,
                spiffe_id = %entry.spiffe_id, ttl, "Fetched JWT SVID");
            svids.push(proto::Jwtsvid {
                spiffe_id: entry.spiffe_id.to_string(),
                svid: svid.token.to_string(),
                hint: entry.hint.clone(),
            });
        }
        if svids.is_empty() {
            return Err(self.callers.no_identity(&caller));
        }
        Ok(Response::new(proto::JwtsvidResponse { svids }))
    }

    pub(super) async fn validate_jwt_svid(
        &self,
        peer: steeple_peer::Peer,
        request: proto::ValidateJwtsvidRequest,
    ) -> Result<Response<proto::ValidateJwtsvidResponse>, Status> {
        let pid = peer.pid();
        let (service, method) = (API.logged, "ValidateJWTSVID");
        for (given, name) in [(&request.audience, "audience"), (&request.svid, "svid")] {
            if given.is_empty() {
                error!(
                    subsystem_name = SUBSYSTEM,
                    service, method, pid, "Missing required {name} parameter"
                );
                return Err(Status::invalid_argument(format!("{name} must be specified")));
            }
        }
        let caller = self.callers.attest(&API, peer, method).await?;
        let update = self.cache.snapshot(&caller.selectors);
        let keys = VisibleKeys(&update);
        let now = self.clock.now();
        let valid =
            steeple_pki::jwt::verify_svid(&request.svid, &keys, &request.audience, now, LEEWAY)
                .map_err(|error| {
                    let audience: String = request.audience.chars().take(MAX_ECHO).collect();
                    warn!(subsystem_name = SUBSYSTEM, service, method, pid, audience, %error,
                    "Failed to validate JWT");
                    Status::invalid_argument(error.to_string())
                })?;
        debug!(subsystem_name = SUBSYSTEM, service, method, pid, spiffe_id = %valid.spiffe_id,
            "Successfully validated JWT");
        let foreign = !valid.spiffe_id.is_member_of(&self.trust_domain);
        let allowed = foreign.then_some(&self.allowed_foreign_jwt_claims);
        Ok(Response::new(proto::ValidateJwtsvidResponse {
            spiffe_id: valid.spiffe_id.to_string(),
            claims: Some(claims::shown(valid.claims, allowed)),
        }))
    }
}

/// The JWT keys of the bundles that a caller may see.
struct VisibleKeys<'u>(&'u Update);

impl JwtKeySource for VisibleKeys<'_> {
    fn jwt_key(&self, trust_domain: &TrustDomain, key_id: &str) -> Result<PublicKey, JwtError> {
        let bundle = std::iter::once(self.0.bundle())
            .chain(self.0.federated())
            .find(|bundle| bundle.trust_domain() == trust_domain)
            .ok_or_else(|| JwtError::UnknownTrustDomain(trust_domain.clone()))?;
        let authority = bundle.bundle().find_jwt_authority(key_id);
        authority.map(|authority| authority.public_key.clone()).ok_or_else(|| {
            let key_id = key_id.chars().take(MAX_ECHO).collect();
            JwtError::UnknownKey { key_id, trust_domain: trust_domain.clone() }
        })
    }
}

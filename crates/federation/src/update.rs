//! One refresh: read what is known, ask the endpoint, keep what is new.

use steeple_net::https::Trust;
use steeple_pki::Bundle;
use steeple_spiffe::TrustDomain;
use steeple_store::StoreError;
use steeple_store::model::BundleEndpointProfile;

use crate::fetch::{Fetch, FetchBundleError};
use crate::relationship::{Keep, Relationship};

/// Why a bundle was not refreshed. The texts are SPIRE's.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum UpdateError {
    #[error("failed to fetch local copy of bundle for \"{0}\": {1}")]
    Roots(TrustDomain, StoreError),
    #[error("can't perform SPIFFE Authentication: local copy of bundle not found")]
    NoRoots,
    #[error("failed to fetch local federated bundle: {0}")]
    Local(StoreError),
    #[error("failed to fetch federated bundle from endpoint: {0}")]
    Fetch(FetchBundleError),
    #[error("failed to store fetched federated bundle: {0}")]
    Keep(StoreError),
}

/// What a refresh came to.
pub(crate) struct Updated {
    /// The bundle that counts now, if one is known.
    pub(crate) bundle: Option<Bundle>,
    /// Whether the endpoint's bundle is the one.
    pub(crate) result: Result<(), UpdateError>,
}

impl Updated {
    fn failed(known: Option<Bundle>, error: UpdateError) -> Self {
        Self { bundle: known, result: Err(error) }
    }
}

/// Refreshes the bundle of `of`.
pub(crate) async fn update(
    keep: &dyn Keep,
    fetch: &dyn Fetch,
    of: &TrustDomain,
    relationship: &Relationship,
) -> Updated {
    let trust = match trust(keep, relationship).await {
        Ok(trust) => trust,
        Err(error) => return Updated::failed(None, error),
    };
    let known = match keep.bundle(of).await {
        Ok(known) => known,
        Err(error) => return Updated::failed(None, UpdateError::Local(error)),
    };
    let fetched = match fetch.fetch(of, relationship, &trust).await {
        Ok(fetched) => fetched,
        Err(error) => return Updated::failed(known, UpdateError::Fetch(error)),
    };
    if !known.as_ref().is_some_and(|known| says_the_same(known, &fetched)) {
        if let Err(error) = keep.set_bundle(&fetched).await {
            return Updated::failed(known, UpdateError::Keep(error));
        }
        let labels = &[("trust_domain_id", of.as_str())];
        steeple_telemetry::incr(&["bundle_manager", "update", "federated_bundle"], 1.0, labels);
    }
    Updated { bundle: Some(fetched), result: Ok(()) }
}

async fn trust(keep: &dyn Keep, relationship: &Relationship) -> Result<Trust, UpdateError> {
    let BundleEndpointProfile::HttpsSpiffe(server) = &relationship.profile else {
        return Ok(Trust::System);
    };
    let of = server.trust_domain();
    let bundle = match keep.bundle(&of).await {
        Ok(bundle) => bundle.ok_or(UpdateError::NoRoots)?,
        Err(error) => return Err(UpdateError::Roots(of, error)),
    };
    Ok(Trust::Spiffe { server: server.clone(), roots: bundle.certificates().cloned().collect() })
}

/// Whether there is nothing new. The sequence number is the publisher's own affair; when a JWT
/// authority ends, and what is tainted, is not in the document.
fn says_the_same(known: &Bundle, fetched: &Bundle) -> bool {
    let keys = |authorities: &[steeple_pki::JwtAuthority]| {
        let mut keys: Vec<_> = authorities
            .iter()
            .map(|it| (it.key_id.clone(), it.public_key.spki_der().to_vec()))
            .collect();
        keys.sort();
        keys
    };
    known.refresh_hint == fetched.refresh_hint
        && known.certificates().eq(fetched.certificates())
        && keys(&known.jwt_authorities) == keys(&fetched.jwt_authorities)
        && keys(&known.wit_authorities) == keys(&fetched.wit_authorities)
}

#[cfg(test)]
mod tests;

//! TLS peers: from the chain that a client showed to a verified SPIFFE ID.

use std::time::SystemTime;

use steeple_pki::Certificate;
use steeple_pki::verify::{self, VerifyError, X509Roots};
use steeple_spiffe::{IdError, SpiffeId, TrustDomain};

use crate::access::PeerSvid;
use crate::bundles::{BundleError, Bundles};
use crate::text::Quoted;

/// Why a client certificate does not authenticate anybody.
///
/// No text may hold Go's "certificate signed by unknown authority": an agent that reads this in
/// an answer takes the *server's* certificate for untrusted and gives up its own trust bundle.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum PeerError {
    #[error("client certificate has no URI SAN")]
    NoUri,
    #[error("client certificate has more than one URI SAN")]
    ManyUris,
    #[error("client certificate has a malformed URI SAN: {0}")]
    MalformedUri(#[source] IdError),
    #[error("client certificate is malformed")]
    Malformed,
    #[error("client certificate has an unexpected trust domain in ID {0}")]
    Foreign(Quoted),
    #[error("no bundle found for trust domain {0:?}")]
    NoBundle(String),
    #[error("client certificate does not chain up to an authority of its trust domain")]
    UnknownAuthority,
    #[error("client certificate is not accepted: {0}")]
    Refused(VerifyError),
    #[error("unable to look up the client's trust bundle")]
    Bundle(#[source] BundleError),
}

/// Verifies a chain against the bundle of its trust domain: our own, or that of a configured
/// admin's (`is_admin_id`).
///
/// # Errors
/// [`PeerError`].
pub async fn verify(
    chain: &[Certificate],
    home: &TrustDomain,
    bundles: &Bundles,
    is_admin_id: impl Fn(&SpiffeId) -> bool,
    now: SystemTime,
) -> Result<PeerSvid, PeerError> {
    let leaf = chain.first().ok_or(PeerError::Malformed)?;
    let id = match leaf.uri_sans() {
        [] => return Err(PeerError::NoUri),
        [uri] => SpiffeId::parse(uri).map_err(PeerError::MalformedUri)?,
        _ => return Err(PeerError::ManyUris),
    };
    let trust_domain = id.trust_domain();
    if trust_domain != *home && !is_admin_id(&id) {
        return Err(PeerError::Foreign(Quoted::new(id.as_str())));
    }
    let bundle = bundles.recent(&trust_domain, now).await.map_err(PeerError::Bundle)?;
    let Some(bundle) = bundle else {
        if trust_domain != *home {
            tracing::warn!(
                subsystem_name = "endpoints",
                trust_domain = %trust_domain,
                "No bundle found for foreign admin trust domain; admins from this trust domain \
                 will not be able to connect. Make sure this trust domain is correctly federated."
            );
        }
        return Err(PeerError::NoBundle(trust_domain.as_str().to_owned()));
    };
    let authorities =
        bundle.x509_authorities.iter().map(|authority| authority.certificate.clone()).collect();
    let roots = X509Roots { trust_domain, authorities };
    let id = verify::x509_svid(chain, &roots, now).map_err(|error| match error {
        VerifyError::UnknownAuthority => PeerError::UnknownAuthority,
        other => PeerError::Refused(other),
    })?;
    Ok(PeerSvid { id, serial_number: leaf.serial_decimal(), not_after: leaf.not_after() })
}

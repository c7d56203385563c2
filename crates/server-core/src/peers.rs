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
    let is_agent = id.is_agent() && id.is_member_of(home) && !is_admin_id(&id);
    let verified = judge(chain, &roots, is_agent, now);
    let id = verified.map_err(|error| match error {
        VerifyError::UnknownAuthority => PeerError::UnknownAuthority,
        other => PeerError::Refused(other),
    })?;
    Ok(PeerSvid { id, serial_number: leaf.serial_decimal(), not_after: leaf.not_after() })
}

/// Whether the chain is good. An agent's may begin in the future: it was issued before this
/// machine's clock was set back, and has to be renewed somehow. It is the datastore that says
/// whether an agent's SVID is the current one. Everything else holds for it as well, at the moment
/// when it begins.
fn judge(
    chain: &[Certificate],
    roots: &X509Roots,
    is_agent: bool,
    now: SystemTime,
) -> Result<SpiffeId, VerifyError> {
    let verified = verify::x509_svid(chain, roots, now);
    match (&verified, chain.first()) {
        (Err(VerifyError::NotYetValid { .. }), Some(leaf)) if is_agent => {
            tracing::warn!(
                subsystem_name = "endpoints",
                caller_id = leaf.uri_sans().first(),
                "An agent's SVID is of a time that is yet to come; was a clock set back?"
            );
            verify::x509_svid(chain, roots, leaf.not_before().max(now))
        }
        _ => verified,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use steeple_pki::x509::{
        DistinguishedName, Issuer, KeyUsage, SerialNumber, Template, issue, self_sign,
    };
    use steeple_pki::{KeyType, PrivateKey};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const AGENT: &str = "spiffe://example.org/spire/agent/join_token/a";

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn key() -> Arc<PrivateKey> {
        Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap())
    }

    fn template(key: &PrivateKey, ca: bool) -> Template {
        Template {
            subject: DistinguishedName { common_name: "x".into(), ..Default::default() },
            public_key: key.public_key().clone(),
            serial: SerialNumber::random(),
            not_before: now() - HOUR,
            not_after: now() + 10 * HOUR,
            ca,
            key_usage: if ca { KeyUsage::CA } else { KeyUsage::SVID },
            ext_key_usage: vec![],
            uri_sans: vec![if ca { "spiffe://example.org" } else { AGENT }.into()],
            dns_names: vec![],
            policies: vec![],
            extra_extensions: vec![],
        }
    }

    async fn authority(change: impl FnOnce(&mut Template)) -> (X509Roots, Issuer) {
        let key = key();
        let mut template = template(&key, true);
        change(&mut template);
        let certificate = self_sign(&template, key.clone()).await.unwrap();
        let issuer = Issuer::new(&certificate, key);
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        (X509Roots { trust_domain, authorities: vec![certificate] }, issuer)
    }

    async fn early(issuer: &Issuer, change: impl FnOnce(&mut Template)) -> Vec<Certificate> {
        let mut template = template(&key(), false);
        template.not_before = now() + HOUR;
        change(&mut template);
        vec![issue(&template, issuer).await.unwrap()]
    }

    #[tokio::test]
    async fn an_agents_svid_may_begin_in_the_future_and_nobody_elses() {
        let (roots, issuer) = authority(|_| ()).await;
        let chain = early(&issuer, |_| ()).await;
        assert_eq!(judge(&chain, &roots, true, now()).unwrap().as_str(), AGENT);
        let refused = judge(&chain, &roots, false, now());
        assert!(matches!(refused, Err(VerifyError::NotYetValid { .. })));
    }

    #[tokio::test]
    async fn nothing_else_is_relaxed_for_it() {
        let (roots, issuer) = authority(|_| ()).await;
        let (_, stranger) = authority(|_| ()).await;
        let judged = |chain: &[Certificate]| judge(chain, &roots, true, now()).is_ok();
        assert!(!judged(&early(&stranger, |_| ()).await), "an unknown authority");
        let expired = early(&issuer, |it| {
            (it.not_before, it.not_after) = (now() - 2 * HOUR, now() - HOUR);
        });
        assert!(!judged(&expired.await), "one that has ended");
        let ca = early(&issuer, |it| (it.ca, it.key_usage) = (true, KeyUsage::CA)).await;
        assert!(!judged(&ca), "a CA");
        assert!(!judged(&early(&issuer, |it| it.uri_sans.clear()).await), "nobody's");
        let elsewhere = early(&issuer, |it| it.uri_sans = vec!["spiffe://other.org/a".into()]);
        assert!(!judged(&elsewhere.await), "another trust domain's");
        assert!(!judged(&early(&issuer, |it| it.key_usage = KeyUsage::CA).await), "a signer's");
    }

    #[tokio::test]
    async fn its_authority_must_be_valid_when_it_begins() {
        let (roots, issuer) = authority(|it| it.not_after = now() + HOUR / 2).await;
        let chain = early(&issuer, |_| ()).await;
        assert!(judge(&chain, &roots, true, now()).is_err());
        // Valid never at the same time as its authority.
        let (roots, issuer) = authority(|it| it.not_before = now() + 2 * HOUR).await;
        let chain = early(&issuer, |it| it.not_before = now() - HOUR).await;
        assert!(judge(&chain, &roots, true, now()).is_err());
    }
}

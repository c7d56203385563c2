//! What is believed of an upstream authority's answer.

use std::sync::Arc;
use std::time::SystemTime;

use steeple_pki::bundle::MAX_KEYS;
use steeple_pki::verify::{self, VerifyError, X509Roots};
use steeple_pki::x509::Certificate;
use steeple_pki::{Signer, X509Authority};
use steeple_spiffe::TrustDomain;

use crate::credentials::{probe_svid, validate_x509_ca};
use crate::error::InvalidMint;

/// Checks that what was minted is a CA of ours that signs what others can verify.
///
/// # Errors
/// The first rule that is broken.
pub(super) async fn minted(
    chain: &[Certificate],
    roots: &[X509Authority],
    signer: &Arc<dyn Signer>,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(), InvalidMint> {
    let ca = chain.first().ok_or(InvalidMint::NoChain)?;
    if chain.len() > MAX_CHAIN {
        return Err(InvalidMint::LongChain(chain.len()));
    }
    if roots.is_empty() {
        return Err(InvalidMint::NoRoots);
    }
    count(roots.len())?;
    if ca.public_key() != signer.public_key() {
        return Err(InvalidMint::OtherKey);
    }
    validate_x509_ca(ca, &trust_domain.id_string(), now)?;

    // Names, path lengths and times of the whole path have their say only over a leaf.
    let svid = probe_svid(trust_domain, ca, signer).await.map_err(InvalidMint::Probe)?;
    let svid_chain = std::iter::once(&svid).chain(chain).cloned().collect::<Vec<_>>();
    let check = |authorities: Vec<Certificate>| {
        let bundle = X509Roots { trust_domain: trust_domain.clone(), authorities };
        verify::x509_svid(&svid_chain, &bundle, now).map(drop)
    };
    let all = |tainted_too: bool| {
        let wanted = roots.iter().filter(|root| tainted_too || !root.tainted);
        wanted.map(|root| root.certificate.clone()).collect::<Vec<_>>()
    };
    match check(all(false)) {
        Err(VerifyError::UnknownAuthority) if check(all(true)).is_ok() => Err(InvalidMint::Tainted),
        checked => checked.map_err(InvalidMint::Path),
    }
}

/// Checks the length of a list of roots or keys.
///
/// # Errors
/// It is longer than any bundle's.
pub(super) fn count(count: usize) -> Result<(), InvalidMint> {
    if count > MAX_KEYS { Err(InvalidMint::Many(count)) } else { Ok(()) }
}

/// With a leaf below, this is the longest that anybody verifies.
const MAX_CHAIN: usize = verify::MAX_CHAIN_LEN - 1;

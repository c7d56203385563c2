//! X509-SVID validation (SPIFFE X509-SVID §5), the way go-spiffe does it: the rules for leaves are
//! ours, the path is built and checked by rustls-webpki.

use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use steeple_spiffe::{IdError, SpiffeId, TrustDomain};
use thiserror::Error;
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use crate::x509::{Certificate, KeyUsage};

pub use ca_path::is_ca_under;
pub use name_constraints::ConstraintError;
pub use outside::{Hint, PathError, PathRules, Work, paths, paths_counted};

mod ca_path;
mod name_constraints;
mod outside;

/// More certificates than any real chain has.
pub const MAX_CHAIN_LEN: usize = 16;

/// Why a chain is not a valid X509-SVID. The texts are those of go-spiffe and Go's crypto/x509
/// where these have one, because SPIRE's agent and its users' scripts match on them.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// There is no certificate.
    #[error("x509svid: empty certificates chain")]
    EmptyChain,
    /// More than [`MAX_CHAIN_LEN`] certificates.
    #[error("x509svid: certificate chain is too long: {0} certificates")]
    TooLong(usize),
    /// The leaf has no URI name.
    #[error("x509svid: could not get leaf SPIFFE ID: certificate contains no URI SAN")]
    NoUri,
    /// The leaf has several URI names.
    #[error("x509svid: could not get leaf SPIFFE ID: certificate contains more than one URI SAN")]
    SeveralUris,
    /// The leaf's URI name is not a SPIFFE ID.
    #[error("x509svid: could not get leaf SPIFFE ID: {0}")]
    Id(IdError),
    /// The leaf is a CA.
    #[error("x509svid: leaf certificate with CA flag set to true")]
    LeafIsCa,
    /// The leaf may sign certificates.
    #[error("x509svid: leaf certificate with KeyCertSign key usage")]
    LeafSignsCertificates,
    /// The leaf may sign revocation lists.
    #[error("x509svid: leaf certificate with KeyCrlSign key usage")]
    LeafSignsCrls,
    /// The leaf may not sign at all, which TLS needs (X509-SVID §4.3).
    #[error("x509svid: leaf certificate without DigitalSignature key usage")]
    LeafCannotSign,
    /// There is no bundle of the leaf's trust domain.
    #[error(
        "x509svid: could not get X509 bundle: x509bundle: no X.509 bundle found for trust domain: {:?}",
        .0.as_str()
    )]
    UnknownTrustDomain(TrustDomain),
    /// No path leads to an authority of the bundle.
    #[error(
        "x509svid: could not verify leaf certificate: x509: certificate signed by unknown \
         authority"
    )]
    UnknownAuthority,
    /// A certificate of the path, or the authority at its end, is past its validity.
    #[error(
        "x509svid: could not verify leaf certificate: x509: certificate has expired or is not \
         yet valid: current time {now} is after {not_after}"
    )]
    Expired {
        /// The time of checking (RFC 3339).
        now: String,
        /// The end of validity (RFC 3339).
        not_after: String,
    },
    /// A certificate of the path, or the authority at its end, is before its validity.
    #[error(
        "x509svid: could not verify leaf certificate: x509: certificate has expired or is not \
         yet valid: current time {now} is before {not_before}"
    )]
    NotYetValid {
        /// The time of checking (RFC 3339).
        now: String,
        /// The start of validity (RFC 3339).
        not_before: String,
    },
    /// The path breaks another rule of RFC 5280; holds webpki's reason.
    #[error("x509svid: could not verify leaf certificate: x509: {0}")]
    Path(String),
}

/// Where a verifier finds the authorities of a trust domain.
pub trait X509BundleSource {
    /// The X.509 authorities of `trust_domain`; `None` when it is not trusted.
    fn x509_authorities(&self, trust_domain: &TrustDomain) -> Option<Vec<Certificate>>;
}

/// The authorities of one trust domain.
#[derive(Clone, Debug)]
pub struct X509Roots {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Its authorities.
    pub authorities: Vec<Certificate>,
}

impl X509BundleSource for X509Roots {
    fn x509_authorities(&self, trust_domain: &TrustDomain) -> Option<Vec<Certificate>> {
        (self.trust_domain == *trust_domain).then(|| self.authorities.clone())
    }
}

/// Validates an X509-SVID: `chain` is the leaf and the intermediates that came with it, in any
/// order. Every certificate of the path, and the authority, must be valid at `now`.
///
/// # Errors
/// The first rule that is broken. A chain of a trust domain that is known, but with no path to its
/// authorities, gives [`VerifyError::UnknownAuthority`].
pub fn x509_svid(
    chain: &[Certificate],
    bundles: &dyn X509BundleSource,
    now: SystemTime,
) -> Result<SpiffeId, VerifyError> {
    let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::EmptyChain)?;
    if chain.len() > MAX_CHAIN_LEN {
        return Err(VerifyError::TooLong(chain.len()));
    }
    let id = leaf_svid_rules(leaf)?;
    let trust_domain = id.trust_domain();
    let authorities = bundles
        .x509_authorities(&trust_domain)
        .ok_or(VerifyError::UnknownTrustDomain(trust_domain))?;
    verify_path(leaf, intermediates, &authorities, now)?;
    Ok(id)
}

/// The rules for the leaf by itself (X509-SVID §5.2): exactly one URI name, a SPIFFE ID; not a CA;
/// allowed to sign, but neither certificates nor revocation lists.
///
/// # Errors
/// The first rule that is broken.
pub fn leaf_svid_rules(leaf: &Certificate) -> Result<SpiffeId, VerifyError> {
    let id = match leaf.uri_sans() {
        [] => return Err(VerifyError::NoUri),
        [uri] => SpiffeId::parse(uri).map_err(VerifyError::Id)?,
        _ => return Err(VerifyError::SeveralUris),
    };
    let usage = leaf.key_usage().unwrap_or_default();
    if leaf.is_ca() {
        Err(VerifyError::LeafIsCa)
    } else if usage.contains(KeyUsage::KEY_CERT_SIGN) {
        Err(VerifyError::LeafSignsCertificates)
    } else if usage.contains(KeyUsage::CRL_SIGN) {
        Err(VerifyError::LeafSignsCrls)
    } else if !usage.contains(KeyUsage::DIGITAL_SIGNATURE) {
        Err(VerifyError::LeafCannotSign)
    } else {
        Ok(id)
    }
}

/// Checks that a path leads from `leaf` over `intermediates` to one of `authorities` at `now`.
/// SPIFFE names are not looked at.
///
/// # Errors
/// When there is none.
pub fn verify_path(
    leaf: &Certificate,
    intermediates: &[Certificate],
    authorities: &[Certificate],
    now: SystemTime,
) -> Result<(), VerifyError> {
    // webpki takes anchors at their word, so those that are no CA or out of their time are kept
    // from it.
    let (valid, out_of_time): (Vec<_>, Vec<_>) = authorities
        .iter()
        .filter(|authority| may_sign(authority))
        .partition(|authority| authority.is_valid_at(now));
    let result = webpki_path(leaf, intermediates, &valid, now);
    if !matches!(result, Err(VerifyError::UnknownAuthority)) {
        return result;
    }
    // Tell an authority that has expired from one that was never known: an agent that sees the
    // latter gives up its trust bundle.
    for authority in out_of_time {
        if webpki_path(leaf, intermediates, &[authority], now).is_ok() {
            return Err(out_of_validity(authority, now));
        }
    }
    result
}

/// Whether an authority is one: a bundle may hold any certificate that somebody appended to it.
fn may_sign(authority: &Certificate) -> bool {
    authority.is_ca()
        && authority.key_usage().is_none_or(|usage| usage.contains(KeyUsage::KEY_CERT_SIGN))
}

fn webpki_path(
    leaf: &Certificate,
    intermediates: &[Certificate],
    authorities: &[&Certificate],
    now: SystemTime,
) -> Result<(), VerifyError> {
    let authorities: Vec<_> = authorities.iter().map(|it| CertificateDer::from(it.der())).collect();
    // An anchor that webpki cannot read makes no path; the others still count.
    let anchors: Vec<TrustAnchor<'_>> =
        authorities.iter().filter_map(|it| webpki::anchor_from_trusted_cert(it).ok()).collect();
    let intermediates: Vec<_> =
        intermediates.iter().map(|it| CertificateDer::from(it.der())).collect();
    let leaf = CertificateDer::from(leaf.der());
    let leaf = EndEntityCert::try_from(&leaf).map_err(|err| path_error(&err, now))?;
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &intermediates,
        UnixTime::since_unix_epoch(since_1970),
        AnyUsage,
        None,
        None,
    )
    .map(|_| ())
    .map_err(|err| path_error(&err, now))
}

/// SPIFFE leaves the extended key usage open, as go-spiffe does.
struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, mut purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        purposes.try_for_each(|purpose| purpose.map(|_| ()))
    }
}

fn path_error(error: &webpki::Error, now: SystemTime) -> VerifyError {
    match *error {
        webpki::Error::UnknownIssuer => VerifyError::UnknownAuthority,
        // Issuers with a matching name and another key: for Go they are unknown as well.
        webpki::Error::InvalidSignatureForPublicKey => VerifyError::UnknownAuthority,
        webpki::Error::CertExpired { not_after, .. } => {
            VerifyError::Expired { now: rfc3339(now), not_after: rfc3339(to_time(not_after)) }
        }
        webpki::Error::CertNotValidYet { not_before, .. } => {
            VerifyError::NotYetValid { now: rfc3339(now), not_before: rfc3339(to_time(not_before)) }
        }
        ref other => VerifyError::Path(format!("{other:?}").chars().take(100).collect()),
    }
}

fn out_of_validity(authority: &Certificate, now: SystemTime) -> VerifyError {
    if now > authority.not_after() {
        VerifyError::Expired { now: rfc3339(now), not_after: rfc3339(authority.not_after()) }
    } else {
        VerifyError::NotYetValid { now: rfc3339(now), not_before: rfc3339(authority.not_before()) }
    }
}

fn to_time(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

fn rfc3339(time: SystemTime) -> String {
    let whole = crate::x509::truncate_to_seconds(time).unwrap_or(SystemTime::UNIX_EPOCH);
    time::OffsetDateTime::from(whole)
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;

//! The last look at a credential before it is released (CR-27): whatever made it, it is one that
//! this server may issue.

use std::time::SystemTime;

use steeple_pki::x509::{Certificate, ExtKeyUsage, KeyUsage};
use steeple_spiffe::SpiffeId;

use crate::error::InvalidCredential;

const CA: &str = "invalid X509 CA";
const SVID: &str = "invalid X509-SVID";

/// A CA certificate of the trust domain with this id.
pub(crate) fn x509_ca(
    ca: &Certificate,
    trust_domain_id: &str,
    now: SystemTime,
) -> Result<(), InvalidCredential> {
    let usage = ca.key_usage().unwrap_or(KeyUsage::EMPTY);
    let allowed = KeyUsage::CA | KeyUsage::DIGITAL_SIGNATURE;
    if !ca.is_ca() {
        return rule("invalid X509 CA: cA constraint is not set");
    }
    if !usage.contains(KeyUsage::KEY_CERT_SIGN) {
        return rule("invalid X509 CA: keyCertSign key usage must be set");
    }
    if !allowed.contains(usage) {
        return rule(
            "invalid X509 CA: only keyCertSign, cRLSign, or digitalSignature key usage can be set",
        );
    }
    if !ca.uri_sans().is_empty() {
        check_uri(CA, ca, trust_domain_id)?;
    }
    check_validity(CA, ca, now)
}

/// The X509-SVID of this SPIFFE ID.
pub(super) fn x509_svid(
    svid: &Certificate,
    id: &SpiffeId,
    now: SystemTime,
) -> Result<(), InvalidCredential> {
    let usage = svid.key_usage().unwrap_or(KeyUsage::EMPTY);
    if svid.is_ca() {
        return rule("invalid X509-SVID: cA constraint must not be set");
    }
    if !usage.contains(KeyUsage::DIGITAL_SIGNATURE) {
        return rule("invalid X509-SVID: digitalSignature key usage must be set");
    }
    if !KeyUsage::SVID.contains(usage) {
        return rule(
            "invalid X509-SVID: only digitalSignature, keyEncipherment, and keyAgreement key \
             usage can be set",
        );
    }
    let purposes = svid.ext_key_usage();
    let server = purposes.contains(&ExtKeyUsage::ServerAuth);
    let client = purposes.contains(&ExtKeyUsage::ClientAuth);
    match (server, client) {
        _ if purposes.is_empty() => {}
        (true, true) => {}
        (false, true) => {
            return rule("invalid X509-SVID: missing serverAuth extended key usage");
        }
        (true, false) => {
            return rule("invalid X509-SVID: missing clientAuth extended key usage");
        }
        (false, false) => {
            return rule(
                "invalid X509-SVID: missing both serverAuth and clientAuth extended key usage",
            );
        }
    }
    if svid.uri_sans().is_empty() {
        return rule("invalid X509-SVID: missing URI SAN");
    }
    check_uri(SVID, svid, id.as_str())?;
    check_validity(SVID, svid, now)
}

/// The claims of a JWT-SVID, by the names that tokens have them under.
pub(super) fn jwt_svid(
    expires_at: SystemTime,
    audience: &[String],
    now: SystemTime,
) -> Result<(), InvalidCredential> {
    if expires_at <= now {
        let kind = "invalid JWT-SVID \"exp\" claim";
        return Err(InvalidCredential::Expired { kind, not_after: expires_at });
    }
    if audience.is_empty() {
        return rule("invalid JWT-SVID \"aud\" claim: required but missing");
    }
    if audience.iter().any(String::is_empty) {
        return rule("invalid JWT-SVID \"aud\" claim: contains empty value");
    }
    Ok(())
}

/// The claims of a WIT-SVID.
pub(super) fn wit_svid(expires_at: SystemTime, now: SystemTime) -> Result<(), InvalidCredential> {
    if expires_at <= now {
        let kind = "invalid WIT-SVID \"exp\" claim";
        return Err(InvalidCredential::Expired { kind, not_after: expires_at });
    }
    Ok(())
}

fn check_uri(
    kind: &'static str,
    certificate: &Certificate,
    expected: &str,
) -> Result<(), InvalidCredential> {
    match certificate.uri_sans() {
        [uri] if uri == expected => Ok(()),
        found => Err(InvalidCredential::UriSan {
            kind,
            expected: expected.to_owned(),
            found: found.to_vec(),
        }),
    }
}

fn check_validity(
    kind: &'static str,
    certificate: &Certificate,
    now: SystemTime,
) -> Result<(), InvalidCredential> {
    if now < certificate.not_before() {
        let not_before = certificate.not_before();
        return Err(InvalidCredential::NotYetValid { kind, not_before });
    }
    if now > certificate.not_after() {
        let not_after = certificate.not_after();
        return Err(InvalidCredential::Expired { kind, not_after });
    }
    Ok(())
}

fn rule(text: &'static str) -> Result<(), InvalidCredential> {
    Err(InvalidCredential::Rule(text))
}

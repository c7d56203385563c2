//! A certificate authority made by rcgen.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use steeple_spiffe::{SpiffeId, TrustDomain};
use time::{Duration, OffsetDateTime};

/// A self-signed X.509 authority of a trust domain, valid for a day around now.
pub struct TestCa {
    trust_domain: TrustDomain,
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// An X.509-SVID with its private key.
pub struct TestSvid {
    /// The certificate, leaf first, each in DER.
    pub chain_der: Vec<Vec<u8>>,
    /// The certificates in PEM.
    pub chain_pem: String,
    /// The private key in PKCS#8 DER.
    pub key_der: Vec<u8>,
    /// The private key in PKCS#8 PEM.
    pub key_pem: String,
}

impl TestCa {
    /// An authority of `trust_domain` with a new key.
    ///
    /// # Panics
    /// When rcgen fails, which it does not.
    pub fn new(trust_domain: &TrustDomain) -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = params(&trust_domain.id(), Duration::hours(12));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("a certificate can be made");
        let issuer = Issuer::new(params, key);
        Self { trust_domain: trust_domain.clone(), certificate, issuer }
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authority's certificate in DER.
    pub fn certificate_der(&self) -> &[u8] {
        self.certificate.der()
    }

    /// The authority's certificate in PEM.
    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    /// An SVID for `id`, valid for an hour around now.
    ///
    /// # Panics
    /// When rcgen fails, which it does not.
    pub fn issue(&self, id: &SpiffeId) -> TestSvid {
        self.issue_with(id, |_| ())
    }

    /// An SVID for `id` that `change` makes into something special, such as an expired one.
    ///
    /// # Panics
    /// When `change` asks for what rcgen does not do.
    pub fn issue_with(
        &self,
        id: &SpiffeId,
        change: impl FnOnce(&mut CertificateParams),
    ) -> TestSvid {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = params(id, Duration::minutes(30));
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate can be made");
        TestSvid {
            chain_der: vec![certificate.der().to_vec()],
            chain_pem: certificate.pem(),
            key_der: key.serialize_der(),
            key_pem: key.serialize_pem(),
        }
    }
}

fn params(id: &SpiffeId, around_now: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - around_now, now + around_now);
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CountryName, "US");
    params.distinguished_name.push(DnType::OrganizationName, "SPIRE");
    let uri = id.as_str().try_into().expect("a SPIFFE ID is ASCII");
    params.subject_alt_names = vec![SanType::URI(uri)];
    params
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rustls_pki_types::{CertificateDer, UnixTime};
    use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};

    use super::*;

    #[test]
    fn what_it_issues_verifies_against_it_and_not_against_another() {
        let domain = TrustDomain::parse("example.org").unwrap();
        let (ours, other) = (TestCa::new(&domain), TestCa::new(&domain));
        let id = SpiffeId::parse("spiffe://example.org/workload").unwrap();
        let svid = ours.issue(&id);
        let leaf = CertificateDer::from(svid.chain_der[0].as_slice());
        let verifies = |ca: &TestCa| {
            let root = CertificateDer::from(ca.certificate_der());
            let anchor = anchor_from_trusted_cert(&root).unwrap();
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            EndEntityCert::try_from(&leaf)
                .unwrap()
                .verify_for_usage(
                    ALL_VERIFICATION_ALGS,
                    &[anchor],
                    &[],
                    UnixTime::since_unix_epoch(now),
                    KeyUsage::client_auth(),
                    None,
                    None,
                )
                .is_ok()
        };
        assert!(verifies(&ours));
        assert!(!verifies(&other));
        assert!(svid.key_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
    }
}

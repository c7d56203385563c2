use std::sync::Arc;

use super::*;
use crate::keys::{KeyType, PrivateKey};
use crate::x509::{
    DistinguishedName, ExtKeyUsage, Issuer, SerialNumber, Template, issue, self_sign,
};

const HOUR: Duration = Duration::from_secs(3600);
const ID: &str = "spiffe://example.org/web";

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn key() -> Arc<PrivateKey> {
    Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap())
}

fn ca_template(key: &PrivateKey, name: &str) -> Template {
    Template {
        subject: DistinguishedName { common_name: name.into(), ..Default::default() },
        public_key: key.public_key().clone(),
        serial: SerialNumber::random(),
        not_before: now() - HOUR,
        not_after: now() + 24 * HOUR,
        ca: true,
        key_usage: KeyUsage::CA,
        ext_key_usage: vec![],
        uri_sans: vec!["spiffe://example.org".into()],
        dns_names: vec![],
        policies: vec![],
        extra_extensions: vec![],
    }
}

fn leaf_template(key: &PrivateKey) -> Template {
    Template {
        not_after: now() + HOUR,
        ca: false,
        key_usage: KeyUsage::SVID,
        ext_key_usage: vec![ExtKeyUsage::ServerAuth, ExtKeyUsage::ClientAuth],
        uri_sans: vec![ID.into()],
        ..ca_template(key, "leaf")
    }
}

struct Ca {
    certificate: Certificate,
    issuer: Issuer,
}

impl Ca {
    async fn root(change: impl FnOnce(&mut Template)) -> Self {
        let key = key();
        let mut template = ca_template(&key, "root");
        change(&mut template);
        let certificate = self_sign(&template, key.clone()).await.unwrap();
        Self { issuer: Issuer::new(&certificate, key), certificate }
    }

    async fn intermediate(&self, change: impl FnOnce(&mut Template)) -> Self {
        let key = key();
        let mut template = ca_template(&key, "intermediate");
        change(&mut template);
        let certificate = issue(&template, &self.issuer).await.unwrap();
        Self { issuer: Issuer::new(&certificate, key), certificate }
    }

    async fn leaf(&self, change: impl FnOnce(&mut Template)) -> Certificate {
        let mut template = leaf_template(&key());
        change(&mut template);
        issue(&template, &self.issuer).await.unwrap()
    }
}

fn roots(authorities: &[&Ca]) -> X509Roots {
    X509Roots {
        trust_domain: TrustDomain::parse("example.org").unwrap(),
        authorities: authorities.iter().map(|it| it.certificate.clone()).collect(),
    }
}

fn unchanged(_: &mut Template) {}

#[tokio::test]
async fn a_leaf_of_any_authority_is_valid() {
    let (old, new) = (Ca::root(unchanged).await, Ca::root(unchanged).await);
    for ca in [&old, &new] {
        let leaf = ca.leaf(unchanged).await;
        let id = x509_svid(&[leaf], &roots(&[&old, &new]), now()).unwrap();
        assert_eq!(id.as_str(), ID);
    }
}

#[tokio::test]
async fn intermediates_count_in_any_order() {
    let root = Ca::root(unchanged).await;
    let upper = root.intermediate(unchanged).await;
    let lower = upper.intermediate(|it| it.subject.common_name = "lower".into()).await;
    let leaf = lower.leaf(unchanged).await;
    let (upper, lower) = (upper.certificate, lower.certificate);
    for chain in
        [[leaf.clone(), lower.clone(), upper.clone()], [leaf.clone(), upper.clone(), lower.clone()]]
    {
        x509_svid(&chain, &roots(&[&root]), now()).unwrap();
    }
    let broken = x509_svid(&[leaf, lower], &roots(&[&root]), now()).unwrap_err();
    assert!(matches!(broken, VerifyError::UnknownAuthority), "{broken}");
}

#[tokio::test]
async fn an_unknown_authority_is_called_what_agents_look_for() {
    let (root, other) = (Ca::root(unchanged).await, Ca::root(unchanged).await);
    let renamed = Ca::root(|it| it.subject.common_name = "elsewhere".into()).await;
    let leaf = root.leaf(unchanged).await;
    // Same name with another key, another name, and no authority at all.
    for roots in [roots(&[&other]), roots(&[&renamed]), roots(&[])] {
        let error = x509_svid(std::slice::from_ref(&leaf), &roots, now()).unwrap_err();
        assert!(
            error.to_string().contains("x509: certificate signed by unknown authority"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_certificate_in_the_bundle_that_is_no_ca_vouches_for_nobody() {
    let leafy = Ca::root(|template| {
        template.ca = false;
        template.key_usage = KeyUsage::SVID;
    })
    .await;
    let silent = Ca::root(|template| template.key_usage = KeyUsage::CRL_SIGN).await;
    for ca in [leafy, silent] {
        let leaf = ca.leaf(unchanged).await;
        let refused = x509_svid(&[leaf], &roots(&[&ca]), now());
        assert!(matches!(refused, Err(VerifyError::UnknownAuthority)), "{refused:?}");
    }
}

#[tokio::test]
async fn another_trust_domain_is_not_vouched_for() {
    let root = Ca::root(unchanged).await;
    let leaf = root.leaf(|it| it.uri_sans = vec!["spiffe://elsewhere.org/web".into()]).await;
    let error = x509_svid(&[leaf], &roots(&[&root]), now()).unwrap_err();
    assert!(matches!(error, VerifyError::UnknownTrustDomain(_)), "{error}");
}

#[tokio::test]
async fn every_certificate_must_be_in_its_time() {
    let root = Ca::root(unchanged).await;
    let chain = [root.leaf(unchanged).await];
    let after = |time| x509_svid(&chain, &roots(&[&root]), now() + time).unwrap_err().to_string();
    assert_eq!(
        after(2 * HOUR),
        "x509svid: could not verify leaf certificate: x509: certificate has expired or is not yet \
         valid: current time 2027-01-15T10:00:00Z is after 2027-01-15T09:00:00Z"
    );
    let early = x509_svid(&chain, &roots(&[&root]), now() - 2 * HOUR).unwrap_err();
    assert!(matches!(early, VerifyError::NotYetValid { .. }), "{early}");
    x509_svid(&chain, &roots(&[&root]), now() + HOUR).unwrap();

    let old = root.intermediate(|it| it.not_after = now() - Duration::from_secs(1)).await;
    let chain = [old.leaf(unchanged).await, old.certificate];
    let error = x509_svid(&chain, &roots(&[&root]), now()).unwrap_err();
    assert!(matches!(error, VerifyError::Expired { .. }), "{error}");
}

#[tokio::test]
async fn an_expired_authority_is_expired_and_not_unknown() {
    let gone = Ca::root(|it| it.not_after = now() - Duration::from_secs(1)).await;
    let fresh = Ca::root(unchanged).await;
    let chain = [gone.leaf(unchanged).await];
    let error = x509_svid(&chain, &roots(&[&gone, &fresh]), now()).unwrap_err();
    assert!(matches!(error, VerifyError::Expired { .. }), "{error}");

    let soon = Ca::root(|it| it.not_before = now() + HOUR).await;
    let chain = [soon.leaf(unchanged).await];
    let error = x509_svid(&chain, &roots(&[&soon]), now()).unwrap_err();
    assert!(matches!(error, VerifyError::NotYetValid { .. }), "{error}");
}

#[tokio::test]
async fn a_leaf_must_be_a_leaf_with_one_id() {
    let root = Ca::root(unchanged).await;
    let verify = async |change: fn(&mut Template)| {
        let leaf = root.leaf(change).await;
        x509_svid(&[leaf], &roots(&[&root]), now()).unwrap_err().to_string()
    };
    assert_eq!(
        verify(|it| it.uri_sans.clear()).await,
        "x509svid: could not get leaf SPIFFE ID: certificate contains no URI SAN"
    );
    assert_eq!(
        verify(|it| it.uri_sans.push("https://example.org".into())).await,
        "x509svid: could not get leaf SPIFFE ID: certificate contains more than one URI SAN"
    );
    assert_eq!(
        verify(|it| it.uri_sans = vec!["https://example.org".into()]).await,
        "x509svid: could not get leaf SPIFFE ID: scheme is missing or invalid"
    );
    assert_eq!(
        verify(|it| it.ca = true).await,
        "x509svid: leaf certificate with CA flag set to true"
    );
    assert_eq!(
        verify(|it| it.key_usage = KeyUsage::SVID | KeyUsage::KEY_CERT_SIGN).await,
        "x509svid: leaf certificate with KeyCertSign key usage"
    );
    assert_eq!(
        verify(|it| it.key_usage = KeyUsage::SVID | KeyUsage::CRL_SIGN).await,
        "x509svid: leaf certificate with KeyCrlSign key usage"
    );
    assert_eq!(
        verify(|it| it.key_usage = KeyUsage::KEY_AGREEMENT).await,
        "x509svid: leaf certificate without DigitalSignature key usage"
    );
}

#[tokio::test]
async fn a_leaf_cannot_issue() {
    let root = Ca::root(unchanged).await;
    let thief_key = key();
    let thief = issue(&leaf_template(&thief_key), &root.issuer).await.unwrap();
    let forged_by = Issuer::new(&thief, thief_key);
    let mut template = leaf_template(&key());
    template.uri_sans = vec!["spiffe://example.org/admin".into()];
    let forged = issue(&template, &forged_by).await.unwrap();
    x509_svid(&[forged, thief], &roots(&[&root]), now()).unwrap_err();
}

#[tokio::test]
async fn extended_key_usage_is_left_open() {
    let root = Ca::root(unchanged).await;
    for usages in [vec![], vec![ExtKeyUsage::Other(Box::new([0x2b, 6, 1, 5, 5, 7, 3, 9]))]] {
        let leaf = root.leaf(|it| it.ext_key_usage = usages).await;
        x509_svid(&[leaf], &roots(&[&root]), now()).unwrap();
    }
}

#[test]
fn an_empty_or_endless_chain_is_refused_before_any_work() {
    let roots = roots(&[]);
    assert!(matches!(x509_svid(&[], &roots, now()), Err(VerifyError::EmptyChain)));
    let pem = rcgen::generate_simple_self_signed(vec![]).unwrap().cert.pem();
    let chain = vec![Certificate::from_pem(&pem).unwrap(); MAX_CHAIN_LEN + 1];
    assert!(matches!(x509_svid(&chain, &roots, now()), Err(VerifyError::TooLong(17))));
}

#[test]
fn chains_of_another_implementation_are_valid() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};
    let ca_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let leaf_key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();

    let authority = Certificate::from_pem(&ca_certificate.pem()).unwrap();
    assert!(authority.is_ca());
    assert_eq!(authority.path_len(), Some(0));
    let leaf = Certificate::from_der(leaf.der().to_vec()).unwrap();
    leaf.verify_signed_by(authority.public_key()).unwrap();
    let roots = X509Roots {
        trust_domain: TrustDomain::parse("example.org").unwrap(),
        authorities: vec![authority],
    };
    assert_eq!(x509_svid(&[leaf], &roots, now()).unwrap().as_str(), ID);
}

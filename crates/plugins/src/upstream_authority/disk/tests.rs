use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use steeple_pki::KeyType;
use steeple_pki::csr;
use steeple_runtime::ManualClock;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_348_800)
}

/// A folder with a root, an intermediate and their keys.
struct Files {
    folder: tempfile::TempDir,
    root: (Certificate, Arc<PrivateKey>),
    middle: (Certificate, Arc<PrivateKey>),
}

async fn ca(
    name: &str,
    issuer: Option<&(Certificate, Arc<PrivateKey>)>,
) -> (Certificate, Arc<PrivateKey>) {
    let key = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
    let template = Template {
        subject: DistinguishedName { common_name: name.into(), ..Default::default() },
        public_key: key.public_key().clone(),
        serial: SerialNumber::random(),
        not_before: noon() - DAY,
        not_after: noon() + DAY,
        ca: true,
        key_usage: KeyUsage::CA,
        ext_key_usage: vec![],
        uri_sans: vec![],
        dns_names: vec![],
        policies: vec![],
        extra_extensions: vec![],
    };
    let certificate = match issuer {
        None => x509::self_sign(&template, key.clone()).await,
        Some((ca, key)) => x509::issue(&template, &Issuer::new(ca, key.clone())).await,
    };
    (certificate.unwrap(), key)
}

impl Files {
    async fn new() -> Self {
        let root = ca("root", None).await;
        let middle = ca("middle", Some(&root)).await;
        let files = Self { folder: tempfile::tempdir().unwrap(), root, middle };
        files.write("root.pem", &files.root.0.pem());
        files.write("root.key", &files.root.1.to_pkcs8_pem());
        files.write("middle.pem", &files.middle.0.pem());
        files.write("middle.key", &files.middle.1.to_pkcs8_pem());
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn open(
        &self,
        cert: &str,
        key: &str,
        bundle: &str,
    ) -> Result<Arc<dyn UpstreamAuthority>, String> {
        let line = |setting: &str, name: &str| match name {
            "" => String::new(),
            name => format!("{setting} = {:?}\n", self.path(name)),
        };
        let text = line("cert_file_path", cert)
            + &line("key_file_path", key)
            + &line("bundle_file_path", bundle);
        let block = steeple_hcl::parse(text.as_bytes()).unwrap();
        let mut host = HostContext::new(TrustDomain::parse("example.org").unwrap());
        host.clock = Arc::new(ManualClock::new(noon()));
        from_config(Some(&block), &host).map_err(|error| error.to_string())
    }
}

async fn request(uris: &[&str]) -> (PrivateKey, Vec<u8>) {
    let key = PrivateKey::generate(KeyType::EcP384).unwrap();
    let subject = DistinguishedName { common_name: "ours".into(), ..Default::default() };
    let csr = csr::create(&key, &subject, uris).unwrap();
    (key, csr)
}

#[tokio::test]
async fn a_self_signed_ca_signs_what_the_request_says_and_no_longer_than_it_lives() {
    let files = Files::new().await;
    let upstream = files.open("root.pem", "root.key", "").unwrap();
    let (key, csr) = request(&["spiffe://example.org"]).await;
    let minted = upstream.mint_x509_ca(&csr, 30 * DAY).await.unwrap();
    let [ca] = minted.chain.as_slice() else { panic!("no root in the chain") };
    assert_eq!(minted.roots, [X509Authority::new(files.root.0.clone())]);
    assert_eq!(ca.public_key(), key.public_key());
    assert_eq!(ca.subject().unwrap().common_name, "ours");
    assert_eq!(ca.uri_sans(), ["spiffe://example.org"]);
    assert!(ca.is_ca());
    assert_eq!(ca.not_before(), noon() - BACKDATE);
    assert_eq!(ca.not_after(), noon() + DAY);
    assert!(ca.verify_signed_by(files.root.0.public_key()).is_ok());

    let hour = upstream.mint_x509_ca(&csr, Duration::ZERO).await.unwrap();
    assert_eq!(hour.chain[0].not_after(), noon() + DEFAULT_TTL);
}

#[tokio::test]
async fn an_intermediate_comes_with_its_chain_and_the_bundles_roots() {
    let files = Files::new().await;
    let upstream = files.open("middle.pem", "middle.key", "root.pem").unwrap();
    let (_, csr) = request(&["spiffe://example.org"]).await;
    let minted = upstream.mint_x509_ca(&csr, DAY).await.unwrap();
    assert_eq!(minted.chain[1..], *std::slice::from_ref(&files.middle.0));
    assert_eq!(minted.roots, [X509Authority::new(files.root.0.clone())]);
}

#[tokio::test]
async fn a_new_certificate_is_used_for_the_next_ca_and_a_broken_one_is_not() {
    let files = Files::new().await;
    let upstream = files.open("root.pem", "root.key", "").unwrap();
    let (_, csr) = request(&["spiffe://example.org"]).await;
    let (other, other_key) = ca("root", None).await;
    // Between the two writes they do not match: the old pair still signs.
    files.write("root.pem", &other.pem());
    let minted = upstream.mint_x509_ca(&csr, DAY).await.unwrap();
    assert_eq!(minted.roots[0].certificate, files.root.0);
    files.write("root.key", &other_key.to_pkcs8_pem());
    let minted = upstream.mint_x509_ca(&csr, DAY).await.unwrap();
    assert_eq!(minted.roots[0].certificate, other);
}

#[tokio::test]
async fn only_a_ca_of_the_trust_domain_is_signed() {
    let files = Files::new().await;
    let upstream = files.open("root.pem", "root.key", "").unwrap();
    for (uris, text) in [
        (&[][..], "CSR must have exactly one URI SAN"),
        (&["spiffe://example.org", "spiffe://example.org"], "exactly one URI SAN"),
        (&["spiffe://other.org"], "must use the trust domain ID for trust domain \"example.org\""),
        (&["spiffe://example.org/web"], "must use the trust domain ID"),
        (&["https://example.org"], "is invalid"),
    ] {
        let (_, csr) = request(uris).await;
        let error = upstream.mint_x509_ca(&csr, DAY).await.map(drop).unwrap_err();
        assert!(error.message.contains(text), "{}", error.message);
        assert!(error.message.starts_with("upstreamauthority(disk): unable to sign CSR: "));
    }
    let error = upstream.mint_x509_ca(b"what", DAY).await.map(drop).unwrap_err();
    assert!(error.message.contains("unable to parse CSR"), "{}", error.message);
}

#[tokio::test]
async fn files_that_make_no_ca_are_refused() {
    let files = Files::new().await;
    files.write("both.pem", &(files.middle.0.pem() + &files.root.0.pem()));
    files.write("garbage", "what");
    let other = ca("other", None).await;
    files.write("other.pem", &other.0.pem());
    for (cert, key, bundle, text) in [
        ("", "root.key", "", "'cert_file_path' and 'key_file_path' must be set and not empty"),
        ("root.pem", "missing", "", "unable to load upstream CA key: open "),
        ("missing", "root.key", "", "unable to load upstream CA cert: open "),
        ("root.pem", "garbage", "", "unable to load upstream CA key: "),
        ("garbage", "root.key", "", "unable to load upstream CA cert: no PEM blocks"),
        ("both.pem", "middle.key", "", "with no bundle_file_path configured only self-signed CAs"),
        ("middle.pem", "root.key", "root.pem", "certificate and private key do not match"),
        ("middle.pem", "middle.key", "garbage", "unable to load upstream CA bundle: "),
        ("middle.pem", "middle.key", "other.pem", "cannot be validated with the provided bundle"),
        ("root.pem", "root.key", "other.pem", "cannot be validated with the provided bundle"),
    ] {
        let error = files.open(cert, key, bundle).map(drop).unwrap_err();
        assert!(error.contains(text), "{cert} {key} {bundle}: {error}");
    }
}

#[tokio::test]
async fn there_is_no_bundle_above_a_file() {
    let files = Files::new().await;
    let upstream = files.open("root.pem", "root.key", "").unwrap();
    let key = JwtAuthority {
        key_id: "kid".into(),
        public_key: files.root.1.public_key().clone(),
        expires_at: None,
        tainted: false,
    };
    let error = upstream.publish_jwt_key(&key).await.map(drop).unwrap_err();
    assert_eq!(error.code, Code::Unimplemented);
    let error = upstream.subscribe_to_local_bundle().await.map(drop).unwrap_err();
    assert_eq!(error.code, Code::Unimplemented);
}

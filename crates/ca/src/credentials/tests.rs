use std::process::Command;

use async_trait::async_trait;
use steeple_pki::x509::{ExtKeyUsage, KeyUsage};
use steeple_pki::{KeyType, PrivateKey, SignError, SignatureAlgorithm, jwt as pki_jwt};

use super::*;
use crate::testing::{DAY, HOUR, config, noon, run};

const MINUTE: Duration = Duration::from_secs(60);

/// Holds a public key alone, so that certificates can be compared with ones made elsewhere.
struct NoKey(PublicKey);

#[async_trait]
impl Signer for NoKey {
    fn public_key(&self) -> &PublicKey {
        &self.0
    }

    async fn sign(&self, _: SignatureAlgorithm, _: &[u8]) -> Result<Vec<u8>, SignError> {
        Ok(vec![0; 70])
    }
}

fn spire(name: &str) -> Certificate {
    let path = format!("{}/testdata/spire-{name}.pem", env!("CARGO_MANIFEST_DIR"));
    Certificate::from_pem(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Everything of the signed part behind the serial number, which is random.
fn behind_serial(certificate: &Certificate) -> Vec<u8> {
    let der = certificate.der();
    let algorithm = [0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let at = |from: usize| {
        der[from..].windows(12).position(|bytes| bytes == algorithm).map(|at| from + at)
    };
    let start = at(0).unwrap();
    der[start..at(start + 12).unwrap()].to_vec()
}

fn key() -> PrivateKey {
    PrivateKey::generate(KeyType::EcP256).unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

fn workload(public_key: &PublicKey) -> WorkloadX509Params {
    WorkloadX509Params {
        spiffe_id: id("/web"),
        public_key: public_key.clone(),
        ttl: None,
        dns_names: vec![],
        subject: None,
    }
}

fn jwt_params() -> WorkloadJwtParams {
    WorkloadJwtParams {
        spiffe_id: id("/web"),
        audience: vec!["db".to_owned()],
        ttl: None,
        include_jti: false,
    }
}

/// Credentials with a CA made at noon for a day, and a JWT key under the id `kid`.
fn issuing(config: &CaConfig) -> Credentials {
    let credentials = Credentials::new(config);
    let signer: Arc<dyn Signer> = Arc::new(key());
    let ca = run(credentials.self_signed_ca(config, signer.clone(), noon())).unwrap().unwrap();
    credentials.set_x509_ca(&X509Ca::new(ca, vec![], signer.clone(), noon()));
    credentials.set_jwt_key(&JwtKey::new("kid".into(), signer, noon(), noon() + DAY));
    credentials
}

#[test]
fn x509_svids_are_spires_byte_for_byte() {
    let credentials = Credentials::new(&config());
    let ca = spire("ca");
    let signer = Arc::new(NoKey(ca.public_key().clone()));
    let issued_at = ca.not_before() + BACKDATE;
    credentials.set_x509_ca(&X509Ca::new(ca, vec![], signer, issued_at));

    let theirs = spire("workload");
    let params = WorkloadX509Params {
        ttl: Some(10 * MINUTE),
        dns_names: vec!["a.example".into(), "b.example".into()],
        ..workload(theirs.public_key())
    };
    let now = theirs.not_before() + BACKDATE;
    let ours = run(credentials.sign_x509_svid(params, now)).unwrap().unwrap();
    assert_eq!(behind_serial(&ours[0]), behind_serial(&theirs));
    assert_eq!(ours.len(), 1);

    let theirs = spire("server");
    let now = theirs.not_before() + BACKDATE;
    let ours = credentials.sign_server_x509_svid(theirs.public_key().clone(), now);
    assert_eq!(behind_serial(&run(ours).unwrap().unwrap()[0]), behind_serial(&theirs));
}

#[test]
fn a_self_signed_ca_is_like_spires() {
    let signer: Arc<dyn Signer> = Arc::new(key());
    let theirs = spire("ca");
    let now = theirs.not_before() + BACKDATE;
    let ours =
        run(Credentials::new(&config()).self_signed_ca(&config(), signer, now)).unwrap().unwrap();
    // The extensions differ in nothing but the 20 bytes of the key id.
    let extensions = |ca: &Certificate| {
        let signed = behind_serial(ca);
        let ski = ca.subject_key_id().unwrap();
        let at = signed.windows(20).position(|bytes| bytes == ski).unwrap();
        let tail = signed.len() - 101;
        [&signed[tail..at], &signed[at + 20..]].concat()
    };
    assert_eq!(extensions(&ours), extensions(&theirs));
    assert_eq!(ours.not_before(), theirs.not_before());
    assert_eq!(ours.not_after(), theirs.not_after());
    for ca in [&ours, &theirs] {
        let subject = ca.subject().unwrap();
        assert_eq!(
            (&*subject.country, &*subject.organization),
            (&["US".into()][..], &["SPIFFE".into()][..])
        );
        assert_eq!(subject.serial_number, ca.serial_decimal());
        assert_eq!(ca.issuer_der(), ca.subject_der());
        assert_eq!(ca.authority_key_id(), None);
    }
}

#[test]
fn a_configured_ca_subject_is_taken_with_its_own_serial_number() {
    let subject = DistinguishedName {
        common_name: "Ours".into(),
        serial_number: "7".into(),
        ..DistinguishedName::default()
    };
    let config = CaConfig { ca_subject: Some(subject.clone()), ..config() };
    let ca = run(Credentials::new(&config).self_signed_ca(&config, Arc::new(key()), noon()))
        .unwrap()
        .unwrap();
    assert_eq!(ca.subject().unwrap(), subject);
}

#[test]
fn lifetimes_are_backdated_defaulted_and_capped() {
    let config = CaConfig { agent_ttl: 2 * HOUR, ..config() };
    let credentials = issuing(&config);
    let key = key();
    let end = |ttl, now| {
        let params = WorkloadX509Params { ttl, ..workload(key.public_key()) };
        let svid = run(credentials.sign_x509_svid(params, now)).unwrap().unwrap();
        assert_eq!(svid[0].not_before(), now - Duration::from_secs(10));
        svid[0].not_after()
    };
    assert_eq!(end(None, noon()), noon() + HOUR);
    assert_eq!(end(Some(Duration::ZERO), noon()), noon() + HOUR);
    assert_eq!(end(Some(5 * MINUTE), noon()), noon() + 5 * MINUTE);
    assert_eq!(end(Some(400 * DAY), noon()), noon() + DAY);
    assert_eq!(end(None, noon() + DAY - MINUTE), noon() + DAY);
    assert_eq!(end(Some(Duration::MAX), noon()), noon() + DAY);

    let agent = id("/spire/agent/join_token/x");
    let svid = credentials.sign_agent_x509_svid(&agent, key.public_key().clone(), noon());
    assert_eq!(run(svid).unwrap().unwrap()[0].not_after(), noon() + 2 * HOUR);
}

#[test]
fn a_downstream_ca_is_named_after_its_depth() {
    let credentials = issuing(&config());
    let own = credentials.x509_ca().unwrap();
    let key = key();
    let chain =
        run(credentials.sign_downstream_x509_ca(key.public_key().clone(), Some(HOUR), noon()))
            .unwrap()
            .unwrap();
    let ca = &chain[0];
    let mut subject = own.subject().unwrap();
    subject.organizational_unit = vec!["DOWNSTREAM-1".into()];
    assert_eq!(ca.subject().unwrap(), subject);
    assert_eq!(ca.subject().unwrap().serial_number, own.serial_decimal(), "the issuer's");
    assert_eq!(ca.authority_key_id(), own.subject_key_id());
    assert_eq!(ca.uri_sans(), ["spiffe://example.org"]);
    assert_eq!((ca.is_ca(), ca.path_len()), (true, None));
    assert_eq!(ca.not_after(), noon() + HOUR);
    ca.verify_signed_by(own.public_key()).unwrap();

    // With an upstream authority, depth and chain grow.
    let signer: Arc<dyn Signer> = Arc::new(key);
    let intermediates = vec![ca.clone(), own];
    credentials.set_x509_ca(&X509Ca::new(ca.clone(), intermediates, signer, noon()));
    let public_key = PrivateKey::generate(KeyType::EcP384).unwrap().public_key().clone();
    let chain =
        run(credentials.sign_downstream_x509_ca(public_key, None, noon())).unwrap().unwrap();
    assert_eq!(chain[0].subject().unwrap().organizational_unit, ["DOWNSTREAM-2"]);
    assert_eq!(chain.len(), 3);
}

#[test]
fn what_is_issued_parses_to_what_was_asked_for() {
    let credentials = issuing(&config());
    for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let key = PrivateKey::generate(key_type).unwrap();
        let chain = run(credentials.sign_x509_svid(workload(key.public_key()), noon()));
        let leaf = Certificate::from_der(chain.unwrap().unwrap()[0].der().to_vec()).unwrap();
        assert_eq!(leaf.key_usage(), Some(KeyUsage::SVID), "the same for every kind of key");
        assert_eq!(leaf.ext_key_usage(), [ExtKeyUsage::ServerAuth, ExtKeyUsage::ClientAuth]);
        assert_eq!(leaf.uri_sans(), ["spiffe://example.org/web"]);
        assert!(!leaf.has_other_sans() && leaf.dns_sans().is_empty() && !leaf.is_ca());
        assert_eq!(leaf.subject().unwrap(), country_and_organization("SPIRE"));
        assert_eq!(leaf.subject_key_id(), Some(&key.public_key().subject_key_id()[..]));
        assert_eq!(leaf.authority_key_id(), credentials.x509_ca().unwrap().subject_key_id());
    }
}

#[test]
fn only_members_of_the_trust_domain_get_credentials() {
    let credentials = issuing(&config());
    let key = key();
    let refusal = |spiffe_id: &str| {
        let spiffe_id = SpiffeId::parse(spiffe_id).unwrap();
        let x509 =
            WorkloadX509Params { spiffe_id: spiffe_id.clone(), ..workload(key.public_key()) };
        let x509 = run(credentials.sign_x509_svid(x509, noon())).unwrap().unwrap_err();
        let jwt = WorkloadJwtParams { spiffe_id, ..jwt_params() };
        let jwt = run(credentials.sign_jwt_svid(jwt, noon())).unwrap().err().unwrap();
        assert_eq!(x509.to_string().replace("X509", "JWT"), jwt.to_string());
        jwt.to_string()
    };
    assert_eq!(
        refusal("spiffe://other.org/web"),
        r#"invalid JWT-SVID ID: "spiffe://other.org/web" is not a member of trust domain "example.org""#
    );
    assert_eq!(
        refusal("spiffe://example.org"),
        r#"invalid JWT-SVID ID: "spiffe://example.org" is not a member of trust domain "example.org"; path is empty"#
    );
}

#[test]
fn without_an_authority_the_refusal_says_so() {
    let credentials = Credentials::new(&config());
    let key = key();
    let x509 = run(credentials.sign_x509_svid(workload(key.public_key()), noon())).unwrap();
    assert_eq!(x509.unwrap_err().to_string(), "X509 CA is not available for signing");
    let jwt = run(credentials.sign_jwt_svid(jwt_params(), noon())).unwrap();
    assert_eq!(jwt.err().unwrap().to_string(), "JWT key is not available for signing");
    assert!(run(credentials.check(noon())).unwrap().is_err());
    assert!(run(issuing(&config()).check(noon())).unwrap().is_ok());
}

#[test]
fn a_jwt_svid_holds_what_spires_does() {
    let config = CaConfig { jwt_issuer: Some("https://issuer.example".into()), ..config() };
    let credentials = issuing(&config);
    let now = noon() + Duration::from_millis(700);
    let svid = run(credentials.sign_jwt_svid(jwt_params(), now)).unwrap().unwrap();
    let decode = |part: usize| {
        let part = svid.token.split('.').nth(part).unwrap();
        let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        String::from_utf8(base64::Engine::decode(&engine, part).unwrap()).unwrap()
    };
    assert_eq!(decode(0), r#"{"alg":"ES256","kid":"kid","typ":"JWT"}"#);
    assert_eq!(
        decode(1),
        r#"{"aud":["db"],"exp":1795349100,"iat":1795348800,"iss":"https://issuer.example","sub":"spiffe://example.org/web"}"#
    );
    assert_eq!((svid.issued_at, svid.expires_at), (noon(), noon() + 5 * MINUTE));
}

#[test]
fn a_jwt_svid_ends_with_its_key_and_needs_an_audience() {
    let credentials = issuing(&config());
    let sign = |params, now| run(credentials.sign_jwt_svid(params, now)).unwrap();
    let params = WorkloadJwtParams { ttl: Some(9 * DAY), ..jwt_params() };
    assert_eq!(sign(params, noon()).unwrap().expires_at, noon() + DAY);
    let params = WorkloadJwtParams { audience: vec!["".into(), "x".into()], ..jwt_params() };
    let token = sign(params, noon()).unwrap().token;
    let claims = pki_jwt::parse_unverified(&token).unwrap();
    assert_eq!(claims.audience().unwrap(), ["x"]);
    for audience in [vec![], vec![String::new()]] {
        let refused = sign(WorkloadJwtParams { audience, ..jwt_params() }, noon()).err().unwrap();
        assert_eq!(refused.to_string(), "invalid JWT-SVID audience: cannot be empty");
    }
    let brief = WorkloadJwtParams { ttl: Some(Duration::from_millis(10)), ..jwt_params() };
    assert!(sign(brief, noon() + Duration::from_millis(500)).is_err(), "expired when issued");
}

#[test]
fn a_jti_is_a_random_uuid_and_only_there_when_wanted() {
    let credentials = issuing(&config());
    let jti = |include_jti| {
        let params = WorkloadJwtParams { include_jti, ..jwt_params() };
        let svid = run(credentials.sign_jwt_svid(params, noon())).unwrap().unwrap();
        let token = pki_jwt::parse_unverified(&svid.token).unwrap();
        token.claims().get("jti").map(|jti| jti.as_str().unwrap().to_owned())
    };
    assert_eq!(jti(false), None);
    let (one, other) = (jti(true).unwrap(), jti(true).unwrap());
    assert_eq!(one.len(), 22);
    assert_ne!(one, other);
}

#[test]
fn nothing_is_released_that_breaks_a_rule() {
    let ca = issuing(&config()).x509_ca().unwrap();
    let refused = validate::x509_svid(&ca, &id("/web"), noon()).unwrap_err();
    assert_eq!(refused.to_string(), "invalid X509-SVID: cA constraint must not be set");
    let leaf = spire("workload");
    let now = leaf.not_before();
    assert_eq!(validate::x509_svid(&leaf, &id("/web"), now), Ok(()));
    assert_eq!(
        validate::x509_svid(&leaf, &id("/db"), now).unwrap_err().to_string(),
        r#"invalid X509-SVID: expected URI SAN "spiffe://example.org/db" but got ["spiffe://example.org/web"]"#
    );
    assert_eq!(
        validate::x509_svid(&leaf, &id("/web"), now + DAY).unwrap_err().to_string(),
        "invalid X509-SVID: already expired as of 2026-11-22T06:57:35Z"
    );
    let refused = validate::x509_ca(&leaf, "spiffe://example.org", now).unwrap_err();
    assert_eq!(refused.to_string(), "invalid X509 CA: cA constraint is not set");
    let refused = validate::x509_ca(&ca, "spiffe://other.org", noon()).unwrap_err();
    assert!(refused.to_string().starts_with("invalid X509 CA: expected URI SAN"));
}

#[test]
fn openssl_verifies_what_is_issued() {
    if Command::new("openssl").arg("version").output().is_err() {
        #[expect(clippy::print_stderr, reason = "says why nothing was tested")]
        {
            eprintln!("skipped: no openssl on this machine");
        }
        return;
    }
    let credentials = issuing(&config());
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, certificate: &Certificate| {
        let path = dir.path().join(name);
        std::fs::write(&path, certificate.pem()).unwrap();
        path
    };
    let root = write("root.pem", &credentials.x509_ca().unwrap());
    let downstream = Arc::new(PrivateKey::generate(KeyType::EcP384).unwrap());
    let signed = credentials.sign_downstream_x509_ca(downstream.public_key().clone(), None, noon());
    let intermediate = run(signed).unwrap().unwrap().remove(0);
    let untrusted = write("intermediate.pem", &intermediate);

    let below = Credentials::new(&config());
    below.set_x509_ca(&X509Ca::new(intermediate.clone(), vec![intermediate], downstream, noon()));
    let workload = workload(key().public_key());
    let direct = run(credentials.sign_x509_svid(workload.clone(), noon())).unwrap().unwrap();
    let nested = run(below.sign_x509_svid(workload, noon())).unwrap().unwrap();
    assert_eq!(nested.len(), 2, "the intermediate comes along, the root does not");
    for (name, leaf) in [("direct.pem", &direct[0]), ("nested.pem", &nested[0])] {
        let output = Command::new("openssl")
            .args(["verify", "-x509_strict", "-purpose", "sslserver", "-attime"])
            .arg(noon().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().to_string())
            .arg("-CAfile")
            .arg(&root)
            .arg("-untrusted")
            .arg(&untrusted)
            .arg(write(name, leaf))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

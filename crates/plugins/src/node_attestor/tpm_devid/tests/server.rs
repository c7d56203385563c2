use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_pki::{KeyType, PrivateKey, SignatureAlgorithm};
use steeple_plugin::{Code, PluginError};
use steeple_runtime::Clock;
use steeple_tpm::template::KeyShape;
use steeple_tpm::verify::Public;
use steeple_tpm::wire::Writer;
use steeple_tpm::{Auth, Wrapped};

use super::super::payload::{Blob, Challenge, Request, Response};
use super::fixture::{
    Authority, DEVID_ATTRIBUTES, DEVID_PASSWORD, DevId, Judge, Machine, SHA256, Silent, Wire, host,
    judge, load,
};

#[tokio::test]
async fn a_device_identity_in_a_tpm_of_a_known_maker_is_attested() {
    let (maker, root) = (Authority::new("maker"), Authority::new("root"));
    let between = root.below("intermediate");
    let Some(machine) = Machine::made_by(&maker) else { return };
    let judge = judge(&[&root], &[&maker], &host());
    let of = |it: &Authority| super::super::server::fingerprint(&it.certificate());
    for (shape, authorities) in [
        (KeyShape::Rsa2048, vec![&root, &between]),
        (KeyShape::P256, vec![&root, &between]),
        (KeyShape::P256, vec![&root]),
    ] {
        let devid = machine.devid(shape, &authorities);
        let agent = machine.agent(&devid);
        // More than once, with a new attestation key each time.
        for _ in 0..2 {
            let payload = agent.payload().await.unwrap();
            let proven = judge.attestor.attest(&payload, &mut Wire::to(&*agent)).await.unwrap();
            let name = super::super::server::fingerprint(&devid.chain[0]);
            let id = format!("spiffe://example.org/spire/agent/tpm_devid/{name}");
            assert_eq!(proven.agent_id.as_str(), id);
            assert!(proven.can_reattest);
            let issuer = if authorities.len() == 2 { "intermediate" } else { "root" };
            let mut expected = vec!["subject:cn:devid-leaf".into(), format!("issuer:cn:{issuer}")];
            expected
                .extend(authorities.iter().rev().map(|it| format!("ca:fingerprint:{}", of(it))));
            assert_eq!(proven.selector_values, expected);
        }
    }
}

/// Good evidence of one machine and of another, of which pieces are taken.
struct Scene {
    judge: Judge,
    root: Authority,
    devid: DevId,
    good: Request,
    elsewhere: DevId,
    other: Request,
    _machines: [Machine; 2],
}

impl Scene {
    async fn set() -> Option<Self> {
        let (maker, root) = (Authority::new("maker"), Authority::new("root"));
        let machine = Machine::made_by(&maker)?;
        let other_machine = Machine::made_by(&maker)?;
        let judge = judge(&[&root], &[&maker], &host());
        let devid = machine.devid(KeyShape::Rsa2048, &[&root]);
        let good = machine.agent(&devid).payload().await.unwrap();
        let elsewhere = other_machine.devid(KeyShape::Rsa2048, &[&root]);
        let other = other_machine.agent(&elsewhere).payload().await.unwrap();
        Some(Self {
            judge,
            root,
            devid,
            good: Request::parse(&good).unwrap(),
            elsewhere,
            other: Request::parse(&other).unwrap(),
            _machines: [machine, other_machine],
        })
    }

    /// The good evidence with a change is refused with SPIRE's text, where it has one.
    async fn refuses(&self, change: impl FnOnce(&mut Request), text: &str) {
        let mut request = self.good.clone();
        change(&mut request);
        let attested = self.judge.attestor.attest(&request.encode(), &mut Silent).await;
        let refused = attested.unwrap_err();
        let expected = format!("nodeattestor(tpm_devid): {text}");
        assert!(refused.message.starts_with(&expected), "{refused} for {text}");
        let internal = text.starts_with("cannot generate");
        let code = if internal { Code::Internal } else { Code::InvalidArgument };
        assert_eq!(refused.code, code, "{text}");
    }
}

fn blob(bytes: &[u8]) -> Blob {
    Blob(bytes.to_vec())
}

fn ders(devid: &DevId) -> Option<Vec<Blob>> {
    Some(devid.chain.iter().map(|it| blob(it.der())).collect())
}

#[tokio::test]
async fn a_certificate_that_is_none_or_of_a_stranger_is_refused() {
    let Some(scene) = Scene::set().await else { return };
    let leaf = || blob(scene.devid.chain[0].der());
    scene.refuses(|it| it.devid_cert = None, "no DevID certificate to attest").await;
    let none = Some(vec![blob(b"not a raw certificate")]);
    scene.refuses(|it| it.devid_cert = none, "unable to parse DevID certificate").await;
    let none = Some(vec![leaf(), blob(b"none")]);
    let text = "unable to parse DevID intermediate certificate 0: ";
    scene.refuses(|it| it.devid_cert = none, text).await;
    let text = "unable to verify DevID signature: verification failed: too many intermediate";
    scene.refuses(|it| it.devid_cert = Some(vec![leaf(); 10]), text).await;

    let stranger = Authority::new("stranger");
    let public = Public::parse(&scene.devid.key.public).unwrap().key().unwrap();
    let chain = vec![blob(stranger.devid(&public).der()), blob(stranger.certificate().der())];
    let text = "unable to verify DevID signature: verification failed: x509: certificate signed \
                by unknown authority";
    scene.refuses(|it| it.devid_cert = Some(chain), text).await;
    // A CA of that name is not that CA.
    let namesake = vec![blob(Authority::new("root").devid(&public).der())];
    scene.refuses(|it| it.devid_cert = Some(namesake), text).await;
    // The trusted CA itself is no device.
    let ca = Some(vec![blob(scene.root.certificate().der())]);
    let text = "cannot verify that DevID is in the same TPM than AK: DevID certificate is of";
    scene.refuses(|it| it.devid_cert = ca, text).await;

    let text = "cannot parse endorsement certificate";
    scene.refuses(|it| it.ek_cert = blob(b"not-a-certificate"), text).await;
    let text = "cannot verify EK signature: endorsement certificate verification failed: x509: \
                certificate signed by unknown authority";
    let with_devids = |it: &mut Request| {
        it.ek_cert = leaf();
        it.ek_pub = it.devid_pub.clone();
    };
    scene.refuses(with_devids, text).await;
}

#[tokio::test]
async fn evidence_with_a_piece_missing_cut_off_or_too_long_is_refused() {
    let Some(scene) = Scene::set().await else { return };
    let nothing = Blob::default;
    let longer = |it: &mut Blob| it.0.push(0);
    let shorter = |it: &mut Blob| it.0.truncate(it.0.len() - 1);
    scene.refuses(|it| it.ak_pub = nothing(), "missing attestation key public blob").await;
    scene.refuses(|it| it.devid_pub = nothing(), "missing DevID key public blob").await;
    scene.refuses(|it| it.ek_cert = nothing(), "missing endorsement certificate").await;
    scene.refuses(|it| it.ek_pub = nothing(), "missing endorsement key public blob").await;

    let none = || blob(b"not-a-tpm-public-blob");
    let text = "cannot decode DevID key public blob: ";
    scene.refuses(|it| it.devid_pub = none(), text).await;
    let text = "cannot decode attestation key public blob: ";
    scene.refuses(|it| it.ak_pub = none(), text).await;
    let text = "cannot decode endorsement key public blob";
    scene.refuses(|it| it.ek_pub = none(), text).await;
    scene.refuses(|it| longer(&mut it.ek_pub), text).await;
    let text = "cannot decode DevID key public blob: decoding TPMT_PUBLIC: trailing data";
    scene.refuses(|it| longer(&mut it.devid_pub), text).await;
    let text = "cannot decode attestation key public blob: decoding TPMT_PUBLIC: unexpected EOF";
    scene.refuses(|it| shorter(&mut it.ak_pub), text).await;

    let same = "cannot verify that DevID is in the same TPM than AK: ";
    let text = format!("{same}signature verification failed");
    scene.refuses(|it| it.certified_devid = nothing(), &text).await;
    scene.refuses(|it| shorter(&mut it.certified_devid), &text).await;
    scene.refuses(|it| longer(&mut it.certified_devid), &text).await;
    let text = format!("{same}decoding TPMS_ATTEST: too large");
    scene.refuses(|it| it.certified_devid = Blob(vec![0xff; 3000]), &text).await;
    let text = format!("{same}decoding TPMT_SIGNATURE: unexpected EOF");
    scene.refuses(|it| it.certification_signature = nothing(), &text).await;
    scene.refuses(|it| shorter(&mut it.certification_signature), &text).await;
    let text = format!("{same}decoding TPMT_SIGNATURE: trailing data");
    scene.refuses(|it| longer(&mut it.certification_signature), &text).await;

    for payload in [&b"not a payload"[..], b"", &[b' '; 70_000]] {
        let refused = scene.judge.attestor.attest(payload, &mut Silent).await.unwrap_err();
        let text = "nodeattestor(tpm_devid): unable to unmarshall attestation data: ";
        assert!(refused.message.starts_with(text), "{refused}");
    }
}

#[tokio::test]
async fn keys_of_another_tpm_or_kind_are_refused() {
    let Some(scene) = Scene::set().await else { return };
    let other = &scene.other;
    let text = "public key in EK certificate differs from public key created via EK template: \
                modulus mismatch";
    scene.refuses(|it| it.ek_pub = it.devid_pub.clone(), text).await;
    scene.refuses(|it| it.ek_pub = other.ek_pub.clone(), text).await;
    // The endorsement key under attributes that let it decrypt for anybody.
    let text = "endorsement key is not a restricted decryption key";
    scene.refuses(|it| it.ek_pub.0[5] &= !1, text).await;

    let same = "cannot verify that DevID is in the same TPM than AK: ";
    let devid_of_other = |it: &mut Request| {
        it.devid_cert = ders(&scene.elsewhere);
        it.devid_pub = other.devid_pub.clone();
    };
    scene.refuses(devid_of_other, &format!("{same}certify failed")).await;
    let text = format!("{same}DevID certificate is of another key");
    scene.refuses(|it| it.devid_cert = ders(&scene.elsewhere), &text).await;
    let text = format!("{same}signature verification failed");
    let signature = other.certification_signature.clone();
    scene.refuses(|it| it.certification_signature = signature, &text).await;
    scene.refuses(|it| it.ak_pub = other.ak_pub.clone(), &text).await;
    let text = format!("{same}not a signing key");
    scene.refuses(|it| it.ak_pub = it.ek_pub.clone(), &text).await;
    // Attributes are part of the name that was certified.
    let text = format!("{same}certify failed");
    scene.refuses(|it| it.devid_pub.0[6] ^= 1, &text).await;

    let text = "cannot generate credential activation challenge: cannot extract name from AK \
                public: hash algorithm not supported: 0x10";
    scene.refuses(|it| it.ak_pub.0[2..4].copy_from_slice(&[0, 0x10]), text).await;

    let hung_up = scene.judge.attestor.attest(&scene.good.encode(), &mut Silent).await;
    let hung_up = hung_up.unwrap_err();
    let text = "nodeattestor(tpm_devid): unable to receive challenges response: hung up";
    assert_eq!((hung_up.code, &*hung_up.message), (Code::Cancelled, text));
}

#[tokio::test]
async fn a_tpm_of_an_unknown_maker_or_with_an_expired_certificate_is_refused() {
    let (maker, root) = (Authority::new("maker"), Authority::new("root"));
    let Some(machine) = Machine::made_by(&maker) else { return };
    let agent = machine.agent(&machine.devid(KeyShape::P256, &[&root]));
    let payload = agent.payload().await.unwrap();
    let other = judge(&[&root], &[&Authority::new("maker"), &root], &host());
    let refused = other.attestor.attest(&payload, &mut Silent).await.unwrap_err();
    assert!(refused.message.contains("cannot verify EK signature: endorsement"), "{refused}");

    struct Late;
    impl Clock for Late {
        fn now(&self) -> SystemTime {
            SystemTime::now() + Duration::from_secs(3000 * 365 * 24 * 3600)
        }
    }
    let late = judge(&[&root], &[&maker], &host().with_clock(Arc::new(Late)));
    let refused = late.attestor.attest(&payload, &mut Silent).await.unwrap_err();
    assert!(refused.message.contains("has expired or is not yet valid"), "{refused}");
}

/// What becomes of a response on the way.
type Change<'a> = dyn FnMut(Response) -> Vec<u8> + Send + 'a;

/// What the agent answers is changed on the way, or comes from another attestation.
#[tokio::test]
async fn only_the_tpm_that_is_asked_can_answer_and_only_this_time() {
    let (maker, root) = (Authority::new("maker"), Authority::new("root"));
    let Some(machine) = Machine::made_by(&maker) else { return };
    let judge = judge(&[&root], &[&maker], &host());
    let devid = machine.devid(KeyShape::P256, &[&root]);
    let agent = machine.agent(&devid);
    let attest = async |change: &mut Change<'_>| {
        let payload = agent.payload().await.unwrap();
        let change = |_: &[u8], response: Vec<u8>| change(Response::parse(&response).unwrap());
        let mut wire = Wire { agent: &*agent, change: Box::new(change) };
        judge.attestor.attest(&payload, &mut wire).await
    };
    let mut seen = Response::default();
    attest(&mut |response| {
        seen = response.clone();
        response.encode()
    })
    .await
    .unwrap();

    let possession = "devID challenge verification failed: x509: ECDSA verification failure";
    let activation = "credential activation failed: nonces are different";
    let changes: [(&str, &mut Change<'_>); 7] = [
        (possession, &mut |_| seen.encode()),
        (possession, &mut |it| Response { devid: Blob::default(), ..it }.encode()),
        (activation, &mut |it| {
            Response { cred_activation: seen.cred_activation.clone(), ..it }.encode()
        }),
        (activation, &mut |it| Response { cred_activation: Blob::default(), ..it }.encode()),
        (activation, &mut |it| {
            let shorter = Blob(it.cred_activation.0[..31].to_vec());
            Response { cred_activation: shorter, ..it }.encode()
        }),
        ("unable to unmarshall challenges response: ", &mut |_| Vec::new()),
        ("unable to unmarshall challenges response: ", &mut |_| vec![b' '; 9000]),
    ];
    for (text, change) in changes {
        let refused = attest(change).await.unwrap_err();
        let expected = format!("nodeattestor(tpm_devid): {text}");
        assert!(refused.message.starts_with(&expected), "{refused}");
        assert_eq!(refused.code, Code::InvalidArgument);
    }
}

/// The key of the device identity was copied out of wherever it was (it never was in a TPM), and
/// the thief has a TPM of a known maker.
#[tokio::test]
async fn a_key_in_software_gets_nothing_from_a_tpm_that_is_not_its_own() {
    let (maker, root) = (Authority::new("maker"), Authority::new("root"));
    let Some(machine) = Machine::made_by(&maker) else { return };
    let judge = judge(&[&root], &[&maker], &host());
    let stolen = PrivateKey::generate(KeyType::EcP256).unwrap();
    let certificate = root.devid(stolen.public_key());
    let agent = machine.agent(&machine.devid(KeyShape::P256, &[&root]));
    let honest = Request::parse(&agent.payload().await.unwrap()).unwrap();
    let same = "nodeattestor(tpm_devid): cannot verify that DevID is in the same TPM than AK: ";
    let refusal = async |request: &Request| {
        let refused = judge.attestor.attest(&request.encode(), &mut Silent).await.unwrap_err();
        refused.message.strip_prefix(same).unwrap_or(&refused.message).to_owned()
    };

    // The stolen certificate beside another key that is in the TPM.
    let devid_cert = Some(vec![Blob(certificate.der().to_vec())]);
    let swapped = Request { devid_cert: devid_cert.clone(), ..honest.clone() };
    assert!(refusal(&swapped).await.starts_with("DevID certificate is of another key"));

    // An attestation that the thief wrote, signed by a key of the TPM that signs anything.
    let (x, y) = steeple_pki::envelope::ec_point(stolen.public_key()).unwrap();
    let devid_pub = Writer::new().u16(0x0023).u16(SHA256).u32(DEVID_ATTRIBUTES).sized(&[]);
    let devid_pub = devid_pub.u16(0x0010).u16(0x0018).u16(SHA256).u16(3).u16(0x0010);
    let devid_pub = devid_pub.sized(x).sized(y).finish();
    let name = Public::parse(&devid_pub).unwrap().name().unwrap();
    let written = Writer::new().u32(0xff54_4347).u16(0x8017).sized(&[]).sized(&[]);
    let written = written.u64(1).u32(1).u32(1).u8(1).u64(1).sized(name.as_bytes()).sized(&[]);
    let written = written.finish();
    for (attributes, reason) in [
        (DEVID_ATTRIBUTES, "attestation key is not a restricted signing key"),
        (0x0004_0040 | 1 << 16, "attestation key is not bound to a TPM"),
    ] {
        let (ak_pub, signature) = if attributes == DEVID_ATTRIBUTES {
            let signer = machine.key(KeyShape::Rsa2048, attributes);
            let signature = sign_anything(&machine, &signer, &written);
            (signer.public, signature)
        } else {
            software_signer(attributes, &written)
        };
        let forged = Request {
            devid_cert: devid_cert.clone(),
            devid_pub: Blob(devid_pub.clone()),
            ak_pub: Blob(ak_pub),
            certified_devid: Blob(written.clone()),
            certification_signature: Blob(signature),
            ..honest.clone()
        };
        assert_eq!(refusal(&forged).await, reason);
    }

    // A restricted key of the TPM refuses to sign what it did not generate.
    let restricted = machine.key(KeyShape::Rsa2048, DEVID_ATTRIBUTES | 1 << 16);
    machine.talk(|tpm| {
        let handle = load(tpm, KeyShape::Rsa2048, &restricted);
        let (digest, ticket) = tpm.hash(&written, SHA256).unwrap();
        let auth = Auth::Password(DEVID_PASSWORD.as_bytes());
        tpm.sign_hashed(handle, auth, &digest, &ticket).unwrap_err();
    });

    // An attestation key in software that claims to be one: it attests, but no TPM holds it.
    let (ak_pub, signature) = software_signer(0x0005_0072, &written);
    let forged = Request {
        devid_cert,
        devid_pub: Blob(devid_pub),
        ak_pub: Blob(ak_pub),
        certified_devid: Blob(written),
        certification_signature: Blob(signature),
        ..honest
    };
    let mut thief = Wire::to(&*agent);
    let outcome = judge.attestor.attest(&forged.encode(), &mut thief).await;
    let refused: PluginError = outcome.unwrap_err();
    assert!(refused.message.contains("failed to activate credential"), "{refused}");
}

/// The machine's own EK is asked beside another machine's attestation key.
#[tokio::test]
async fn an_attestation_key_of_another_tpm_opens_no_credential() {
    let (maker, root) = (Authority::new("maker"), Authority::new("root"));
    let Some(machine) = Machine::made_by(&maker) else { return };
    let Some(other) = Machine::made_by(&maker) else { return };
    let judge = judge(&[&root], &[&maker], &host());
    let agent = machine.agent(&machine.devid(KeyShape::P256, &[&root]));
    let own = Request::parse(&agent.payload().await.unwrap()).unwrap();
    let accomplice = other.agent(&other.devid(KeyShape::P256, &[&root]));
    let theirs = Request::parse(&accomplice.payload().await.unwrap()).unwrap();
    let mixed = Request { ek_cert: own.ek_cert, ek_pub: own.ek_pub, ..theirs };
    for end in [&agent, &accomplice] {
        let outcome = judge.attestor.attest(&mixed.encode(), &mut Wire::to(&**end)).await;
        let refused = outcome.unwrap_err();
        assert!(refused.message.contains("failed to activate credential"), "{refused}");
    }
}

#[tokio::test]
async fn the_challenge_is_new_each_time() {
    let (maker, root) = (Authority::new("maker"), Authority::new("root"));
    let Some(machine) = Machine::made_by(&maker) else { return };
    let judge = judge(&[&root], &[&maker], &host());
    let agent = machine.agent(&machine.devid(KeyShape::P256, &[&root]));
    let mut seen = Vec::new();
    for _ in 0..2 {
        let payload = agent.payload().await.unwrap();
        let change = |challenge: &[u8], response| {
            seen.push(Challenge::parse(challenge).unwrap());
            response
        };
        let mut wire = Wire { agent: &*agent, change: Box::new(change) };
        judge.attestor.attest(&payload, &mut wire).await.unwrap();
    }
    assert_eq!(seen[0].devid.0.len(), 32);
    assert_ne!(seen[0].devid, seen[1].devid);
    assert_ne!(seen[0].cred_activation, seen[1].cred_activation);
}

fn sign_anything(machine: &Machine, key: &Wrapped, message: &[u8]) -> Vec<u8> {
    machine.talk(|tpm| {
        let handle = load(tpm, KeyShape::Rsa2048, key);
        let digest = steeple_pki::digest::Sha256::of(message);
        let auth = Auth::Password(DEVID_PASSWORD.as_bytes());
        tpm.sign(handle, auth, (0x0014, SHA256), &digest).unwrap()
    })
}

/// A public area with these attributes and a signature, by a key that no TPM has.
fn software_signer(attributes: u32, message: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let key = PrivateKey::generate(KeyType::Rsa2048).unwrap();
    let (modulus, _) = steeple_pki::envelope::rsa_numbers(key.public_key()).unwrap();
    let public = Writer::new().u16(0x0001).u16(SHA256).u32(attributes).sized(&[]).u16(0x0010);
    let public = public.u16(0x0014).u16(SHA256).u16(2048).u32(0).sized(modulus).finish();
    let signature = key.sign(SignatureAlgorithm::RsaPkcs1Sha256, message).unwrap();
    (public, Writer::new().u16(0x0014).u16(SHA256).sized(&signature).finish())
}

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use steeple_hcl::Block;
use steeple_plugin::{Code, NodeEvidence as _, PluginError, contract};
use steeple_tpm::template::KeyShape;

use super::super::agent::Agent;
use super::super::config;
use super::super::payload::{Blob, Challenge, CredActivation, Request};
use super::super::{check_agent, check_server, server};
use super::fixture::{Authority, Machine, bundle, host};

fn refused<T>(outcome: Result<T, PluginError>) -> (Code, String) {
    let error = outcome.err().expect("it is refused");
    let text = error.message.strip_prefix("nodeattestor(tpm_devid): ").unwrap().to_owned();
    (error.code, text)
}

#[test]
fn settings_are_refused_in_spires_words() {
    let agent = |text: &str| refused(check_agent(Some(&Block::parse(text).unwrap()))).1;
    assert_eq!(agent(""), "invalid configuration: devid_cert_path is required");
    let one = r#"devid_cert_path = "non-existent-path/to/devid.cert""#;
    assert_eq!(agent(one), "invalid configuration: devid_priv_path is required");
    let two = format!("{one}\ndevid_priv_path = \"non-existent\"");
    assert_eq!(agent(&two), "invalid configuration: devid_pub_path is required");
    let wrong = agent("devid_cert_path = { a = 1 }");
    assert!(wrong.starts_with("unable to decode configuration: "), "{wrong}");
    let all = format!("{two}\ndevid_pub_path = \"x\"\ntpm_device_path = \"/dev/tpmrm0\"");
    let all = Block::parse(&all).unwrap();
    assert_eq!(check_agent(Some(&all)).unwrap(), Vec::<String>::new());
    let missing = refused(super::super::agent(Some(&all), &host()));
    let text = "unable to load DevID files: cannot load certificate(s): open \
                non-existent-path/to/devid.cert: no such file or directory";
    assert_eq!(missing, (Code::Internal, text.to_owned()));
}

#[test]
fn a_server_takes_both_bundles_and_says_what_is_wrong_with_one() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("root");
    let good = bundle(folder.path(), "good.pem", &[&authority]);
    let empty = bundle(folder.path(), "empty.pem", &[]);
    let of = |devid: &str, ek: &str| {
        let text = format!("devid_ca_path = {devid:?}\nendorsement_ca_path = {ek:?}");
        check_server(Some(&Block::parse(&text).unwrap()))
    };
    let (good, empty) = (good.to_str().unwrap(), empty.to_str().unwrap());
    assert_eq!(of(good, good).unwrap(), Vec::<String>::new());
    let missing = "open nowhere: no such file or directory";
    for (devid, ek, text) in [
        ("", "", "devid_ca_path is required".to_owned()),
        ("nowhere", "", "endorsement_ca_path is required".to_owned()),
        ("nowhere", "nowhere", format!("unable to load DevID trust bundle: {missing}")),
        (good, "nowhere", format!("unable to load endorsement trust bundle: {missing}")),
        (
            good,
            empty,
            "unable to load endorsement trust bundle: no certificates found in file".to_owned(),
        ),
    ] {
        assert_eq!(refused(of(devid, ek)), (Code::InvalidArgument, text));
    }
    assert_eq!(refused(server(None, &host())).1, "devid_ca_path is required");
    let malformed = refused(check_server(Some(&Block::parse("devid_ca_path = [1]").unwrap())));
    assert!(malformed.1.starts_with("plugin configuration is malformed"), "{malformed:?}");
}

#[tokio::test]
async fn an_agent_keeps_the_contract_and_leaves_nothing_in_the_tpm() {
    let (maker, root) = (Authority::new("maker"), Authority::new("root"));
    let Some(machine) = Machine::made_by(&maker) else { return };
    let devid = machine.devid(KeyShape::Rsa2048, &[&root]);
    let agent = machine.agent(&devid);
    contract::node_evidence(&*agent).await;
    let loaded = machine.talk(|tpm| tpm.handles(0x8000_0000).unwrap());
    assert!(loaded.is_empty(), "{loaded:?}");
    let sessions = machine.talk(|tpm| tpm.handles(0x0300_0000).unwrap());
    assert!(sessions.is_empty(), "{sessions:?}");
}

/// As tpm2-tools writes them, with the length in front.
#[tokio::test]
async fn files_with_their_length_in_front_are_taken_too() {
    let (maker, root) = (Authority::new("maker"), Authority::new("root"));
    let Some(machine) = Machine::made_by(&maker) else { return };
    let mut devid = machine.devid(KeyShape::P256, &[&root]);
    let bare = devid.key.clone();
    let sized = |bytes: &[u8]| steeple_tpm::wire::Writer::new().sized(bytes).finish();
    devid.key.public = sized(&bare.public);
    devid.key.private = sized(&bare.private);
    let payload = machine.agent(&devid).payload().await.unwrap();
    assert_eq!(Request::parse(&payload).unwrap().devid_pub, Blob(bare.public));
}

#[tokio::test]
async fn what_the_tpm_refuses_is_told_in_spires_words() {
    let (maker, root) = (Authority::new("maker"), Authority::new("root"));
    let Some(machine) = Machine::made_by(&maker) else { return };
    let Some(other) = Machine::made_by(&maker) else { return };
    let devid = machine.devid(KeyShape::P256, &[&root]);
    let load = "unable to start a new TPM session: cannot load DevID key on TPM: ";

    let moved = refused(other.agent(&devid).payload().await);
    assert_eq!(moved.0, Code::Internal);
    assert!(moved.1.starts_with(&format!("{load}tpm2.Load failed: ")), "{moved:?}");

    let wrong = machine.agent_with(&devid, r#"owner_hierarchy_password = "wrong""#).unwrap();
    let wrong = refused(wrong.payload().await).1;
    assert!(wrong.starts_with(&format!("{load}tpm2.CreatePrimaryEx failed: ")), "{wrong}");

    let wrong = machine.agent_with(&devid, r#"endorsement_hierarchy_password = "wrong""#).unwrap();
    let wrong = refused(wrong.payload().await).1;
    let text = "unable to start a new TPM session: cannot create endorsement key: ";
    assert!(wrong.starts_with(text), "{wrong}");

    let wrong = machine.agent_with(&devid, r#"devid_password = "wrong""#).unwrap();
    let wrong = refused(wrong.payload().await).1;
    assert!(wrong.starts_with("unable to certify DevID key: tpm2.Certify failed: "), "{wrong}");
    assert!(!wrong.contains("\"wrong\""), "{wrong}");

    let mut broken = machine.devid(KeyShape::P256, &[&root]);
    broken.key.public = b"not a public key blob".to_vec();
    let broken = refused(machine.agent(&broken).payload().await).1;
    assert!(broken.starts_with(&format!("{load}tpm2.DecodePublic failed: ")), "{broken}");

    machine.replace_endorsement_certificate(b"not an endorsement certificate");
    let none = refused(machine.agent(&devid).payload().await).1;
    let text = "unable to get endorsement certificate: failed to read NV index 01c00002: ";
    assert!(none.starts_with(text), "{none}");
}

#[tokio::test]
async fn a_challenge_that_is_none_is_refused() {
    let (maker, root) = (Authority::new("maker"), Authority::new("root"));
    let Some(machine) = Machine::made_by(&maker) else { return };
    let agent = machine.agent(&machine.devid(KeyShape::P256, &[&root]));
    let activation = CredActivation {
        credential: Blob(b"wrong cred".to_vec()),
        secret: Blob(b"wrong secret".to_vec()),
    };
    let challenge =
        |len, cred_activation| Challenge { devid: Blob(vec![0; len]), cred_activation }.encode();
    let possession = "unable to solve proof of possession challenge: failed to sign nonce: \
                      tpm2.Hash failed: ";
    for (challenge, text) in [
        // A TPM signs no more than this at once.
        (challenge(1025, Some(activation.clone())), possession),
        (challenge(32, None), "received empty credential activation challenge from server"),
        (
            challenge(32, Some(activation)),
            "unable to solve proof of residency challenge: failed to activate credential: ",
        ),
    ] {
        agent.payload().await.unwrap();
        let (code, message) = refused(agent.respond(&challenge).await);
        assert_eq!(code, Code::Internal);
        assert!(message.starts_with(text), "{message}");
        // It answers once.
        let again = refused(agent.respond(&challenge).await).1;
        assert_eq!(again, "server issued unexpected challenge");
    }
    let (code, message) = refused(agent.respond(b"not-a-challenge").await);
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.starts_with("unable to unmarshall challenges: "), "{message}");
}

#[tokio::test]
async fn a_tpm_that_goes_away_ends_the_attestation_and_not_the_agent() {
    let (maker, root) = (Authority::new("maker"), Authority::new("root"));
    let Some(mut machine) = Machine::made_by(&maker) else { return };
    let agent = machine.agent(&machine.devid(KeyShape::P256, &[&root]));
    agent.payload().await.unwrap();
    machine.emulator.stop();
    let challenge =
        Challenge { cred_activation: Some(CredActivation::default()), ..Challenge::default() };
    let gone = refused(agent.respond(&challenge.encode()).await).1;
    assert!(gone.starts_with("unable to start a new TPM session: "), "{gone}");
    let gone = refused(agent.payload().await).1;
    assert!(gone.starts_with("unable to start a new TPM session: "), "{gone}");
    machine.emulator.restart();
    agent.payload().await.unwrap();
}

/// The way to the TPM lets some commands through and then nothing.
#[tokio::test]
async fn a_tpm_that_falls_silent_is_not_waited_for_beyond_the_deadline() {
    let (maker, root) = (Authority::new("maker"), Authority::new("root"));
    let Some(machine) = Machine::made_by(&maker) else { return };
    let devid = machine.devid(KeyShape::P256, &[&root]);
    let folder = tempfile::tempdir().unwrap();
    for let_through in [0, 1, 4] {
        let path = folder.path().join(format!("{let_through}.sock"));
        let listener = UnixListener::bind(&path).unwrap();
        let tpm = machine.emulator.path();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                if number < let_through {
                    let mut command = [0; 4096];
                    let count = stream.read(&mut command).unwrap();
                    let mut tpm = UnixStream::connect(&tpm).unwrap();
                    tpm.write_all(&command[..count]).unwrap();
                    let count = tpm.read(&mut command).unwrap();
                    stream.write_all(&command[..count]).unwrap();
                } else {
                    held.push(stream);
                }
            }
        });
        let settings = machine.settings(&devid, &format!("tpm_device_path = {path:?}"));
        let mut agent = Agent::new(config::agent(Some(&settings)).unwrap());
        agent.patience = Duration::from_secs(2);
        let start = Instant::now();
        let (code, text) = refused(agent.payload().await);
        assert_eq!(code, Code::Internal);
        assert!(text.contains("does not answer"), "{text}");
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
    // The TPM itself is as good as before, whatever was left in it.
    machine.agent(&devid).payload().await.unwrap();
}

#[tokio::test]
async fn what_fills_the_rest_of_the_certificates_index_is_cut_off() {
    let (maker, root) = (Authority::new("maker"), Authority::new("root"));
    let Some(machine) = Machine::made_by(&maker) else { return };
    let agent = machine.agent(&machine.devid(KeyShape::P256, &[&root]));
    let certificate = Request::parse(&agent.payload().await.unwrap()).unwrap().ek_cert;
    machine.replace_endorsement_certificate(&[&certificate.0[..], &[0xff; 100]].concat());
    let again = Request::parse(&agent.payload().await.unwrap()).unwrap().ek_cert;
    assert_eq!(again, certificate);
}

/// What is at the path answers in bits, with what is no answer, or hangs up.
#[tokio::test]
async fn what_is_no_tpm_is_told_from_one() {
    let (maker, root) = (Authority::new("maker"), Authority::new("root"));
    let Some(machine) = Machine::made_by(&maker) else { return };
    let devid = machine.devid(KeyShape::P256, &[&root]);
    let folder = tempfile::tempdir().unwrap();
    let answers: [&'static [u8]; 4] = [b"", b"\x80", b"HTTP/1.1 400 Bad Request\r\n", &[0xff; 64]];
    for (number, answer) in answers.into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.sock"));
        let listener = UnixListener::bind(&path).unwrap();
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer);
        });
        let more = format!("tpm_device_path = {path:?}");
        let agent = machine.agent_with(&devid, &more).unwrap();
        let start = Instant::now();
        let (code, text) = refused(agent.payload().await);
        assert_eq!(code, Code::Internal);
        assert!(text.starts_with("unable to start a new TPM session: "), "{text}");
        assert!(start.elapsed() < Duration::from_secs(20), "{text}");
        served.join().unwrap();
    }
    let nowhere = machine.agent_with(&devid, r#"tpm_device_path = "/nowhere/tpm0""#).unwrap();
    assert_eq!(
        refused(nowhere.payload().await).1,
        "unable to start a new TPM session: cannot open TPM at \"/nowhere/tpm0\": stat \
         /nowhere/tpm0: no such file or directory"
    );
}

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::keys::KeyKind;
use crate::pem;

macro_rules! data {
    ($name:literal) => {
        include_str!(concat!("testdata/", $name))
    };
}

/// Key, certificate and kind of every host.
const HOSTS: [(&str, &str, KeyKind); 5] = [
    (data!("host_ed25519"), data!("host_ed25519-cert.pub"), KeyKind::Ed25519),
    (data!("host_ecdsa256"), data!("host_ecdsa256-cert.pub"), KeyKind::P256),
    (data!("host_ecdsa384"), data!("host_ecdsa384-cert.pub"), KeyKind::P384),
    (data!("host_ecdsa521"), data!("host_ecdsa521-cert.pub"), KeyKind::P521),
    (data!("host_rsa"), data!("host_rsa-cert.pub"), KeyKind::Rsa(2048)),
];

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn certificate(text: &str) -> Certificate {
    match Blob::parse_text(text).unwrap() {
        Blob::Certificate(certificate) => *certificate,
        Blob::Key(_) => panic!("no certificate"),
    }
}

fn authority(text: &str) -> PublicKey {
    match Blob::parse_text(text).unwrap() {
        Blob::Key(key) => key,
        Blob::Certificate(_) => panic!("no key"),
    }
}

fn check(text: &str, by: &str, now: SystemTime) -> Result<(), Refusal> {
    let by = authority(by).fingerprint();
    certificate(text).check_host("host.example.org", |it| it.fingerprint() == by, now)
}

#[test]
fn what_ssh_keygen_made_is_read_checked_and_signed_with() {
    for (key, text, kind) in HOSTS {
        let found = certificate(text);
        assert_eq!(found.key().key().kind(), kind);
        assert_eq!(found.principals(), ["host.example.org", "other.example.org"]);
        assert_eq!((found.serial(), found.kind(), found.valid_before()), (7, HOST, Err(Infinity)));
        assert!(found.key_id().starts_with("id-host"), "{}", found.key_id());
        check(text, data!("ca.pub"), now()).unwrap();

        let key = private_key(key).unwrap();
        assert!(key.public_key() == found.key().key());
        let signature = sign(&key, b"message").unwrap();
        found.key().verify_challenge(b"message", &signature).unwrap();
        assert!(found.key().verify_challenge(b"other", &signature).is_err());
        let mut other = signature.clone();
        other.format = "ssh-dss".to_owned();
        assert!(matches!(
            found.key().verify_challenge(b"message", &other),
            Err(SshError::SignatureType(..))
        ));
        let mut short = signature;
        short.blob.truncate(8);
        assert!(found.key().verify_challenge(b"message", &short).is_err());
    }
    check(data!("byrsa-cert.pub"), data!("ca_rsa.pub"), now()).unwrap();
}

#[test]
fn what_is_no_hosts_certificate_is_refused() {
    let ca = data!("ca.pub");
    let (_, good, _) = HOSTS[0];
    assert_eq!(check(data!("user-cert.pub"), ca, now()), Err(Refusal::Type(1)));
    assert_eq!(
        check(good, data!("ca_rsa.pub"), now()),
        Err(Refusal::Authority("host.example.org:22".to_owned()))
    );
    let strange = check(data!("strange-cert.pub"), ca, now()).unwrap_err();
    assert_eq!(
        strange.to_string(),
        "ssh: unsupported critical option \"strange@example.org\" in certificate"
    );
    let rsa = data!("ca_rsa.pub");
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let (begin, end) = (1_577_836_800, 1_609_459_200);
    let old = data!("old-cert.pub");
    assert_eq!(check(old, rsa, at(begin - 1)), Err(Refusal::Early));
    assert_eq!(check(old, rsa, at(begin)), Ok(()));
    assert_eq!(check(old, rsa, at(end - 1)), Ok(()));
    assert_eq!(check(old, rsa, at(end)), Err(Refusal::Expired));
    // Where an enemy may choose what is signed, SHA-1 proves nothing.
    assert_eq!(check(data!("sha1-cert.pub"), rsa, now()), Err(Refusal::Signature));
}

#[test]
fn a_changed_byte_makes_another_certificate_or_none() {
    let good = certificate(HOSTS[0].1);
    let by = authority(data!("ca.pub")).fingerprint();
    for at in 0..good.blob().len() {
        let mut blob = good.blob().to_vec();
        blob[at] ^= 1;
        let Ok(Blob::Certificate(changed)) = Blob::parse(&blob) else { continue };
        let checked = changed.check_host("h", |it| it.fingerprint() == by, now());
        assert!(checked.is_err(), "byte {at}");
    }
    for length in 0..good.blob().len() {
        assert!(Blob::parse(&good.blob()[..length]).is_err(), "{length}");
    }
    let longer = [good.blob(), &[0]].concat();
    assert!(Blob::parse(&longer).is_err());
    assert_eq!(Blob::parse(&vec![0; MAX_BLOB_LEN + 1]).unwrap_err(), SshError::TooLarge);
}

#[test]
fn texts_may_hold_comments_and_options() {
    let ca = data!("ca.pub").trim();
    let with = format!("# comment\n\n  cert-authority,command=\"a \\\"b c\" {ca}\n");
    assert_eq!(authority(&with).blob(), authority(ca).blob());
    let (kind, rest) = ca.split_once(' ').unwrap();
    assert_eq!(kind, "ssh-ed25519");
    for (text, error) in [
        (String::new(), SshError::NoKey),
        ("# only\n".to_owned(), SshError::NoKey),
        (format!("{kind} !!!"), SshError::NoKey),
        (format!("ssh-rsa {rest}"), SshError::Mismatch("ssh-rsa".to_owned(), "ssh-ed25519")),
        ("ssh-dss AAAAB3NzaC1kc3M=".to_owned(), SshError::Algorithm("ssh-dss".to_owned())),
    ] {
        assert_eq!(Blob::parse_text(&text).unwrap_err(), error, "{text}");
    }
}

#[test]
fn private_keys_that_cannot_be_used_say_why() {
    assert_eq!(private_key(data!("locked")).err(), Some(SshError::Passphrase));
    assert_eq!(private_key("nothing").err(), Some(SshError::NoKey));
    let pem = |label: &str, contents: &[u8]| pem::encode(label, contents);
    let openssh = "OPENSSH PRIVATE KEY";
    assert_eq!(private_key(&pem(openssh, b"x")).err(), Some(SshError::Private));
    for (key, _, _) in HOSTS {
        let block = pem::blocks(key).next().unwrap().unwrap();
        for length in 0..block.contents.len() {
            let cut = pem(openssh, &block.contents[..length]);
            // What follows the key itself is but padding.
            if length + 16 < block.contents.len() {
                assert!(private_key(&cut).is_err(), "{length}");
            }
        }
    }
    let pkcs8 = crate::PrivateKey::generate(crate::KeyType::EcP256).unwrap();
    assert!(private_key(&pkcs8.to_pkcs8_pem()).unwrap().public_key() == pkcs8.public_key());
    assert!(private_key(&pkcs8.to_traditional_pem()).unwrap().public_key() == pkcs8.public_key());
}

#[test]
fn the_other_form_of_a_certificate_is_as_good_and_its_other_form_is_the_first() {
    // By an authority of ECDSA: the host keys sign as authorities here.
    let key = private_key(HOSTS[1].0).unwrap();
    let host = certificate(HOSTS[0].1);
    let authority = certificate(HOSTS[1].1);
    let mut blob = host.blob[..host.signed].to_vec();
    let old = host.authority().blob().len() + 4;
    blob.truncate(blob.len() - old);
    wire::put_string(&mut blob, authority.key().blob());
    let made = sign(&key, &blob).unwrap();
    let mut signature = Vec::new();
    wire::put_string(&mut signature, made.format.as_bytes());
    wire::put_string(&mut signature, &made.blob);
    wire::put_string(&mut blob, &signature);
    let Blob::Certificate(one) = Blob::parse(&blob).unwrap() else { panic!("no certificate") };
    one.check_host("h", |_| true, now()).unwrap();
    let other = one.blob_in_other_form().unwrap();
    assert_ne!(other, blob);
    let Blob::Certificate(other) = Blob::parse(&other).unwrap() else { panic!("no certificate") };
    other.check_host("h", |_| true, now()).unwrap();
    assert_eq!(other.blob_in_other_form().unwrap(), blob);
    // Of other signatures there is one form.
    assert!(host.blob_in_other_form().is_none());
}

#[test]
fn numbers_are_written_one_way() {
    let read = |digits: &[u8]| {
        let mut text = Vec::new();
        wire::put_string(&mut text, digits);
        wire::Reader::new(&text).number().map(<[u8]>::to_vec)
    };
    assert_eq!(read(&[]).unwrap(), [0_u8; 0]);
    assert_eq!(read(&[0, 0x80]).unwrap(), [0x80]);
    for bad in [&[0][..], &[0, 1], &[0, 0, 0x80], &[0x80]] {
        assert!(read(bad).is_err(), "{bad:?}");
    }
}

/// A security key signs its application, flags and a counter besides (PROTOCOL.u2f).
#[test]
fn security_keys_sign_as_authorities_and_must_be_touched_for_challenges() {
    let key = crate::PrivateKey::generate(crate::KeyType::EcP256).unwrap();
    let mut blob = Vec::new();
    for part in
        [&b"sk-ecdsa-sha2-nistp256@openssh.com"[..], b"nistp256", key.public_key().bits(), b"ssh:"]
    {
        wire::put_string(&mut blob, part);
    }
    let public = PublicKey::parse(&blob).unwrap();
    let signed = |flags: u8| {
        let hash = |text: &[u8]| crate::digest::Sha256::of(text);
        let message =
            [&hash(b"ssh:")[..], &[flags], &7_u32.to_be_bytes(), &hash(b"message")].concat();
        let mut signature = sign(&key, &message).unwrap();
        signature.format = "sk-ecdsa-sha2-nistp256@openssh.com".to_owned();
        signature.rest = [&[flags][..], &7_u32.to_be_bytes()].concat();
        signature
    };
    use signature::Over;
    public.verify_challenge(b"message", &signed(1)).unwrap();
    assert_eq!(public.verify_challenge(b"message", &signed(0)), Err(SshError::Signature));
    public.verify(Over::Certificate, b"message", &signed(0)).unwrap();
    assert!(public.verify(Over::Certificate, b"other", &signed(1)).is_err());
    let mut cut = signed(1);
    cut.rest.pop();
    assert_eq!(public.verify_challenge(b"message", &cut), Err(SshError::Short));
}

proptest! {
    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Blob::parse(&bytes);
        let _ = Blob::parse_text(&String::from_utf8_lossy(&bytes));
        let _ = private_key(&pem::encode("OPENSSH PRIVATE KEY", &bytes));
    }
}

use proptest::prelude::*;
use steeple_pki::envelope::{Sha2, ec_point, rsa_numbers};
use steeple_pki::{KeyType, PrivateKey, PublicKey, SignatureAlgorithm};

use super::*;
use crate::wire::Writer;

const NULL: u16 = 0x0010;
const SHA256: u16 = 0x000b;
const AK: u32 = 0x0005_0072;
const EK: u32 = 0x0003_00b2;
const DEVID: u32 = 0x0004_0072;

/// A TPM in software, as far as it goes: keys whose public areas and signatures are as a TPM's.
struct Soft {
    key: PrivateKey,
    public: Public,
}

impl Soft {
    fn new(key_type: KeyType, attributes: u32) -> Self {
        let key = PrivateKey::generate(key_type).unwrap();
        let public = Public::parse(&public_area(key.public_key(), attributes, SHA256)).unwrap();
        Self { key, public }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match rsa_numbers(self.key.public_key()) {
            Some(_) => {
                let signature = self.key.sign(SignatureAlgorithm::RsaPkcs1Sha256, message).unwrap();
                Writer::new().u16(0x0014).u16(SHA256).sized(&signature).finish()
            }
            None => {
                let asn1 = self.key.sign(SignatureAlgorithm::EcdsaSha256, message).unwrap();
                let (r_len, r) = (usize::from(asn1[3]), &asn1[4..]);
                let (r, s) = (&r[..r_len], &r[r_len + 2..]);
                let bare = |number: &[u8]| {
                    let start = number.iter().position(|byte| *byte != 0).unwrap();
                    number[start..].to_vec()
                };
                Writer::new().u16(0x0018).u16(SHA256).sized(&bare(r)).sized(&bare(s)).finish()
            }
        }
    }
}

fn public_area(key: &PublicKey, attributes: u32, name_alg: u16) -> Vec<u8> {
    let parent = attributes & (1 << 17) != 0;
    let head = |kind| Writer::new().u16(kind).u16(name_alg).u32(attributes).sized(&[]);
    let symmetric = |it: Writer| match parent {
        true => it.u16(0x0006).u16(128).u16(0x0043),
        false => it.u16(NULL),
    };
    let scheme = |it: Writer, algorithm| match parent {
        true => it.u16(NULL),
        false => it.u16(algorithm).u16(SHA256),
    };
    match (rsa_numbers(key), ec_point(key)) {
        (Some((modulus, _)), _) => scheme(symmetric(head(0x0001)), 0x0014)
            .u16(u16::try_from(modulus.len() * 8).unwrap())
            .u32(0)
            .sized(modulus)
            .finish(),
        (_, Some((x, y))) => {
            scheme(symmetric(head(0x0023)), 0x0018).u16(3).u16(NULL).sized(x).sized(y).finish()
        }
        _ => unreachable!(),
    }
}

fn attest(kind: u16, extra: &[u8], info: impl FnOnce(Writer) -> Writer) -> Vec<u8> {
    let head = Writer::new().u32(TPM_GENERATED).u16(kind).sized(b"signer").sized(extra);
    info(head.u64(1).u32(2).u32(3).u8(1).u64(4)).finish()
}

fn certify(subject: &Public, extra: &[u8]) -> Vec<u8> {
    let name = subject.name().unwrap();
    attest(0x8017, extra, |it| it.sized(name.as_bytes()).sized(b"qualified"))
}

#[test]
fn a_key_that_an_attestation_key_certified_is_in_the_same_tpm() {
    for ak_type in [KeyType::Rsa2048, KeyType::EcP256] {
        for subject_type in [KeyType::Rsa2048, KeyType::EcP256] {
            let ak = Soft::new(ak_type, AK);
            let subject = Soft::new(subject_type, DEVID);
            let attest = certify(&subject.public, b"nonce");
            let signature = ak.sign(&attest);
            let judge = AttestationKey::new(ak.public.clone()).unwrap();
            let proven = judge
                .certified(subject.public.clone(), &attest, &signature, Some(b"nonce"))
                .unwrap();
            assert!(proven.key() == subject.key.public_key());
            let unbound = judge.certified(subject.public.clone(), &attest, &signature, None);
            assert!(unbound.is_ok());
        }
    }
}

#[test]
fn what_was_certified_is_no_other_key_question_or_signer() {
    let (ak, subject) = (Soft::new(KeyType::EcP256, AK), Soft::new(KeyType::EcP256, DEVID));
    let judge = AttestationKey::new(ak.public.clone()).unwrap();
    let attest = certify(&subject.public, b"nonce");
    let signature = ak.sign(&attest);
    let of = |public: &Public, attest: &[u8], signature: &[u8], bound: Option<&[u8]>| {
        judge.certified(public.clone(), attest, signature, bound).map(|_| ())
    };
    let other = Soft::new(KeyType::EcP256, AK);
    let subject = &subject.public;
    assert!(matches!(of(&other.public, &attest, &signature, None), Err(VerifyError::OtherKey)));
    let replayed = of(subject, &attest, &signature, Some(b"later"));
    assert!(matches!(replayed, Err(VerifyError::Binding)));
    let forged = of(subject, &attest, &other.sign(&attest), None);
    assert!(matches!(forged, Err(VerifyError::Signature)));
    let quote = attest_quote(b"nonce", b"digest");
    let confused = of(subject, &quote, &ak.sign(&quote), None);
    assert!(matches!(confused, Err(VerifyError::Kind("certify"))));
}

/// What a restricted key signs of what it is given never begins with the magic value.
#[test]
fn what_no_tpm_generated_is_no_attestation() {
    let (ak, subject) = (Soft::new(KeyType::EcP256, AK), Soft::new(KeyType::EcP256, DEVID));
    let judge = AttestationKey::new(ak.public.clone()).unwrap();
    let mut attest = certify(&subject.public, b"");
    attest[0] = 0;
    let error = judge.certified(subject.public, &attest, &ak.sign(&attest), None).unwrap_err();
    assert_eq!(error.to_string(), "incorrect magic value: 544347");
}

#[test]
fn a_key_that_may_leave_or_sign_anything_proves_nothing() {
    for (attributes, text) in [
        (AK & !(1 << 16), "attestation key is not a restricted signing key"),
        (AK | 1 << 17, "attestation key is not a restricted signing key"),
        (AK & !(1 << 1), "attestation key is not bound to a TPM"),
        (AK & !(1 << 4), "attestation key is not bound to a TPM"),
        (AK & !(1 << 5), "attestation key is not bound to a TPM"),
        (AK & !(1 << 18), "not a signing key"),
    ] {
        let error = AttestationKey::new(Soft::new(KeyType::EcP256, attributes).public);
        assert_eq!(error.unwrap_err().to_string(), text);
    }
    for attributes in [EK & !(1 << 16), EK | 1 << 18, EK & !(1 << 17), EK & !(1 << 1)] {
        assert!(EndorsementKey::new(Soft::new(KeyType::EcP256, attributes).public).is_err());
    }
    let ak = Soft::new(KeyType::EcP256, AK);
    let judge = AttestationKey::new(ak.public.clone()).unwrap();
    for bit in [1, 4, 5] {
        let imported = Soft::new(KeyType::EcP256, DEVID & !(1 << bit));
        let attest = certify(&imported.public, b"");
        let error = judge.certified(imported.public, &attest, &ak.sign(&attest), None);
        assert_eq!(error.unwrap_err().to_string(), "certified key is not bound to a TPM");
    }
}

fn attest_quote(nonce: &[u8], digest: &[u8]) -> Vec<u8> {
    attest(0x8018, nonce, |it| {
        it.u32(1).u16(SHA256).u8(3).bytes(&[0b1000_0001, 0, 0]).sized(digest)
    })
}

#[test]
fn a_quote_confirms_the_values_that_it_is_over_and_no_others() {
    let ak = Soft::new(KeyType::Rsa2048, AK);
    let judge = AttestationKey::new(ak.public.clone()).unwrap();
    let value = |pcr, byte| PcrValue { hash: SHA256, pcr, value: vec![byte; 32] };
    let attest = attest_quote(b"nonce", &Sha2::Sha256.digest(&[&[1; 32], &[2; 32]]));
    let signature = ak.sign(&attest);
    let given = [value(7, 2), value(0, 1), value(3, 9)];
    let quoted = judge.quoted(&attest, &signature, b"nonce", &given).unwrap();
    assert_eq!(quoted.values, [value(0, 1), value(7, 2)]);
    assert_eq!((quoted.clock.resets, quoted.firmware), (2, 4));

    let replayed = judge.quoted(&attest, &signature, b"other", &given);
    assert!(matches!(replayed, Err(VerifyError::Binding)));
    let shifted = PcrValue { value: vec![1; 31], ..value(0, 1) };
    for wrong in [vec![value(0, 1)], vec![value(0, 2), value(7, 1)], vec![shifted, value(7, 2)]] {
        let refused = judge.quoted(&attest, &signature, b"nonce", &wrong);
        assert!(matches!(refused, Err(VerifyError::PcrDigest)));
    }
    let certify = certify(&ak.public, b"nonce");
    let confused = judge.quoted(&certify, &ak.sign(&certify), b"nonce", &given);
    assert!(matches!(confused, Err(VerifyError::Kind("quote"))));
}

#[test]
fn a_credential_is_made_for_endorsement_keys_of_both_kinds() {
    let ak = Soft::new(KeyType::EcP256, AK);
    let name = ak.public.name().unwrap();
    for (key_type, secret_len) in [(KeyType::Rsa2048, 256), (KeyType::EcP256, 68)] {
        let ek = EndorsementKey::new(Soft::new(key_type, EK).public).unwrap();
        assert_eq!(ek.secret_len().unwrap(), 32);
        let made = ek.make_credential(&name, &[7; 32]).unwrap();
        assert_eq!((made.id_object.len(), made.secret.len()), (2 + 32 + 2 + 32, secret_len));
        assert_ne!(made, ek.make_credential(&name, &[7; 32]).unwrap());
        assert!(ek.make_credential(&name, &[7; 33]).is_err());
    }
}

#[test]
fn a_name_needs_a_hash_that_is_known() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let public = Public::parse(&public_area(key.public_key(), AK, NULL)).unwrap();
    let error = public.name().unwrap_err().to_string();
    assert_eq!(error, "hash algorithm not supported: 0x10");
}

#[test]
fn a_public_area_that_contradicts_itself_is_no_key() {
    let key = PrivateKey::generate(KeyType::Rsa2048).unwrap();
    let mut area = public_area(key.public_key(), DEVID, SHA256);
    let bits = area.len() - 256 - 2 - 4 - 2;
    area[bits..bits + 2].copy_from_slice(&3072_u16.to_be_bytes());
    assert!(matches!(Public::parse(&area).unwrap().key(), Err(VerifyError::KeySize)));

    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let mut area = public_area(key.public_key(), DEVID, SHA256);
    *area.last_mut().unwrap() ^= 1;
    assert!(matches!(Public::parse(&area).unwrap().key(), Err(VerifyError::Key(_))));
}

/// What is wrong with some bytes.
type Read = fn(&[u8]) -> Option<StructureError>;

#[test]
fn structures_are_read_whole_and_nothing_beside_them() {
    let subject = Soft::new(KeyType::Rsa2048, DEVID);
    let area = subject.public.encoded().to_vec();
    let attest = certify(&subject.public, b"nonce");
    let quote = attest_quote(b"nonce", &[1; 32]);
    let signature = subject.sign(b"message");
    let readers: [(&[u8], Read); 4] = [
        (&area, |it| Public::parse(it).err()),
        (&attest, |it| Attest::parse(it).err()),
        (&quote, |it| Attest::parse(it).err()),
        (&signature, |it| Signature::parse(it).err()),
    ];
    for (whole, read) in readers {
        assert_eq!(read(whole), None);
        for len in 0..whole.len() {
            assert!(matches!(read(&whole[..len]), Some(StructureError::Truncated(_))), "{len}");
        }
        let longer = [whole, &[0]].concat();
        assert!(matches!(read(&longer), Some(StructureError::Trailing(_))));
        let huge = [whole, &[0; MAX_STRUCTURE]].concat();
        assert!(matches!(read(&huge), Some(StructureError::TooLarge(_))));
    }
    let sized = Writer::new().sized(&area).finish();
    assert_eq!(Public::parse_sized(&sized).unwrap(), subject.public);
    assert!(Public::parse_sized(&[&sized[..], &[0]].concat()).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Public::parse(&bytes).map(|public| (public.key().is_ok(), public.name().is_ok()));
        let _ = Public::parse_sized(&bytes);
        let _ = Attest::parse(&bytes);
        let _ = Signature::parse(&bytes);
    }

    #[test]
    fn no_flipped_bit_of_an_attestation_survives(at in 0_usize..1000, bit in 0_u32..8) {
        let (ak, subject) = (Soft::new(KeyType::EcP256, AK), Soft::new(KeyType::EcP256, DEVID));
        let judge = AttestationKey::new(ak.public.clone()).unwrap();
        let mut attest = certify(&subject.public, b"");
        let signature = ak.sign(&attest);
        let at = at % attest.len();
        attest[at] ^= 1 << bit;
        prop_assert!(judge.certified(subject.public, &attest, &signature, None).is_err());
    }
}

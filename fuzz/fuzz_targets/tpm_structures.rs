//! What a TPM is said to have said: no panic, and a public area is its own encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_tpm::verify::{AttestationKey, Attest, EndorsementKey, Public, Signature};

fuzz_target!(|data: &[u8]| {
    let _ = Attest::parse(data);
    if let Ok(signature) = Signature::parse(data) {
        for kind in [steeple_pki::KeyKind::P256, steeple_pki::KeyKind::Rsa(2048)] {
            let _ = signature.to_asn1(kind);
        }
    }
    if let Ok(sized) = Public::parse_sized(data) {
        assert_eq!(sized.encoded(), &data[2..]);
    }
    let Ok(public) = Public::parse(data) else { return };
    assert_eq!(public.encoded(), data);
    if let Ok(name) = public.name() {
        assert!(name.as_bytes().starts_with(&public.name_alg().to_be_bytes()));
    }
    if let Ok(ak) = AttestationKey::new(public.clone()) {
        let _ = ak.certified(public.clone(), data, data, None);
        let _ = ak.quoted(data, data, b"", &[]);
    }
    if let (Ok(ek), Ok(name)) = (EndorsementKey::new(public.clone()), public.name()) {
        let _ = ek.make_credential(&name, &[0; 32]);
    }
});

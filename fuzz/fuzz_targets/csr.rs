//! No request makes the parser panic, and none is accepted without a working key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_pki::PublicKey;
use steeple_pki::csr::Csr;

fuzz_target!(|der: &[u8]| match Csr::parse(der) {
    Ok(csr) => {
        let again = PublicKey::from_spki_der(csr.public_key().spki_der());
        assert_eq!(again.ok().as_ref(), Some(csr.public_key()));
        let _ = csr.subject();
    }
    Err(err) => assert!(err.to_string().len() < 1000),
});

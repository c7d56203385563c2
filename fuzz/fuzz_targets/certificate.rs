//! No certificate makes the parser, the names or the path verifier panic.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use steeple_pki::{Certificate, PrivateKey, PublicKey, verify};

fuzz_target!(|der: &[u8]| {
    if let Ok(certificate) = Certificate::from_der(der.to_vec()) {
        assert_eq!(certificate.der(), der);
        assert_eq!(Certificate::from_pem(&certificate.pem()).ok().as_ref(), Some(&certificate));
        let _ = certificate.serial_decimal();
        let _ = certificate.subject().map(|name| name.to_der());
        let _ = certificate.verify_signed_by(certificate.public_key());
        let _ = verify::leaf_svid_rules(&certificate);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let all = [certificate.clone()];
        let _ = verify::verify_path(&certificate, &all, &all, now);
    }
    let _ = PublicKey::from_spki_der(der);
    let _ = PrivateKey::from_pkcs8_der(der);
});

//! A signed message is verified or refused; without the signer's key it is never anything else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_pki::Certificate;
use steeple_pki::cms;

const SIGNER: &str = include_str!("../../crates/pki/src/cms/testdata/signer.pem");
const CONTENT: &[u8] = b"{\n  \"accountId\" : \"123456789012\"\n}";

fuzz_target!(|message: &[u8]| {
    if let Ok(signed) = cms::signed(message) {
        assert!(signed.content.len() < message.len());
    }
    // The corpus may hold what this signer signed, once.
    let signer = Certificate::from_pem(SIGNER).unwrap();
    if let Ok(signed) = cms::signed_by(message, &[signer]) {
        assert_eq!(signed.content, CONTENT);
    }
});

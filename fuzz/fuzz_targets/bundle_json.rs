//! An accepted bundle prints to a document that gives the same bundle.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_pki::bundle::{self, Indent};
use steeple_spiffe::TrustDomain;

fuzz_target!(|document: &[u8]| {
    let trust_domain = TrustDomain::parse("example.org").expect("a valid name");
    if let Ok(bundle) = bundle::parse(trust_domain.clone(), document) {
        for indent in [Indent::None, Indent::FourSpaces] {
            let printed = bundle::spiffe(&bundle, indent);
            let again = bundle::parse(trust_domain.clone(), printed.as_bytes());
            assert_eq!(again.expect("what was printed can be read"), bundle);
        }
    }
});

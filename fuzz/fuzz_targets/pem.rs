//! Blocks that were read are the same after printing and reading again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_pki::{Certificate, PrivateKey, pem};

fuzz_target!(|text: &str| {
    for block in pem::blocks(text).map_while(Result::ok) {
        let printed = pem::encode(block.label, &block.contents);
        let again = pem::blocks(&printed).next().expect("a block").expect("well-formed");
        assert_eq!((again.label, &again.contents), (block.label, &block.contents));
    }
    let _ = PrivateKey::from_pem(text);
    let _ = Certificate::parse_pem_bundle(text);
});

//! No document of keys and no token of another issuer makes the parsers panic, and what is not
//! signed with a key of the document is never opened.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_pki::jwt::JwtAlg;
use steeple_pki::jwt::issuer::{self, IssuerKeys, MAX_KEYS};

fuzz_target!(|data: &[u8]| {
    let (document, token) = match data.iter().position(|byte| *byte == 0) {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, data),
    };
    let token = String::from_utf8_lossy(token);
    for keys in [IssuerKeys::from_jwks(document), IssuerKeys::from_certificates(document)] {
        match keys {
            Ok(keys) => {
                assert!(keys.len() <= MAX_KEYS);
                if let Ok(claims) = issuer::open(&token, &keys, &JwtAlg::ALL) {
                    let _ = claims.text("sub");
                }
            }
            Err(error) => assert!(error.to_string().len() < 2000),
        }
    }
    let none = issuer::open(&token, &IssuerKeys::default(), &JwtAlg::ALL);
    assert!(none.expect_err("no key opens nothing").to_string().len() < 2000);
});

//! No token makes the parser panic, none verifies without its key, and errors stay short.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use steeple_pki::{Bundle, jwt};
use steeple_spiffe::TrustDomain;

fuzz_target!(|token: &str| {
    let trust_domain = TrustDomain::parse("example.org").expect("a valid name");
    let bundle = Bundle::new(trust_domain);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let error = jwt::verify_svid(token, &bundle, "audience", now, jwt::LEEWAY)
        .expect_err("a bundle without keys verifies nothing");
    assert!(error.to_string().len() < 2000);
    if let Ok(token) = jwt::parse_unverified(token) {
        let _ = (token.lifetime().is_ok(), token.audience().is_ok(), token.subject().is_ok());
    }
});

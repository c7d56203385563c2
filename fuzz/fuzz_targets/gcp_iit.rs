//! No token or claims make the parsers panic, and an ID is an agent's below the plugin's name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_gcp::node_attestor::gcp_iit;
use steeple_spiffe::TrustDomain;

fuzz_target!(|bytes: &[u8]| {
    if gcp_iit::parse_payload(bytes) {
        assert_eq!(bytes.iter().filter(|byte| **byte == b'.').count(), 2);
        assert!(bytes.len() <= 16 * 1024);
    }
    let trust_domain = TrustDomain::parse("example.org").expect("a valid name");
    if let Some(id) = gcp_iit::parse_claims(bytes, &trust_domain) {
        let path = id.path().strip_prefix("/spire/agent/gcp_iit/").expect("the plugin's name");
        assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")), "{path}");
    }
});

//! No evidence of an agent, and no review of an API server, makes the parsers panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_plugins::node_attestor::k8s_psat;

fuzz_target!(|bytes: &[u8]| {
    if k8s_psat::parse_payload(bytes) {
        assert!(bytes.len() <= 32 * 1024);
        // A cluster and a token are in it, in an object.
        assert!(bytes.len() >= "{'cluster':'x','token':'x'}".len());
    }
    k8s_psat::parse_review(bytes);
});

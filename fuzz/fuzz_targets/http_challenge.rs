//! What an agent says of itself, and an operator's patterns, are read or refused, and no more.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_plugins::node_attestor::http_challenge;

fuzz_target!(|bytes: &[u8]| {
    http_challenge::parse_payload(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        http_challenge::parse_pattern(text);
    }
});

//! Evidence and responses of `tpm`: no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_plugins::node_attestor::tpm::parse_evidence;

fuzz_target!(|data: &[u8]| {
    parse_evidence(data);
});

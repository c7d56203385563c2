//! Evidence, challenges and responses of `tpm_devid`: no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_plugins::node_attestor::tpm_devid::parse_payload;

fuzz_target!(|data: &[u8]| {
    parse_payload(data);
});

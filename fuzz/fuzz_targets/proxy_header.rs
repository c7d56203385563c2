//! PROXY protocol headers, v1 and v2: no panic, no request for more than a header may have, and
//! progress with every byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_net::proxy::{Step, next};

fuzz_target!(|data: &[u8]| {
    let mut taken = 0;
    while let Ok(Step::More(count)) = next(&data[..taken]) {
        assert!(count > 0 && taken + count <= 16 + 4096, "{taken} and {count} more");
        taken += count;
        if taken > data.len() {
            return;
        }
    }
});

//! No evidence or response makes the parsers panic, no path takes more work than is allowed, and
//! what is found begins with the leaf and ends with a root.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use steeple_pki::Certificate;
use steeple_pki::verify::{PathRules, Work, paths_counted};
use steeple_plugins::node_attestor::x509pop;

fuzz_target!(|bytes: &[u8]| {
    if x509pop::parse_messages(bytes) {
        assert!(bytes.len() <= 5 * 32 * 1024);
    }
    // Certificates one after the other: the leaf, intermediates, and the last is the root.
    let der = bytes::Bytes::copy_from_slice(bytes);
    let Ok(chain) = Certificate::parse_concatenated_der(&der) else { return };
    let [leaf, above @ .., root] = &chain[..] else { return };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let (rules, mut work) = (PathRules::at(now), Work::default());
    let roots = std::slice::from_ref(root);
    if let Ok(found) = paths_counted(leaf, above, roots, &rules, &mut work) {
        assert!(found.iter().all(|path| path.first() == Some(leaf) && path.last() == Some(root)));
    }
    assert!(work.signatures <= 100 && work.steps <= 257);
});

//! No evidence, response, key or certificate of SSH makes the parsers panic, and what was read is
//! what was given.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_pki::ssh::{self, Blob};
use steeple_plugins::node_attestor::sshpop;

fuzz_target!(|bytes: &[u8]| {
    sshpop::parse_messages(bytes);
    match Blob::parse(bytes) {
        Ok(Blob::Key(key)) => assert_eq!(key.blob(), bytes),
        Ok(Blob::Certificate(certificate)) => {
            assert_eq!(certificate.blob(), bytes);
            assert!(Blob::parse(certificate.key().blob()).is_ok());
            let _ = certificate.check_host("h", |_| true, std::time::SystemTime::UNIX_EPOCH);
        }
        Err(error) => assert!(error.to_string().len() < 1000),
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Blob::parse_text(text);
        let _ = ssh::private_key(text);
    }
});

//! No evidence of a machine of Azure makes its parsers panic; none is believed without its key,
//! and errors stay short.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_azure::node_attestor::azure_imds::document::Named;
use steeple_azure::node_attestor::azure_imds::payload::{AttestedDocument, MAX_LEN, Payload};
use steeple_azure::node_attestor::azure_msi;

fuzz_target!(|data: &[u8]| {
    match azure_msi::payload::parse(data) {
        Ok(token) => assert!(!token.is_empty() && token.len() <= azure_msi::payload::MAX_LEN),
        Err(error) => assert!(error.to_string().len() < 200),
    }
    let document = match Payload::parse(data) {
        Ok(payload) => payload.document,
        Err(error) => {
            assert!(error.to_string().len() < 200);
            // The parsers behind have their turn anyway.
            let signature = String::from_utf8_lossy(data).into_owned();
            AttestedDocument { encoding: String::new(), signature }
        }
    };
    assert!(document.signature.len() <= MAX_LEN.max(4 * data.len()));
    let domains = ["metadata.azure.com".to_owned()];
    match Named::open(&document, &domains) {
        Ok(named) => assert_eq!(named.issuer().host_str(), Some("www.microsoft.com")),
        Err(error) => assert!(error.to_string().len() < 2000),
    }
});

//! Evidence of EC2 instances is answered, whatever it is; and never believed, since no key of AWS's
//! is here to sign any.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use steeple_aws::node_attestor::aws_iid;

fuzz_target!(|input: (String, Vec<u8>, bool)| {
    let (document, message, raw) = input;
    let payload = if raw {
        message
    } else {
        let text = STANDARD.encode(message);
        serde_json::json!({ "document": document, "rsa2048": text }).to_string().into_bytes()
    };
    assert!(!aws_iid::fuzz_payload(&payload));
});

//! An accepted selector prints as it was written; a refusal does not repeat its input at length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_spiffe::Selector;

fuzz_target!(|text: &str| match Selector::parse(text) {
    Ok(selector) => {
        assert_eq!(selector.to_string(), text);
        assert!(!selector.kind.contains(':') && !selector.kind.is_empty());
        assert!(!selector.value.is_empty());
    }
    Err(err) => assert!(err.to_string().len() < 1000),
});

//! Whatever parses can be decoded, walked and printed, and a print is stable.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use steeple_hcl::{Block, Located};

/// One field for every way of decoding; one-letter names are found quickly.
#[derive(Default, Deserialize)]
#[serde(default)]
#[allow(dead_code)]
struct Everything {
    s: Located<String>,
    i: Located<i64>,
    f: Located<f64>,
    b: Located<bool>,
    l: Located<Vec<String>>,
    e: Located<Vec<Inner>>,
    m: Located<BTreeMap<String, BTreeMap<String, Inner>>>,
    n: Located<Block>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
#[allow(dead_code)]
struct Inner {
    s: Option<String>,
    e: Option<Box<Inner>>,
    n: Option<Block>,
}

fuzz_target!(|text: &[u8]| {
    let Ok(block) = steeple_hcl::parse(text) else { return };
    let _ = block.labelled();
    if let Ok(decoded) = block.decode::<Everything>()
        && let Some(inner) = decoded.value.n.as_ref()
    {
        let _ = inner.to_hcl();
        let _ = inner.decode::<Everything>();
    }
    // Layout may take a second go to settle, but never grows without end.
    let printed = block.to_hcl();
    if let Ok(again) = Block::parse(&printed) {
        assert!(again.to_hcl().len() <= 2 * printed.len() + 64);
    }
});

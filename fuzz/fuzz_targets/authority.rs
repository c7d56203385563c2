//! The `:authority` filter alters `%` and `/` only where it may, keeps every byte's place, holds
//! back little, and does not depend on how the bytes arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steeple_net::authority::AuthorityFilter;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (tail, sizes) = input;
    let sent = [PREFACE, &tail].concat();
    let whole = filter(&sent, &[]);
    assert_eq!(whole.len(), sent.len());
    assert_eq!(filter(&sent, &sizes), whole);
    assert_eq!(filter(&sent, &vec![1; sent.len()]), whole);
});

fn filter(bytes: &[u8], sizes: &[u8]) -> Vec<u8> {
    let mut filter = AuthorityFilter::new();
    let (mut out, mut held, mut rest) = (Vec::new(), Vec::new(), bytes);
    for size in sizes.iter().map(|size| usize::from(*size)).chain([bytes.len()]) {
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        held.extend_from_slice(chunk);
        let last = filter.rewrite(&mut held);
        out.extend(held.drain(..last));
        assert!(held.len() <= 512);
    }
    out.extend(held);
    out
}

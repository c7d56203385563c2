//! The Workload API's stream messages as bytes, written once and shared.
//!
//! A message is put together from fragments: an identity's fields as they lie
//! in the cache, once each, and a bundle's, encoded when it changes. What a stream sends is a [`Frame`]: the message
//! with gRPC's five-byte prefix before it, ready for the connection.
//!
//! Field numbers are those of the public `workload.proto`; the tests of
//! `steeple-agent-api` decode these bytes with the generated types.

mod delegated;
mod wit;

use bytes::Bytes;
use zeroize::Zeroizing;

pub use self::delegated::{Change, WithKey, delegated_x509_bundles, delegated_x509_svids, watched};
pub use self::wit::{wit_bundles, wit_svids};

/// A gRPC message with its prefix (no compression, length); shared by every
/// stream that sends it, wiped when the last one lets go.
#[derive(Clone)]
pub struct Frame(Bytes);

impl Frame {
    /// The bytes for the connection.
    pub fn bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// The message without gRPC's prefix.
    pub fn message(&self) -> Bytes {
        self.0.slice(PREFIX..)
    }

    /// Whether both say the same, by identity first.
    pub fn same(&self, other: &Frame) -> bool {
        self.0.as_ptr() == other.0.as_ptr() || self.0 == other.0
    }
}

/// An `X509SVID` message without its bundle: where its fields are, none of them copied.
#[derive(Clone, Copy)]
pub struct IdentityFragment<'i> {
    /// The SPIFFE ID.
    pub spiffe_id: &'i str,
    /// The leaf's DER, and the concatenated DER of those that come after it.
    pub chain: [&'i [u8]; 2],
    /// The key, PKCS#8 DER.
    pub key_pkcs8: &'i [u8],
    /// The hint; may be empty.
    pub hint: &'i str,
}

impl IdentityFragment<'_> {
    fn len(&self, bundle: &BundleFragment) -> usize {
        [self.spiffe_id.len(), self.chain_len(), self.key_pkcs8.len(), self.hint.len()]
            .into_iter()
            .chain([bundle.x509_der.len()])
            .map(field_len)
            .sum()
    }

    fn chain_len(&self) -> usize {
        self.chain.iter().map(|part| part.len()).sum()
    }

    fn write(&self, out: &mut Vec<u8>, bundle: &BundleFragment) {
        put_key(out, 1, self.len(bundle));
        put_field(out, 1, self.spiffe_id.as_bytes());
        if self.chain_len() > 0 {
            put_key(out, 2, self.chain_len());
            self.chain.iter().for_each(|part| out.extend_from_slice(part));
        }
        put_field(out, 3, self.key_pkcs8);
        put_field(out, 4, &bundle.x509_der);
        put_field(out, 5, self.hint.as_bytes());
    }
}

/// A trust domain's authorities as the streams carry them: the DER of its
/// X.509 roots, and both kinds of map entry.
pub struct BundleFragment {
    x509_der: Vec<u8>,
    x509_entry: Vec<u8>,
    jwt_entry: Vec<u8>,
}

impl BundleFragment {
    /// `trust_domain_id` is `spiffe://td`; `x509_der` the concatenated
    /// certificates; `jwks` the plain JWK set of the JWT keys.
    pub fn new(trust_domain_id: &str, x509_der: Vec<u8>, jwks: &[u8]) -> Self {
        let entry = |value: &[u8]| {
            let mut out =
                Vec::with_capacity(trust_domain_id.len() + value.len() + 2 * MAX_OVERHEAD);
            put_field(&mut out, 1, trust_domain_id.as_bytes());
            put_field(&mut out, 2, value);
            out
        };
        Self { x509_entry: entry(&x509_der), jwt_entry: entry(jwks), x509_der }
    }
}

/// An `X509SVIDResponse`.
pub fn x509_svids<'f>(
    identities: impl Iterator<Item = IdentityFragment<'f>> + Clone,
    bundle: &BundleFragment,
    federated: impl Iterator<Item = &'f BundleFragment> + Clone,
) -> Frame {
    let size = identities.clone().map(|identity| field_len(identity.len(bundle))).sum::<usize>()
        + federated.clone().map(|bundle| field_len(bundle.x509_entry.len())).sum::<usize>();
    frame(size, |out| {
        identities.for_each(|identity| identity.write(out, bundle));
        federated.for_each(|bundle| put_message(out, 3, &bundle.x509_entry));
    })
}

/// An `X509BundlesResponse`.
pub fn x509_bundles<'f>(bundles: impl Iterator<Item = &'f BundleFragment> + Clone) -> Frame {
    let size = bundles.clone().map(|bundle| field_len(bundle.x509_entry.len())).sum();
    frame(size, |out| bundles.for_each(|bundle| put_message(out, 2, &bundle.x509_entry)))
}

/// A `JWTBundlesResponse`.
pub fn jwt_bundles<'f>(bundles: impl Iterator<Item = &'f BundleFragment> + Clone) -> Frame {
    let size = bundles.clone().map(|bundle| field_len(bundle.jwt_entry.len())).sum();
    frame(size, |out| bundles.for_each(|bundle| put_message(out, 1, &bundle.jwt_entry)))
}

/// One allocation of exactly the message's size, so that wiping it on drop
/// leaves no copy behind in a buffer that was outgrown.
fn frame(size: usize, write: impl FnOnce(&mut Vec<u8>)) -> Frame {
    let mut out = Zeroizing::new(Vec::with_capacity(PREFIX + size));
    out.push(0);
    let length = u32::try_from(size).expect("a workload's message is far below 4 GiB");
    out.extend_from_slice(&length.to_be_bytes());
    write(&mut out);
    debug_assert_eq!(out.len(), PREFIX + size);
    Frame(wiped(out))
}

/// Bytes to share that are wiped when the last one lets go.
pub(crate) fn wiped(bytes: Zeroizing<Vec<u8>>) -> Bytes {
    Bytes::from_owner(Wiped(bytes))
}

struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Proto3 leaves out a scalar that has its default value.
fn put_field(out: &mut Vec<u8>, number: u8, value: &[u8]) {
    if !value.is_empty() {
        put_message(out, number, value);
    }
}

/// An embedded message is written even when it is empty.
fn put_message(out: &mut Vec<u8>, number: u8, value: &[u8]) {
    put_key(out, number, value.len());
    out.extend_from_slice(value);
}

fn put_key(out: &mut Vec<u8>, number: u8, length: usize) {
    out.push(number << 3 | LENGTH_DELIMITED);
    let mut rest = length;
    while rest >= 0x80 {
        out.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// What a length-delimited field of `length` bytes takes in all; zero for an
/// empty scalar, which callers never ask for of a message.
fn field_len(length: usize) -> usize {
    if length == 0 {
        return 0;
    }
    let varint = (usize::BITS - length.leading_zeros()).div_ceil(7) as usize;
    1 + varint + length
}

const LENGTH_DELIMITED: u8 = 2;
const PREFIX: usize = 5;
const MAX_OVERHEAD: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_what_is_written() {
        for length in [1, 127, 128, 16_383, 16_384, 2_097_152] {
            let mut out = Vec::new();
            put_field(&mut out, 1, &vec![7; length]);
            assert_eq!(out.len(), field_len(length), "{length}");
        }
        assert_eq!(field_len(0), 0);
    }

    #[test]
    fn a_frame_starts_with_grpcs_prefix() {
        let bundle = BundleFragment::new("spiffe://example.org", b"der".to_vec(), b"{}");
        let frame = x509_bundles(std::iter::once(&bundle));
        let message = frame.message();
        assert_eq!(frame.bytes()[..5], [0, 0, 0, 0, message.len() as u8]);
        assert_eq!(message[0], 0x12);
    }

    #[test]
    fn frames_compare_by_content() {
        let make = |der: &[u8]| {
            let bundle = BundleFragment::new("spiffe://example.org", der.to_vec(), b"{}");
            x509_bundles(std::iter::once(&bundle))
        };
        assert!(make(b"a").same(&make(b"a")));
        assert!(!make(b"a").same(&make(b"b")));
    }
}

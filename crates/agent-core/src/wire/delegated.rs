//! Messages of the APIs that serve one caller the SVIDs of others: the delegated identity API and
//! ours beside it.
//!
//! Field numbers are those of `spire/api/agent/delegatedidentity/v1/delegatedidentity.proto` and
//! `steeple/agent/delegation/v1/delegation.proto`.

use std::time::SystemTime;

use steeple_spiffe::SpiffeId;
use zeroize::Zeroizing;

use super::{
    BundleFragment, Frame, MAX_OVERHEAD, field_len, frame, put_field, put_key, put_message,
};

/// What an `X509SVIDWithKey` says of an identity beside its key, and the key.
pub struct WithKey<'i> {
    /// The `X509SVID` message, in which nothing is secret.
    svid: Vec<u8>,
    key_pkcs8: &'i [u8],
}

impl<'i> WithKey<'i> {
    /// Encodes the public part; the key stays where it is.
    pub fn new<'c>(
        spiffe_id: &SpiffeId,
        chain: impl Iterator<Item = &'c [u8]> + Clone,
        expires_at: SystemTime,
        hint: &str,
        key_pkcs8: &'i [u8],
    ) -> Self {
        let mut id = Vec::with_capacity(spiffe_id.as_str().len());
        put_field(&mut id, 1, spiffe_id.trust_domain_name().as_bytes());
        put_field(&mut id, 2, spiffe_id.path().as_bytes());
        let certificates: usize = chain.clone().map(|it| it.len() + MAX_OVERHEAD).sum();
        let mut svid = Vec::with_capacity(certificates + id.len() + hint.len() + 4 * MAX_OVERHEAD);
        chain.for_each(|certificate| put_message(&mut svid, 1, certificate));
        put_message(&mut svid, 2, &id);
        let expires_at = expires_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        put_number(&mut svid, 3, expires_at.as_secs());
        put_field(&mut svid, 4, hint.as_bytes());
        Self { svid, key_pkcs8 }
    }

    /// How long the encoded `X509SVIDWithKey` is.
    pub fn len(&self) -> usize {
        1 + varint_len(self.svid.len()) + self.svid.len() + field_len(self.key_pkcs8.len())
    }

    /// No identity is encoded as nothing.
    pub fn is_empty(&self) -> bool {
        false
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_message(out, 1, &self.svid);
        put_field(out, 2, self.key_pkcs8);
    }
}

/// A `SubscribeToX509SVIDsResponse`.
pub fn delegated_x509_svids(identities: &[WithKey<'_>], federates_with: &[String]) -> Frame {
    let size = identities.iter().map(|it| message_len(it.len())).sum::<usize>()
        + federates_with.iter().map(|it| message_len(it.len())).sum::<usize>();
    frame(size, |out| {
        for identity in identities {
            put_key(out, 1, identity.len());
            identity.write(out);
        }
        federates_with.iter().for_each(|it| put_message(out, 2, it.as_bytes()));
    })
}

/// A `SubscribeToX509BundlesResponse` of the delegated identity API.
pub fn delegated_x509_bundles<'f>(
    bundles: impl Iterator<Item = &'f BundleFragment> + Clone,
) -> Frame {
    let size = bundles.clone().map(|bundle| field_len(bundle.x509_entry.len())).sum();
    frame(size, |out| bundles.for_each(|bundle| put_message(out, 1, &bundle.x509_entry)))
}

/// One subscription's news, as the delegation stream carries it (`Change`).
#[derive(Default)]
pub struct Change<'i> {
    /// The number that the delegate gave the subscription.
    pub id: u64,
    /// New or renewed identities by entry ID.
    pub upserted: Vec<(&'i str, WithKey<'i>)>,
    /// Entries whose identity the workload has no more.
    pub removed: Vec<&'i str>,
    /// The trust domains that the workload federates with.
    pub federates_with: &'i [String],
    /// Further changes belong to the same news.
    pub more: bool,
    /// Some of the workload's SVIDs are not signed yet.
    pub incomplete: bool,
    /// Why the subscription ended: a status code and its text.
    pub error: Option<(u32, &'i str)>,
}

impl Change<'_> {
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let upserted: Vec<usize> = self
            .upserted
            .iter()
            .map(|(id, svid)| field_len(id.len()) + message_len(svid.len()))
            .collect();
        let mut error = Vec::new();
        if let Some((code, text)) = self.error {
            put_number(&mut error, 1, u64::from(code));
            put_field(&mut error, 2, text.as_bytes());
        }
        let size = upserted.iter().map(|it| message_len(*it)).sum::<usize>()
            + self.removed.iter().map(|it| message_len(it.len())).sum::<usize>()
            + self.federates_with.iter().map(|it| message_len(it.len())).sum::<usize>()
            + message_len(error.len())
            + 3 * NUMBER;
        let mut out = Zeroizing::new(Vec::with_capacity(size));
        put_number(&mut out, 1, self.id);
        for ((id, svid), length) in self.upserted.iter().zip(upserted) {
            put_key(&mut out, 2, length);
            put_field(&mut out, 1, id.as_bytes());
            put_key(&mut out, 2, svid.len());
            svid.write(&mut out);
        }
        self.removed.iter().for_each(|it| put_message(&mut out, 3, it.as_bytes()));
        self.federates_with.iter().for_each(|it| put_message(&mut out, 4, it.as_bytes()));
        put_number(&mut out, 5, u64::from(self.more));
        if self.error.is_some() {
            put_message(&mut out, 6, &error);
        }
        put_number(&mut out, 7, u64::from(self.incomplete));
        debug_assert!(out.len() <= size, "a buffer that was outgrown leaves a key behind");
        out
    }
}

/// A `WatchX509SVIDsResponse` with these changes.
pub fn watched(changes: &[Change<'_>]) -> Frame {
    let encoded: Vec<_> = changes.iter().map(Change::encode).collect();
    let size = encoded.iter().map(|it| message_len(it.len())).sum();
    frame(size, |out| encoded.iter().for_each(|it| put_message(out, 1, it)))
}

fn put_number(out: &mut Vec<u8>, number: u8, value: u64) {
    if value == 0 {
        return;
    }
    out.push(number << 3);
    let mut rest = value;
    while rest >= 0x80 {
        out.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// What an embedded message of `length` bytes takes in all, an empty one too.
fn message_len(length: usize) -> usize {
    1 + varint_len(length) + length
}

fn varint_len(length: usize) -> usize {
    (usize::BITS - length.leading_zeros()).div_ceil(7).max(1) as usize
}

/// The most that a number takes with its key.
const NUMBER: usize = 11;

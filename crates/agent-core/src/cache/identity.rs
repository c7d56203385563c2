//! An identity as the cache holds it, in as few bytes as it can be served from.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use steeple_pki::pem;
use steeple_pki::x509::Certificate;
use zeroize::Zeroizing;

use crate::entry::Entry;
use crate::wire::{self, IdentityFragment, WithKey};

/// A signed chain and its key, as they come from the signer.
pub struct SignedSvid {
    /// The leaf first.
    pub chain: Vec<Certificate>,
    /// PKCS#8 DER.
    pub key_pkcs8: Zeroizing<Vec<u8>>,
    /// When to ask for the next one.
    pub due: SystemTime,
}

impl SignedSvid {
    /// When the leaf stops being valid.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.chain.first().map(Certificate::not_after)
    }
}

/// An entry together with its current X.509-SVID; immutable.
///
/// The certificates and the key are here once, encoded as the server and the key's maker gave
/// them; nothing that was read from them is kept but the end.
pub struct Identity {
    entry: Arc<Entry>,
    /// The leaf's DER, and after it the key's PKCS#8 DER.
    leaf_and_key: Zeroizing<Box<[u8]>>,
    leaf_len: usize,
    /// The DER of the certificates after the leaf, shared with all that have the same.
    issuers: Arc<[u8]>,
    due: SystemTime,
    expires_at: SystemTime,
    pem: OnceLock<Box<Pem>>,
}

/// A chain and its key as PEM, for those who want them so.
pub struct Pem {
    /// The certificates, leaf first.
    pub chain: Bytes,
    /// The key as a block `PRIVATE KEY`; wiped with its last reference.
    pub key: Bytes,
}

impl Identity {
    pub(super) fn new(entry: Arc<Entry>, svid: &SignedSvid, issuers: &mut Issuers) -> Self {
        let expires_at = svid.expires_at().unwrap_or(SystemTime::UNIX_EPOCH);
        let (leaf, after): (&[u8], _) = match svid.chain.split_first() {
            Some((leaf, after)) => (leaf.der(), after),
            None => (&[], &[][..]),
        };
        // Of exactly this size, so that no copy of the key stays behind.
        let mut leaf_and_key = Vec::with_capacity(leaf.len() + svid.key_pkcs8.len());
        leaf_and_key.extend_from_slice(leaf);
        leaf_and_key.extend_from_slice(&svid.key_pkcs8);
        Self {
            entry,
            leaf_and_key: Zeroizing::new(leaf_and_key.into_boxed_slice()),
            leaf_len: leaf.len(),
            issuers: issuers.share(after),
            due: svid.due,
            expires_at,
            pem: OnceLock::new(),
        }
    }

    /// The entry that grants it.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The certificates, leaf first, parsed anew.
    pub fn chain(&self) -> Vec<Certificate> {
        self.ders().filter_map(parsed).collect()
    }

    /// The first of them.
    pub fn leaf(&self) -> Option<Certificate> {
        self.ders().next().and_then(parsed)
    }

    /// The DER of each certificate, leaf first.
    fn ders(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let [leaf, issuers] = self.fragment().chain;
        ders(leaf).chain(ders(issuers))
    }

    /// The chain and the key as PEM, written by the first who asks and shared.
    pub fn pem(&self) -> &Pem {
        self.pem.get_or_init(|| {
            let chain: String = self.ders().map(|der| pem::encode("CERTIFICATE", der)).collect();
            let key = pem::encode("PRIVATE KEY", self.key_pkcs8());
            let key = wire::wiped(Zeroizing::new(key.into_bytes()));
            Box::new(Pem { chain: chain.into(), key })
        })
    }

    /// The key, PKCS#8 DER.
    pub(super) fn key_pkcs8(&self) -> &[u8] {
        &self.leaf_and_key[self.leaf_len..]
    }

    /// When the leaf stops being valid.
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }

    /// Whether a delegate or broker may have it: no identity that administers a server.
    pub fn is_delegable(&self) -> bool {
        !self.entry.admin && !self.entry.downstream
    }

    /// The identity as workloads get it.
    pub(super) fn fragment(&self) -> IdentityFragment<'_> {
        let (leaf, key_pkcs8) = self.leaf_and_key.split_at(self.leaf_len);
        let (spiffe_id, hint) = (self.entry.spiffe_id.as_str(), &*self.entry.hint);
        IdentityFragment { spiffe_id, chain: [leaf, &self.issuers], key_pkcs8, hint }
    }

    /// The identity as delegates get it.
    pub fn with_key(&self) -> WithKey<'_> {
        let (entry, key) = (&self.entry, self.key_pkcs8());
        WithKey::new(&entry.spiffe_id, self.ders(), self.expires_at, &entry.hint, key)
    }

    /// When it is to be renewed.
    pub fn due(&self) -> SystemTime {
        self.due
    }
}

/// One that was parsed when it came, and is no secret.
fn parsed(der: &[u8]) -> Option<Certificate> {
    Certificate::from_der(der.to_vec()).ok()
}

/// Takes concatenated DER apart, by the length that each element begins with.
fn ders(mut all: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    std::iter::from_fn(move || {
        let (element, rest) = all.split_at_checked(der_len(all)?)?;
        all = rest;
        Some(element)
    })
}

/// How long the element is that `der` begins with, its head included.
fn der_len(der: &[u8]) -> Option<usize> {
    let (&[_, first], rest) = der.split_first_chunk::<2>()?;
    if first < 0x80 {
        return Some(2 + usize::from(first));
    }
    let length = rest.get(..usize::from(first & 0x7f))?;
    let value = length.iter().try_fold(0_usize, |value, &byte| {
        value.checked_mul(256).map(|value| value + usize::from(byte))
    })?;
    value.checked_add(2 + length.len())
}

/// What comes after the leaf in the chains that are held: much the same in all of them.
#[derive(Default)]
pub(super) struct Issuers(HashSet<Arc<[u8]>>);

impl Issuers {
    fn share(&mut self, certificates: &[Certificate]) -> Arc<[u8]> {
        let der: Vec<u8> = certificates.iter().flat_map(|it| it.der().iter().copied()).collect();
        if let Some(held) = self.0.get(&*der) {
            return held.clone();
        }
        // Those of an authority that was replaced go when the next one comes.
        self.0.retain(|held| Arc::strong_count(held) > 1);
        let shared: Arc<[u8]> = der.into();
        self.0.insert(shared.clone());
        shared
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::entry;
    use crate::testing::{HOUR, NOON, shared, svid};

    #[test]
    fn what_is_held_is_what_was_signed() {
        let mut issuers = Issuers::default();
        let (authority, _) = shared();
        for more in [0, 1, 2] {
            let mut signed = svid("spiffe://example.org/a", NOON + HOUR);
            signed.chain.extend(std::iter::repeat_n(authority.certificate.clone(), more));
            let (chain, key) = (signed.chain.clone(), signed.key_pkcs8.clone());
            let identity = Identity::new(Arc::new(entry("a", &["uid:1"])), &signed, &mut issuers);
            assert!(identity.chain() == chain);
            assert!(identity.leaf().as_ref() == chain.first());
            assert_eq!(identity.key_pkcs8(), &key[..]);
            assert_eq!(identity.expires_at(), NOON + HOUR);
            let pem: String = chain.iter().map(Certificate::pem).collect();
            assert_eq!(identity.pem().chain, pem);
        }
    }

    #[test]
    fn an_empty_chain_is_held_and_over() {
        let signed = SignedSvid { chain: Vec::new(), ..svid("spiffe://example.org/a", NOON) };
        let entry = Arc::new(entry("a", &["uid:1"]));
        let identity = Identity::new(entry, &signed, &mut Issuers::default());
        assert!(identity.chain().is_empty() && identity.leaf().is_none());
        assert_eq!(identity.expires_at(), SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn one_authoritys_certificates_are_there_once_and_not_for_ever() {
        let mut issuers = Issuers::default();
        let one = [shared().0.certificate.clone()];
        let other = svid("spiffe://example.org/other", NOON + HOUR).chain;
        let (first, second) = (issuers.share(&one), issuers.share(&one));
        assert!(Arc::ptr_eq(&first, &second));
        drop((first, second));
        let _kept = issuers.share(&other);
        assert_eq!(issuers.len(), 1);
    }

    #[test]
    fn concatenated_elements_come_apart_where_they_were_joined() {
        let long = |length: usize| {
            let mut element = vec![0x30, 0x82];
            element.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            element.resize(4 + length, 7);
            element
        };
        let elements = [vec![0x30, 0], vec![0x30, 1, 9], long(300), vec![0x30, 0x81, 1, 5]];
        let all: Vec<u8> = elements.concat();
        assert!(ders(&all).eq(elements.iter().map(Vec::as_slice)));
        for cut in [&b"\x30"[..], b"\x30\x05\x01", b"\x30\x82\x01", b"\x30\xff"] {
            assert_eq!(ders(cut).count(), 0, "{cut:?}");
        }
    }
}

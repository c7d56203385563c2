//! The kept contents as bytes: fields in order, numbers of eight bytes, texts with their length.
//! Nobody else reads it, and it is sealed; what matters is that keys are written into one buffer,
//! which is wiped.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_pki::{Bundle, Certificate, JwtAuthority, PublicKey, X509Authority};
use steeple_spiffe::{Selector, SpiffeId, TrustDomain};
use zeroize::Zeroizing;

use super::{Kept, KeptEntry, KeptSvid, KeptToken, MAX_SIZE};
use crate::entry::Entry;
use crate::jwt::JwtSvid;

/// Takes the fields: the first time to count, the second to write into a buffer of that size.
trait Sink {
    fn put(&mut self, bytes: &[u8]);

    fn number(&mut self, number: u64) {
        self.put(&number.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.put(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn time(&mut self, time: SystemTime) {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.number(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    }
}

impl Sink for usize {
    fn put(&mut self, bytes: &[u8]) {
        *self += bytes.len();
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

pub(super) fn encode(kept: &mut Kept) -> (Zeroizing<Vec<u8>>, usize) {
    let mut left_out = 0;
    let mut size = size_of(|sink: &mut usize| write(sink, kept));
    while size > MAX_SIZE
        && let Some(last) = kept.entries.pop()
    {
        size -= size_of(|sink| write_entry(sink, &last));
        kept.tokens.retain(|token| token.entry != last.entry.id);
        left_out += 1;
    }
    let mut out = Zeroizing::new(Vec::with_capacity(size));
    write(&mut *out, kept);
    (out, left_out)
}

fn size_of(write: impl FnOnce(&mut usize)) -> usize {
    let mut size = 0;
    write(&mut size);
    size
}

fn write(sink: &mut impl Sink, kept: &Kept) {
    sink.time(kept.confirmed_at);
    sink.number(kept.bundles.len() as u64);
    kept.bundles.iter().for_each(|bundle| write_bundle(sink, bundle));
    sink.number(kept.entries.len() as u64);
    kept.entries.iter().for_each(|entry| write_entry(sink, entry));
    sink.number(kept.tokens.len() as u64);
    for token in &kept.tokens {
        sink.text(&token.entry);
        sink.number(token.audience.len() as u64);
        token.audience.iter().for_each(|audience| sink.text(audience));
        sink.text(&token.svid.token);
        sink.text(&token.svid.key_id);
        sink.time(token.svid.issued_at);
        sink.time(token.svid.expires_at);
    }
}

fn write_bundle(sink: &mut impl Sink, bundle: &Bundle) {
    sink.text(bundle.trust_domain.as_str());
    sink.number(bundle.refresh_hint.as_secs());
    sink.number(bundle.sequence_number);
    sink.number(bundle.x509_authorities.len() as u64);
    for authority in &bundle.x509_authorities {
        sink.bytes(authority.certificate.der());
        sink.number(authority.tainted.into());
    }
    for keys in [&bundle.jwt_authorities, &bundle.wit_authorities] {
        sink.number(keys.len() as u64);
        for key in keys {
            sink.text(&key.key_id);
            sink.bytes(key.public_key.spki_der());
            sink.number(key.expires_at.is_some().into());
            sink.time(key.expires_at.unwrap_or(SystemTime::UNIX_EPOCH));
            sink.number(key.tainted.into());
        }
    }
}

fn write_entry(sink: &mut impl Sink, kept: &KeptEntry) {
    // Every field by name, so that a new one is not forgotten here.
    let Entry {
        id,
        spiffe_id,
        selectors,
        federates_with,
        hint,
        revision,
        created_at,
        admin,
        downstream,
        store_svid,
        disable_x509_svid_prefetch,
        jwt_svid_include_jti,
    } = &*kept.entry;
    sink.text(id);
    sink.text(spiffe_id.as_str());
    sink.number(selectors.len() as u64);
    for selector in selectors.iter() {
        sink.text(&selector.kind);
        sink.text(&selector.value);
    }
    sink.number(federates_with.len() as u64);
    federates_with.iter().for_each(|domain| sink.text(domain.as_str()));
    sink.text(hint);
    sink.number(revision.cast_unsigned());
    sink.number(created_at.cast_unsigned());
    let flags = [admin, downstream, store_svid, disable_x509_svid_prefetch, jwt_svid_include_jti];
    flags.into_iter().for_each(|flag| sink.number((*flag).into()));
    sink.number(kept.svid.is_some().into());
    if let Some(svid) = &kept.svid {
        sink.number(svid.chain.len() as u64);
        svid.chain.iter().for_each(|certificate| sink.bytes(certificate.der()));
        sink.bytes(&svid.key_pkcs8);
        sink.time(svid.due);
    }
}

/// Reads from the front; everything is checked against what is left.
struct Source<'b>(&'b [u8]);

impl<'b> Source<'b> {
    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*number))
    }

    fn bytes(&mut self) -> Option<&'b [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<&'b str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn flag(&mut self) -> Option<bool> {
        self.number().filter(|number| *number <= 1).map(|number| number == 1)
    }

    fn time(&mut self) -> Option<SystemTime> {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(self.number()?))
    }

    /// As many as a number says; nothing is reserved on its word.
    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.number()?;
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(read(self)?);
        }
        Some(list)
    }
}

pub(super) fn decode(bytes: &[u8]) -> Option<Kept> {
    let mut source = Source(bytes);
    let kept = Kept {
        confirmed_at: source.time()?,
        bundles: source.list(bundle)?,
        entries: source.list(entry)?,
        tokens: source.list(token)?,
    };
    source.0.is_empty().then_some(kept)
}

fn bundle(source: &mut Source<'_>) -> Option<Bundle> {
    let mut bundle = Bundle::new(TrustDomain::parse(source.text()?).ok()?);
    bundle.refresh_hint = Duration::from_secs(source.number()?);
    bundle.sequence_number = source.number()?;
    bundle.x509_authorities = source.list(|source| {
        let certificate = certificate(source)?;
        Some(X509Authority { certificate, tainted: source.flag()? })
    })?;
    bundle.jwt_authorities = source.list(key)?;
    bundle.wit_authorities = source.list(key)?;
    Some(bundle)
}

fn certificate(source: &mut Source<'_>) -> Option<Certificate> {
    Certificate::from_der(source.bytes()?.to_vec()).ok()
}

fn key(source: &mut Source<'_>) -> Option<JwtAuthority> {
    let key_id = source.text()?.to_owned();
    let public_key = PublicKey::from_spki_der(source.bytes()?).ok()?;
    let ends = source.flag()?;
    let expires_at = Some(source.time()?).filter(|_| ends);
    Some(JwtAuthority { key_id, public_key, expires_at, tainted: source.flag()? })
}

fn entry(source: &mut Source<'_>) -> Option<KeptEntry> {
    let entry = Entry {
        id: source.text()?.into(),
        spiffe_id: SpiffeId::parse(source.text()?).ok()?,
        selectors: source
            .list(|source| Some(Selector::new(source.text()?, source.text()?)))?
            .into_iter()
            .collect(),
        federates_with: source.list(|source| TrustDomain::parse(source.text()?).ok())?,
        hint: source.text()?.to_owned(),
        revision: source.number()?.cast_signed(),
        created_at: source.number()?.cast_signed(),
        admin: source.flag()?,
        downstream: source.flag()?,
        store_svid: source.flag()?,
        disable_x509_svid_prefetch: source.flag()?,
        jwt_svid_include_jti: source.flag()?,
    };
    let svid = if source.flag()? {
        Some(KeptSvid {
            chain: source.list(certificate)?,
            key_pkcs8: Zeroizing::new(source.bytes()?.to_vec()),
            due: source.time()?,
        })
    } else {
        None
    };
    Some(KeptEntry { entry: Arc::new(entry), svid })
}

fn token(source: &mut Source<'_>) -> Option<KeptToken> {
    Some(KeptToken {
        entry: source.text()?.into(),
        audience: source.list(|source| source.text().map(str::to_owned))?,
        svid: JwtSvid {
            token: source.text()?.into(),
            key_id: source.text()?.into(),
            issued_at: source.time()?,
            expires_at: source.time()?,
        },
    })
}

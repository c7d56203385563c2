//! An entry as the API's `spire.api.types.Entry`, written and read by hand: the index keeps entries
//! so, and answers with the bytes. Tests hold it against the generated message.

use bytes::BufMut;
use steeple_spiffe::{Selector, SpiffeId, TrustDomain};
use steeple_store::EntryView;
use steeple_store::model::Entry;

/// Tags of `Entry`, in the order in which they are written.
pub(super) mod tag {
    pub(in crate::index) const ID: u32 = 1;
    pub(in crate::index) const SPIFFE_ID: u32 = 2;
    pub(in crate::index) const PARENT_ID: u32 = 3;
    pub(in crate::index) const SELECTORS: u32 = 4;
    pub(in crate::index) const X509_SVID_TTL: u32 = 5;
    pub(in crate::index) const FEDERATES_WITH: u32 = 6;
    pub(in crate::index) const ADMIN: u32 = 7;
    pub(in crate::index) const DOWNSTREAM: u32 = 8;
    pub(in crate::index) const EXPIRES_AT: u32 = 9;
    pub(in crate::index) const DNS_NAMES: u32 = 10;
    pub(in crate::index) const REVISION_NUMBER: u32 = 11;
    pub(in crate::index) const STORE_SVID: u32 = 12;
    pub(in crate::index) const JWT_SVID_TTL: u32 = 13;
    pub(in crate::index) const HINT: u32 = 14;
    pub(in crate::index) const CREATED_AT: u32 = 15;
    pub(in crate::index) const ADDITIONAL_ATTRIBUTES: u32 = 16;
}

/// Two fields in one message: the ids' (trust domain, path), the selectors' (type, value) and the
/// attributes' (no prefetch, `jti`) alike.
const FIRST: u32 = 1;
const SECOND: u32 = 2;

const VARINT: u32 = 0;
const BYTES: u32 = 2;

/// What a reader of our own bytes relies on.
const OURS: &str = "a record is what `encode` wrote";

/// Appends the message of an entry.
pub(super) fn encode(entry: EntryView<'_>, out: &mut Vec<u8>) {
    let numbers = entry.numbers();
    put_text(out, tag::ID, entry.entry_id());
    for (tag, (name, path)) in
        [(tag::SPIFFE_ID, entry.spiffe_id()), (tag::PARENT_ID, entry.parent_id())]
    {
        put_pair(out, tag, name, path);
    }
    for (kind, value) in entry.selectors() {
        put_pair(out, tag::SELECTORS, kind, value);
    }
    put_number(out, tag::X509_SVID_TTL, numbers.x509_svid_ttl.into());
    for foreign in entry.federates_with() {
        put_bytes(out, tag::FEDERATES_WITH, foreign.as_bytes());
    }
    put_number(out, tag::ADMIN, numbers.admin.into());
    put_number(out, tag::DOWNSTREAM, numbers.downstream.into());
    put_number(out, tag::EXPIRES_AT, numbers.expires_at);
    for name in entry.dns_names() {
        put_bytes(out, tag::DNS_NAMES, name.as_bytes());
    }
    put_number(out, tag::REVISION_NUMBER, numbers.revision_number);
    put_number(out, tag::STORE_SVID, numbers.store_svid.into());
    put_number(out, tag::JWT_SVID_TTL, numbers.jwt_svid_ttl.into());
    put_text(out, tag::HINT, entry.hint());
    put_number(out, tag::CREATED_AT, numbers.created_at);
    if numbers.disable_x509_svid_prefetch || numbers.jwt_svid_include_jti {
        let flags = [numbers.disable_x509_svid_prefetch, numbers.jwt_svid_include_jti];
        put_key(out, tag::ADDITIONAL_ATTRIBUTES, BYTES);
        put_varint(out, 2 * flags.iter().filter(|flag| **flag).count() as u64);
        put_number(out, FIRST, flags[0].into());
        put_number(out, SECOND, flags[1].into());
    }
}

/// Reads the message of an entry.
pub(super) fn decode(message: &[u8]) -> Entry {
    let mut entry = Entry {
        entry_id: String::new(),
        spiffe_id: SpiffeId::parse("spiffe://none").expect(OURS),
        parent_id: SpiffeId::parse("spiffe://none").expect(OURS),
        selectors: Vec::new(),
        x509_svid_ttl: 0,
        jwt_svid_ttl: 0,
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        expires_at: 0,
        dns_names: Vec::new(),
        revision_number: 0,
        store_svid: false,
        hint: String::new(),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
        created_at: 0,
    };
    for field in fields(message) {
        let (bytes, number) = (field.bytes, field.number);
        match field.tag {
            tag::ID => entry.entry_id = text(bytes).to_owned(),
            tag::SPIFFE_ID => entry.spiffe_id = id(bytes),
            tag::PARENT_ID => entry.parent_id = id(bytes),
            tag::SELECTORS => {
                let (kind, value) = pair(bytes);
                entry.selectors.push(Selector::new(text(kind), text(value)));
            }
            tag::X509_SVID_TTL => entry.x509_svid_ttl = short(number),
            tag::FEDERATES_WITH => {
                entry.federates_with.push(TrustDomain::parse(text(bytes)).expect(OURS));
            }
            tag::ADMIN => entry.admin = number != 0,
            tag::DOWNSTREAM => entry.downstream = number != 0,
            tag::EXPIRES_AT => entry.expires_at = number.cast_signed(),
            tag::DNS_NAMES => entry.dns_names.push(text(bytes).to_owned()),
            tag::REVISION_NUMBER => entry.revision_number = number.cast_signed(),
            tag::STORE_SVID => entry.store_svid = number != 0,
            tag::JWT_SVID_TTL => entry.jwt_svid_ttl = short(number),
            tag::HINT => entry.hint = text(bytes).to_owned(),
            tag::CREATED_AT => entry.created_at = number.cast_signed(),
            tag::ADDITIONAL_ATTRIBUTES => {
                for flag in fields(bytes) {
                    match flag.tag {
                        FIRST => entry.disable_x509_svid_prefetch = flag.number != 0,
                        _ => entry.jwt_svid_include_jti = flag.number != 0,
                    }
                }
            }
            _ => unreachable!("{OURS}"),
        }
    }
    entry
}

/// One field of a message of ours.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) tag: u32,
    /// Where the field begins in its message, its key included.
    start: usize,
    /// Where it ends.
    end: usize,
    /// What is in it, if it is not a number.
    pub(super) bytes: &'a [u8],
    /// Its number, if it is one.
    pub(super) number: u64,
}

/// Walks the fields of a message of ours.
pub(super) fn fields(message: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == message.len() {
            return None;
        }
        let start = at;
        let key = take_varint(message, &mut at);
        let number = take_varint(message, &mut at);
        let mut field =
            Field { tag: u32::try_from(key >> 3).expect(OURS), start, end: at, bytes: &[], number };
        if key & 7 == u64::from(BYTES) {
            let len = usize::try_from(number).expect(OURS);
            field.bytes = &message[at..at + len];
            at += len;
            field.end = at;
        }
        Some(field)
    })
}

/// The id and the two paths, which are the first three fields.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    pub(super) entry_id: &'a [u8],
    pub(super) spiffe_path: &'a [u8],
    pub(super) parent_path: &'a [u8],
}

/// The id alone, which is looked at most.
pub(super) fn entry_id(message: &[u8]) -> &[u8] {
    fields(message).next().filter(|field| field.tag == tag::ID).map_or(&[], |field| field.bytes)
}

pub(super) fn heads(message: &[u8]) -> Heads<'_> {
    let mut heads = Heads { entry_id: &[], spiffe_path: &[], parent_path: &[] };
    for field in fields(message) {
        match field.tag {
            tag::ID => heads.entry_id = field.bytes,
            tag::SPIFFE_ID => heads.spiffe_path = pair(field.bytes).1,
            _ => {
                heads.parent_path = pair(field.bytes).1;
                break;
            }
        }
    }
    heads
}

/// The two texts of an id or a selector.
pub(super) fn pair(message: &[u8]) -> (&[u8], &[u8]) {
    let mut found: [&[u8]; 2] = [&[], &[]];
    for field in fields(message) {
        found[usize::from(field.tag != FIRST)] = field.bytes;
    }
    (found[0], found[1])
}

pub(super) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect(OURS)
}

fn id(message: &[u8]) -> SpiffeId {
    let (name, path) = pair(message);
    SpiffeId::parse(&format!("spiffe://{}{}", text(name), text(path))).expect(OURS)
}

/// A 32-bit number, which protobuf extends to 64 bits with its sign.
fn short(number: u64) -> i32 {
    i32::try_from(number.cast_signed()).expect(OURS)
}

/// Which fields of an entry are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fields(u32);

impl Fields {
    /// Everything that an entry has.
    pub const ALL: Self = Self(u32::MAX);

    /// The id alone, which is always there.
    pub const ID: Self = Self(1 << tag::ID);

    /// And the field with this tag of the message `Entry`.
    #[must_use]
    pub fn and(self, tag: u32) -> Self {
        Self(self.0 | 1_u32.checked_shl(tag).unwrap_or(0))
    }

    fn has(self, tag: u32) -> bool {
        self.0 & (1 << tag) != 0
    }
}

/// Runs of bytes that are kept of a message. Fields are written in the order of their tags, so
/// there are no more runs than half of the tags.
struct Kept {
    runs: [(usize, usize); tag::ADDITIONAL_ATTRIBUTES as usize],
    count: usize,
    len: usize,
}

fn kept(message: &[u8], asked: Fields) -> Kept {
    let mut kept = Kept { runs: Default::default(), count: 0, len: 0 };
    if asked == Fields::ALL {
        kept.runs[0] = (0, message.len());
        (kept.count, kept.len) = (1, message.len());
        return kept;
    }
    for field in fields(message).filter(|field| asked.has(field.tag)) {
        kept.len += field.end - field.start;
        match kept.count.checked_sub(1).map(|last| &mut kept.runs[last]) {
            Some((_, end)) if *end == field.start => *end = field.end,
            _ => {
                kept.runs[kept.count] = (field.start, field.end);
                kept.count += 1;
            }
        }
    }
    kept
}

/// Appends a message of ours, as far as it is asked for, as field `tag` of another message.
pub(super) fn put_masked(out: &mut impl BufMut, tag: u32, message: &[u8], asked: Fields) {
    let kept = kept(message, asked);
    put_key(out, tag, BYTES);
    put_varint(out, kept.len as u64);
    for (start, end) in &kept.runs[..kept.count] {
        out.put_slice(&message[*start..*end]);
    }
}

/// Appends a message `EntryRevision` as field `tag` of another.
pub(super) fn put_revision(
    out: &mut impl BufMut,
    tag: u32,
    entry_id: &[u8],
    revision: u64,
    created: u64,
) {
    const CREATED: u32 = 3;
    let number = |number: u64| if number == 0 { 0 } else { 1 + varint_len(number) };
    let id = match entry_id.len() {
        0 => 0,
        len => 1 + varint_len(len as u64) + len,
    };
    put_key(out, tag, BYTES);
    put_varint(out, (id + number(revision) + number(created)) as u64);
    if !entry_id.is_empty() {
        put_bytes(out, FIRST, entry_id);
    }
    put_number(out, SECOND, revision.cast_signed());
    put_number(out, CREATED, created.cast_signed());
}

/// Appends a field that is not written when it is empty.
pub(super) fn put_text(out: &mut impl BufMut, tag: u32, text: &str) {
    if !text.is_empty() {
        put_bytes(out, tag, text.as_bytes());
    }
}

/// Appends a field that is not written when it is 0.
pub(super) fn put_number(out: &mut impl BufMut, tag: u32, number: i64) {
    if number != 0 {
        put_key(out, tag, VARINT);
        put_varint(out, number.cast_unsigned());
    }
}

/// Appends a field that is written also when it is empty.
pub(super) fn put_bytes(out: &mut impl BufMut, tag: u32, bytes: &[u8]) {
    put_key(out, tag, BYTES);
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

fn put_pair(out: &mut impl BufMut, tag: u32, first: &str, second: &str) {
    let len = |text: &str| match text.len() {
        0 => 0,
        len => 1 + varint_len(len as u64) + len,
    };
    put_key(out, tag, BYTES);
    put_varint(out, (len(first) + len(second)) as u64);
    put_text(out, FIRST, first);
    put_text(out, SECOND, second);
}

fn put_key(out: &mut impl BufMut, tag: u32, kind: u32) {
    put_varint(out, u64::from(tag << 3 | kind));
}

pub(super) fn put_varint(out: &mut impl BufMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

pub(super) fn varint_len(number: u64) -> usize {
    (70 - (number | 1).leading_zeros() as usize) / 7
}

fn take_varint(message: &[u8], at: &mut usize) -> u64 {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = message[*at];
        *at += 1;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return number;
        }
        shift += 7;
    }
}

//! One entry as the index keeps it: flags, when it ends, and the message that agents get.

use std::fmt;

use bytes::BufMut;
use steeple_store::model::Entry;
use steeple_store::{EntryBatch, EntryView};

use super::snapshot::SERVER_PATH;
use super::wire::{self, Fields, Heads, tag};

const ADMIN: u8 = 1;
const DOWNSTREAM: u8 = 1 << 1;
/// The parent is the server.
const ALIAS: u8 = 1 << 2;
const FEDERATES: u8 = 1 << 3;
/// The time at which it ends follows the flags.
const EXPIRES: u8 = 1 << 4;

const EXPIRY: usize = size_of::<i64>();

/// An entry in the index. Every answer about it is read from its bytes.
#[derive(Clone, Copy)]
pub struct EntryRef<'a>(&'a [u8]);

/// Writes the record of an entry over `out`.
pub(super) fn write(entry: EntryView<'_>, out: &mut Vec<u8>) {
    out.clear();
    let numbers = entry.numbers();
    let (_, parent_path) = entry.parent_id();
    let mut flags = 0;
    for (flag, set) in [
        (ADMIN, numbers.admin),
        (DOWNSTREAM, numbers.downstream),
        (ALIAS, parent_path == SERVER_PATH),
        (FEDERATES, entry.federates_with().len() > 0),
        (EXPIRES, numbers.expires_at != 0),
    ] {
        flags |= if set { flag } else { 0 };
    }
    out.push(flags);
    if numbers.expires_at != 0 {
        out.extend_from_slice(&numbers.expires_at.to_le_bytes());
    }
    wire::encode(entry, out);
}

/// Writes the record of one entry, by itself.
pub(super) fn of(entry: &Entry) -> Vec<u8> {
    let mut record = Vec::new();
    for view in EntryBatch::from(entry).iter() {
        write(view, &mut record);
    }
    record
}

impl<'a> EntryRef<'a> {
    /// Reads what [`write`] wrote.
    pub(super) fn new(record: &'a [u8]) -> Self {
        Self(record)
    }

    /// All of it, decoded.
    #[must_use]
    pub fn to_entry(self) -> Entry {
        wire::decode(self.message())
    }

    /// The entry's id.
    #[must_use]
    pub fn entry_id(self) -> &'a str {
        wire::text(self.id())
    }

    /// The path of the identity that it grants.
    #[must_use]
    pub fn spiffe_path(self) -> &'a str {
        wire::text(self.heads().spiffe_path)
    }

    /// The path of its parent.
    #[must_use]
    pub fn parent_path(self) -> &'a str {
        wire::text(self.heads().parent_path)
    }

    /// Appends the entry's message, with the fields that are asked for, as field `tag` of another.
    pub fn put_message(self, out: &mut impl BufMut, tag: u32, asked: Fields) {
        wire::put_masked(out, tag, self.message(), asked);
    }

    /// Appends its id, revision and time of creation as a message `EntryRevision`, as field `tag`
    /// of another.
    pub fn put_revision(self, out: &mut impl BufMut, tag: u32) {
        let (mut revision, mut created) = (0, 0);
        for field in wire::fields(self.message()) {
            match field.tag {
                tag::REVISION_NUMBER => revision = field.number,
                tag::CREATED_AT => created = field.number,
                _ => {}
            }
        }
        wire::put_revision(out, tag, self.heads().entry_id, revision, created);
    }

    /// The least that an answer with it takes, in bytes.
    #[must_use]
    pub fn message_len(self) -> usize {
        self.message().len()
    }

    /// Whether it has ended at `now`, in seconds since the epoch.
    pub(super) fn is_expired(self, now: i64) -> bool {
        if !self.has(EXPIRES) {
            return false;
        }
        let (expiry, _) = self.0[1..].split_at(EXPIRY);
        i64::from_le_bytes(expiry.try_into().expect("split there")) <= now
    }

    pub(super) fn admin(self) -> bool {
        self.has(ADMIN)
    }

    pub(super) fn downstream(self) -> bool {
        self.has(DOWNSTREAM)
    }

    pub(super) fn is_alias(self) -> bool {
        self.has(ALIAS)
    }

    /// The names of the trust domains that it federates with.
    pub(crate) fn federates_with(self) -> impl Iterator<Item = &'a str> {
        // Most have none, and there may be a great many entries.
        let message = if self.has(FEDERATES) { self.message() } else { &[] };
        let fields = wire::fields(message).filter(|field| field.tag == tag::FEDERATES_WITH);
        fields.map(|field| wire::text(field.bytes))
    }

    /// Kinds and values of its selectors.
    pub(super) fn selectors(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        wire::fields(self.message())
            .skip_while(|field| field.tag < tag::SELECTORS)
            .take_while(|field| field.tag == tag::SELECTORS)
            .map(|field| wire::pair(field.bytes))
    }

    /// The bytes of its id.
    pub(super) fn id(self) -> &'a [u8] {
        wire::entry_id(self.message())
    }

    pub(super) fn heads(self) -> Heads<'a> {
        wire::heads(self.message())
    }

    /// Whether the index would keep `entry` in these bytes.
    pub(super) fn is(self, entry: &Entry) -> bool {
        of(entry) == self.0
    }

    fn message(self) -> &'a [u8] {
        &self.0[if self.has(EXPIRES) { 1 + EXPIRY } else { 1 }..]
    }

    fn has(self, flag: u8) -> bool {
        self.0[0] & flag != 0
    }
}

impl fmt::Debug for EntryRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_entry().fmt(f)
    }
}

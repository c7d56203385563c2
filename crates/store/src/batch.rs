//! Many entries in few allocations: what a bulk read hands on.

use std::fmt;

use steeple_spiffe::{Selector, SpiffeId, SpiffeIdRef, TrustDomain};

use crate::model::Entry;

/// Entries one behind the other. However many they are, they take three allocations, which grow.
#[derive(Clone, Default)]
pub struct EntryBatch {
    /// All texts of all entries, back to back.
    texts: String,
    /// Where each text ends.
    ends: Vec<usize>,
    entries: Vec<Held>,
}

/// An entry without its texts.
#[derive(Clone, Copy)]
struct Held {
    /// Its first text's number: see [`Place`] for the ones that each has; kinds and values of its
    /// selectors, trust domains and DNS names follow.
    first: usize,
    selectors: usize,
    federates_with: usize,
    dns_names: usize,
    numbers: EntryNumbers,
}

/// The texts that every entry has, in their order.
#[derive(Clone, Copy)]
enum Place {
    EntryId,
    SpiffeName,
    SpiffePath,
    ParentName,
    ParentPath,
    Hint,
    /// The first of those that only some have.
    Rest,
}

/// What of an entry is no text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "each field is the one of the same name in Entry")]
pub struct EntryNumbers {
    pub x509_svid_ttl: i32,
    pub jwt_svid_ttl: i32,
    pub expires_at: i64,
    pub revision_number: i64,
    pub created_at: i64,
    pub admin: bool,
    pub downstream: bool,
    pub store_svid: bool,
    pub disable_x509_svid_prefetch: bool,
    pub jwt_svid_include_jti: bool,
}

/// What every entry has of text.
pub(crate) struct Heads<'a> {
    pub(crate) entry_id: &'a str,
    pub(crate) spiffe_id: SpiffeIdRef<'a>,
    pub(crate) parent_id: SpiffeIdRef<'a>,
    pub(crate) hint: &'a str,
}

impl EntryBatch {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries, in the order in which they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = EntryView<'_>> {
        self.entries.iter().map(|held| EntryView { batch: self, held })
    }

    /// Adds an entry.
    pub fn push(&mut self, entry: &Entry) {
        let heads = Heads {
            entry_id: &entry.entry_id,
            spiffe_id: (&entry.spiffe_id).into(),
            parent_id: (&entry.parent_id).into(),
            hint: &entry.hint,
        };
        let numbers = EntryNumbers {
            x509_svid_ttl: entry.x509_svid_ttl,
            jwt_svid_ttl: entry.jwt_svid_ttl,
            expires_at: entry.expires_at,
            revision_number: entry.revision_number,
            created_at: entry.created_at,
            admin: entry.admin,
            downstream: entry.downstream,
            store_svid: entry.store_svid,
            disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
            jwt_svid_include_jti: entry.jwt_svid_include_jti,
        };
        self.add(
            &heads,
            numbers,
            entry.selectors.iter().map(|it| (&*it.kind, &*it.value)),
            entry.federates_with.iter().map(TrustDomain::as_str),
            entry.dns_names.iter().map(String::as_str),
        );
    }

    /// Adds an entry whose parts are known to be right.
    pub(crate) fn add<'a>(
        &mut self,
        heads: &Heads<'a>,
        numbers: EntryNumbers,
        selectors: impl Iterator<Item = (&'a str, &'a str)>,
        federates_with: impl Iterator<Item = &'a str>,
        dns_names: impl Iterator<Item = &'a str>,
    ) {
        let first = self.ends.len();
        for text in [
            heads.entry_id,
            heads.spiffe_id.trust_domain_name(),
            heads.spiffe_id.path(),
            heads.parent_id.trust_domain_name(),
            heads.parent_id.path(),
            heads.hint,
        ] {
            self.text(text);
        }
        let mut held = Held { first, selectors: 0, federates_with: 0, dns_names: 0, numbers };
        for (kind, value) in selectors {
            self.text(kind);
            self.text(value);
            held.selectors += 1;
        }
        for name in federates_with {
            self.text(name);
            held.federates_with += 1;
        }
        for name in dns_names {
            self.text(name);
            held.dns_names += 1;
        }
        self.entries.push(held);
    }

    fn text(&mut self, text: &str) {
        self.texts.push_str(text);
        self.ends.push(self.texts.len());
    }

    fn text_at(&self, number: usize) -> &str {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.texts[start..self.ends[number]]
    }
}

impl From<&Entry> for EntryBatch {
    fn from(entry: &Entry) -> Self {
        let mut batch = Self::default();
        batch.push(entry);
        batch
    }
}

impl<'a> FromIterator<&'a Entry> for EntryBatch {
    fn from_iter<I: IntoIterator<Item = &'a Entry>>(entries: I) -> Self {
        let mut batch = Self::default();
        for entry in entries {
            batch.push(entry);
        }
        batch
    }
}

impl fmt::Debug for EntryBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(EntryView::to_entry)).finish()
    }
}

/// An entry of a batch.
#[derive(Clone, Copy)]
pub struct EntryView<'a> {
    batch: &'a EntryBatch,
    held: &'a Held,
}

impl<'a> EntryView<'a> {
    /// See [`Entry::entry_id`].
    #[must_use]
    pub fn entry_id(self) -> &'a str {
        self.head(Place::EntryId)
    }

    /// Name of the trust domain and path of [`Entry::spiffe_id`].
    #[must_use]
    pub fn spiffe_id(self) -> (&'a str, &'a str) {
        (self.head(Place::SpiffeName), self.head(Place::SpiffePath))
    }

    /// Name of the trust domain and path of [`Entry::parent_id`].
    #[must_use]
    pub fn parent_id(self) -> (&'a str, &'a str) {
        (self.head(Place::ParentName), self.head(Place::ParentPath))
    }

    /// See [`Entry::hint`].
    #[must_use]
    pub fn hint(self) -> &'a str {
        self.head(Place::Hint)
    }

    /// Kinds and values of [`Entry::selectors`].
    pub fn selectors(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let (batch, first) = (self.batch, self.rest());
        (0..self.held.selectors).map(move |at| {
            let kind = first + 2 * at;
            (batch.text_at(kind), batch.text_at(kind + 1))
        })
    }

    /// The names of [`Entry::federates_with`].
    pub fn federates_with(self) -> impl ExactSizeIterator<Item = &'a str> {
        let (batch, first) = (self.batch, self.rest() + 2 * self.held.selectors);
        (0..self.held.federates_with).map(move |at| batch.text_at(first + at))
    }

    /// See [`Entry::dns_names`].
    pub fn dns_names(self) -> impl Iterator<Item = &'a str> {
        let first = self.rest() + 2 * self.held.selectors + self.held.federates_with;
        let batch = self.batch;
        (0..self.held.dns_names).map(move |at| batch.text_at(first + at))
    }

    /// What is no text.
    #[must_use]
    pub fn numbers(self) -> &'a EntryNumbers {
        &self.held.numbers
    }

    /// All of it, to keep.
    ///
    /// # Panics
    /// Never: what is in a batch was an entry.
    #[must_use]
    pub fn to_entry(self) -> Entry {
        const OURS: &str = "it was parsed before it was added";
        let id = |(name, path): (&str, &str)| {
            SpiffeId::parse(&format!("spiffe://{name}{path}")).expect(OURS)
        };
        let numbers = self.numbers();
        let domain = |name: &str| TrustDomain::parse(name).expect(OURS);
        Entry {
            entry_id: self.entry_id().to_owned(),
            spiffe_id: id(self.spiffe_id()),
            parent_id: id(self.parent_id()),
            selectors: self.selectors().map(|(kind, value)| Selector::new(kind, value)).collect(),
            x509_svid_ttl: numbers.x509_svid_ttl,
            jwt_svid_ttl: numbers.jwt_svid_ttl,
            federates_with: self.federates_with().map(domain).collect(),
            admin: numbers.admin,
            downstream: numbers.downstream,
            expires_at: numbers.expires_at,
            dns_names: self.dns_names().map(str::to_owned).collect(),
            revision_number: numbers.revision_number,
            store_svid: numbers.store_svid,
            hint: self.hint().to_owned(),
            disable_x509_svid_prefetch: numbers.disable_x509_svid_prefetch,
            jwt_svid_include_jti: numbers.jwt_svid_include_jti,
            created_at: numbers.created_at,
        }
    }

    fn head(self, place: Place) -> &'a str {
        self.batch.text_at(self.held.first + place as usize)
    }

    /// The number of the first text that only some have.
    fn rest(self) -> usize {
        self.held.first + Place::Rest as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn entry()(
            texts in prop::collection::vec("[ -~é\u{0}]{0,12}", 3),
            paths in prop::collection::vec("(/[a-z]{1,5}){0,3}", 2),
            selectors in prop::collection::vec(("[a-z]{0,3}", ".{0,9}"), 0..4),
            names in prop::collection::vec("[a-z]{1,5}", 0..3),
            domains in prop::collection::vec("[a-z]{1,5}[.]org", 0..3),
            numbers in (any::<i32>(), any::<i32>(), any::<i64>(), any::<i64>(), any::<i64>()),
            flags in any::<[bool; 5]>(),
        ) -> Entry {
            let id = |name: &str, path: &str| {
                SpiffeId::parse(&format!("spiffe://{name}{path}")).unwrap()
            };
            Entry {
                entry_id: texts[0].clone(),
                spiffe_id: id("a.org", &paths[0]),
                parent_id: id("b", &paths[1]),
                selectors: selectors.iter().map(|(a, b)| Selector::new(a, b)).collect(),
                x509_svid_ttl: numbers.0,
                jwt_svid_ttl: numbers.1,
                federates_with: domains.iter().map(|it| TrustDomain::parse(it).unwrap()).collect(),
                admin: flags[0],
                downstream: flags[1],
                expires_at: numbers.2,
                dns_names: names,
                revision_number: numbers.3,
                store_svid: flags[2],
                hint: texts[1].clone(),
                disable_x509_svid_prefetch: flags[3],
                jwt_svid_include_jti: flags[4],
                created_at: numbers.4,
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_put_in_comes_out(entries in prop::collection::vec(entry(), 0..6)) {
            let batch: EntryBatch = entries.iter().collect();
            prop_assert_eq!(batch.len(), entries.len());
            prop_assert_eq!(batch.is_empty(), entries.is_empty());
            let back: Vec<Entry> = batch.iter().map(EntryView::to_entry).collect();
            prop_assert_eq!(back, entries);
        }
    }
}

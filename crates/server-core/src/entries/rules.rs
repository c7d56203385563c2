//! What a registration entry must be (facts ER-01..ER-18).
//!
//! The datastore checks the rest (lengths of ids, TTLs, selectors of one type
//! for stored SVIDs) in the same transaction that writes.

use steeple_spiffe::{IdError, Selector, SelectorError, TrustDomain};
use steeple_store::model::{EntryUpdate, NewEntry};

use crate::dns_name::{self, DnsNameError};
use crate::ids::{self, IdRule, RawId};

/// The longest hint, in bytes.
const MAX_HINT: usize = 1024;

/// A selector as the wire carries it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the two halves of \"kind:value\"")]
pub struct RawSelector {
    pub kind: String,
    pub value: String,
}

/// An entry as the wire carries it: nothing of it is checked yet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "each field is the one of the same name in Entry")]
pub struct EntryDraft {
    pub entry_id: String,
    pub spiffe_id: Option<RawId>,
    pub parent_id: Option<RawId>,
    pub selectors: Vec<RawSelector>,
    pub x509_svid_ttl: i32,
    pub jwt_svid_ttl: i32,
    pub federates_with: Vec<String>,
    pub admin: bool,
    pub downstream: bool,
    pub expires_at: i64,
    pub dns_names: Vec<String>,
    pub store_svid: bool,
    pub hint: String,
    pub disable_x509_svid_prefetch: bool,
    pub jwt_svid_include_jti: bool,
}

/// Which fields of a draft an update takes over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "each field is the one of the same name in Entry")]
pub struct EntryFields {
    pub spiffe_id: bool,
    pub parent_id: bool,
    pub selectors: bool,
    pub x509_svid_ttl: bool,
    pub jwt_svid_ttl: bool,
    pub federates_with: bool,
    pub admin: bool,
    pub downstream: bool,
    pub expires_at: bool,
    pub dns_names: bool,
    pub store_svid: bool,
    pub hint: bool,
    pub additional_attributes: bool,
}

/// The rule that a draft breaks.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum EntryRule {
    #[error("invalid parent ID: {0}")]
    Parent(#[source] IdRule),
    #[error("invalid spiffe ID: {0}")]
    SpiffeId(#[source] IdRule),
    #[error("invalid DNS name: {0}")]
    DnsName(#[source] DnsNameError),
    #[error("invalid federated trust domain: {0}")]
    FederatesWith(#[source] IdError),
    #[error("selector list is empty")]
    NoSelectors,
    #[error("empty selector set")]
    EmptySet,
    #[error(transparent)]
    Selector(SelectorError),
    #[error("hint is too long, max length is {MAX_HINT} characters")]
    LongHint,
}

impl EntryFields {
    /// Every field: what an update without a mask means.
    pub const ALL: Self = Self {
        spiffe_id: true,
        parent_id: true,
        selectors: true,
        x509_svid_ttl: true,
        jwt_svid_ttl: true,
        federates_with: true,
        admin: true,
        downstream: true,
        expires_at: true,
        dns_names: true,
        store_svid: true,
        hint: true,
        additional_attributes: true,
    };
}

impl EntryDraft {
    /// Checks a draft that becomes an entry.
    ///
    /// # Errors
    /// The first rule broken, in the order in which SPIRE looks.
    pub fn into_new(self, trust_domain: &TrustDomain) -> Result<NewEntry, EntryRule> {
        let entry_id = Some(self.entry_id.clone()).filter(|entry_id| !entry_id.is_empty());
        let checked = self.into_update(trust_domain, &EntryFields::ALL)?;
        let whole = "an update of all fields has them all";
        Ok(NewEntry {
            entry_id,
            spiffe_id: checked.spiffe_id.expect(whole),
            parent_id: checked.parent_id.expect(whole),
            selectors: checked.selectors.expect(whole),
            x509_svid_ttl: checked.x509_svid_ttl.expect(whole),
            jwt_svid_ttl: checked.jwt_svid_ttl.expect(whole),
            federates_with: checked.federates_with.expect(whole),
            admin: checked.admin.expect(whole),
            downstream: checked.downstream.expect(whole),
            expires_at: checked.expires_at.expect(whole),
            dns_names: checked.dns_names.expect(whole),
            store_svid: checked.store_svid.expect(whole),
            hint: checked.hint.expect(whole),
            disable_x509_svid_prefetch: checked.disable_x509_svid_prefetch.expect(whole),
            jwt_svid_include_jti: checked.jwt_svid_include_jti.expect(whole),
        })
    }

    /// Checks the fields of a draft that an update takes over; the others are not looked at.
    ///
    /// # Errors
    /// The first rule broken, in the order in which SPIRE looks.
    pub fn into_update(
        self,
        trust_domain: &TrustDomain,
        fields: &EntryFields,
    ) -> Result<EntryUpdate, EntryRule> {
        let mut update = EntryUpdate::default();
        if fields.parent_id {
            let parent = ids::member(trust_domain, self.parent_id.as_ref());
            update.parent_id = Some(parent.map_err(EntryRule::Parent)?);
        }
        if fields.spiffe_id {
            let subject = ids::workload(trust_domain, self.spiffe_id.as_ref());
            update.spiffe_id = Some(subject.map_err(EntryRule::SpiffeId)?);
        }
        if fields.dns_names {
            for name in &self.dns_names {
                dns_name::check(name).map_err(EntryRule::DnsName)?;
            }
            update.dns_names = Some(self.dns_names);
        }
        if fields.federates_with {
            let parsed: Result<_, _> =
                self.federates_with.iter().map(|name| TrustDomain::from_name_or_id(name)).collect();
            update.federates_with = Some(parsed.map_err(EntryRule::FederatesWith)?);
        }
        if fields.selectors {
            if self.selectors.is_empty() {
                return Err(EntryRule::NoSelectors);
            }
            update.selectors = Some(selectors(&self.selectors)?);
        }
        if fields.hint {
            if self.hint.len() > MAX_HINT {
                return Err(EntryRule::LongHint);
            }
            update.hint = Some(self.hint);
        }
        update.x509_svid_ttl = fields.x509_svid_ttl.then_some(self.x509_svid_ttl);
        update.jwt_svid_ttl = fields.jwt_svid_ttl.then_some(self.jwt_svid_ttl);
        update.admin = fields.admin.then_some(self.admin);
        update.downstream = fields.downstream.then_some(self.downstream);
        update.expires_at = fields.expires_at.then_some(self.expires_at);
        update.store_svid = fields.store_svid.then_some(self.store_svid);
        if fields.additional_attributes {
            update.disable_x509_svid_prefetch = Some(self.disable_x509_svid_prefetch);
            update.jwt_svid_include_jti = Some(self.jwt_svid_include_jti);
        }
        Ok(update)
    }
}

/// Checks selectors off the wire.
pub(crate) fn selectors(raw: &[RawSelector]) -> Result<Vec<Selector>, EntryRule> {
    raw.iter()
        .map(|selector| Selector::checked(&selector.kind, &selector.value))
        .collect::<Result<_, _>>()
        .map_err(EntryRule::Selector)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    fn raw_id(path: &str) -> Option<RawId> {
        Some(RawId { trust_domain: "example.org".to_owned(), path: path.to_owned() })
    }

    fn draft() -> EntryDraft {
        EntryDraft {
            spiffe_id: raw_id("/web"),
            parent_id: raw_id("/spire/agent/a"),
            selectors: vec![selector("unix", "uid:1000")],
            ..EntryDraft::default()
        }
    }

    fn selector(kind: &str, value: &str) -> RawSelector {
        RawSelector { kind: kind.to_owned(), value: value.to_owned() }
    }

    fn refusal(change: impl FnOnce(&mut EntryDraft)) -> String {
        let mut draft = draft();
        change(&mut draft);
        draft.into_new(&home()).unwrap_err().to_string()
    }

    #[test]
    fn the_least_entry_is_two_ids_and_a_selector() {
        let entry = draft().into_new(&home()).unwrap();
        assert_eq!(entry.spiffe_id.as_str(), "spiffe://example.org/web");
        assert_eq!(entry.entry_id, None);
        assert_eq!(entry.selectors, [Selector::new("unix", "uid:1000")]);
    }

    #[test]
    fn each_broken_rule_is_told_in_its_words() {
        assert_eq!(
            refusal(|draft| draft.parent_id = None),
            "invalid parent ID: request must specify SPIFFE ID"
        );
        assert_eq!(
            refusal(|draft| draft.parent_id = raw_id("")),
            "invalid parent ID: \"spiffe://example.org\" is not a member of trust domain \
             \"example.org\"; path is empty"
        );
        assert_eq!(
            refusal(|draft| draft.spiffe_id = raw_id("/spire/agent/a")),
            "invalid spiffe ID: \"spiffe://example.org/spire/agent/a\" is not a workload in trust \
             domain \"example.org\"; path is in the reserved namespace"
        );
        assert_eq!(refusal(|draft| draft.selectors.clear()), "selector list is empty");
        assert_eq!(
            refusal(|draft| draft.selectors.push(selector("", "v"))),
            "missing selector type"
        );
        assert_eq!(
            refusal(|draft| draft.selectors.push(selector("a:b", "v"))),
            "selector type contains ':'"
        );
        assert_eq!(
            refusal(|draft| draft.selectors.push(selector("a", ""))),
            "missing selector value"
        );
        assert_eq!(
            refusal(|draft| draft.dns_names.push(String::new())),
            "invalid DNS name: empty or only whitespace"
        );
        assert_eq!(
            refusal(|draft| draft.federates_with.push("Bad".to_owned())),
            "invalid federated trust domain: trust domain characters are limited to lowercase \
             letters, numbers, dots, dashes, and underscores"
        );
        assert_eq!(
            refusal(|draft| draft.hint = "x".repeat(1025)),
            "hint is too long, max length is 1024 characters"
        );
    }

    #[test]
    fn an_update_neither_takes_nor_checks_what_its_mask_leaves_out() {
        let broken = EntryDraft {
            admin: true,
            hint: "x".repeat(5000),
            dns_names: vec!["*".to_owned()],
            ..EntryDraft::default()
        };
        let fields = EntryFields { admin: true, ..EntryFields::default() };
        let update = broken.into_update(&home(), &fields).unwrap();
        assert_eq!(update, EntryUpdate { admin: Some(true), ..EntryUpdate::default() });
    }
}

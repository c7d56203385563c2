//! Wire ⇄ use case: messages of `spire.api.types` and what they mean.

use std::time::SystemTime;

use bytes::Bytes;
use steeple_pki::{Bundle, Certificate, JwtAuthority};
use steeple_proto::spire::api::types;
use steeple_server_core::bundles::{RawBundle, RawJwtAuthority};
use steeple_server_core::entries::{EntryDraft, EntryFields, RawSelector};
use steeple_server_core::ids::RawId;
use steeple_server_core::index::Fields;
use steeple_server_core::time::unix_seconds;
use steeple_spiffe::{Selector, SpiffeId};
use steeple_store::model::{AttestedNode, BundleMask, Entry, MatchBehavior, Page};
use tonic::Code;

use crate::status::Answer;

/// A number that names no matching behaviour.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown match behavior {0}")]
pub(crate) struct UnknownMatch(i32);

impl Answer for UnknownMatch {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

pub(crate) fn raw_id(id: types::Spiffeid) -> RawId {
    RawId { trust_domain: id.trust_domain, path: id.path }
}

/// An ID as it came, for the log.
pub(crate) fn id_text(id: &Option<types::Spiffeid>) -> String {
    id.as_ref().map_or_else(String::new, |id| format!("spiffe://{}{}", id.trust_domain, id.path))
}

pub(crate) fn id_message(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid { trust_domain: id.trust_domain_name().to_owned(), path: id.path().to_owned() }
}

/// SPIRE's numbers are the same for selectors and for trust domains.
pub(crate) fn match_behavior(number: i32) -> Result<MatchBehavior, UnknownMatch> {
    Ok(match number {
        0 => MatchBehavior::Exact,
        1 => MatchBehavior::Subset,
        2 => MatchBehavior::Superset,
        3 => MatchBehavior::Any,
        _ => return Err(UnknownMatch(number)),
    })
}

/// A page size of 0 or less asks for everything (TG-17).
pub(crate) fn page(size: i32, token: String) -> Option<Page> {
    let size = usize::try_from(size).ok().filter(|size| *size > 0)?;
    Some(Page { token: Some(token).filter(|token| !token.is_empty()), size })
}

/// Counts are 32 bits on the wire.
pub(crate) fn count(count: u64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

pub(crate) fn selector_match(
    message: types::SelectorMatch,
) -> Result<(Vec<RawSelector>, MatchBehavior), UnknownMatch> {
    let behavior = match_behavior(message.r#match)?;
    Ok((raw_selectors(message.selectors), behavior))
}

pub(crate) fn raw_selectors(selectors: Vec<types::Selector>) -> Vec<RawSelector> {
    selectors
        .into_iter()
        .map(|selector| RawSelector { kind: selector.r#type, value: selector.value })
        .collect()
}

pub(crate) fn selector_messages(selectors: &[Selector]) -> Vec<types::Selector> {
    selectors
        .iter()
        .map(|selector| types::Selector {
            r#type: selector.kind.to_string(),
            value: selector.value.to_string(),
        })
        .collect()
}

pub(crate) fn entry_draft(entry: types::Entry) -> EntryDraft {
    let attributes = entry.additional_attributes.unwrap_or_default();
    EntryDraft {
        entry_id: entry.id,
        spiffe_id: entry.spiffe_id.map(raw_id),
        parent_id: entry.parent_id.map(raw_id),
        selectors: raw_selectors(entry.selectors),
        x509_svid_ttl: entry.x509_svid_ttl,
        jwt_svid_ttl: entry.jwt_svid_ttl,
        federates_with: entry.federates_with,
        admin: entry.admin,
        downstream: entry.downstream,
        expires_at: entry.expires_at,
        dns_names: entry.dns_names,
        store_svid: entry.store_svid,
        hint: entry.hint,
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
    }
}

/// Which fields an update takes over; without a mask, all of them (TG-21).
pub(crate) fn entry_fields(mask: Option<&types::EntryMask>) -> EntryFields {
    let Some(mask) = mask else { return EntryFields::ALL };
    EntryFields {
        spiffe_id: mask.spiffe_id,
        parent_id: mask.parent_id,
        selectors: mask.selectors,
        x509_svid_ttl: mask.x509_svid_ttl,
        jwt_svid_ttl: mask.jwt_svid_ttl,
        federates_with: mask.federates_with,
        admin: mask.admin,
        downstream: mask.downstream,
        expires_at: mask.expires_at,
        dns_names: mask.dns_names,
        store_svid: mask.store_svid,
        hint: mask.hint,
        additional_attributes: mask.additional_attributes,
    }
}

/// An entry, as far as the mask asks for it; the id is always there (TG-19).
pub(crate) fn entry_message(entry: &Entry, mask: Option<&types::EntryMask>) -> types::Entry {
    let asked = |field: fn(&types::EntryMask) -> bool| mask.is_none_or(field);
    let mut message = types::Entry { id: entry.entry_id.clone(), ..types::Entry::default() };
    if asked(|mask| mask.spiffe_id) {
        message.spiffe_id = Some(id_message(&entry.spiffe_id));
    }
    if asked(|mask| mask.parent_id) {
        message.parent_id = Some(id_message(&entry.parent_id));
    }
    if asked(|mask| mask.selectors) {
        message.selectors = selector_messages(&entry.selectors);
    }
    if asked(|mask| mask.x509_svid_ttl) {
        message.x509_svid_ttl = entry.x509_svid_ttl;
    }
    if asked(|mask| mask.jwt_svid_ttl) {
        message.jwt_svid_ttl = entry.jwt_svid_ttl;
    }
    if asked(|mask| mask.federates_with) {
        let names = entry.federates_with.iter().map(|foreign| foreign.as_str().to_owned());
        message.federates_with = names.collect();
    }
    message.admin = entry.admin && asked(|mask| mask.admin);
    message.downstream = entry.downstream && asked(|mask| mask.downstream);
    message.store_svid = entry.store_svid && asked(|mask| mask.store_svid);
    if asked(|mask| mask.expires_at) {
        message.expires_at = entry.expires_at;
    }
    if asked(|mask| mask.dns_names) {
        message.dns_names.clone_from(&entry.dns_names);
    }
    if asked(|mask| mask.revision_number) {
        message.revision_number = entry.revision_number;
    }
    if asked(|mask| mask.hint) {
        message.hint.clone_from(&entry.hint);
    }
    if asked(|mask| mask.created_at) {
        message.created_at = entry.created_at;
    }
    if asked(|mask| mask.additional_attributes) {
        message.additional_attributes = attributes_message(entry);
    }
    message
}

/// The fields that a mask asks for, by their tags. The tests hold it against [`entry_message`].
pub(crate) fn fields(mask: Option<&types::EntryMask>) -> Fields {
    let Some(mask) = mask else { return Fields::ALL };
    let asked = [
        mask.spiffe_id,
        mask.parent_id,
        mask.selectors,
        mask.x509_svid_ttl,
        mask.federates_with,
        mask.admin,
        mask.downstream,
        mask.expires_at,
        mask.dns_names,
        mask.revision_number,
        mask.store_svid,
        mask.jwt_svid_ttl,
        mask.hint,
        mask.created_at,
        mask.additional_attributes,
    ];
    // The id has tag 1.
    let asked = (2..).zip(asked).filter(|(_, asked)| *asked);
    asked.fold(Fields::ID, |fields, (tag, _)| fields.and(tag))
}

/// Absent when nothing is set, as SPIRE has it for entries made without attributes.
fn attributes_message(entry: &Entry) -> Option<types::entry::AdditionalAttributes> {
    let attributes = types::entry::AdditionalAttributes {
        disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
        jwt_svid_include_jti: entry.jwt_svid_include_jti,
    };
    (attributes != types::entry::AdditionalAttributes::default()).then_some(attributes)
}

/// An agent, as far as the mask asks for it; the id is always there.
pub(crate) fn agent_message(node: &AttestedNode, mask: Option<&types::AgentMask>) -> types::Agent {
    let asked = |field: fn(&types::AgentMask) -> bool| mask.is_none_or(field);
    let mut message =
        types::Agent { id: Some(id_message(&node.spiffe_id)), ..types::Agent::default() };
    if asked(|mask| mask.attestation_type) {
        message.attestation_type.clone_from(&node.attestation_type);
    }
    if asked(|mask| mask.x509svid_serial_number) {
        message.x509svid_serial_number.clone_from(&node.serial_number);
    }
    if asked(|mask| mask.x509svid_expires_at) {
        message.x509svid_expires_at = node.expires_at;
    }
    if asked(|mask| mask.selectors) {
        message.selectors = selector_messages(&node.selectors);
    }
    message.banned = node.is_banned() && asked(|mask| mask.banned);
    message.can_reattest = node.can_reattest && asked(|mask| mask.can_reattest);
    if asked(|mask| mask.agent_version) {
        message.agent_version.clone_from(&node.agent_version);
    }
    message
}

pub(crate) fn chain_message(chain: &[Certificate]) -> Vec<Bytes> {
    chain.iter().map(Certificate::der_bytes).collect()
}

pub(crate) fn x509_svid_message(id: &SpiffeId, chain: &[Certificate]) -> types::X509svid {
    types::X509svid {
        cert_chain: chain_message(chain),
        id: Some(id_message(id)),
        expires_at: chain.first().map_or(0, |leaf| unix_seconds(leaf.not_after())),
        hint: String::new(),
    }
}

/// A bundle, as far as the mask asks for it; the trust domain is always there.
pub(crate) fn bundle_message(bundle: &Bundle, mask: Option<&types::BundleMask>) -> types::Bundle {
    let asked = |field: fn(&types::BundleMask) -> bool| mask.is_none_or(field);
    let mut message = types::Bundle {
        trust_domain: bundle.trust_domain.as_str().to_owned(),
        ..types::Bundle::default()
    };
    if asked(|mask| mask.x509_authorities) {
        message.x509_authorities = bundle
            .x509_authorities
            .iter()
            .map(|authority| types::X509Certificate {
                asn1: authority.certificate.der_bytes(),
                tainted: authority.tainted,
            })
            .collect();
    }
    if asked(|mask| mask.jwt_authorities) {
        message.jwt_authorities = bundle.jwt_authorities.iter().map(jwt_key_message).collect();
    }
    if asked(|mask| mask.wit_authorities) {
        message.wit_authorities = bundle
            .wit_authorities
            .iter()
            .map(jwt_key_message)
            .map(|key| types::WitKey {
                public_key: key.public_key,
                key_id: key.key_id,
                expires_at: key.expires_at,
                tainted: key.tainted,
            })
            .collect();
    }
    if asked(|mask| mask.refresh_hint) {
        message.refresh_hint = i64::try_from(bundle.refresh_hint.as_secs()).unwrap_or(i64::MAX);
    }
    if asked(|mask| mask.sequence_number) {
        message.sequence_number = bundle.sequence_number;
    }
    message
}

pub(crate) fn jwt_key_message(authority: &JwtAuthority) -> types::JwtKey {
    types::JwtKey {
        public_key: Bytes::copy_from_slice(authority.public_key.spki_der()),
        key_id: authority.key_id.clone(),
        expires_at: authority.expires_at.map_or(0, unix_seconds),
        tainted: authority.tainted,
    }
}

pub(crate) fn raw_jwt_authority(key: types::JwtKey) -> RawJwtAuthority {
    RawJwtAuthority { key_id: key.key_id, public_key: key.public_key, expires_at: key.expires_at }
}

pub(crate) fn raw_bundle(bundle: types::Bundle) -> RawBundle {
    RawBundle {
        trust_domain: bundle.trust_domain,
        x509_authorities: bundle.x509_authorities.into_iter().map(|cert| cert.asn1).collect(),
        jwt_authorities: bundle.jwt_authorities.into_iter().map(raw_jwt_authority).collect(),
        refresh_hint: bundle.refresh_hint,
        sequence_number: bundle.sequence_number,
    }
}

/// Which parts of a bundle an update takes over; without a mask, all of them. WIT authorities
/// have no API yet and stay as they are.
pub(crate) fn bundle_fields(mask: Option<&types::BundleMask>) -> BundleMask {
    let Some(mask) = mask else { return BundleMask { wit_authorities: false, ..BundleMask::ALL } };
    BundleMask {
        x509_authorities: mask.x509_authorities,
        jwt_authorities: mask.jwt_authorities,
        wit_authorities: false,
        refresh_hint: mask.refresh_hint,
        sequence_number: mask.sequence_number,
    }
}

pub(crate) fn expires_at(time: SystemTime) -> i64 {
    unix_seconds(time)
}

#[cfg(test)]
mod tests {
    use steeple_spiffe::TrustDomain;

    use super::*;

    fn entry() -> Entry {
        let home = TrustDomain::parse("example.org").unwrap();
        Entry {
            entry_id: "id".to_owned(),
            spiffe_id: SpiffeId::from_path(&home, "/web").unwrap(),
            parent_id: SpiffeId::from_path(&home, "/node").unwrap(),
            selectors: vec![Selector::new("unix", "uid:1")],
            x509_svid_ttl: 1,
            jwt_svid_ttl: 2,
            federates_with: vec![TrustDomain::parse("other.org").unwrap()],
            admin: true,
            downstream: true,
            expires_at: 3,
            dns_names: vec!["a".to_owned()],
            revision_number: 4,
            store_svid: true,
            hint: "h".to_owned(),
            disable_x509_svid_prefetch: true,
            jwt_svid_include_jti: false,
            created_at: 5,
        }
    }

    #[test]
    fn no_mask_asks_for_everything_and_an_empty_one_for_the_id_alone() {
        let whole = entry_message(&entry(), None);
        assert_eq!(whole.federates_with, ["other.org"]);
        assert_eq!(whole.spiffe_id.as_ref().unwrap().path, "/web");
        assert!(whole.additional_attributes.as_ref().unwrap().disable_x509_svid_prefetch);
        let bare = entry_message(&entry(), Some(&types::EntryMask::default()));
        assert_eq!(bare, types::Entry { id: "id".to_owned(), ..types::Entry::default() });
    }

    #[test]
    fn a_whole_entry_survives_the_way_back() {
        let draft = entry_draft(entry_message(&entry(), None));
        let home = TrustDomain::parse("example.org").unwrap();
        let back = draft.into_new(&home).unwrap();
        assert_eq!((back.spiffe_id, back.parent_id), (entry().spiffe_id, entry().parent_id));
        assert_eq!((back.selectors, back.dns_names), (entry().selectors, entry().dns_names));
        assert!(back.disable_x509_svid_prefetch && back.admin && back.downstream);
        assert_eq!(back.federates_with, entry().federates_with);
    }

    #[test]
    fn a_page_size_of_nothing_or_less_means_no_pages() {
        assert_eq!(page(0, "1".to_owned()), None);
        assert_eq!(page(-5, String::new()), None);
        let first = page(5, String::new()).unwrap();
        assert_eq!((first.size, first.token), (5, None));
    }
}

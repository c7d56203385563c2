//! What an audit line says of a call: fields out of its messages (fact SA-24).
//!
//! The names and the choice are SPIRE's: its dashboards and alerts read them. Nothing here fails:
//! what cannot be read has no field, and the line is written all the same.

use prost::Message;
use steeple_pki::digest::Sha256;
use steeple_proto::spire::api::server::agent::v1 as agent;
use steeple_proto::spire::api::server::entry::v1 as entry;
use steeple_proto::spire::api::server::localauthority::v1 as authority;
use steeple_proto::spire::api::server::logger::v1 as logger;
use steeple_proto::spire::api::server::svid::v1 as svid;
use steeple_proto::spire::api::types;
use steeple_runtime::log::Extra;
use steeple_server_core::ids;
use steeple_spiffe::{SpiffeId, TrustDomain};

use super::{Item, bundles};
use crate::convert::raw_id;

/// The longest agent version that is recorded.
const MAX_VERSION: usize = 255;

/// Whether a method's calls are recorded item by item.
pub(super) fn is_batch(method: &str) -> bool {
    method.starts_with("Batch")
}

/// What the line of a call says of its request.
pub(super) fn of_request(home: &TrustDomain, path: &str, request: &[u8]) -> Extra {
    let mut fields = Extra::new();
    let (_, service_and_method) = path.rsplit_once('.').unwrap_or_default();
    match service_and_method {
        "Entry/CountEntries" => {
            let filter = decode::<entry::CountEntriesRequest>(request).filter;
            let filter = filter.map(|it| EntryFilter {
                hint: it.by_hint,
                parent_id: it.by_parent_id,
                spiffe_id: it.by_spiffe_id,
                selectors: it.by_selectors,
                federates_with: it.by_federates_with,
                downstream: it.by_downstream,
            });
            entry_filter(&mut fields, home, filter);
        }
        "Entry/ListEntries" => {
            let filter = decode::<entry::ListEntriesRequest>(request).filter;
            let filter = filter.map(|it| EntryFilter {
                hint: it.by_hint,
                parent_id: it.by_parent_id,
                spiffe_id: it.by_spiffe_id,
                selectors: it.by_selectors,
                federates_with: it.by_federates_with,
                downstream: it.by_downstream,
            });
            entry_filter(&mut fields, home, filter);
        }
        "Entry/GetEntry" => {
            let id = decode::<entry::GetEntryRequest>(request).id;
            if !id.is_empty() {
                fields.text("entry_id", id);
            }
        }
        other if other.starts_with("Agent/") => of_agent(&mut fields, home, other, request),
        "Logger/SetLogLevel" => {
            let level = decode::<logger::SetLogLevelRequest>(request).new_level;
            let name = types::LogLevel::try_from(level).map(|level| level.as_str_name().to_owned());
            fields.text("new_log_level", name.unwrap_or_else(|_| level.to_string()));
        }
        other if other.starts_with("SVID/") => of_svid(&mut fields, home, other, request),
        other if other.starts_with("LocalAuthority/") => of_authority(&mut fields, other, request),
        other => bundles::of_request(&mut fields, home, other, request),
    }
    fields
}

fn of_agent(fields: &mut Extra, home: &TrustDomain, method: &str, request: &[u8]) {
    match method {
        "Agent/CountAgents" => {
            let filter = decode::<agent::CountAgentsRequest>(request).filter;
            let filter = filter.map(|it| AgentFilter {
                attestation_type: it.by_attestation_type,
                banned: it.by_banned,
                can_reattest: it.by_can_reattest,
                selectors: it.by_selector_match,
            });
            agent_filter(fields, filter);
        }
        "Agent/ListAgents" => {
            let filter = decode::<agent::ListAgentsRequest>(request).filter;
            let filter = filter.map(|it| AgentFilter {
                attestation_type: it.by_attestation_type,
                banned: it.by_banned,
                can_reattest: it.by_can_reattest,
                selectors: it.by_selector_match,
            });
            agent_filter(fields, filter);
        }
        "Agent/GetAgent" => {
            agent_id(fields, home, decode::<agent::GetAgentRequest>(request).id);
        }
        "Agent/DeleteAgent" => {
            agent_id(fields, home, decode::<agent::DeleteAgentRequest>(request).id);
        }
        "Agent/BanAgent" => {
            agent_id(fields, home, decode::<agent::BanAgentRequest>(request).id);
        }
        "Agent/RenewAgent" => {
            let params = decode::<agent::RenewAgentRequest>(request).params;
            if let Some(params) = params.filter(|params| !params.csr.is_empty()) {
                fields.text("csr", hash(&params.csr));
            }
        }
        "Agent/PostStatus" => {
            let version = decode::<agent::PostStatusRequest>(request).agent_version;
            if !version.is_empty() && version.len() <= MAX_VERSION {
                fields.text("agent_version", version);
            }
        }
        "Agent/CreateJoinToken" => {
            let request = decode::<agent::CreateJoinTokenRequest>(request);
            if request.ttl > 0 {
                fields.bare("ttl", request.ttl);
                workload_id(fields, home, request.agent_id);
            }
        }
        _ => {}
    }
}

fn of_svid(fields: &mut Extra, home: &TrustDomain, method: &str, request: &[u8]) {
    match method {
        "SVID/MintX509SVID" => {
            let request = decode::<svid::MintX509svidRequest>(request);
            fields.text("csr", hash(&request.csr));
            fields.bare("ttl", request.ttl);
        }
        "SVID/MintJWTSVID" => {
            let request = decode::<svid::MintJwtsvidRequest>(request);
            fields.bare("ttl", request.ttl);
            workload_id(fields, home, request.id);
            if !request.audience.is_empty() {
                fields.text("audience", request.audience.join(","));
            }
        }
        "SVID/MintWITSVID" => {
            let request = decode::<svid::MintWitsvidRequest>(request);
            fields.bare("ttl", request.ttl);
            workload_id(fields, home, request.id);
        }
        "SVID/NewJWTSVID" => {
            let request = decode::<svid::NewJwtsvidRequest>(request);
            fields.text("entry_id", request.entry_id);
            fields.text("audience", request.audience.join(","));
        }
        "SVID/NewDownstreamX509CA" => {
            fields.text("csr", hash(&decode::<svid::NewDownstreamX509caRequest>(request).csr));
            fields.text("trust_domain_id", home.id_string());
        }
        _ => {}
    }
}

fn of_authority(fields: &mut Extra, method: &str, request: &[u8]) {
    // The requests of all kinds of authority have their one field in the same place.
    let (name, id) = match method {
        "LocalAuthority/TaintX509UpstreamAuthority"
        | "LocalAuthority/RevokeX509UpstreamAuthority" => {
            let request = decode::<authority::TaintX509UpstreamAuthorityRequest>(request);
            ("subject_key_id", request.subject_key_id)
        }
        _ => {
            let request = decode::<authority::ActivateX509AuthorityRequest>(request);
            ("local_authority_id", request.authority_id)
        }
    };
    if !id.is_empty() {
        fields.text(name, id);
    }
}

/// The lines of a batch: an item's fields, and how it went.
pub(super) fn of_items(path: &str, request: &[u8], response: &[u8]) -> Vec<Item> {
    let (_, service_and_method) = path.rsplit_once('.').unwrap_or_default();
    match service_and_method {
        "Entry/BatchCreateEntry" => {
            let results = decode::<entry::BatchCreateEntryResponse>(response).results;
            let entries = decode::<entry::BatchCreateEntryRequest>(request).entries;
            let statuses = results.into_iter().map(|result| result.status);
            zip(entries.iter().map(|it| entry_fields(it, None)), statuses)
        }
        "Entry/BatchUpdateEntry" => {
            let results = decode::<entry::BatchUpdateEntryResponse>(response).results;
            let request = decode::<entry::BatchUpdateEntryRequest>(request);
            let mask = request.input_mask.as_ref();
            let statuses = results.into_iter().map(|result| result.status);
            zip(request.entries.iter().map(|it| entry_fields(it, mask)), statuses)
        }
        "Entry/BatchDeleteEntry" => {
            let results = decode::<entry::BatchDeleteEntryResponse>(response).results;
            let ids = decode::<entry::BatchDeleteEntryRequest>(request).ids;
            let statuses = results.into_iter().map(|result| result.status);
            zip(ids.iter().map(|id| one("entry_id", id)), statuses)
        }
        "SVID/BatchNewX509SVID" => {
            let results = decode::<svid::BatchNewX509svidResponse>(response).results;
            let params = decode::<svid::BatchNewX509svidRequest>(request).params;
            let fields = params.iter().zip(&results).map(|(params, result)| {
                let mut fields = one("csr", hash(&params.csr));
                let svid = result.svid.as_ref().map(|svid| (&svid.id, svid.expires_at));
                issued(&mut fields, &params.entry_id, svid);
                fields
            });
            zip(fields, results.iter().map(|result| result.status.clone()))
        }
        "SVID/BatchNewWITSVID" => {
            let results = decode::<svid::BatchNewWitsvidResponse>(response).results;
            let params = decode::<svid::BatchNewWitsvidRequest>(request).params;
            let fields = params.iter().zip(&results).map(|(params, result)| {
                let mut fields = Extra::new();
                let svid = result.svid.as_ref().map(|svid| (&svid.id, svid.expires_at));
                issued(&mut fields, &params.entry_id, svid);
                fields
            });
            zip(fields, results.iter().map(|result| result.status.clone()))
        }
        other => bundles::of_items(other, request, response),
    }
}

pub(super) fn zip(
    fields: impl Iterator<Item = Extra>,
    statuses: impl Iterator<Item = Option<types::Status>>,
) -> Vec<Item> {
    let item =
        |(fields, status): (_, Option<_>)| Item { fields, status: status.unwrap_or_default() };
    fields.zip(statuses).map(item).collect()
}

/// A message as far as it is one; the handler's answer says when it was none.
pub(super) fn decode<M: Message + Default>(bytes: &[u8]) -> M {
    M::decode(bytes).unwrap_or_default()
}

/// SPIRE's way to name bytes: SHA-256 in hexadecimal, nothing for nothing.
pub(super) fn hash(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return String::new();
    }
    Sha256::of(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn one(name: &str, value: impl std::fmt::Display) -> Extra {
    let mut fields = Extra::new();
    fields.text(name, value);
    fields
}

fn issued(fields: &mut Extra, entry_id: &str, svid: Option<(&Option<types::Spiffeid>, i64)>) {
    fields.text("entry_id", entry_id);
    let id = svid.and_then(|(id, _)| valid(id.clone()));
    fields.text("spiffe_id", id.map_or_else(String::new, |id| id.as_str().to_owned()));
    if let Some((_, expires_at)) = svid {
        fields.bare("expires_at", expires_at);
    }
}

fn valid(id: Option<types::Spiffeid>) -> Option<SpiffeId> {
    ids::parse(id.map(raw_id).as_ref()).ok()
}

fn agent_id(fields: &mut Extra, home: &TrustDomain, id: Option<types::Spiffeid>) {
    if let Ok(id) = ids::agent(home, id.map(raw_id).as_ref()) {
        fields.text("spiffe_id", id);
    }
}

fn workload_id(fields: &mut Extra, home: &TrustDomain, id: Option<types::Spiffeid>) {
    if let Ok(id) = ids::workload(home, id.map(raw_id).as_ref()) {
        fields.text("spiffe_id", id);
    }
}

fn selectors(list: &[types::Selector]) -> String {
    let texts: Vec<_> = list.iter().map(|it| format!("{}:{}", it.r#type, it.value)).collect();
    texts.join(",")
}

struct EntryFilter {
    hint: Option<String>,
    parent_id: Option<types::Spiffeid>,
    spiffe_id: Option<types::Spiffeid>,
    selectors: Option<types::SelectorMatch>,
    federates_with: Option<types::FederatesWithMatch>,
    downstream: Option<bool>,
}

fn entry_filter(fields: &mut Extra, home: &TrustDomain, filter: Option<EntryFilter>) {
    let Some(filter) = filter else { return };
    if let Some(hint) = filter.hint {
        fields.text("hint", hint);
    }
    if let Ok(id) = ids::member(home, filter.parent_id.map(raw_id).as_ref()) {
        fields.text("parent_id", id);
    }
    workload_id(fields, home, filter.spiffe_id);
    selector_filter(fields, filter.selectors);
    if let Some(found) = filter.federates_with {
        let kind = types::federates_with_match::MatchBehavior::try_from(found.r#match);
        let kind = kind.map(|kind| kind.as_str_name().to_owned());
        fields.text("federates_with_match", kind.unwrap_or_else(|_| found.r#match.to_string()));
        fields.text("federates_with", found.trust_domains.join(","));
    }
    if let Some(downstream) = filter.downstream {
        fields.bare("downstream", downstream);
    }
}

struct AgentFilter {
    attestation_type: String,
    banned: Option<bool>,
    can_reattest: Option<bool>,
    selectors: Option<types::SelectorMatch>,
}

fn agent_filter(fields: &mut Extra, filter: Option<AgentFilter>) {
    let Some(filter) = filter else { return };
    if !filter.attestation_type.is_empty() {
        fields.text("node_attestor_type", filter.attestation_type);
    }
    if let Some(banned) = filter.banned {
        fields.bare("by_banned", banned);
    }
    if let Some(can_reattest) = filter.can_reattest {
        fields.bare("by_can_reattest", can_reattest);
    }
    selector_filter(fields, filter.selectors);
}

fn selector_filter(fields: &mut Extra, filter: Option<types::SelectorMatch>) {
    let Some(filter) = filter else { return };
    let kind = types::selector_match::MatchBehavior::try_from(filter.r#match);
    let kind = kind.map(|kind| kind.as_str_name().to_owned());
    fields.text("by_selector_match", kind.unwrap_or_else(|_| filter.r#match.to_string()));
    fields.text("by_selectors", selectors(&filter.selectors));
}

fn entry_fields(entry: &types::Entry, mask: Option<&types::EntryMask>) -> Extra {
    let wanted = |part: fn(&types::EntryMask) -> bool| mask.is_none_or(part);
    let mut fields = Extra::new();
    let mut text = |name: &str, value: &str, wanted: bool| {
        if wanted && !value.is_empty() {
            fields.text(name, value);
        }
    };
    let id = |id: &Option<types::Spiffeid>| {
        valid(id.clone()).map_or_else(String::new, |id| id.as_str().to_owned())
    };
    text("entry_id", &entry.id, true);
    text("spiffe_id", &id(&entry.spiffe_id), wanted(|mask| mask.spiffe_id));
    text("parent_id", &id(&entry.parent_id), wanted(|mask| mask.parent_id));
    text("selectors", &selectors(&entry.selectors), wanted(|mask| mask.selectors));
    let federates_with = entry.federates_with.join(",");
    text("federates_with", &federates_with, wanted(|mask| mask.federates_with));
    text("dns_name", &entry.dns_names.join(","), wanted(|mask| mask.dns_names));
    if wanted(|mask| mask.hint) {
        fields.text("hint", &entry.hint);
    }
    let mut bare = |name: &str, value: &dyn std::fmt::Display, wanted: bool| {
        if wanted {
            fields.bare(name, value);
        }
    };
    bare("x509_svid_ttl", &entry.x509_svid_ttl, wanted(|mask| mask.x509_svid_ttl));
    bare("jwt_svid_ttl", &entry.jwt_svid_ttl, wanted(|mask| mask.jwt_svid_ttl));
    bare("admin", &entry.admin, wanted(|mask| mask.admin));
    bare("downstream", &entry.downstream, wanted(|mask| mask.downstream));
    bare("expires_at", &entry.expires_at, wanted(|mask| mask.expires_at));
    bare("revision_number", &entry.revision_number, wanted(|mask| mask.revision_number));
    bare("store_svid", &entry.store_svid, wanted(|mask| mask.store_svid));
    bare("created_at", &entry.created_at, wanted(|mask| mask.created_at));
    fields
}

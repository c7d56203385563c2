//! The JSON files of `entry create|update -data` and `entry delete -file`.
//!
//! Go reads them with `encoding/json` into the datastore's own messages: keys
//! in snake case (any case matches), bytes as base64, unknown keys ignored.

use serde::Deserialize;
use serde_json::Value;
use steeple_proto::spire::api::types::{Entry, Selector, entry::AdditionalAttributes};
use steeple_spiffe::TrustDomain;

use super::entry_text::wire_id;
use crate::Env;
use crate::dispatch::Failure;
use crate::json;

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    entries: Vec<Option<Record>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Record {
    selectors: Vec<FileSelector>,
    parent_id: String,
    spiffe_id: String,
    x509_svid_ttl: i32,
    federates_with: Vec<String>,
    entry_id: String,
    admin: bool,
    downstream: bool,
    entryexpiry: i64,
    dns_names: Vec<String>,
    revision_number: i64,
    store_svid: bool,
    jwt_svid_ttl: i32,
    hint: String,
    created_at: i64,
    additional_attributes: Option<FileAttributes>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FileSelector {
    r#type: String,
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FileAttributes {
    disable_x509_svid_prefetch: bool,
    jwt_svid_include_jti: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ids {
    ids: Vec<String>,
}

/// The entries of the file at `path` (`-` is standard input).
pub(super) fn entries(env: &mut Env, path: &str) -> Result<Vec<Entry>, Failure> {
    let content = env.read(path).map_err(|error| Failure(error.to_string()))?;
    parse_entries(&content)
}

/// The entry IDs of the file at `path` (`-` is standard input).
pub(super) fn ids(env: &mut Env, path: &str) -> Result<Vec<String>, Failure> {
    let content = env.read(path).map_err(|error| Failure(error.to_string()))?;
    let ids: Ids = serde_json::from_value(fold_keys(json::value(&content)?))?;
    Ok(ids.ids)
}

fn parse_entries(content: &[u8]) -> Result<Vec<Entry>, Failure> {
    let file: File = serde_json::from_value(fold_keys(json::value(content)?))?;
    file.entries
        .into_iter()
        .map(|record| convert(record.ok_or_else(|| Failure::from("missing registration entry"))?))
        .collect()
}

fn convert(record: Record) -> Result<Entry, Failure> {
    let id = |text: &str, what: &str| wire_id(text).map_err(|error| error.context(what));
    let spiffe_id = id(&record.spiffe_id, "invalid SPIFFE ID")?;
    let parent_id = id(&record.parent_id, "invalid parent ID")?;
    let federates_with = record
        .federates_with
        .iter()
        .map(|text| {
            TrustDomain::from_name_or_id(text)
                .map(|domain| domain.as_str().to_owned())
                .map_err(|error| Failure::from(error).context("invalid federated trust domain"))
        })
        .collect::<Result<_, _>>()?;
    let selectors = record
        .selectors
        .into_iter()
        .map(|selector| Selector { r#type: selector.r#type, value: selector.value })
        .collect();
    Ok(Entry {
        id: record.entry_id,
        spiffe_id: Some(spiffe_id),
        parent_id: Some(parent_id),
        selectors,
        x509_svid_ttl: record.x509_svid_ttl,
        federates_with,
        admin: record.admin,
        downstream: record.downstream,
        expires_at: record.entryexpiry,
        dns_names: record.dns_names,
        revision_number: record.revision_number,
        store_svid: record.store_svid,
        jwt_svid_ttl: record.jwt_svid_ttl,
        hint: record.hint,
        created_at: record.created_at,
        additional_attributes: record.additional_attributes.map(|given| AdditionalAttributes {
            disable_x509_svid_prefetch: given.disable_x509_svid_prefetch,
            jwt_svid_include_jti: given.jwt_svid_include_jti,
        }),
    })
}

/// Lower-cases every key and drops nulls, as Go matches keys in any case and
/// lets null leave a field alone.
pub(super) fn fold_keys(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(_, member)| !member.is_null())
                .map(|(key, member)| (key.to_ascii_lowercase(), fold_keys(member)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(fold_keys).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        let entries = parse_entries(
            br#"{"entries":[{"Selectors":[{"type":"unix","value":"uid:1"}],
                "spiffe_id":"spiffe://td/w","parent_id":"spiffe://td/p","entryExpiry":7,
                "x509_svid_ttl":60,"federates_with":["spiffe://other"],"unknown":1,
                "hint":null}]}"#,
        )
        .unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].expires_at, 7);
        assert_eq!(entries[0].x509_svid_ttl, 60);
        assert_eq!(entries[0].federates_with, ["other"]);
        assert_eq!(entries[0].selectors[0].value, "uid:1");
    }

    #[test]
    fn says_which_id_is_wrong() {
        let error = parse_entries(br#"{"entries":[{"spiffe_id":"nope"}]}"#).unwrap_err();
        assert!(error.0.starts_with("invalid SPIFFE ID: "), "{}", error.0);
    }
}

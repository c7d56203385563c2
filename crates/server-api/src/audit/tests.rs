use prost::Message;
use steeple_proto::spire::api::server::agent::v1 as agent;
use steeple_proto::spire::api::server::bundle::v1 as bundle;
use steeple_proto::spire::api::server::entry::v1 as entry;
use steeple_proto::spire::api::server::svid::v1 as svid;
use steeple_proto::spire::api::types::federation_relationship::BundleEndpointProfile;

use super::*;
use crate::table::TABLE;

const ENTRY: &str = "/spire.api.server.entry.v1.Entry";
const AGENT: &str = "/spire.api.server.agent.v1.Agent";

/// Fields as `name=value`, in their order of adding.
fn shown(fields: &Extra) -> Vec<String> {
    let text = format!("{fields:?}");
    let shown = text.split_terminator('\u{1e}').map(|field| {
        let (name, value) = field.split_once('\u{1f}').unwrap();
        format!("{name}={}", &value[1..])
    });
    shown.collect()
}

fn of_request(path: &str, message: &impl Message) -> Vec<String> {
    let home = TrustDomain::parse("example.org").unwrap();
    shown(&fields::of_request(&home, path, &message.encode_to_vec()))
}

fn of_items(
    path: &str,
    request: &impl Message,
    response: &impl Message,
) -> Vec<(Vec<String>, i32)> {
    fields::of_items(path, &request.encode_to_vec(), &response.encode_to_vec())
        .into_iter()
        .map(|item| (shown(&item.fields), item.status.code))
        .collect()
}

fn id(path: &str) -> Option<types::Spiffeid> {
    Some(types::Spiffeid { trust_domain: "example.org".into(), path: path.into() })
}

fn status(code: i32) -> Option<types::Status> {
    Some(types::Status { code, message: String::new() })
}

#[test]
fn no_method_breaks_on_bytes_that_are_no_message() {
    let home = TrustDomain::parse("example.org").unwrap();
    for row in TABLE {
        for junk in [&b""[..], b"\xff\xff\xff", b"\x0a\xff"] {
            fields::of_request(&home, row.path, junk);
            assert!(fields::of_items(row.path, junk, junk).is_empty(), "{}", row.path);
        }
    }
}

#[test]
fn a_batch_has_a_line_per_item_with_its_own_status() {
    let request = entry::BatchCreateEntryRequest {
        entries: vec![
            types::Entry {
                id: "one".into(),
                spiffe_id: id("/w"),
                parent_id: id("/p"),
                selectors: vec![
                    types::Selector { r#type: "unix".into(), value: "uid:1".into() },
                    types::Selector { r#type: "unix".into(), value: "gid:1".into() },
                ],
                admin: true,
                ..types::Entry::default()
            },
            types::Entry { spiffe_id: id("no slash"), ..types::Entry::default() },
        ],
        output_mask: None,
    };
    let result =
        |code| entry::batch_create_entry_response::Result { status: status(code), entry: None };
    let response = entry::BatchCreateEntryResponse { results: vec![result(0), result(3)] };
    let items = of_items(&format!("{ENTRY}/BatchCreateEntry"), &request, &response);
    let rest = |admin: bool| {
        format!(
            "hint= x509_svid_ttl=0 jwt_svid_ttl=0 admin={admin} downstream=false expires_at=0 \
             revision_number=0 store_svid=false created_at=0"
        )
    };
    let first = "entry_id=one spiffe_id=spiffe://example.org/w parent_id=spiffe://example.org/p \
                 selectors=unix:uid:1,unix:gid:1";
    assert_eq!((items[0].0.join(" "), items[0].1), (format!("{first} {}", rest(true)), 0));
    assert_eq!((items[1].0.join(" "), items[1].1), (rest(false), 3));
}

#[test]
fn an_update_shows_what_its_mask_takes_in() {
    let entry = types::Entry { id: "one".into(), hint: "h".into(), ..types::Entry::default() };
    let request = entry::BatchUpdateEntryRequest {
        entries: vec![entry],
        input_mask: Some(types::EntryMask { hint: true, ..types::EntryMask::default() }),
        output_mask: None,
    };
    let result = entry::batch_update_entry_response::Result { status: status(5), entry: None };
    let response = entry::BatchUpdateEntryResponse { results: vec![result] };
    let items = of_items(&format!("{ENTRY}/BatchUpdateEntry"), &request, &response);
    assert_eq!(items, [(vec!["entry_id=one".to_owned(), "hint=h".to_owned()], 5)]);
}

#[test]
fn a_certificate_request_is_named_by_its_hash() {
    let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let params = |entry_id: &str, csr: &'static [u8]| svid::NewX509svidParams {
        entry_id: entry_id.into(),
        csr: csr.into(),
    };
    let request =
        svid::BatchNewX509svidRequest { params: vec![params("a", b"abc"), params("b", b"")] };
    let issued = types::X509svid { id: id("/w"), expires_at: 7, ..types::X509svid::default() };
    let result =
        |code, svid| svid::batch_new_x509svid_response::Result { status: status(code), svid };
    let response =
        svid::BatchNewX509svidResponse { results: vec![result(0, Some(issued)), result(3, None)] };
    let items = of_items("/spire.api.server.svid.v1.SVID/BatchNewX509SVID", &request, &response);
    assert_eq!(
        items,
        [
            (
                vec![
                    format!("csr={hash}"),
                    "entry_id=a".to_owned(),
                    "spiffe_id=spiffe://example.org/w".to_owned(),
                    "expires_at=7".to_owned()
                ],
                0
            ),
            (vec!["csr=".to_owned(), "entry_id=b".to_owned(), "spiffe_id=".to_owned()], 3)
        ]
    );
}

#[test]
fn filters_are_shown_as_spire_shows_them() {
    let selectors = types::SelectorMatch {
        selectors: vec![types::Selector { r#type: "a".into(), value: "b".into() }],
        r#match: 2,
    };
    let list = agent::ListAgentsRequest {
        filter: Some(agent::list_agents_request::Filter {
            by_attestation_type: "join_token".into(),
            by_banned: Some(false),
            by_selector_match: Some(selectors),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(
        of_request(&format!("{AGENT}/ListAgents"), &list),
        [
            "node_attestor_type=join_token",
            "by_banned=false",
            "by_selector_match=MATCH_SUPERSET",
            "by_selectors=a:b"
        ]
    );
    let count = entry::CountEntriesRequest {
        filter: Some(entry::count_entries_request::Filter {
            by_spiffe_id: Some(types::Spiffeid {
                trust_domain: "other.org".into(),
                path: "/x".into(),
            }),
            by_parent_id: id("/p"),
            by_hint: Some("h".into()),
            ..Default::default()
        }),
    };
    assert_eq!(
        of_request(&format!("{ENTRY}/CountEntries"), &count),
        ["hint=h", "parent_id=spiffe://example.org/p"]
    );
}

#[test]
fn a_relationship_shows_its_bundle_with_a_prefix() {
    use steeple_proto::spire::api::server::trustdomain::v1 as federation;
    let spiffe = types::HttpsspiffeProfile { endpoint_spiffe_id: "spiffe://other.org/x".into() };
    let bundle = types::Bundle {
        trust_domain: "other.org".into(),
        x509_authorities: vec![types::X509Certificate { asn1: b"abc"[..].into(), tainted: false }],
        ..types::Bundle::default()
    };
    let request = federation::BatchCreateFederationRelationshipRequest {
        federation_relationships: vec![types::FederationRelationship {
            trust_domain: "other.org".into(),
            bundle_endpoint_url: "https://other.org/".into(),
            bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(spiffe)),
            trust_domain_bundle: Some(bundle),
        }],
        output_mask: None,
    };
    let result = federation::batch_create_federation_relationship_response::Result {
        status: status(0),
        ..Default::default()
    };
    let response = federation::BatchCreateFederationRelationshipResponse { results: vec![result] };
    let method = "/spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship";
    let items = of_items(method, &request, &response);
    assert_eq!(
        items[0].0,
        [
            "trust_domain_id=other.org",
            "bundle_endpoint_url=https://other.org/",
            "bundle_endpoint_profile=https_spiffe",
            "endpoint_spiffe_id=spiffe://other.org/x",
            "bundle_trust_domain_id=other.org",
            "bundle_refresh_hint=0",
            "bundle_sequence_number=0",
            "bundle_x509_authorities_asn1_sha256.0=\
             ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ]
    );
}

#[test]
fn a_deletion_names_its_mode() {
    let request = bundle::BatchDeleteFederatedBundleRequest {
        trust_domains: vec!["other.org".into()],
        mode: bundle::batch_delete_federated_bundle_request::Mode::Dissociate as i32,
    };
    let result = bundle::batch_delete_federated_bundle_response::Result {
        status: status(0),
        trust_domain: "other.org".into(),
    };
    let response = bundle::BatchDeleteFederatedBundleResponse { results: vec![result] };
    let method = "/spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle";
    let items = of_items(method, &request, &response);
    assert_eq!(items[0].0, ["trust_domain_id=other.org", "mode=DISSOCIATE"]);
}

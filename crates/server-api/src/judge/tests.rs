use prost::Message;
use steeple_proto::spire::api::server::agent::v1 as agent;
use steeple_proto::spire::api::server::entry::v1 as entry;
use steeple_proto::spire::api::server::trustdomain::v1 as federation;
use steeple_proto::spire::api::types;
use steeple_proto::spire::api::types::federation_relationship::BundleEndpointProfile;

use super::*;
use crate::table::{TABLE, row};

/// A policy that says what the table says, for users to start from.
const MODULE: &str = include_str!("../../../../conf/server/policy/policy.rego");
const DATA: &str = include_str!("../../../../conf/server/policy/policy_data.json");

fn find(path: &str) -> &'static Row {
    row(path, true).unwrap()
}

async fn ask(judge: &Judge, row: &'static Row, message: Option<Vec<u8>>) -> Rule {
    let (caller, caller_file_path) = (String::new(), String::new());
    let message = message.map(Into::into);
    judge.rule(Case { row, caller, caller_file_path, message }).await.unwrap()
}

#[tokio::test]
async fn the_sample_policy_gives_the_verdict_of_the_table_for_every_method() {
    let judge = Judge::new(Engine::new(MODULE, Some(DATA)).unwrap());
    for row in TABLE {
        let message = (!row.is_stream()).then(Vec::new);
        assert_eq!(ask(&judge, row, message).await, row.rule, "{}", row.path);
    }
}

#[tokio::test]
#[ignore = "reads the files that STEEPLE_POLICY names: a module and its data, of another program"]
async fn a_policy_from_elsewhere_gives_the_verdict_of_the_table() {
    let folder = std::path::PathBuf::from(std::env::var_os("STEEPLE_POLICY").unwrap());
    let (module, data) = (folder.join("policy.rego"), folder.join("policy_data.json"));
    let judge = Judge::new(Engine::load(&module, Some(&data)).unwrap());
    for row in TABLE.iter().filter(|row| !row.path.starts_with("/steeple.")) {
        assert_eq!(ask(&judge, row, None).await, row.rule, "{}", row.path);
    }
}

#[test]
fn a_request_is_printed_as_go_prints_it() {
    let id = |path: &str| types::Spiffeid { trust_domain: "example.org".into(), path: path.into() };
    let message = entry::BatchCreateEntryRequest {
        entries: vec![types::Entry {
            spiffe_id: Some(id("/w")),
            parent_id: Some(id("")),
            selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:1".into() }],
            x509_svid_ttl: 60,
            expires_at: 1_795_327_200,
            admin: true,
            ..types::Entry::default()
        }],
        output_mask: Some(types::EntryMask::default()),
    };
    assert_eq!(
        request(
            find("/spire.api.server.entry.v1.Entry/BatchCreateEntry"),
            Some(&message.encode_to_vec())
        ),
        json!({
            "entries": [{
                "spiffe_id": {"trust_domain": "example.org", "path": "/w"},
                "parent_id": {"trust_domain": "example.org"},
                "selectors": [{"type": "unix", "value": "uid:1"}],
                "x509_svid_ttl": 60,
                "expires_at": 1_795_327_200,
                "admin": true,
            }],
            "output_mask": {},
        })
    );
}

#[test]
fn wrappers_enums_bytes_and_choices_have_their_form_in_go() {
    let selectors = types::SelectorMatch { selectors: Vec::new(), r#match: 2 };
    let filter = agent::list_agents_request::Filter {
        by_banned: Some(false),
        by_can_reattest: Some(true),
        by_selector_match: Some(selectors),
        ..Default::default()
    };
    let list = agent::ListAgentsRequest { filter: Some(filter), ..Default::default() };
    assert_eq!(
        request(find("/spire.api.server.agent.v1.Agent/ListAgents"), Some(&list.encode_to_vec())),
        json!({"filter": {
            "by_banned": {},
            "by_can_reattest": {"value": true},
            "by_selector_match": {"match": 2},
        }})
    );
    let renew = agent::RenewAgentRequest {
        params: Some(agent::AgentX509svidParams { csr: b"csr"[..].into() }),
    };
    assert_eq!(
        request(find("/spire.api.server.agent.v1.Agent/RenewAgent"), Some(&renew.encode_to_vec())),
        json!({"params": {"csr": "Y3Ny"}})
    );
    let relationship = |profile| types::FederationRelationship {
        trust_domain: "other.org".into(),
        bundle_endpoint_profile: profile,
        ..Default::default()
    };
    let spiffe = types::HttpsspiffeProfile { endpoint_spiffe_id: "spiffe://other.org/x".into() };
    let message = federation::BatchCreateFederationRelationshipRequest {
        federation_relationships: vec![
            relationship(Some(BundleEndpointProfile::HttpsSpiffe(spiffe))),
            relationship(None),
        ],
        output_mask: None,
    };
    let method = "/spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship";
    assert_eq!(
        request(find(method), Some(&message.encode_to_vec())),
        json!({"federation_relationships": [
            {
                "trust_domain": "other.org",
                "BundleEndpointProfile":
                    {"HttpsSpiffe": {"endpoint_spiffe_id": "spiffe://other.org/x"}},
            },
            {"trust_domain": "other.org", "BundleEndpointProfile": null},
        ]})
    );
}

#[test]
fn a_stream_and_what_is_no_message_are_null() {
    let method = find("/spire.api.server.agent.v1.Agent/ListAgents");
    assert_eq!(request(method, None), Value::Null);
    assert_eq!(request(method, Some(b"\xff\xff")), Value::Null);
    let health = find("/grpc.health.v1.Health/Check");
    let asked = tonic_health::pb::HealthCheckRequest { service: "x".into() }.encode_to_vec();
    assert_eq!(request(health, Some(&asked)), json!({"service": "x"}));
    assert_eq!(request(health, Some(b"")), json!({}));
}

#[tokio::test]
async fn a_policy_that_looks_at_the_request_opens_one_call_and_not_the_next() {
    let module = r#"package spire
        result = {"allow": false, "allow_if_admin": false, "allow_if_local": ok,
                  "allow_if_downstream": false, "allow_if_agent": false}
        default ok = false
        ok = true if input.req.id == "mine""#;
    let judge = Judge::new(Engine::new(module, None).unwrap());
    let method = find("/spire.api.server.entry.v1.Entry/GetEntry");
    let asked = |id: &str| {
        let id = id.to_owned();
        Some(entry::GetEntryRequest { id, output_mask: None }.encode_to_vec())
    };
    assert!(ask(&judge, method, asked("mine")).await.local);
    assert!(!ask(&judge, method, asked("yours")).await.local);
}

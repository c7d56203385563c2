//! The calls that a policy has to answer before it is used (SA-19): the ones that SPIRE tries.

use serde_json::{Value, json};

use crate::Input;

const ENTRY: &str = "/spire.api.server.entry.v1.Entry";

/// Each of them as an input.
pub(crate) fn inputs() -> Vec<Value> {
    let entries = format!("{ENTRY}/BatchCreateEntry");
    let list = format!("{ENTRY}/ListEntries");
    let caller = "spiffe://example.org/someid";
    let token = json!({ "ttl": 600, "agent_id": id("/host") });
    vec![
        input("", "/spire.api.server.bundle.v1.Bundle/GetBundle", json!({})),
        input("", "/grpc.health.v1.Health/Check", json!({})),
        input("", "/spire.api.server.agent.v1.Agent/CreateJoinToken", token),
        input("", "/spire.api.server.agent.v1.Agent/AttestAgent", Value::Null),
        input("", &entries, json!({ "entries": [entry("uid:     1000", None)] })),
        input("", &entries, json!({ "entries": [entry("uid:1000", Some("entry1"))] })),
        input("", &list, json!({ "filter": {} })),
        input(caller, &entries, json!({ "entries": [entry("uid:1000", None)] })),
        input(caller, &list, json!({ "filter": {} })),
    ]
}

fn input(caller: &str, full_method: &str, req: Value) -> Value {
    Input { caller, caller_file_path: "", full_method, req }.into()
}

fn id(path: &str) -> Value {
    json!({ "trust_domain": "example.org", "path": path })
}

fn entry(selector: &str, entry_id: Option<&str>) -> Value {
    let mut entry = json!({
        "spiffe_id": id("/workload"),
        "parent_id": id("/host"),
        "selectors": [{ "type": "unix", "value": selector }],
    });
    if let Some(entry_id) = entry_id {
        entry["id"] = json!(entry_id);
    }
    entry
}

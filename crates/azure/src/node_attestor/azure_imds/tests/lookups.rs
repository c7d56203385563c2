//! What Azure's API says of machines.

use super::*;

/// Attests with the agent's word that the machine is in the scale set `set`.
async fn in_set(cloud: &Cloud, set: &str) -> Result<(String, Vec<String>), (Code, String)> {
    cloud
        .attest_with(|_, mut payload| {
            payload.metadata.scale_set = Some(set.to_owned());
            payload
        })
        .await
}

const INSTANCES: &str = "GET https://management.azure.com/subscriptions/SUBSCRIPTIONID\
                         /resourceGroups/RESOURCEGROUP/providers/Microsoft.Compute\
                         /virtualMachineScaleSets/myvmss/virtualMachines?api-version=2025-04-01";

fn selectors(more: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = SELECTORS.iter().chain(more).map(|it| (*it).to_owned()).collect();
    all.sort();
    all
}

#[tokio::test]
async fn tags_that_are_allowed_and_interfaces_become_selectors() {
    let mut cloud = Cloud::new();
    cloud.settings =
        r#"tenants = { "example.com" = { allowed_vm_tags = ["env", "team"] } }"#.into();
    let mut record = machine();
    record["tags"] = json!({ "env": "prod", "team": "alpha", "extra": "no", "odd": 7 });
    record["securityGroup"] = json!({ "resourceGroup": "g", "name": "nsg" });
    record["subnets"] = json!([{ "vnet": "net", "name": "a" }, { "vnet": "net", "name": "b" }]);
    cloud.has(&record);
    let expected = selectors(&[
        "network-security-group:g:nsg",
        "virtual-network-subnet:net:a",
        "virtual-network-subnet:net:b",
        "virtual-network:net",
        "vm-tag:env:prod",
        "vm-tag:team:alpha",
    ]);
    assert_eq!(cloud.attest().await.unwrap().1, expected);
    let asked = cloud.recorded.asked();
    let queries: Vec<Value> = asked
        .iter()
        .filter(|it| it.url.contains("ResourceGraph"))
        .map(|it| serde_json::from_slice(&it.body).unwrap())
        .collect();
    let [machine, interfaces] = &queries[..] else { panic!("{queries:?}") };
    for query in [machine, interfaces] {
        assert_eq!(query["subscriptions"], json!([SUBSCRIPTION]));
        assert_eq!(query["options"]["resultFormat"], "objectArray");
    }
    let text = machine["query"].as_str().unwrap();
    assert!(text.contains(&format!("properties.vmId == '{VM}'")), "{text}");
    let text = interfaces["query"].as_str().unwrap();
    assert!(text.contains("tolower('/subscriptions/S/resourceGroups/G/"), "{text}");
}

#[tokio::test]
async fn a_machine_that_azure_does_not_show_is_refused() {
    let cloud = Cloud::new();
    let refusal = async |answer: Value| {
        cloud.recorded.on(GRAPH, 200, answer.to_string());
        cloud.attest().await.unwrap_err()
    };
    let none = (Code::NotFound, "resource not found".to_owned());
    assert_eq!(refusal(json!({ "totalRecords": 0, "data": [] })).await, none);
    assert_eq!(refusal(json!({})).await, none);
    assert_eq!(refusal(json!({ "totalRecords": 1, "data": [] })).await, none);
    let (code, text) = refusal(json!({ "totalRecords": 2, "data": [machine(), machine()] })).await;
    assert_eq!((code, &*text), (Code::Internal, "expected one result for resource at most"));
    let (code, text) = refusal(json!({ "totalRecords": 1, "data": {} })).await;
    assert_eq!((code, &*text), (Code::Unknown, "unable to cast data to []any"));
    let (code, text) = refusal(json!({ "totalRecords": 1, "data": [7] })).await;
    assert_eq!((code, &*text), (Code::Unknown, "unable to cast item to map[string]any"));
    let mut odd = machine();
    odd["id"] = "a') | union (resources".into();
    let (code, text) = refusal(json!({ "totalRecords": 1, "data": [odd] })).await;
    assert_eq!(code, Code::Internal);
    assert!(text.starts_with("malformed virtual machine ID "), "{text}");
    cloud.recorded.on(GRAPH, 403, r#"{"error":{"code":"AuthorizationFailed","message":"no"}}"#);
    let (code, text) = cloud.attest().await.unwrap_err();
    assert_eq!(code, Code::Internal);
    let expected = "unable to get virtual machine: RESPONSE 403 Forbidden: ERROR CODE: \
                    AuthorizationFailed: no";
    assert_eq!(text, expected);
    cloud.recorded.on(IMDS_TOKEN, 400, "no identity");
    let (code, text) = cloud.attest().await.unwrap_err();
    assert_eq!(code, Code::Internal);
    assert!(text.contains("unable to get a token for Azure's API"), "{text}");
}

#[tokio::test]
async fn a_machine_of_a_scale_set_is_found_there() {
    let cloud = Cloud::new();
    let network = "/subscriptions/S/resourceGroups/G/providers/Microsoft.Network";
    let nsg = json!({ "id": format!("{network}/networkSecurityGroups/nsg") });
    let subnet = json!({ "id": format!("{network}/virtualNetworks/vnet-1/subnets/subnet-1") });
    let ips = json!([null, {}, { "properties": {} }, { "properties": { "subnet": subnet } }]);
    let bad = json!([{ "properties": { "subnet": { "id": "MALFORMED" } } }]);
    let instance = json!({
        "id": "ID", "name": "VIRTUALMACHINE", "location": "westus", "tags": { "a": "b" },
        "properties": {
            "vmId": VM,
            "networkProfileConfiguration": { "networkInterfaceConfigurations": [
                { "name": "one", "properties": {
                    "networkSecurityGroup": nsg, "ipConfigurations": ips } },
                { "name": "broken", "properties": { "ipConfigurations": bad } },
                { "properties": { "networkSecurityGroup": nsg } },
                { "name": "bare" },
                null,
            ] },
        },
    });
    let other = json!({ "properties": { "vmId": "550e8400-0000-41d4-a716-446655440000" } });
    let next = "https://management.azure.com/next";
    let first = json!({ "value": [other, {}, null], "nextLink": next }).to_string();
    cloud.recorded.on(INSTANCES, 200, first);
    let second = |instance: &Value| json!({ "value": [instance] }).to_string();
    cloud.recorded.on(&format!("GET {next}"), 200, second(&instance));
    let expected = selectors(&[
        "network-security-group:G:nsg",
        "virtual-network-subnet:vnet-1:subnet-1",
        "virtual-network:vnet-1",
        "vmss-name:myvmss",
    ]);
    assert_eq!(in_set(&cloud, "myvmss").await.unwrap().1, expected);
    for missing in ["id", "name", "location"] {
        let mut instance = instance.clone();
        instance[missing] = Value::Null;
        cloud.recorded.on(&format!("GET {next}"), 200, second(&instance));
        let (code, text) = in_set(&cloud, "myvmss").await.unwrap_err();
        let what = missing.replace("id", "ID");
        assert_eq!((code, text), (Code::Internal, format!("vmss instance {what} is nil")));
    }
    cloud.recorded.on(&format!("GET {next}"), 200, r#"{"value":[]}"#);
    let refused = in_set(&cloud, "myvmss").await.unwrap_err();
    assert_eq!(refused, (Code::Internal, format!("VMSS instance \"{VM}\" not found")));
}

#[tokio::test]
async fn a_scale_sets_name_is_nothing_else_than_a_name() {
    let cloud = Cloud::new();
    for name in ["", "a' or '1' == '1", "x\ny", "-a", &"a".repeat(65)] {
        let (code, text) = in_set(&cloud, name).await.unwrap_err();
        assert_eq!(code, Code::InvalidArgument);
        assert!(text.starts_with("invalid VMSS name: VMSS name "), "{text}");
    }
    assert_eq!(cloud.recorded.count("management.azure.com/providers"), 0);
}

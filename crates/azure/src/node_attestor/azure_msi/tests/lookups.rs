//! What Azure's API says of machines.

use super::*;

const NETWORK: &str = "/subscriptions/S/resourceGroups/RESOURCEGROUP/providers/Microsoft.Network";

fn with_interfaces(interfaces: &Value) -> Value {
    json!({ "properties": { "networkProfile": { "networkInterfaces": interfaces } } })
}

#[tokio::test]
async fn interfaces_become_selectors() {
    let cloud = Cloud::new();
    let id = format!("{NETWORK}/networkInterfaces/NETWORKINTERFACE");
    for machine in [
        json!({}),
        json!({ "properties": { "networkProfile": null } }),
        with_interfaces(&Value::Null),
        with_interfaces(&json!([])),
        with_interfaces(&json!([{}, null])),
    ] {
        cloud.machine(&machine);
        assert_eq!(cloud.attest().await.unwrap().1, SELECTORS, "{machine}");
    }
    cloud.machine(&with_interfaces(&json!([{ "id": id }, { "id": id }])));
    let ip = |subnet: Value| {
        json!({ "properties": { "ipConfigurations": [{}, { "properties": {} },
                                     { "properties": { "subnet": subnet } }] } })
    };
    for interface in [json!({}), json!({ "properties": {} }), ip(Value::Null), ip(json!({}))] {
        cloud.recorded.on(INTERFACE, 200, interface.to_string());
        assert_eq!(cloud.attest().await.unwrap().1, SELECTORS, "{interface}");
    }
    let mut interface = ip(json!({ "id": format!("{NETWORK}/virtualNetworks/NET/subnets/SUB") }));
    interface["properties"]["networkSecurityGroup"] =
        json!({ "id": format!("{NETWORK}/networkSecurityGroups/NSG") });
    cloud.recorded.on(INTERFACE, 200, interface.to_string());
    let mut expected = SELECTORS.map(str::to_owned).to_vec();
    expected.extend([
        "network-security-group:RESOURCEGROUP:NSG".to_owned(),
        "virtual-network-subnet:RESOURCEGROUP:NET:SUB".to_owned(),
        "virtual-network:RESOURCEGROUP:NET".to_owned(),
    ]);
    expected.sort();
    assert_eq!(cloud.attest().await.unwrap().1, expected);
}

#[tokio::test]
async fn ids_that_are_none_are_told_as_spire_tells_them() {
    let cloud = Cloud::new();
    let refusal = async || {
        let (code, text) = cloud.attest().await.unwrap_err();
        assert_eq!(code, Code::Internal);
        text
    };
    cloud.machine(&with_interfaces(&json!([{ "id": "MALFORMEDRESOURCEID" }])));
    assert_eq!(refusal().await, "malformed network interface ID \"MALFORMEDRESOURCEID\"");
    let id = format!("{NETWORK}/networkInterfaces/NETWORKINTERFACE");
    cloud.machine(&with_interfaces(&json!([{ "id": id }])));
    let text = refusal().await;
    let expected = "unable to get network interface \"RESOURCEGROUP:NETWORKINTERFACE\": rpc error: \
                    code = Internal desc = unable to get network interface: ";
    assert!(text.starts_with(expected), "{text}");
    let bad = json!({ "id": "MALFORMEDRESOURCEID" });
    let nsg = json!({ "properties": { "networkSecurityGroup": bad } });
    cloud.recorded.on(INTERFACE, 200, nsg.to_string());
    assert_eq!(refusal().await, "malformed network security group ID \"MALFORMEDRESOURCEID\"");
    let ips = json!([{ "properties": { "subnet": bad } }]);
    let subnet = json!({ "properties": { "ipConfigurations": ips } });
    cloud.recorded.on(INTERFACE, 200, subnet.to_string());
    assert_eq!(refusal().await, "malformed virtual network subnet ID \"MALFORMEDRESOURCEID\"");
    let dots = id.replace("NETWORKINTERFACE", "..");
    cloud.machine(&with_interfaces(&json!([{ "id": dots }])));
    assert!(refusal().await.ends_with("a name of the resource is none"));
    cloud.machine(&with_interfaces(&json!(vec![json!({ "id": id }); 65])));
    assert_eq!(refusal().await, "virtual machine has over 64 interfaces");
    cloud.recorded.on(MACHINE, 404, "{}");
    let text = refusal().await;
    let expected = "unable to get virtual machine \"RESOURCEGROUP:VIRTUALMACHINE\": rpc error: \
                    code = Internal desc = unable to get virtual machine: RESPONSE 404";
    assert!(text.starts_with(expected), "{text}");
}

#[tokio::test]
async fn the_identity_belongs_to_one_machine() {
    let cloud = Cloud::new();
    let refusal = async |body: Value| {
        cloud.recorded.on(LIST, 200, body.to_string());
        let (code, text) = cloud.attest().await.unwrap_err();
        assert_eq!(code, Code::Internal);
        text
    };
    let unable = "unable to get resource for principal \"PRINCIPALID\": rpc error: code = Internal \
                  desc = ";
    let none = format!("{unable}principal \"PRINCIPALID\" not found");
    assert_eq!(refusal(json!({})).await, none);
    assert_eq!(refusal(json!({ "value": [] })).await, none);
    let several = format!("{unable}expected one result for principal \"PRINCIPALID\" at most");
    assert_eq!(refusal(json!({ "value": [{ "id": "a" }, { "id": "b" }] })).await, several);
    let unnamed = format!("{unable}virtual machine resource missing ID");
    assert_eq!(refusal(json!({ "value": [{}] })).await, unnamed);
    let malformed = "malformed virtual machine ID \"MALFORMEDRESOURCEID\"";
    assert_eq!(refusal(json!({ "value": [{ "id": "MALFORMEDRESOURCEID" }] })).await, malformed);
    cloud.recorded.on(TOKEN, 401, "{}");
    let text = refusal(json!({})).await;
    assert!(text.contains("unable to list virtual machine by principal: "), "{text}");
}

#[tokio::test]
async fn a_principal_does_not_leave_its_quotes() {
    let mut cloud = Cloud::new();
    cloud.settings += "\nagent_path_template = \"/x\"";
    cloud.attest_with(json!({ "sub": "x' or 'a' eq 'a" })).await.unwrap_err();
    let asked = cloud.recorded.asked();
    let url = &asked.last().unwrap().url;
    assert!(url.contains("eq%20%27x%27%27%20or%20%27%27a%27%27%20eq%20%27%27a%27&"), "{url}");
}

#[tokio::test]
async fn without_an_application_the_servers_own_subscription_is_searched() {
    let mut cloud = Cloud::new();
    cloud.settings =
        r#"tenants = { "TENANTID" = { resource_id = "https://example.org/app/" } }"#.to_owned();
    let text = "no complete answer within 10s".to_owned();
    assert_eq!(cloud.attest().await.unwrap_err(), (Code::Internal, text));
    let url = "GET http://169.254.169.254/metadata/instance?api-version=2025-04-07&format=json";
    let compute =
        json!({ "name": "N", "subscriptionId": "SUBSCRIPTIONID", "resourceGroupName": "G" });
    cloud.recorded.on(url, 200, json!({ "compute": compute }).to_string());
    let url = "GET http://169.254.169.254/metadata/identity/oauth2/token\
               ?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com";
    cloud.recorded.on(url, 200, r#"{"access_token":"t","expires_in":"3600"}"#);
    assert_eq!(cloud.attest().await.unwrap().1, SELECTORS);
    assert_eq!(cloud.recorded.count("login.microsoftonline.com/TENANTID"), 0);
}

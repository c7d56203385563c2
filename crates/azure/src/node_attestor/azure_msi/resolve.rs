//! What Azure knows of the machine that an identity belongs to.

use std::collections::BTreeSet;

use serde::Deserialize;
use steeple_plugin::{Code, PluginError};

use super::error;
use crate::arm::Arm;
use crate::node_attestor::network::{InterfaceProperties, Reference};
use crate::resource;
use crate::web::{CloudError, encode, encode_segment, quoted};

/// More interfaces than any machine has.
const MAX_INTERFACES: usize = 64;

#[derive(Deserialize)]
struct VirtualMachine {
    properties: Option<VirtualMachineProperties>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct VirtualMachineProperties {
    network_profile: Option<NetworkProfile>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct NetworkProfile {
    network_interfaces: Option<Vec<Option<Reference>>>,
}

#[derive(Deserialize)]
struct Interface {
    properties: Option<InterfaceProperties>,
}

fn internal(text: impl AsRef<str>) -> PluginError {
    error(Code::Internal, text)
}

/// As SPIRE shows an error of its client for Azure, inside of another.
fn nested(text: impl std::fmt::Display) -> String {
    format!("rpc error: code = Internal desc = {text}")
}

/// The values of the selectors of the machine whose managed identity is `principal`, sorted.
pub(super) async fn selectors(
    arm: &Arm,
    subscription: &str,
    principal: &str,
) -> Result<Vec<String>, PluginError> {
    let id = machine_of(arm, subscription, principal).await.map_err(|why| {
        let principal = quoted(principal);
        internal(format!("unable to get resource for principal {principal}: {}", nested(why)))
    })?;
    let (group, name) = resource::virtual_machine(&id)
        .ok_or_else(|| internal(format!("malformed virtual machine ID {}", quoted(&id))))?;
    let mut values = BTreeSet::from([
        format!("subscription-id:{subscription}"),
        format!("vm-name:{group}:{name}"),
    ]);
    let url = path(subscription, group, "Microsoft.Compute/virtualMachines", name, "2025-04-01");
    let machine: VirtualMachine = fetch(arm, url).await.map_err(|why| {
        let which = quoted(&format!("{group}:{name}"));
        let why = nested(format!("unable to get virtual machine: {why}"));
        internal(format!("unable to get virtual machine {which}: {why}"))
    })?;
    let profile = machine.properties.and_then(|it| it.network_profile).unwrap_or_default();
    let interfaces = profile.network_interfaces.unwrap_or_default();
    if interfaces.len() > MAX_INTERFACES {
        return Err(internal(format!("virtual machine has over {MAX_INTERFACES} interfaces")));
    }
    for id in interfaces.into_iter().flatten().filter_map(|it| it.id) {
        let (group, name) = resource::network_interface(&id)
            .ok_or_else(|| internal(format!("malformed network interface ID {}", quoted(&id))))?;
        let kind = "Microsoft.Network/networkInterfaces";
        let url = path(subscription, group, kind, name, "2025-05-01");
        let interface: Interface = fetch(arm, url).await.map_err(|why| {
            let which = quoted(&format!("{group}:{name}"));
            let why = nested(format!("unable to get network interface: {why}"));
            internal(format!("unable to get network interface {which}: {why}"))
        })?;
        add_interface(&mut values, &interface.properties.unwrap_or_default())?;
    }
    Ok(values.into_iter().collect())
}

fn add_interface(
    values: &mut BTreeSet<String>,
    interface: &InterfaceProperties,
) -> Result<(), PluginError> {
    if let Some(id) = interface.security_group() {
        let (group, name) = resource::network_security_group(id).ok_or_else(|| {
            internal(format!("malformed network security group ID {}", quoted(id)))
        })?;
        values.insert(format!("network-security-group:{group}:{name}"));
    }
    for id in interface.subnets() {
        let (group, network, subnet) = resource::subnet(id).ok_or_else(|| {
            internal(format!("malformed virtual network subnet ID {}", quoted(id)))
        })?;
        values.insert(format!("virtual-network:{group}:{network}"));
        values.insert(format!("virtual-network-subnet:{group}:{network}:{subnet}"));
    }
    Ok(())
}

/// The resource ID of the only machine with the identity `principal`.
async fn machine_of(arm: &Arm, subscription: &str, principal: &str) -> Result<String, CloudError> {
    // A quote in a string is doubled in OData.
    let filter = format!(
        "resourceType eq 'Microsoft.Compute/virtualMachines' and identity/principalId eq '{}'",
        principal.replace('\'', "''")
    );
    let subscription = encode_segment(subscription).ok_or_else(no_name)?;
    let filter = encode(&filter);
    let path = format!(
        "/subscriptions/{subscription}/resources?%24filter={filter}&api-version=2025-04-01"
    );
    let mut found: Vec<Reference> = Vec::new();
    let each = |item: Reference| {
        found.push(item);
        Ok(found.len() > 1)
    };
    arm.list(&path, each).await.map_err(|why| {
        CloudError::answer(format!("unable to list virtual machine by principal: {why}"))
    })?;
    let principal = quoted(principal);
    match <[Reference; 1]>::try_from(found) {
        Ok([Reference { id }]) => match id.filter(|id| !id.is_empty()) {
            Some(id) => Ok(id),
            None => Err(CloudError::answer("virtual machine resource missing ID")),
        },
        Err(none) if none.is_empty() => {
            Err(CloudError::answer(format!("principal {principal} not found")))
        }
        Err(_) => Err(CloudError::answer(format!(
            "expected one result for principal {principal} at most"
        ))),
    }
}

fn no_name() -> CloudError {
    CloudError::answer("a name of the resource is none")
}

/// Where a resource is found.
fn path(
    subscription: &str,
    group: &str,
    kind: &str,
    name: &str,
    version: &str,
) -> Result<String, CloudError> {
    let segment = |text: &str| encode_segment(text).ok_or_else(no_name);
    let (subscription, group, name) = (segment(subscription)?, segment(group)?, segment(name)?);
    Ok(format!(
        "/subscriptions/{subscription}/resourceGroups/{group}/providers/{kind}/{name}\
         ?api-version={version}"
    ))
}

async fn fetch<T: serde::de::DeserializeOwned>(
    arm: &Arm,
    path: Result<String, CloudError>,
) -> Result<T, CloudError> {
    arm.get(&path?).await
}

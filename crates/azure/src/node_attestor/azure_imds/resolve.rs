//! What Azure knows of a machine.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;
use steeple_plugin::{Code, PluginError};

use super::config::Tenant;
use super::{error, scale_set};
use crate::arm::{Arm, GraphAnswer};
use crate::metadata::nullable;
use crate::web::quoted;

/// A machine, as far as selectors tell of it.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Machine {
    #[serde(deserialize_with = "nullable")]
    pub(super) id: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) name: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) location: String,
    pub(super) tags: Option<BTreeMap<String, Value>>,
    #[serde(deserialize_with = "nullable")]
    pub(super) resource_group: String,
    #[serde(skip)]
    pub(super) interfaces: Vec<Interface>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Interface {
    pub(super) security_group: Option<SecurityGroup>,
    pub(super) subnets: Option<Vec<Subnet>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SecurityGroup {
    #[serde(deserialize_with = "nullable")]
    pub(super) resource_group: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Subnet {
    #[serde(deserialize_with = "nullable")]
    pub(super) vnet: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) name: String,
}

fn internal(text: impl AsRef<str>) -> PluginError {
    error(Code::Internal, text)
}

/// The values of the selectors of the machine `id`, sorted. `scale_set` is the agent's own word,
/// and is believed once the machine was found there.
pub(super) async fn selectors(
    arm: &Arm,
    allowed_tags: &BTreeSet<String>,
    subscription: &str,
    id: &str,
    scale_set: Option<&str>,
) -> Result<Vec<String>, PluginError> {
    let mut values = BTreeSet::from([format!("subscription-id:{subscription}")]);
    let machine = match scale_set {
        Some(set) => {
            values.insert(format!("vmss-name:{set}"));
            scale_set::instance(arm, subscription, set, id).await?
        }
        None => machine(arm, subscription, id).await?,
    };
    values.insert(format!("vm-name:{}", machine.name));
    values.insert(format!("vm-location:{}", machine.location));
    values.insert(format!("resource-group:{}", machine.resource_group));
    for (tag, value) in machine.tags.iter().flatten() {
        if let (true, Value::String(value)) = (allowed_tags.contains(tag), value) {
            values.insert(format!("vm-tag:{tag}:{value}"));
        }
    }
    for interface in &machine.interfaces {
        if let Some(SecurityGroup { resource_group: group, name }) = &interface.security_group
            && !(group.is_empty() && name.is_empty())
        {
            values.insert(format!("network-security-group:{group}:{name}"));
        }
        for Subnet { vnet, name } in interface.subnets.iter().flatten() {
            values.insert(format!("virtual-network:{vnet}"));
            values.insert(format!("virtual-network-subnet:{vnet}:{name}"));
        }
    }
    Ok(values.into_iter().collect())
}

/// The machine with this ID, which is a UUID, and its interfaces.
async fn machine(arm: &Arm, subscription: &str, id: &str) -> Result<Machine, PluginError> {
    let query = format!(
        "resources | where type =~ 'microsoft.compute/virtualmachines' \
         | where properties.vmId == '{id}' \
         | project id, name, location, tags, vmId = properties.vmId, resourceGroup"
    );
    let answer = arm.query(subscription, &query).await;
    let answer = answer.map_err(|why| internal(format!("unable to get virtual machine: {why}")))?;
    let mut machine: Machine = one(answer)?;
    machine.interfaces = interfaces(arm, subscription, &machine.id).await?;
    Ok(machine)
}

/// The interfaces of the machine with this resource ID. Azure keeps the case of IDs in some places
/// and changes it in others.
async fn interfaces(
    arm: &Arm,
    subscription: &str,
    machine: &str,
) -> Result<Vec<Interface>, PluginError> {
    if machine.contains(['\'', '\\']) || machine.contains(char::is_control) {
        return Err(internal(format!("malformed virtual machine ID {}", quoted(machine))));
    }
    let query = format!(
        "resources | where type =~ 'microsoft.network/networkinterfaces' \
         | where tolower(tostring(properties.virtualMachine.id)) == tolower('{machine}') \
         | extend nsg = tostring(properties.networkSecurityGroup.id) \
         | mv-expand ip = properties.ipConfigurations \
         | extend subnet = tostring(ip.properties.subnet.id) \
         | summarize subnets = make_list(bag_pack(\
             'vnet', extract('virtualNetworks/([^/]+)', 1, subnet), \
             'name', extract('subnets/([^/]+)$', 1, subnet))) by id, name, resourceGroup, nsg \
         | project name, resourceGroup, subnets, securityGroup = bag_pack(\
             'resourceGroup', extract('resourceGroups/([^/]+)', 1, nsg), \
             'name', extract('networkSecurityGroups/([^/]+)', 1, nsg))"
    );
    let answer = arm.query(subscription, &query).await;
    let answer =
        answer.map_err(|why| internal(format!("unable to get network interfaces: {why}")))?;
    records(answer)
}

/// The records of an answer; there is at least one.
pub(super) fn records<T: serde::de::DeserializeOwned>(
    answer: GraphAnswer,
) -> Result<Vec<T>, PluginError> {
    if answer.total_records.unwrap_or_default() == 0 {
        return Err(error(Code::NotFound, "resource not found"));
    }
    let Value::Array(records) = answer.data else {
        return Err(error(Code::Unknown, "unable to cast data to []any"));
    };
    let record = |value: Value| match value {
        Value::Object(_) => serde_json::from_value(value)
            .map_err(|_| error(Code::Unknown, "unable to unmarshal item")),
        _ => Err(error(Code::Unknown, "unable to cast item to map[string]any")),
    };
    records.into_iter().map(record).collect()
}

/// The only record of an answer.
pub(super) fn one<T: serde::de::DeserializeOwned>(answer: GraphAnswer) -> Result<T, PluginError> {
    let mut records = records(answer)?;
    match (records.pop(), records.is_empty()) {
        (Some(record), true) => Ok(record),
        (Some(_), false) => Err(internal("expected one result for resource at most")),
        (None, _) => Err(error(Code::NotFound, "resource not found")),
    }
}

impl Tenant {
    /// Whether machines of this subscription may attest.
    pub(super) fn allows(&self, subscription: &str) -> bool {
        self.subscriptions.is_empty() || self.subscriptions.contains(subscription)
    }
}

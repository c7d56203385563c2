//! Machines of a scale set, which Azure's resource graph does not show where the set is a uniform
//! one.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use steeple_plugin::{Code, PluginError};

use super::error;
use super::resolve::{Interface, Machine, SecurityGroup, Subnet, one};
use crate::arm::Arm;
use crate::metadata::nullable;
use crate::node_attestor::network::InterfaceProperties;
use crate::resource;
use crate::web::{encode_segment, quoted};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScaleSet {
    #[serde(default, deserialize_with = "nullable")]
    resource_group: String,
}

#[derive(Deserialize)]
struct Instance {
    id: Option<String>,
    name: Option<String>,
    location: Option<String>,
    tags: Option<BTreeMap<String, Value>>,
    properties: Option<InstanceProperties>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InstanceProperties {
    vm_id: Option<String>,
    network_profile_configuration: Option<NetworkProfile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NetworkProfile {
    network_interface_configurations: Option<Vec<Option<InterfaceConfiguration>>>,
}

#[derive(Deserialize)]
struct InterfaceConfiguration {
    name: Option<String>,
    properties: Option<InterfaceProperties>,
}

fn internal(text: impl AsRef<str>) -> PluginError {
    error(Code::Internal, text)
}

/// The machine with the ID `machine` in the scale set `set`.
pub(super) async fn instance(
    arm: &Arm,
    subscription: &str,
    set: &str,
    machine: &str,
) -> Result<Machine, PluginError> {
    check_name(set)
        .map_err(|why| error(Code::InvalidArgument, format!("invalid VMSS name: {why}")))?;
    let query = format!(
        "resources | where type =~ 'microsoft.compute/virtualmachinescalesets' \
         | where name == '{set}' \
         | project id, name, location, resourceGroup, subscriptionId"
    );
    let answer = arm.query(subscription, &query).await;
    let answer = answer.map_err(|why| internal(format!("unable to get VMSS info: {why}")))?;
    let group = one::<ScaleSet>(answer)?.resource_group;
    let unlisted =
        |why: &dyn std::fmt::Display| internal(format!("unable to list VMSS instances: {why}"));
    let segment = |text: &str| {
        encode_segment(text).ok_or_else(|| unlisted(&"a name of the resource is none"))
    };
    let path = format!(
        "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.Compute/virtualMachineScaleSets\
         /{}/virtualMachines?api-version=2025-04-01",
        segment(subscription)?,
        segment(&group)?,
        segment(set)?
    );
    let mut found = None;
    let each = |instance: Option<Instance>| {
        let id = |it: &Instance| it.properties.as_ref()?.vm_id.clone();
        found = instance.filter(|it| id(it).as_deref() == Some(machine));
        Ok(found.is_some())
    };
    arm.list(&path, each).await.map_err(|why| unlisted(&why))?;
    match found {
        Some(instance) => instance.into_machine(group),
        None => Err(internal(format!("VMSS instance {} not found", quoted(machine)))),
    }
}

impl Instance {
    fn into_machine(self, resource_group: String) -> Result<Machine, PluginError> {
        let given = |value: Option<String>, what: &str| {
            value.ok_or_else(|| internal(format!("vmss instance {what} is nil")))
        };
        let profile = self.properties.and_then(|it| it.network_profile_configuration);
        let interfaces = profile.and_then(|it| it.network_interface_configurations);
        Ok(Machine {
            id: given(self.id, "ID")?,
            name: given(self.name, "name")?,
            location: given(self.location, "location")?,
            tags: self.tags,
            resource_group,
            // One that cannot be read is passed over, as SPIRE does.
            interfaces: interfaces.into_iter().flatten().flatten().filter_map(interface).collect(),
        })
    }
}

fn interface(configuration: InterfaceConfiguration) -> Option<Interface> {
    configuration.name?;
    let properties = configuration.properties.unwrap_or_default();
    let security_group = match properties.security_group() {
        None => None,
        Some(id) => {
            let (group, name) = resource::network_security_group(id)?;
            Some(SecurityGroup { resource_group: group.to_owned(), name: name.to_owned() })
        }
    };
    let subnets = properties.subnets().map(|id| {
        let (_, network, subnet) = resource::subnet(id)?;
        Some(Subnet { vnet: network.to_owned(), name: subnet.to_owned() })
    });
    let subnets = Some(subnets.collect::<Option<Vec<_>>>()?);
    Some(Interface { security_group, subnets })
}

/// What Azure allows as a scale set's name. It goes into a query, so that nothing else may.
fn check_name(name: &str) -> Result<(), String> {
    const MAX_LEN: usize = 64;
    if name.is_empty() {
        return Err("VMSS name must be at least 1 character(s) long, got 0".into());
    }
    if name.len() > MAX_LEN {
        let len = name.len();
        return Err(format!("VMSS name must be at most {MAX_LEN} characters long, got {len}"));
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
        return Err("VMSS name can only contain alphanumeric characters, underscores, periods, \
                    and hyphens"
            .into());
    }
    let (first, last) = (name.as_bytes()[0], name.as_bytes()[name.len() - 1]);
    if !first.is_ascii_alphanumeric() {
        return Err("VMSS name must start with an alphanumeric character".into());
    }
    if !(last.is_ascii_alphanumeric() || last == b'_') {
        return Err("VMSS name must end with an alphanumeric character or an underscore".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn names_are_what_azure_allows() {
        for good in ["a", "my-set_1.x", "a_", &"a".repeat(64)] {
            check_name(good).unwrap();
        }
        for (bad, why) in [
            ("", "at least 1"),
            (&*"a".repeat(65), "at most 64 characters long, got 65"),
            ("a' or '1' == '1", "can only contain"),
            ("ä", "can only contain"),
            ("_a", "must start"),
            ("a-", "must end"),
            ("a.", "must end"),
        ] {
            assert!(check_name(bad).unwrap_err().contains(why), "{bad}");
        }
    }
}

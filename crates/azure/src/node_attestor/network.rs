//! The network interfaces of a machine, as Azure's compute and network APIs show them.

use serde::Deserialize;

/// Something that is named by its resource ID.
#[derive(Deserialize, Default)]
pub(crate) struct Reference {
    pub(crate) id: Option<String>,
}

/// What an interface is connected with: its own properties, or those that it gets in a scale set.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InterfaceProperties {
    pub(crate) network_security_group: Option<Reference>,
    pub(crate) ip_configurations: Option<Vec<Option<IpConfiguration>>>,
}

#[derive(Deserialize, Default)]
pub(crate) struct IpConfiguration {
    properties: Option<IpProperties>,
}

#[derive(Deserialize, Default)]
struct IpProperties {
    subnet: Option<Reference>,
}

impl InterfaceProperties {
    /// The resource ID of its security group.
    pub(crate) fn security_group(&self) -> Option<&str> {
        self.network_security_group.as_ref()?.id.as_deref()
    }

    /// The resource IDs of the subnets that it is in.
    pub(crate) fn subnets(&self) -> impl Iterator<Item = &str> {
        let configurations = self.ip_configurations.iter().flatten().flatten();
        configurations.filter_map(|it| it.properties.as_ref()?.subnet.as_ref()?.id.as_deref())
    }
}

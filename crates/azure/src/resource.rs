//! The resource IDs of Azure's API, taken apart.

/// The resource group and the names in an ID, which is
/// `/subscriptions/…/resourceGroups/<group>/providers/<provider>/<kind>/<name>`, with as many
/// further kinds and names as `kinds` has.
fn parts<'a, const N: usize>(
    id: &'a str,
    provider: &str,
    kinds: [&str; N],
) -> Option<(&'a str, [&'a str; N])> {
    let mut segments = id.split('/');
    if segments.next() != Some("") {
        return None;
    }
    let mut named = |kind: &str| {
        let found = segments.next() == Some(kind);
        segments.next().filter(|name| found && !name.is_empty())
    };
    let (_subscription, group) = (named("subscriptions")?, named("resourceGroups")?);
    if segments.next() != Some("providers") || segments.next() != Some(provider) {
        return None;
    }
    let mut names = [""; N];
    for (kind, slot) in kinds.iter().zip(&mut names) {
        let found = segments.next() == Some(kind);
        *slot = segments.next().filter(|name| found && !name.is_empty())?;
    }
    segments.next().is_none().then_some((group, names))
}

/// Resource group and name of a virtual machine.
pub(crate) fn virtual_machine(id: &str) -> Option<(&str, &str)> {
    parts(id, "Microsoft.Compute", ["virtualMachines"]).map(|(group, [name])| (group, name))
}

/// Resource group and name of a network interface.
pub(crate) fn network_interface(id: &str) -> Option<(&str, &str)> {
    parts(id, "Microsoft.Network", ["networkInterfaces"]).map(|(group, [name])| (group, name))
}

/// Resource group and name of a network security group.
pub(crate) fn network_security_group(id: &str) -> Option<(&str, &str)> {
    parts(id, "Microsoft.Network", ["networkSecurityGroups"]).map(|(group, [name])| (group, name))
}

/// Resource group of a virtual network, its name, and the name of a subnet of it.
pub(crate) fn subnet(id: &str) -> Option<(&str, &str, &str)> {
    parts(id, "Microsoft.Network", ["virtualNetworks", "subnets"])
        .map(|(group, [network, subnet])| (group, network, subnet))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_apart_and_nothing_near_them() {
        let vm = "/subscriptions/S/resourceGroups/G/providers/Microsoft.Compute/virtualMachines/V";
        assert_eq!(virtual_machine(vm), Some(("G", "V")));
        for bad in [
            "MALFORMEDRESOURCEID",
            "",
            &vm[1..],
            &vm.replace("/S/", "//"),
            &vm.replace("/G/", "//"),
            &vm.replace("/V", "/"),
            &format!("{vm}/x"),
            &format!("/x{vm}"),
            &vm.replace("resourceGroups", "resourcegroups"),
            &vm.replace("virtualMachines", "networkInterfaces"),
        ] {
            assert_eq!(virtual_machine(bad), None, "{bad}");
        }
        let nic = vm.replace("Compute/virtualMachines", "Network/networkInterfaces");
        assert_eq!(network_interface(&nic), Some(("G", "V")));
        let nsg = nic.replace("networkInterfaces", "networkSecurityGroups");
        assert_eq!(network_security_group(&nsg), Some(("G", "V")));
        let net = nic.replace("networkInterfaces/V", "virtualNetworks/N/subnets/U");
        assert_eq!(subnet(&net), Some(("G", "N", "U")));
        assert_eq!(subnet(&nic), None);
    }
}

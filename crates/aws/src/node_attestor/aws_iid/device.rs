//! The check that the root volume was not exchanged: it was attached when the instance was made,
//! as its first network interface was.

use crate::api::ec2::Instance;

/// How far apart the two may have been attached, in seconds.
const MAX_APART: u64 = 60;

/// Why an instance does not look untouched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Tampered {
    #[error("the EC2 instance network interface with device index 0 is inaccessible")]
    NoInterface,
    #[error("failed to locate the root device block mapping with name {0:?}")]
    NoRoot(String),
    #[error("the time at which {0} was attached is not known")]
    NoTime(&'static str),
    #[error(
        "failed checking the disparity device attach times, root BlockDeviceMapping and \
         NetworkInterface[0] attach times differ by {0} seconds"
    )]
    Apart(u64),
}

pub(super) fn check(instance: &Instance) -> Result<(), Tampered> {
    let interface =
        instance.interfaces.iter().find(|it| it.index == Some(0)).ok_or(Tampered::NoInterface)?;
    // What lives in the instance store cannot be detached.
    if instance.root_device_type == "instance-store" {
        return Ok(());
    }
    let name = instance.root_device_name.clone().unwrap_or_default();
    let root = instance.devices.iter().find(|it| it.name == name).ok_or(Tampered::NoRoot(name))?;
    let root = root.attached.ok_or(Tampered::NoTime("the root device"))?;
    let interface = interface.attached.ok_or(Tampered::NoTime("the network interface"))?;
    let apart = root.abs_diff(interface);
    if apart > MAX_APART { Err(Tampered::Apart(apart)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ec2::{Device, Interface};

    fn instance(root: Option<i64>, interface: Option<i64>) -> Instance {
        Instance {
            root_device_type: "ebs".into(),
            root_device_name: Some("root".into()),
            devices: vec![
                Device { name: "other".into(), attached: Some(9999) },
                Device { name: "root".into(), attached: root },
            ],
            interfaces: vec![
                Interface { index: Some(1), attached: Some(9999) },
                Interface { index: Some(0), attached: interface },
            ],
            ..Instance::default()
        }
    }

    #[test]
    fn what_was_attached_together_is_untouched() {
        for (root, interface) in [(0, 0), (60, 0), (0, 60)] {
            assert_eq!(check(&instance(Some(root), Some(interface))), Ok(()));
        }
        assert_eq!(check(&instance(Some(61), Some(0))), Err(Tampered::Apart(61)));
        assert_eq!(check(&instance(Some(0), Some(61))), Err(Tampered::Apart(61)));
        let far = check(&instance(Some(i64::MIN), Some(i64::MAX)));
        assert_eq!(far, Err(Tampered::Apart(u64::MAX)));
    }

    #[test]
    fn what_cannot_be_checked_does_not_pass() {
        let mut no_interface = instance(Some(0), Some(0));
        no_interface.interfaces.pop();
        assert_eq!(check(&no_interface), Err(Tampered::NoInterface));
        let mut no_root = instance(Some(0), Some(0));
        no_root.devices.pop();
        assert_eq!(check(&no_root), Err(Tampered::NoRoot("root".into())));
        assert!(matches!(check(&instance(None, Some(0))), Err(Tampered::NoTime(_))));
        assert!(matches!(check(&instance(Some(0), None)), Err(Tampered::NoTime(_))));
        // Nothing can be exchanged there, whatever the times.
        let mut store = instance(None, None);
        store.root_device_type = "instance-store".into();
        assert_eq!(check(&store), Ok(()));
    }
}

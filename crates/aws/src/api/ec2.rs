//! EC2: what an instance is, and has.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::ApiError;
use crate::session::{Call, EC2, Session};
use crate::xml;

const VERSION: &str = "2016-11-15";

/// How many of a kind (tags, groups, devices) an instance may have.
const MAX_ITEMS: usize = 1000;

/// Instances that were started together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) instances: Vec<Instance>,
}

/// What is known of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) tags: Vec<(String, String)>,
    pub(crate) groups: Vec<Group>,
    pub(crate) profile_arn: Option<String>,
    pub(crate) root_device_type: String,
    pub(crate) root_device_name: Option<String>,
    pub(crate) devices: Vec<Device>,
    pub(crate) interfaces: Vec<Interface>,
}

/// A security group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) id: String,
    pub(crate) name: String,
}

/// A block device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) name: String,
    /// Seconds since 1970.
    pub(crate) attached: Option<i64>,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: Option<i64>,
    /// Seconds since 1970.
    pub(crate) attached: Option<i64>,
}

/// Describes one instance, if it is about to run or runs.
pub(crate) async fn describe_instance(
    session: &Session,
    id: &str,
) -> Result<Vec<Reservation>, ApiError> {
    let parameters = [
        ("Filter.1.Name", "instance-state-name"),
        ("Filter.1.Value.1", "pending"),
        ("Filter.1.Value.2", "running"),
        ("InstanceId.1", id),
    ];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let call = Call::query(&EC2, "DescribeInstances", VERSION, &parameters);
    let answer = session.call(&call).await?;
    let mut reservations =
        read(&answer).ok_or_else(|| call.malformed("invalid DescribeInstances response"))?;
    for reservation in &mut reservations {
        // What is said of another instance is not for this one.
        reservation.instances.retain(|instance| instance.id == id);
    }
    reservations.retain(|reservation| !reservation.instances.is_empty());
    Ok(reservations)
}

fn read(answer: &[u8]) -> Option<Vec<Reservation>> {
    let document = xml::parse(answer)?;
    let root = document.root_element();
    if root.tag_name().name() != "DescribeInstancesResponse" {
        return None;
    }
    let reservations = xml::list(root, &["reservationSet"], "item").take(MAX_ITEMS).map(|node| {
        let instances = xml::list(node, &["instancesSet"], "item").take(MAX_ITEMS).map(instance);
        Reservation { instances: instances.collect() }
    });
    Some(reservations.collect())
}

fn instance<'a>(node: roxmltree::Node<'a, 'a>) -> Instance {
    let text = |path: &[&str]| xml::text(node, path);
    let pairs = |list: &'static str, first: &'static str, second: &'static str| {
        let items = xml::list(node, &[list], "item").take(MAX_ITEMS);
        items.map(move |it| {
            let part = |name| xml::text(it, &[name]).unwrap_or_default();
            (part(first), part(second))
        })
    };
    let devices = xml::list(node, &["blockDeviceMapping"], "item").take(MAX_ITEMS);
    let interfaces = xml::list(node, &["networkInterfaceSet"], "item").take(MAX_ITEMS);
    Instance {
        id: text(&["instanceId"]).unwrap_or_default(),
        tags: pairs("tagSet", "key", "value").collect(),
        groups: pairs("groupSet", "groupId", "groupName")
            .map(|(id, name)| Group { id, name })
            .collect(),
        profile_arn: text(&["iamInstanceProfile", "arn"]),
        root_device_type: text(&["rootDeviceType"]).unwrap_or_default(),
        root_device_name: text(&["rootDeviceName"]),
        devices: devices
            .map(|it| Device {
                name: xml::text(it, &["deviceName"]).unwrap_or_default(),
                attached: time(it, &["ebs", "attachTime"]),
            })
            .collect(),
        interfaces: interfaces
            .map(|it| Interface {
                index: xml::text(it, &["attachment", "deviceIndex"])
                    .and_then(|it| it.trim().parse().ok()),
                attached: time(it, &["attachment", "attachTime"]),
            })
            .collect(),
    }
}

fn time(node: roxmltree::Node<'_, '_>, path: &[&str]) -> Option<i64> {
    let text = xml::text(node, path)?;
    OffsetDateTime::parse(text.trim(), &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_far_as_it_is_needed() {
        let answer = r#"<?xml version="1.0" encoding="UTF-8"?>
            <DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
              <requestId>r</requestId>
              <reservationSet><item><reservationId>r-1</reservationId><instancesSet><item>
                <instanceId>i-1</instanceId>
                <rootDeviceType>ebs</rootDeviceType><rootDeviceName>/dev/sda1</rootDeviceName>
                <iamInstanceProfile><arn>arn:aws:iam::1:instance-profile/p</arn><id>x</id>
                </iamInstanceProfile>
                <groupSet><item><groupId>sg-1</groupId><groupName>web &amp; db</groupName></item>
                </groupSet>
                <tagSet><item><key>Name</key><value>a</value></item>
                  <item><key>Empty</key><value/></item></tagSet>
                <blockDeviceMapping><item><deviceName>/dev/sda1</deviceName>
                  <ebs><attachTime>2026-01-01T00:00:01.000Z</attachTime></ebs></item>
                </blockDeviceMapping>
                <networkInterfaceSet><item><attachment><deviceIndex>0</deviceIndex>
                  <attachTime>2026-01-01T00:00:00Z</attachTime></attachment></item>
                </networkInterfaceSet>
              </item></instancesSet></item></reservationSet>
            </DescribeInstancesResponse>"#;
        let read = read(answer.as_bytes()).unwrap();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let expected = Instance {
            id: "i-1".into(),
            tags: vec![pair("Name", "a"), pair("Empty", "")],
            groups: vec![Group { id: "sg-1".into(), name: "web & db".into() }],
            profile_arn: Some("arn:aws:iam::1:instance-profile/p".into()),
            root_device_type: "ebs".into(),
            root_device_name: Some("/dev/sda1".into()),
            devices: vec![Device { name: "/dev/sda1".into(), attached: Some(1_767_225_601) }],
            interfaces: vec![Interface { index: Some(0), attached: Some(1_767_225_600) }],
        };
        assert_eq!(read, [Reservation { instances: vec![expected] }]);
    }

    #[test]
    fn what_is_no_such_answer_is_refused_and_an_empty_one_is_empty() {
        let empty = b"<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>";
        assert_eq!(read(empty), Some(Vec::new()));
        for bad in [&b"<Response/>"[..], b"", b"<DescribeInstancesResponse>", b"{}"] {
            assert_eq!(read(bad), None);
        }
    }
}

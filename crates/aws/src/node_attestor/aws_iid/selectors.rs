//! What an instance is selected by.

use std::collections::BTreeSet;

use super::payload::Verified;
use crate::api::ec2::Instance;

/// What the document says.
pub(super) fn of_document(document: &Verified) -> [String; 5] {
    [
        format!("account_id:{}", document.account),
        format!("image:id:{}", document.image),
        format!("instance:id:{}", document.instance),
        format!("region:{}", document.region),
        format!("az:{}", document.zone),
    ]
}

/// What EC2 says.
pub(super) fn of_instance(instance: &Instance, into: &mut BTreeSet<String>) {
    into.extend(instance.tags.iter().map(|(key, value)| format!("tag:{key}:{value}")));
    for group in &instance.groups {
        into.insert(format!("sg:id:{}", group.id));
        into.insert(format!("sg:name:{}", group.name));
    }
}

/// What IAM says.
pub(super) fn of_role(arn: &str) -> String {
    format!("iamrole:{arn}")
}

/// Why a text is not the ARN of an instance profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadArn {
    #[error("failed to parse arn: invalid prefix")]
    Prefix,
    #[error("failed to parse arn: not enough sections")]
    Sections,
    #[error("arn is not for an instance profile")]
    NotAProfile,
}

/// The name of the instance profile with this ARN: what follows its path.
pub(super) fn profile_name(arn: &str) -> Result<&str, BadArn> {
    if !arn.starts_with("arn:") {
        return Err(BadArn::Prefix);
    }
    let resource = arn.splitn(6, ':').nth(5).ok_or(BadArn::Sections)?;
    let name = ["instance-profile/", "instance-profile:"]
        .into_iter()
        .filter_map(|prefix| resource.find(prefix).map(|at| (at, prefix.len())))
        .min()
        .map(|(at, length)| &resource[at + length..])
        .filter(|name| !name.is_empty())
        .ok_or(BadArn::NotAProfile)?;
    Ok(name.rsplit('/').next().unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profiles_name_is_the_end_of_its_arn() {
        for (arn, name) in [
            (
                "arn:aws:iam::123412341234:instance-profile/nodes.test.k8s.local",
                Ok("nodes.test.k8s.local"),
            ),
            ("arn:aws:iam::123412341234:instance-profile/some/path/nodes", Ok("nodes")),
            ("arn:aws::::instance-profile/p", Ok("p")),
            ("not-an-arn", Err(BadArn::Prefix)),
            ("arn:aws:iam", Err(BadArn::Sections)),
            (
                "arn:aws:elasticbeanstalk:us-east-1:123456789012:environment/My App/MyEnvironment",
                Err(BadArn::NotAProfile),
            ),
            ("arn:aws:iam::1:instance-profile/", Err(BadArn::NotAProfile)),
        ] {
            assert_eq!(profile_name(arn), name, "{arn}");
        }
    }
}

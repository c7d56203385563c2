//! Auto Scaling: the instances of a group.

use super::MAX_PAGES;
use crate::error::ApiError;
use crate::session::{AUTO_SCALING, Call, Session};
use crate::xml;

const VERSION: &str = "2011-01-01";

/// How many instances of a group are read at once.
const MAX_INSTANCES: usize = 10_000;

/// Which page failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListError {
    #[error("issue while getting list of instances in AutoScalingGroup: {0}")]
    First(ApiError),
    #[error("issue while getting list of instances in AutoScalingGroup in pagination: {0}")]
    Further(ApiError),
}

/// The IDs of a group's instances.
pub(crate) async fn instances(session: &Session, group: &str) -> Result<Vec<String>, ListError> {
    let mut found = Vec::new();
    let mut next: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let further = next.is_some();
        let failed = |error| match further {
            true => ListError::Further(error),
            false => ListError::First(error),
        };
        let call = call(group, next);
        let answer = session.call(&call).await.map_err(failed)?;
        let (page, token) = read(&answer)
            .ok_or_else(|| failed(call.malformed("invalid DescribeAutoScalingGroups response")))?;
        found.extend(page);
        next = token;
        if next.is_none() {
            return Ok(found);
        }
    }
    Err(ListError::Further(call(group, None).malformed("too many pages")))
}

fn call(group: &str, next: Option<String>) -> Call {
    let mut parameters = vec![("AutoScalingGroupNames.member.1".to_owned(), group.to_owned())];
    parameters.extend(next.map(|token| ("NextToken".to_owned(), token)));
    Call::query(&AUTO_SCALING, "DescribeAutoScalingGroups", VERSION, &parameters)
}

fn read(answer: &[u8]) -> Option<(Vec<String>, Option<String>)> {
    let document = xml::parse(answer)?;
    let result = xml::at(document.root_element(), &["DescribeAutoScalingGroupsResult"])?;
    let mut instances = Vec::new();
    for group in xml::list(result, &["AutoScalingGroups"], "member") {
        let members = xml::list(group, &["Instances"], "member").take(MAX_INSTANCES);
        instances.extend(members.filter_map(|it| xml::text(it, &["InstanceId"])));
    }
    Some((instances, xml::text(result, &["NextToken"]).filter(|it| !it.is_empty())))
}

#[cfg(test)]
mod tests {
    #[test]
    fn instances_and_the_next_page_are_read() {
        let answer = b"<DescribeAutoScalingGroupsResponse><DescribeAutoScalingGroupsResult>\
            <AutoScalingGroups><member><Instances><member><InstanceId>i-1</InstanceId></member>\
            <member><InstanceId>i-2</InstanceId></member></Instances></member></AutoScalingGroups>\
            <NextToken>n</NextToken></DescribeAutoScalingGroupsResult>\
            </DescribeAutoScalingGroupsResponse>";
        let (instances, next) = super::read(answer).unwrap();
        assert_eq!((instances, next.as_deref()), (vec!["i-1".into(), "i-2".into()], Some("n")));
    }
}

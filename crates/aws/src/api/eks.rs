//! EKS: the node groups of a cluster, and the Auto Scaling groups of those.

use http::Method;
use serde::Deserialize;

use super::MAX_PAGES;
use crate::error::ApiError;
use crate::session::{Call, EKS, Session};

/// Which page failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListError {
    #[error("issue while getting list of EKS Nodegroups: {0}")]
    First(ApiError),
    #[error("issue while getting list of EKS Nodegroups in pagination: {0}")]
    Further(ApiError),
}

/// The names of a cluster's node groups.
pub(crate) async fn node_groups(
    session: &Session,
    cluster: &str,
) -> Result<Vec<String>, ListError> {
    #[derive(Deserialize)]
    struct Page {
        #[serde(default)]
        nodegroups: Vec<String>,
        #[serde(rename = "nextToken")]
        next: Option<String>,
    }
    let mut groups = Vec::new();
    let mut next: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let further = next.is_some();
        let failed = |error| match further {
            true => ListError::Further(error),
            false => ListError::First(error),
        };
        let mut target = format!("/clusters/{}/node-groups", segment(cluster));
        if let Some(token) = &next {
            target = format!("{target}?nextToken={}", segment(token));
        }
        let call = get("ListNodegroups", target);
        let answer = session.call(&call).await.map_err(failed)?;
        let page: Page = serde_json::from_slice(&answer)
            .map_err(|_| failed(call.malformed("invalid ListNodegroups response")))?;
        groups.extend(page.nodegroups);
        next = page.next;
        if next.is_none() {
            return Ok(groups);
        }
    }
    Err(ListError::Further(get("ListNodegroups", String::new()).malformed("too many pages")))
}

/// The names of a node group's Auto Scaling groups.
pub(crate) async fn auto_scaling_groups(
    session: &Session,
    cluster: &str,
    group: &str,
) -> Result<Vec<String>, ApiError> {
    #[derive(Deserialize)]
    struct Answer {
        nodegroup: NodeGroup,
    }
    #[derive(Deserialize)]
    struct NodeGroup {
        #[serde(default)]
        resources: Option<Resources>,
    }
    #[derive(Deserialize)]
    struct Resources {
        #[serde(rename = "autoScalingGroups", default)]
        groups: Option<Vec<Group>>,
    }
    #[derive(Deserialize)]
    struct Group {
        name: Option<String>,
    }
    let target = format!("/clusters/{}/node-groups/{}", segment(cluster), segment(group));
    let call = get("DescribeNodegroup", target);
    let answer = session.call(&call).await?;
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|_| call.malformed("invalid DescribeNodegroup response"))?;
    let groups = answer.nodegroup.resources.and_then(|it| it.groups).unwrap_or_default();
    Ok(groups.into_iter().filter_map(|it| it.name).collect())
}

fn get(operation: &'static str, target: String) -> Call {
    Call {
        service: &EKS,
        operation,
        method: Method::GET,
        target,
        headers: &[],
        body: String::new(),
        signed: true,
    }
}

/// One segment of a path or value of a query, in which nothing has a meaning of its own.
fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_have_no_say_in_where_a_request_goes() {
        assert_eq!(super::segment("prod-1_a"), "prod-1_a");
        assert_eq!(super::segment("../x?y=z&a b"), "%2E%2E%2Fx%3Fy%3Dz%26a%20b");
    }
}

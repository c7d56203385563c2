//! What the API server says: of a token, of the pod it is bound to, of that pod's node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// As much of a name as an error repeats.
const MAX_ECHO: usize = 256;
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// The question.
#[derive(Serialize)]
pub(super) struct ReviewRequest<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    spec: ReviewSpec<'a>,
}

#[derive(Serialize)]
struct ReviewSpec<'a> {
    token: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    audiences: &'a [String],
}

impl<'a> ReviewRequest<'a> {
    pub(super) const fn new(token: &'a str, audiences: &'a [String]) -> Self {
        let spec = ReviewSpec { token, audiences };
        Self { api_version: "authentication.k8s.io/v1", kind: "TokenReview", spec }
    }
}

/// The answer.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct TokenReview {
    pub(super) status: ReviewStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ReviewStatus {
    pub(super) authenticated: bool,
    pub(super) audiences: Vec<String>,
    pub(super) error: String,
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    extra: BTreeMap<String, Vec<String>>,
}

/// What is wrong with an account's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AccountError {
    #[error("empty username")]
    Empty,
    #[error("unexpected username format: {0}")]
    Format(String),
    #[error("missing namespace")]
    NoNamespace,
    #[error("missing service account name")]
    NoName,
}

/// What is wrong with what a token says of its pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PodClaimError {
    #[error("missing pod {0}")]
    Missing(&'static str),
    #[error("expected 1 {0} but got: {1}")]
    Count(&'static str, usize),
    #[error("pod {0} is empty")]
    Empty(&'static str),
}

impl ReviewStatus {
    /// The namespace and the name of the service account that the token is of.
    pub(super) fn account(&self) -> Result<(&str, &str), AccountError> {
        let user = self.user.username.as_str();
        if user.is_empty() {
            return Err(AccountError::Empty);
        }
        let parts: Vec<&str> = user.splitn(5, ':').collect();
        // Users of other kinds may be called anything, their colons included.
        let ["system", "serviceaccount", namespace, name] = parts[..] else {
            return Err(AccountError::Format(cut(user)));
        };
        if namespace.is_empty() {
            return Err(AccountError::NoNamespace);
        }
        if name.is_empty() {
            return Err(AccountError::NoName);
        }
        Ok((namespace, name))
    }

    /// The name of the pod that the token is bound to.
    pub(super) fn pod_name(&self) -> Result<&str, PodClaimError> {
        self.only(POD_NAME, "name")
    }

    /// The UID of the pod that the token is bound to.
    pub(super) fn pod_uid(&self) -> Result<&str, PodClaimError> {
        self.only(POD_UID, "UID")
    }

    fn only(&self, key: &str, what: &'static str) -> Result<&str, PodClaimError> {
        match self.user.extra.get(key).map(Vec::as_slice) {
            None => Err(PodClaimError::Missing(what)),
            Some([one]) if one.is_empty() => Err(PodClaimError::Empty(what)),
            Some([one]) => Ok(one),
            Some(others) => Err(PodClaimError::Count(what, others.len())),
        }
    }
}

/// As much of a pod as is looked at.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    pub(super) metadata: Metadata,
    pub(super) spec: PodSpec,
    pub(super) status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) node_name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PodStatus {
    #[serde(rename = "hostIP")]
    pub(super) host_ip: String,
}

/// As much of a node as is looked at.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    pub(super) metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Metadata {
    pub(super) uid: String,
    pub(super) labels: BTreeMap<String, String>,
}

/// A name of somebody else's, as much of it as an error repeats.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(MAX_ECHO).collect()
}

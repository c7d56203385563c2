//! As much of the Compute Engine API as is asked: one instance.

use std::collections::BTreeMap;

use async_trait::async_trait;
use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderValue};
use serde::Deserialize;
use steeple_net::https::{Reply, Request};
use zeroize::Zeroizing;

use crate::credentials::Tokens;
use crate::web::{Web, cut};

/// Where the API is.
pub(crate) const API: &str = "https://compute.googleapis.com/compute/v1";
/// What our tokens allow: to read.
pub(crate) const SCOPE: &str = "https://www.googleapis.com/auth/compute.readonly";
/// How large an instance's description may be; its metadata alone may have 512 KiB.
const MAX_INSTANCE: usize = 2 * 1024 * 1024;

/// An instance, as much of it as is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Instance {
    /// The number that no other instance ever has, as text.
    pub(crate) id: String,
    pub(crate) tags: Tags,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) metadata: Metadata,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Tags {
    pub(crate) items: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Metadata {
    pub(crate) items: Vec<Item>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Item {
    pub(crate) key: String,
    pub(crate) value: Option<String>,
}

/// Why there is no instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ComputeError {
    #[error("failed to create compute service client: {0}")]
    Credentials(String),
    #[error("failed to fetch instance metadata: {0}")]
    Fetch(String),
}

/// Knows instances.
#[async_trait]
pub(crate) trait Compute: Send + Sync {
    /// The instance of this name.
    async fn instance(
        &self,
        project: &str,
        zone: &str,
        name: &str,
    ) -> Result<Instance, ComputeError>;
}

/// The API itself.
pub(crate) struct Api {
    pub(crate) base: String,
    pub(crate) tokens: Tokens,
    pub(crate) web: Web,
}

#[async_trait]
impl Compute for Api {
    async fn instance(
        &self,
        project: &str,
        zone: &str,
        name: &str,
    ) -> Result<Instance, ComputeError> {
        let fetch = |reason: &str| ComputeError::Fetch(reason.to_owned());
        let url = self.url(project, zone, name).ok_or_else(|| fetch("invalid resource name"))?;
        let token = self.tokens.get().await.map_err(ComputeError::Credentials)?;
        let bearer = Zeroizing::new(format!("Bearer {}", token.expose()));
        let mut value = HeaderValue::from_str(&bearer)
            .map_err(|_| ComputeError::Credentials("the token cannot be sent".to_owned()))?;
        value.set_sensitive(true);
        let mut request = Request::get(url);
        request.headers.insert(AUTHORIZATION, value);
        let reply = self.web.call(request, MAX_INSTANCE).await;
        let reply = reply.map_err(|error| ComputeError::Fetch(error.to_string()))?;
        match reply.status {
            StatusCode::OK => serde_json::from_slice(&reply.body)
                .map_err(|error| fetch(&format!("unable to decode the answer: {error}"))),
            status => {
                if status == StatusCode::UNAUTHORIZED {
                    self.tokens.forget(&token).await;
                }
                Err(ComputeError::Fetch(refusal(&reply)))
            }
        }
    }
}

impl Api {
    fn url(&self, project: &str, zone: &str, name: &str) -> Option<String> {
        let mut url = self.base.clone();
        for (kind, value) in [("projects", project), ("zones", zone), ("instances", name)] {
            let usable = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
            // Dots and colons are in names of projects of old domains.
            let plain = !value.is_empty()
                && value.len() <= 255
                && value.bytes().all(usable)
                && value.bytes().any(|byte| byte != b'.');
            if !plain {
                return None;
            }
            url.push('/');
            url.push_str(kind);
            url.push('/');
            url.push_str(value);
        }
        url.push_str("?alt=json&prettyPrint=false");
        Some(url)
    }
}

/// What Google's library for Go says of an answer that is a refusal.
fn refusal(reply: &Reply) -> String {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Answer {
        error: Refusal,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Refusal {
        message: String,
        errors: Vec<Reason>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Reason {
        reason: String,
    }
    let code = reply.status.as_u16();
    let answer: Answer = serde_json::from_slice(&reply.body).unwrap_or_default();
    if answer.error.message.is_empty() {
        return format!("googleapi: got HTTP response code {code}");
    }
    let message = cut(&answer.error.message);
    match answer.error.errors.first() {
        Some(first) => format!("googleapi: Error {code}: {message}, {}", cut(&first.reason)),
        None => format!("googleapi: Error {code}: {message}"),
    }
}

#[cfg(test)]
mod tests;

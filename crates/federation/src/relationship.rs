//! Whose bundles are followed, and where they are kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use steeple_pki::Bundle;
use steeple_spiffe::TrustDomain;
use steeple_store::model::BundleEndpointProfile;
use steeple_store::{Store, StoreError};
use tokio::time::timeout;

/// How long the datastore may take to answer a follower.
const DEADLINE: Duration = Duration::from_secs(30);

/// How a trust domain's bundle is had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relationship {
    /// Where its bundle endpoint is.
    pub url: String,
    /// How the endpoint is authenticated.
    pub profile: BundleEndpointProfile,
}

impl Relationship {
    /// The URL for the log: what may be a password stays out.
    #[must_use]
    pub fn shown_url(&self) -> String {
        let Some((scheme, rest)) = self.url.split_once("://") else { return self.url.clone() };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        format!("{scheme}://{host}{path}")
    }

    /// The profile by the name that configuration and logs have for it.
    #[must_use]
    pub fn profile_name(&self) -> &'static str {
        match self.profile {
            BundleEndpointProfile::HttpsWeb => "https_web",
            BundleEndpointProfile::HttpsSpiffe(_) => "https_spiffe",
        }
    }
}

/// Relationships by trust domain.
pub type Relationships = BTreeMap<TrustDomain, Relationship>;

/// As much of the datastore as following takes.
#[async_trait]
pub trait Keep: Send + Sync {
    /// The relationships made by the API.
    async fn relationships(&self) -> Result<Relationships, StoreError>;

    /// The bundle of a trust domain.
    async fn bundle(&self, of: &TrustDomain) -> Result<Option<Bundle>, StoreError>;

    /// Puts a bundle in the place of the one there is.
    async fn set_bundle(&self, bundle: &Bundle) -> Result<(), StoreError>;
}

/// The datastore, with a deadline on each answer.
pub struct StoreKeep(pub Arc<dyn Store>);

#[async_trait]
impl Keep for StoreKeep {
    async fn relationships(&self) -> Result<Relationships, StoreError> {
        let (listed, _) = within(self.0.list_federation_relationships(None)).await?;
        let entry = |it: steeple_store::model::FederationRelationship| {
            let (url, profile) = (it.bundle_endpoint_url, it.bundle_endpoint_profile);
            (it.trust_domain, Relationship { url, profile })
        };
        Ok(listed.into_iter().map(entry).collect())
    }

    async fn bundle(&self, of: &TrustDomain) -> Result<Option<Bundle>, StoreError> {
        within(self.0.fetch_bundle(of)).await
    }

    async fn set_bundle(&self, bundle: &Bundle) -> Result<(), StoreError> {
        within(self.0.set_bundle(bundle)).await.map(drop)
    }
}

async fn within<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(DEADLINE, work).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable(format!("the datastore did not answer within {DEADLINE:?}")))
    })
}

/// All relationships: those of the configuration, and for other trust domains those of the
/// datastore. The own trust domain is never among them.
pub(crate) fn merge(
    own: &TrustDomain,
    configured: &Relationships,
    mut stored: Relationships,
) -> Relationships {
    let configured = configured.iter().map(|(of, it)| (of.clone(), it.clone()));
    stored.extend(configured);
    stored.remove(own);
    stored
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{domain, web};

    #[test]
    fn a_password_in_a_url_is_not_repeated() {
        let shown = |url: &str| web(url).shown_url();
        assert_eq!(shown("https://u:p@ss@host:1/a@b"), "https://host:1/a@b");
        assert_eq!(shown("https://host/"), "https://host/");
        assert_eq!(shown("https://host?u@x"), "https://host?u@x");
    }

    #[test]
    fn the_configuration_goes_before_the_datastore_and_nobody_follows_himself() {
        let configured = BTreeMap::from([(domain("a"), web("https://file-a"))]);
        let stored = BTreeMap::from([
            (domain("a"), web("https://stored-a")),
            (domain("b"), web("https://stored-b")),
            (domain("home"), web("https://stored-home")),
        ]);
        let merged = merge(&domain("home"), &configured, stored);
        let urls: Vec<_> = merged.values().map(|it| it.url.as_str()).collect();
        assert_eq!(urls, ["https://file-a", "https://stored-b"]);
    }
}

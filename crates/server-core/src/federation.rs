//! Federation relationships: which trust domains' bundles are followed, and how.
//!
//! Not here: the following itself (`steeple-federation`).

use std::sync::Arc;

use steeple_config::url;
use steeple_pki::Bundle;
use steeple_spiffe::{IdError, SpiffeId, TrustDomain};
use steeple_store::model::{BundleEndpointProfile, FederationRelationship, FederationUpdate, Page};
use steeple_store::{Store, StoreError};

use crate::access::Operator;
use crate::bundles::{BundleRule, Bundles, RawBundle, bundle_of};

/// Why a use case about relationships failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum FederationError {
    #[error("failed to convert federation relationship")]
    Malformed(#[source] RelationshipRule),
    #[error("unable to create federation relationship for server trust domain")]
    Own,
    #[error("missing trust domain")]
    NoTrustDomain,
    #[error("failed to parse trust domain")]
    TrustDomain(#[source] IdError),
    #[error("federation relationship does not exist")]
    Unknown,
    #[error("federation relationship not found")]
    NotFound,
    #[error("failed to list federation relationships")]
    List(#[source] StoreError),
    #[error("failed to fetch federation relationship")]
    Fetch(#[source] StoreError),
    #[error("failed to create federation relationship")]
    Create(#[source] StoreError),
    #[error("failed to update federation relationship")]
    Update(#[source] StoreError),
    #[error("failed to delete federation relationship")]
    Delete(#[source] StoreError),
}

/// What is wrong with a relationship.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum RelationshipRule {
    #[error("failed to parse trust domain: {0}")]
    TrustDomain(IdError),
    #[error("failed to parse bundle endpoint URL: {0}")]
    Url(String),
    #[error("bundle endpoint URL must use the https scheme")]
    Scheme,
    #[error("bundle endpoint URL must specify the host")]
    NoHost,
    #[error("bundle endpoint URL must not contain user info")]
    UserInfo,
    #[error("failed to parse endpoint SPIFFE ID: {0}")]
    EndpointId(IdError),
    #[error("unsupported bundle endpoint profile type: <nil>")]
    NoProfile,
    #[error("failed to parse bundle: invalid trust domain: {0}")]
    BundleTrustDomain(IdError),
    #[error("failed to parse bundle: {0}")]
    Bundle(BundleRule),
    #[error(
        "trust domain bundle (\"{0}\") must match the trust domain of the federation relationship \
         (\"{1}\")"
    )]
    OtherBundle(TrustDomain, TrustDomain),
}

/// A relationship as the wire carries it.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each field is the one of the same name in the relationship")]
pub struct RawRelationship {
    pub trust_domain: String,
    pub bundle_endpoint_url: String,
    pub bundle_endpoint_profile: Option<RawProfile>,
    pub bundle: Option<RawBundle>,
}

/// A profile as the wire carries it.
#[derive(Clone, Debug)]
pub enum RawProfile {
    /// `https_web`.
    HttpsWeb,
    /// `https_spiffe`, and the endpoint's SPIFFE ID.
    HttpsSpiffe(String),
}

/// Which parts an update takes over.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each field is the one of the same name in the relationship")]
pub struct RelationshipMask {
    pub bundle_endpoint_url: bool,
    pub bundle_endpoint_profile: bool,
    pub bundle: bool,
}

impl RelationshipMask {
    /// All parts.
    pub const ALL: Self =
        Self { bundle_endpoint_url: true, bundle_endpoint_profile: true, bundle: true };
}

/// What was kept, and what about it deserves a warning.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The relationship as it is now.
    pub relationship: FederationRelationship,
    /// The endpoint cannot be authenticated yet.
    pub warning: Option<EndpointWarning>,
}

/// Why an endpoint with an SVID cannot be authenticated, or may not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndpointWarning {
    /// There is no bundle of the trust domain of its SPIFFE ID.
    NoBundle,
    /// Nobody knows.
    Unknown,
}

/// The use cases about relationships. Cheap to clone.
#[derive(Clone)]
pub struct Federation {
    store: Arc<dyn Store>,
    bundles: Bundles,
}

impl Federation {
    /// Relationships of the server whose bundles `bundles` are.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, bundles: Bundles) -> Self {
        Self { store, bundles }
    }

    /// The relationships, and the token of the next page.
    ///
    /// # Errors
    /// For a malformed page token, or the store's.
    pub async fn list(
        &self,
        _operator: &Operator,
        page: Option<Page>,
    ) -> Result<(Vec<FederationRelationship>, Option<String>), FederationError> {
        let listed = self.store.list_federation_relationships(page.as_ref()).await;
        listed.map_err(FederationError::List)
    }

    /// The relationship with a trust domain.
    ///
    /// # Errors
    /// [`FederationError`].
    pub async fn relationship(
        &self,
        _operator: &Operator,
        trust_domain: &str,
    ) -> Result<FederationRelationship, FederationError> {
        let trust_domain = parse_trust_domain(trust_domain)?;
        let found = self.store.fetch_federation_relationship(&trust_domain).await;
        found.map_err(FederationError::Fetch)?.ok_or(FederationError::Unknown)
    }

    /// Begins a relationship, and sets the trust domain's bundle if it brings one.
    ///
    /// # Errors
    /// [`FederationError`].
    pub async fn create(
        &self,
        _operator: &Operator,
        raw: &RawRelationship,
    ) -> Result<Kept, FederationError> {
        let relationship = parse(raw).map_err(FederationError::Malformed)?;
        if relationship.trust_domain == *self.bundles.trust_domain() {
            return Err(FederationError::Own);
        }
        let created = self.store.create_federation_relationship(relationship).await;
        let relationship = created.map_err(FederationError::Create)?;
        self.bundles.forget();
        Ok(self.kept(relationship).await)
    }

    /// Changes parts of a relationship; all of it must be well-formed.
    ///
    /// # Errors
    /// [`FederationError`].
    pub async fn update(
        &self,
        _operator: &Operator,
        raw: &RawRelationship,
        mask: RelationshipMask,
    ) -> Result<Kept, FederationError> {
        let new = parse(raw).map_err(FederationError::Malformed)?;
        let update = FederationUpdate {
            bundle_endpoint_url: Some(new.bundle_endpoint_url).filter(|_| mask.bundle_endpoint_url),
            bundle_endpoint_profile: Some(new.bundle_endpoint_profile)
                .filter(|_| mask.bundle_endpoint_profile),
            bundle: new.bundle.filter(|_| mask.bundle),
        };
        let updated = self.store.update_federation_relationship(&new.trust_domain, update).await;
        let relationship = updated.map_err(FederationError::Update)?;
        self.bundles.forget();
        Ok(self.kept(relationship).await)
    }

    /// Ends a relationship; the bundle stays.
    ///
    /// # Errors
    /// [`FederationError`].
    pub async fn delete(
        &self,
        _operator: &Operator,
        trust_domain: &TrustDomain,
    ) -> Result<(), FederationError> {
        let deleted = self.store.delete_federation_relationship(trust_domain).await;
        deleted.map_err(|error| match error {
            StoreError::NotFound(_) => FederationError::NotFound,
            other => FederationError::Delete(other),
        })
    }

    async fn kept(&self, relationship: FederationRelationship) -> Kept {
        let warning = match &relationship.bundle_endpoint_profile {
            BundleEndpointProfile::HttpsSpiffe(endpoint) if relationship.bundle.is_none() => {
                match self.store.fetch_bundle(&endpoint.trust_domain()).await {
                    Ok(Some(_)) => None,
                    Ok(None) => Some(EndpointWarning::NoBundle),
                    Err(_) => Some(EndpointWarning::Unknown),
                }
            }
            _ => None,
        };
        Kept { relationship, warning }
    }
}

/// A trust domain by its name or ID.
///
/// # Errors
/// [`FederationError::TrustDomain`].
pub fn parse_trust_domain(name: &str) -> Result<TrustDomain, FederationError> {
    TrustDomain::from_name_or_id(name).map_err(FederationError::TrustDomain)
}

fn parse(raw: &RawRelationship) -> Result<FederationRelationship, RelationshipRule> {
    let trust_domain =
        TrustDomain::from_name_or_id(&raw.trust_domain).map_err(RelationshipRule::TrustDomain)?;
    let bundle_endpoint_url = endpoint_url(&raw.bundle_endpoint_url)?;
    let bundle_endpoint_profile = match &raw.bundle_endpoint_profile {
        None => return Err(RelationshipRule::NoProfile),
        Some(RawProfile::HttpsWeb) => BundleEndpointProfile::HttpsWeb,
        Some(RawProfile::HttpsSpiffe(id)) => BundleEndpointProfile::HttpsSpiffe(
            SpiffeId::parse(id).map_err(RelationshipRule::EndpointId)?,
        ),
    };
    let bundle = raw.bundle.as_ref().map(|raw| bundle_for(&trust_domain, raw)).transpose()?;
    Ok(FederationRelationship {
        trust_domain,
        bundle_endpoint_url,
        bundle_endpoint_profile,
        bundle,
    })
}

fn endpoint_url(text: &str) -> Result<String, RelationshipRule> {
    let url = url::parse(text).map_err(RelationshipRule::Url)?;
    if url.scheme != "https" {
        return Err(RelationshipRule::Scheme);
    }
    if url.host.is_empty() && url.user.is_none() {
        return Err(RelationshipRule::NoHost);
    }
    if url.user.is_some() {
        return Err(RelationshipRule::UserInfo);
    }
    // The scheme is kept in lower case, whatever was written.
    Ok(format!("https{}", &text[url.scheme.len()..]))
}

fn bundle_for(of: &TrustDomain, raw: &RawBundle) -> Result<Bundle, RelationshipRule> {
    let named = TrustDomain::from_name_or_id(&raw.trust_domain)
        .map_err(RelationshipRule::BundleTrustDomain)?;
    let bundle = bundle_of(named, raw).map_err(RelationshipRule::Bundle)?;
    if bundle.trust_domain != *of {
        return Err(RelationshipRule::OtherBundle(bundle.trust_domain, of.clone()));
    }
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(trust_domain: &str, url: &str) -> RawRelationship {
        RawRelationship {
            trust_domain: trust_domain.to_owned(),
            bundle_endpoint_url: url.to_owned(),
            bundle_endpoint_profile: Some(RawProfile::HttpsWeb),
            bundle: None,
        }
    }

    fn why(raw: &RawRelationship) -> String {
        parse(raw).unwrap_err().to_string()
    }

    #[test]
    fn each_part_is_checked_in_spires_words() {
        let url = |text: &str| why(&raw("a.test", text));
        assert_eq!(url("http://a.test"), "bundle endpoint URL must use the https scheme");
        assert_eq!(url("https:///path"), "bundle endpoint URL must specify the host");
        assert_eq!(url("https://"), "bundle endpoint URL must specify the host");
        assert_eq!(url("https://u:p@a.test"), "bundle endpoint URL must not contain user info");
        assert_eq!(
            url("1a.test:b"),
            "failed to parse bundle endpoint URL: parse \"1a.test:b\": first path segment in URL \
             cannot contain colon"
        );
        assert!(why(&raw("A", "https://a")).starts_with("failed to parse trust domain: "));
        let none = RawRelationship { bundle_endpoint_profile: None, ..raw("a", "https://a") };
        assert_eq!(why(&none), "unsupported bundle endpoint profile type: <nil>");
        let profile = Some(RawProfile::HttpsSpiffe("a".to_owned()));
        let no_id = RawRelationship { bundle_endpoint_profile: profile, ..raw("a", "https://a") };
        assert!(why(&no_id).starts_with("failed to parse endpoint SPIFFE ID: "));
    }

    #[test]
    fn the_bundle_is_of_the_trust_domain() {
        let with = |trust_domain: &str| RawRelationship {
            bundle: Some(RawBundle {
                trust_domain: trust_domain.to_owned(),
                ..RawBundle::default()
            }),
            ..raw("a.test", "https://a.test")
        };
        assert!(parse(&with("a.test")).is_ok());
        assert_eq!(
            why(&with("b.test")),
            "trust domain bundle (\"b.test\") must match the trust domain of the federation \
             relationship (\"a.test\")"
        );
        assert!(why(&with("B")).starts_with("failed to parse bundle: invalid trust domain: "));
    }

    #[test]
    fn the_scheme_is_kept_in_lower_case_and_nothing_else_is_touched() {
        let kept = parse(&raw("a.test", "HTTPS://A.test:8443/x?y#z")).unwrap();
        assert_eq!(kept.bundle_endpoint_url, "https://A.test:8443/x?y#z");
    }
}

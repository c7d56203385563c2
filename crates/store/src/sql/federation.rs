//! Federation relationships (TD-19).

use sea_orm::sea_query::{Expr, ExprTrait, Query, SelectStatement};
use steeple_pki::Bundle;
use steeple_spiffe::{SpiffeId, TrustDomain};

use super::tx::{Row, Tx};
use super::{FEDERATED_TRUST_DOMAINS, bundles, pages};
use crate::error::{StoreError, excerpt};
use crate::model::{BundleEndpointProfile, FederationRelationship, FederationUpdate, Page};

const HTTPS_WEB: &str = "https_web";
const HTTPS_SPIFFE: &str = "https_spiffe";

pub(super) async fn create(
    tx: &Tx,
    relationship: FederationRelationship,
) -> Result<FederationRelationship, StoreError> {
    check_url(&relationship.bundle_endpoint_url)?;
    if let Some(bundle) = &relationship.bundle {
        set_bundle(tx, &relationship.trust_domain, bundle).await?;
    }
    let (profile, endpoint_id) = profile_columns(&relationship.bundle_endpoint_profile);
    let columns = [
        ("trust_domain", relationship.trust_domain.as_str().into()),
        ("bundle_endpoint_url", relationship.bundle_endpoint_url.as_str().into()),
        ("bundle_endpoint_profile", profile.into()),
        ("endpoint_spiffe_id", endpoint_id.into()),
        ("implicit", false.into()),
    ];
    tx.insert(FEDERATED_TRUST_DOMAINS, &columns).await?;
    Ok(relationship)
}

fn check_url(url: &str) -> Result<(), StoreError> {
    if url.is_empty() {
        return Err(StoreError::Invalid("bundle endpoint URL is required".into()));
    }
    Ok(())
}

async fn set_bundle(tx: &Tx, of: &TrustDomain, bundle: &Bundle) -> Result<(), StoreError> {
    if bundle.trust_domain != *of {
        return Err(StoreError::Invalid(
            "the bundle is not of the trust domain to federate with".into(),
        ));
    }
    bundles::set(tx, bundle).await?;
    Ok(())
}

fn profile_columns(profile: &BundleEndpointProfile) -> (&'static str, &str) {
    match profile {
        BundleEndpointProfile::HttpsWeb => (HTTPS_WEB, ""),
        BundleEndpointProfile::HttpsSpiffe(endpoint_id) => (HTTPS_SPIFFE, endpoint_id.as_str()),
    }
}

pub(super) async fn fetch(
    tx: &Tx,
    trust_domain: &TrustDomain,
) -> Result<Option<FederationRelationship>, StoreError> {
    let mut select = select_relationships();
    select.and_where(Expr::col("trust_domain").eq(trust_domain.as_str()));
    tx.lock_rows(&mut select);
    match tx.one(&select).await? {
        Some(row) => read(tx, &row).await.map(Some),
        None => Ok(None),
    }
}

pub(super) async fn list(
    tx: &Tx,
    page: Option<&Page>,
) -> Result<(Vec<FederationRelationship>, Option<String>), StoreError> {
    let mut select = select_relationships();
    pages::apply(tx.dialect, &mut select, page)?;
    let mut relationships = Vec::new();
    let mut last_id = None;
    for row in tx.all(&select).await? {
        last_id = Some(row.get(0)?);
        relationships.push(read(tx, &row).await?);
    }
    Ok((relationships, pages::next_token(page, last_id)))
}

fn select_relationships() -> SelectStatement {
    let mut select = Query::select();
    select
        .columns([
            "id",
            "trust_domain",
            "bundle_endpoint_url",
            "bundle_endpoint_profile",
            "endpoint_spiffe_id",
        ])
        .from(FEDERATED_TRUST_DOMAINS);
    select
}

async fn read(tx: &Tx, row: &Row) -> Result<FederationRelationship, StoreError> {
    let name: String = row.get_or_default(1)?;
    let trust_domain = TrustDomain::from_name_or_id(&name)
        .map_err(|error| StoreError::sql(&format!("\"{}\": {error}", excerpt(&name))))?;
    let profile: String = row.get_or_default(3)?;
    let bundle_endpoint_profile = match profile.as_str() {
        HTTPS_WEB => BundleEndpointProfile::HttpsWeb,
        HTTPS_SPIFFE => {
            let id: String = row.get_or_default(4)?;
            BundleEndpointProfile::HttpsSpiffe(SpiffeId::parse(&id).map_err(|error| {
                StoreError::Internal(format!("unable to parse bundle endpoint SPIFFE ID: {error}"))
            })?)
        }
        other => {
            let other = excerpt(other);
            return Err(StoreError::Internal(format!(
                "unknown bundle endpoint profile type: \"{other}\""
            )));
        }
    };
    Ok(FederationRelationship {
        bundle: bundles::fetch(tx, &trust_domain).await?,
        trust_domain,
        bundle_endpoint_url: row.get_or_default(2)?,
        bundle_endpoint_profile,
    })
}

pub(super) async fn update(
    tx: &Tx,
    trust_domain: &TrustDomain,
    update: FederationUpdate,
) -> Result<FederationRelationship, StoreError> {
    let Some(mut relationship) = fetch(tx, trust_domain).await? else {
        return Err(StoreError::NotFound(
            "unable to fetch federation relationship: record not found".into(),
        ));
    };
    if let Some(url) = update.bundle_endpoint_url {
        check_url(&url)?;
        relationship.bundle_endpoint_url = url;
    }
    if let Some(profile) = update.bundle_endpoint_profile {
        relationship.bundle_endpoint_profile = profile;
    }
    if let Some(bundle) = update.bundle {
        set_bundle(tx, trust_domain, &bundle).await?;
        relationship.bundle = Some(bundle);
    }
    let (profile, endpoint_id) = profile_columns(&relationship.bundle_endpoint_profile);
    let mut statement = Query::update();
    statement
        .table(FEDERATED_TRUST_DOMAINS)
        .and_where(Expr::col("trust_domain").eq(trust_domain.as_str()))
        .value("updated_at", tx.dialect.timestamp(tx.now))
        .value("bundle_endpoint_url", relationship.bundle_endpoint_url.as_str())
        .value("bundle_endpoint_profile", profile)
        .value("endpoint_spiffe_id", endpoint_id);
    tx.execute(&statement).await?;
    Ok(relationship)
}

pub(super) async fn delete(tx: &Tx, trust_domain: &TrustDomain) -> Result<(), StoreError> {
    let mut delete = Query::delete();
    delete
        .from_table(FEDERATED_TRUST_DOMAINS)
        .and_where(Expr::col("trust_domain").eq(trust_domain.as_str()));
    match tx.execute(&delete).await? {
        0 => Err(StoreError::not_found()),
        _ => Ok(()),
    }
}

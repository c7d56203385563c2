//! What audit lines say of bundles and federation relationships.

use steeple_proto::spire::api::server::bundle::v1 as bundle;
use steeple_proto::spire::api::server::bundle::v1::batch_delete_federated_bundle_request::Mode;
use steeple_proto::spire::api::server::trustdomain::v1 as federation;
use steeple_proto::spire::api::types;
use steeple_proto::spire::api::types::federation_relationship::BundleEndpointProfile;
use steeple_runtime::log::Extra;
use steeple_spiffe::TrustDomain;

use super::Item;
use super::fields::{decode, hash, one, zip};

pub(super) fn of_request(fields: &mut Extra, home: &TrustDomain, method: &str, request: &[u8]) {
    match method {
        "Bundle/GetBundle" => fields.text("trust_domain_id", home),
        "Bundle/AppendBundle" => {
            let request = decode::<bundle::AppendBundleRequest>(request);
            authorities(fields, "", &request.x509_authorities, &request.jwt_authorities);
        }
        "Bundle/PublishJWTAuthority" => {
            if let Some(key) = decode::<bundle::PublishJwtAuthorityRequest>(request).jwt_authority {
                fields.bare("jwt_authority_expires_at", key.expires_at);
                fields.text("jwt_authority_key_id", &key.key_id);
                fields.text("jwt_authority_public_key_sha256", hash(&key.public_key));
            }
        }
        "Bundle/GetFederatedBundle" => {
            let request = decode::<bundle::GetFederatedBundleRequest>(request);
            fields.text("trust_domain_id", request.trust_domain);
        }
        "TrustDomain/GetFederationRelationship" => {
            let request = decode::<federation::GetFederationRelationshipRequest>(request);
            fields.text("trust_domain_id", request.trust_domain);
        }
        "TrustDomain/RefreshBundle" => {
            let name = decode::<federation::RefreshBundleRequest>(request).trust_domain;
            if TrustDomain::from_name_or_id(&name).is_ok() {
                fields.text("trust_domain_id", name);
            }
        }
        _ => {}
    }
}

pub(super) fn of_items(method: &str, request: &[u8], response: &[u8]) -> Vec<Item> {
    match method {
        "Bundle/BatchCreateFederatedBundle" => {
            let results = decode::<bundle::BatchCreateFederatedBundleResponse>(response).results;
            let bundles = decode::<bundle::BatchCreateFederatedBundleRequest>(request).bundle;
            let statuses = results.into_iter().map(|result| result.status);
            zip(bundles.iter().map(|it| bundle_fields("", it, None)), statuses)
        }
        "Bundle/BatchUpdateFederatedBundle" => {
            let results = decode::<bundle::BatchUpdateFederatedBundleResponse>(response).results;
            let request = decode::<bundle::BatchUpdateFederatedBundleRequest>(request);
            let mask = request.input_mask.as_ref();
            let statuses = results.into_iter().map(|result| result.status);
            zip(request.bundle.iter().map(|it| bundle_fields("", it, mask)), statuses)
        }
        "Bundle/BatchSetFederatedBundle" => {
            let results = decode::<bundle::BatchSetFederatedBundleResponse>(response).results;
            let bundles = decode::<bundle::BatchSetFederatedBundleRequest>(request).bundle;
            let statuses = results.into_iter().map(|result| result.status);
            zip(bundles.iter().map(|it| bundle_fields("", it, None)), statuses)
        }
        "Bundle/BatchDeleteFederatedBundle" => {
            let results = decode::<bundle::BatchDeleteFederatedBundleResponse>(response).results;
            let request = decode::<bundle::BatchDeleteFederatedBundleRequest>(request);
            let mode = Mode::try_from(request.mode).unwrap_or_default().as_str_name();
            let fields = request.trust_domains.iter().map(|name| {
                let mut fields = one("trust_domain_id", name);
                fields.text("mode", mode);
                fields
            });
            zip(fields, results.into_iter().map(|result| result.status))
        }
        "TrustDomain/BatchCreateFederationRelationship" => {
            type Response = federation::BatchCreateFederationRelationshipResponse;
            type Request = federation::BatchCreateFederationRelationshipRequest;
            let results = decode::<Response>(response).results;
            let list = decode::<Request>(request).federation_relationships;
            let statuses = results.into_iter().map(|result| result.status);
            zip(list.iter().map(|it| relationship(it, None)), statuses)
        }
        "TrustDomain/BatchUpdateFederationRelationship" => {
            type Response = federation::BatchUpdateFederationRelationshipResponse;
            type Request = federation::BatchUpdateFederationRelationshipRequest;
            let results = decode::<Response>(response).results;
            let request = decode::<Request>(request);
            let mask = request.input_mask.as_ref();
            let statuses = results.into_iter().map(|result| result.status);
            zip(request.federation_relationships.iter().map(|it| relationship(it, mask)), statuses)
        }
        "TrustDomain/BatchDeleteFederationRelationship" => {
            type Response = federation::BatchDeleteFederationRelationshipResponse;
            type Request = federation::BatchDeleteFederationRelationshipRequest;
            let results = decode::<Response>(response).results;
            let names = decode::<Request>(request).trust_domains;
            let statuses = results.into_iter().map(|result| result.status);
            zip(names.iter().map(|name| one("trust_domain_id", name)), statuses)
        }
        _ => Vec::new(),
    }
}

fn bundle_fields(prefix: &str, bundle: &types::Bundle, mask: Option<&types::BundleMask>) -> Extra {
    let wanted = |part: fn(&types::BundleMask) -> bool| mask.is_none_or(part);
    let mut fields = one(&format!("{prefix}trust_domain_id"), &bundle.trust_domain);
    if wanted(|mask| mask.refresh_hint) {
        fields.bare(&format!("{prefix}refresh_hint"), bundle.refresh_hint);
    }
    if wanted(|mask| mask.sequence_number) {
        fields.bare(&format!("{prefix}sequence_number"), bundle.sequence_number);
    }
    let jwt = wanted(|mask| mask.jwt_authorities).then_some(&*bundle.jwt_authorities);
    let x509 = wanted(|mask| mask.x509_authorities).then_some(&*bundle.x509_authorities);
    authorities(&mut fields, prefix, x509.unwrap_or_default(), jwt.unwrap_or_default());
    fields
}

fn authorities(
    fields: &mut Extra,
    prefix: &str,
    x509: &[types::X509Certificate],
    jwt: &[types::JwtKey],
) {
    for (at, key) in jwt.iter().enumerate() {
        fields.bare(&format!("{prefix}jwt_authority_expires_at.{at}"), key.expires_at);
        fields.text(&format!("{prefix}jwt_authority_key_id.{at}"), &key.key_id);
        let name = format!("{prefix}jwt_authority_public_key_sha256.{at}");
        fields.text(&name, hash(&key.public_key));
    }
    for (at, certificate) in x509.iter().enumerate() {
        let name = format!("{prefix}x509_authorities_asn1_sha256.{at}");
        fields.text(&name, hash(&certificate.asn1));
    }
}

fn relationship(
    relationship: &types::FederationRelationship,
    mask: Option<&types::FederationRelationshipMask>,
) -> Extra {
    let wanted = |part: fn(&types::FederationRelationshipMask) -> bool| mask.is_none_or(part);
    let mut fields = Extra::new();
    if !relationship.trust_domain.is_empty() {
        fields.text("trust_domain_id", &relationship.trust_domain);
    }
    if wanted(|mask| mask.bundle_endpoint_url) {
        fields.text("bundle_endpoint_url", &relationship.bundle_endpoint_url);
    }
    if wanted(|mask| mask.bundle_endpoint_profile) {
        match &relationship.bundle_endpoint_profile {
            Some(BundleEndpointProfile::HttpsWeb(_)) => {
                fields.text("bundle_endpoint_profile", "https_web");
            }
            Some(BundleEndpointProfile::HttpsSpiffe(profile)) => {
                fields.text("bundle_endpoint_profile", "https_spiffe");
                fields.text("endpoint_spiffe_id", &profile.endpoint_spiffe_id);
            }
            None => {}
        }
    }
    if wanted(|mask| mask.trust_domain_bundle)
        && let Some(bundle) = &relationship.trust_domain_bundle
    {
        fields.extend(&bundle_fields("bundle_", bundle, None));
    }
    fields
}

//! `spire.api.server.trustdomain.v1.TrustDomain`.

use steeple_federation::{Refresher, UpdateError};
use steeple_proto::spire::api::server::trustdomain::v1 as pb;
use steeple_proto::spire::api::types;
use steeple_proto::spire::api::types::federation_relationship::BundleEndpointProfile as Profile;
use steeple_server_core::federation::{
    EndpointWarning, Federation, FederationError, Kept, RawProfile, RawRelationship,
    RelationshipMask, parse_trust_domain,
};
use steeple_spiffe::TrustDomain;
use steeple_store::model::{BundleEndpointProfile, FederationRelationship};
use tonic::{Code, Request, Response, Status};

use crate::call::{About, Call, log_call};
use crate::convert::{self, bundle_message, raw_bundle};
use crate::status::{Answer, ok};

/// The TrustDomain service.
pub(crate) struct FederationService {
    pub(crate) federation: Federation,
    pub(crate) refresher: Refresher,
}

/// Why a bundle was not refreshed.
#[derive(Debug, thiserror::Error)]
enum RefreshError {
    #[error("failed to refresh bundle")]
    Failed(#[source] UpdateError),
    #[error("no relationship with trust domain \"{0}\"")]
    NoRelationship(TrustDomain),
}

impl Answer for RefreshError {
    fn code(&self) -> Code {
        match self {
            Self::Failed(_) => Code::Internal,
            Self::NoRelationship(_) => Code::NotFound,
        }
    }
}

#[tonic::async_trait]
impl pb::trust_domain_server::TrustDomain for FederationService {
    async fn list_federation_relationships(
        &self,
        request: Request<pb::ListFederationRelationshipsRequest>,
    ) -> Result<Response<pb::ListFederationRelationshipsResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let page = convert::page(request.page_size, request.page_token);
        let listed = self.federation.list(call.operator()?, page).await;
        let (listed, next) = listed.map_err(|error| call.fail(&error))?;
        let mask = request.output_mask.as_ref();
        Ok(Response::new(pb::ListFederationRelationshipsResponse {
            federation_relationships: listed.iter().map(|it| message(it, mask)).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn get_federation_relationship(
        &self,
        request: Request<pb::GetFederationRelationshipRequest>,
    ) -> Result<Response<types::FederationRelationship>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let found = self.federation.relationship(call.operator()?, &request.trust_domain).await;
        let found = found.map_err(|error| call.fail(&error))?;
        Ok(Response::new(message(&found, request.output_mask.as_ref())))
    }

    async fn batch_create_federation_relationship(
        &self,
        request: Request<pb::BatchCreateFederationRelationshipRequest>,
    ) -> Result<Response<pb::BatchCreateFederationRelationshipResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.federation_relationships.len());
        for relationship in request.federation_relationships {
            let raw = raw(relationship);
            let created = self.federation.create(call.operator()?, &raw).await;
            let (status, federation_relationship) = self.outcome(
                &call,
                &raw.trust_domain,
                created,
                "Federation relationship created",
                request.output_mask.as_ref(),
            );
            results.push(pb::batch_create_federation_relationship_response::Result {
                status,
                federation_relationship,
            });
        }
        Ok(Response::new(pb::BatchCreateFederationRelationshipResponse { results }))
    }

    async fn batch_update_federation_relationship(
        &self,
        request: Request<pb::BatchUpdateFederationRelationshipRequest>,
    ) -> Result<Response<pb::BatchUpdateFederationRelationshipResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let parts = parts(request.input_mask.as_ref());
        let mut results = Vec::with_capacity(request.federation_relationships.len());
        for relationship in request.federation_relationships {
            let raw = raw(relationship);
            let updated = self.federation.update(call.operator()?, &raw, parts).await;
            let (status, federation_relationship) = self.outcome(
                &call,
                &raw.trust_domain,
                updated,
                "Federation relationship updated",
                request.output_mask.as_ref(),
            );
            results.push(pb::batch_update_federation_relationship_response::Result {
                status,
                federation_relationship,
            });
        }
        Ok(Response::new(pb::BatchUpdateFederationRelationshipResponse { results }))
    }

    async fn batch_delete_federation_relationship(
        &self,
        request: Request<pb::BatchDeleteFederationRelationshipRequest>,
    ) -> Result<Response<pb::BatchDeleteFederationRelationshipResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.trust_domains.len());
        for name in request.trust_domains {
            results.push(self.delete(&call, name).await?);
        }
        Ok(Response::new(pb::BatchDeleteFederationRelationshipResponse { results }))
    }

    async fn refresh_bundle(
        &self,
        request: Request<pb::RefreshBundleRequest>,
    ) -> Result<Response<()>, Status> {
        let call = Call::of(&request)?;
        call.operator()?;
        let name = request.into_inner().trust_domain;
        let trust_domain = parse_trust_domain(&name).map_err(|error| call.fail(&error))?;
        let trust_domain_id = trust_domain.as_str();
        let refreshed = match self.refresher.refresh(&trust_domain).await {
            Some(refreshed) => refreshed.map_err(RefreshError::Failed),
            None => Err(RefreshError::NoRelationship(trust_domain.clone())),
        };
        refreshed.map_err(|error| call.fail_about(&error, about(trust_domain_id)))?;
        log_call!(debug, call, { trust_domain_id, }, "Bundle refreshed");
        Ok(Response::new(()))
    }
}

impl FederationService {
    /// What a batch says of one relationship; one that was kept is followed at once.
    fn outcome(
        &self,
        call: &Call,
        trust_domain: &str,
        kept: Result<Kept, FederationError>,
        done: &str,
        mask: Option<&types::FederationRelationshipMask>,
    ) -> (Option<types::Status>, Option<types::FederationRelationship>) {
        let Kept { relationship, warning } = match kept {
            Ok(kept) => kept,
            Err(error) => return (Some(call.fail_item(&error, about(trust_domain))), None),
        };
        self.refresher.reload();
        let trust_domain_id = relationship.trust_domain.as_str();
        if let (Some(warning), BundleEndpointProfile::HttpsSpiffe(endpoint)) =
            (warning, &relationship.bundle_endpoint_profile)
        {
            let endpoint_spiffe_id = endpoint.as_str();
            let text = match warning {
                EndpointWarning::NoBundle => {
                    "bundle not found for the endpoint SPIFFE ID trust domain"
                }
                EndpointWarning::Unknown => {
                    "failed to check whether a bundle exists for the endpoint SPIFFE ID trust \
                     domain"
                }
            };
            log_call!(warn, call, { trust_domain_id, endpoint_spiffe_id, }, "{text}");
        }
        log_call!(debug, call, { trust_domain_id, }, "{done}");
        (Some(ok()), Some(message(&relationship, mask)))
    }

    async fn delete(
        &self,
        call: &Call,
        name: String,
    ) -> Result<pb::batch_delete_federation_relationship_response::Result, Status> {
        let operator = call.operator()?;
        let result = |trust_domain, status| {
            let status = Some(status);
            Ok(pb::batch_delete_federation_relationship_response::Result { status, trust_domain })
        };
        if name.is_empty() {
            let status = call.fail_item(&FederationError::NoTrustDomain, About::default());
            return result(name, status);
        }
        let trust_domain = match parse_trust_domain(&name) {
            Ok(trust_domain) => trust_domain,
            Err(error) => {
                let status = call.fail_item(&error, about(&name));
                return result(name, status);
            }
        };
        let deleted = self.federation.delete(operator, &trust_domain).await;
        let status = match deleted {
            Ok(()) => {
                self.refresher.reload();
                let trust_domain_id = name.as_str();
                log_call!(debug, call, { trust_domain_id, }, "Federation relationship deleted");
                ok()
            }
            Err(error) => call.fail_item(&error, about(&name)),
        };
        result(trust_domain.as_str().to_owned(), status)
    }
}

fn about(trust_domain: &str) -> About<'_> {
    About { trust_domain_id: Some(trust_domain), ..About::default() }
}

fn raw(relationship: types::FederationRelationship) -> RawRelationship {
    let profile = relationship.bundle_endpoint_profile.map(|profile| match profile {
        Profile::HttpsWeb(_) => RawProfile::HttpsWeb,
        Profile::HttpsSpiffe(spiffe) => RawProfile::HttpsSpiffe(spiffe.endpoint_spiffe_id),
    });
    RawRelationship {
        trust_domain: relationship.trust_domain,
        bundle_endpoint_url: relationship.bundle_endpoint_url,
        bundle_endpoint_profile: profile,
        bundle: relationship.trust_domain_bundle.map(raw_bundle),
    }
}

/// Which parts an update takes over; without a mask, all of them.
fn parts(mask: Option<&types::FederationRelationshipMask>) -> RelationshipMask {
    mask.map_or(RelationshipMask::ALL, |mask| RelationshipMask {
        bundle_endpoint_url: mask.bundle_endpoint_url,
        bundle_endpoint_profile: mask.bundle_endpoint_profile,
        bundle: mask.trust_domain_bundle,
    })
}

/// A relationship, as far as the mask asks for it; the trust domain is always there.
fn message(
    relationship: &FederationRelationship,
    mask: Option<&types::FederationRelationshipMask>,
) -> types::FederationRelationship {
    let asked = |field: fn(&types::FederationRelationshipMask) -> bool| mask.is_none_or(field);
    let mut message = types::FederationRelationship {
        trust_domain: relationship.trust_domain.as_str().to_owned(),
        ..types::FederationRelationship::default()
    };
    if asked(|mask| mask.bundle_endpoint_url) {
        message.bundle_endpoint_url.clone_from(&relationship.bundle_endpoint_url);
    }
    if asked(|mask| mask.bundle_endpoint_profile) {
        message.bundle_endpoint_profile = Some(match &relationship.bundle_endpoint_profile {
            BundleEndpointProfile::HttpsWeb => Profile::HttpsWeb(types::HttpsWebProfile {}),
            BundleEndpointProfile::HttpsSpiffe(id) => {
                Profile::HttpsSpiffe(types::HttpsspiffeProfile {
                    endpoint_spiffe_id: id.as_str().to_owned(),
                })
            }
        });
    }
    if asked(|mask| mask.trust_domain_bundle) {
        message.trust_domain_bundle =
            relationship.bundle.as_ref().map(|bundle| bundle_message(bundle, None));
    }
    message
}

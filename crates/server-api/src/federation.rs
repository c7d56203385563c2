//! `spire.api.server.trustdomain.v1.TrustDomain`: answered, but not available yet.

use steeple_proto::spire::api::server::trustdomain::v1 as pb;
use steeple_proto::spire::api::types;
use tonic::{Request, Response, Status};

use crate::call::Call;
use crate::convert::not_available;

/// The TrustDomain service.
pub(crate) struct FederationService;

fn refuse<T, R>(request: &Request<T>) -> Result<Response<R>, Status> {
    Call::of(request)?.operator()?;
    Err(not_available("managing federation relationships"))
}

#[tonic::async_trait]
impl pb::trust_domain_server::TrustDomain for FederationService {
    async fn list_federation_relationships(
        &self,
        request: Request<pb::ListFederationRelationshipsRequest>,
    ) -> Result<Response<pb::ListFederationRelationshipsResponse>, Status> {
        refuse(&request)
    }

    async fn get_federation_relationship(
        &self,
        request: Request<pb::GetFederationRelationshipRequest>,
    ) -> Result<Response<types::FederationRelationship>, Status> {
        refuse(&request)
    }

    async fn batch_create_federation_relationship(
        &self,
        request: Request<pb::BatchCreateFederationRelationshipRequest>,
    ) -> Result<Response<pb::BatchCreateFederationRelationshipResponse>, Status> {
        refuse(&request)
    }

    async fn batch_update_federation_relationship(
        &self,
        request: Request<pb::BatchUpdateFederationRelationshipRequest>,
    ) -> Result<Response<pb::BatchUpdateFederationRelationshipResponse>, Status> {
        refuse(&request)
    }

    async fn batch_delete_federation_relationship(
        &self,
        request: Request<pb::BatchDeleteFederationRelationshipRequest>,
    ) -> Result<Response<pb::BatchDeleteFederationRelationshipResponse>, Status> {
        refuse(&request)
    }

    async fn refresh_bundle(
        &self,
        request: Request<pb::RefreshBundleRequest>,
    ) -> Result<Response<()>, Status> {
        refuse(&request)
    }
}

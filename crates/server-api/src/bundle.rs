//! `spire.api.server.bundle.v1.Bundle`.

use steeple_proto::spire::api::server::bundle::v1 as pb;
use steeple_proto::spire::api::server::bundle::v1::batch_delete_federated_bundle_request::Mode;
use steeple_proto::spire::api::types;
use steeple_server_core::bundles::Bundles;
use steeple_store::model::DeleteMode;
use tonic::{Request, Response, Status};

use crate::call::{About, Call, log_call};
use crate::convert::{
    self, bundle_fields, bundle_message, count, jwt_key_message, raw_bundle, raw_jwt_authority,
};
use crate::status::ok;

/// The Bundle service.
pub(crate) struct BundleService {
    pub(crate) bundles: Bundles,
}

#[tonic::async_trait]
impl pb::bundle_server::Bundle for BundleService {
    async fn count_bundles(
        &self,
        request: Request<pb::CountBundlesRequest>,
    ) -> Result<Response<pb::CountBundlesResponse>, Status> {
        let call = Call::of(&request)?;
        let counted = self.bundles.count(call.operator()?).await;
        let counted = counted.map_err(|error| call.fail(&error))?;
        Ok(Response::new(pb::CountBundlesResponse { count: count(counted) }))
    }

    async fn get_bundle(
        &self,
        request: Request<pb::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let call = Call::of(&request)?;
        let mask = request.into_inner().output_mask;
        let bundle = self.bundles.own(call.now()).await.map_err(|error| call.fail(&error))?;
        Ok(Response::new(bundle_message(&bundle, mask.as_ref())))
    }

    async fn append_bundle(
        &self,
        request: Request<pb::AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let x509: Vec<_> = request.x509_authorities.into_iter().map(|cert| cert.asn1).collect();
        let jwt: Vec<_> = request.jwt_authorities.into_iter().map(raw_jwt_authority).collect();
        let appended = self.bundles.append(call.operator()?, &x509, &jwt).await;
        let home = self.bundles.trust_domain().as_str();
        let bundle = appended.map_err(|error| call.fail_about(&error, about(home)))?;
        Ok(Response::new(bundle_message(&bundle, request.output_mask.as_ref())))
    }

    async fn publish_jwt_authority(
        &self,
        request: Request<pb::PublishJwtAuthorityRequest>,
    ) -> Result<Response<pb::PublishJwtAuthorityResponse>, Status> {
        let call = Call::of(&request)?;
        let authority = request.into_inner().jwt_authority.map(raw_jwt_authority);
        let published = self.bundles.publish_jwt_authority(call.downstream()?, authority).await;
        let authorities = published.map_err(|error| call.fail(&error))?;
        let jwt_authorities = authorities.iter().map(jwt_key_message).collect();
        Ok(Response::new(pb::PublishJwtAuthorityResponse { jwt_authorities }))
    }

    async fn publish_wit_authority(
        &self,
        request: Request<pb::PublishWitAuthorityRequest>,
    ) -> Result<Response<pb::PublishWitAuthorityResponse>, Status> {
        let call = Call::of(&request)?;
        call.downstream()?;
        Err(call.refuse(Status::unimplemented("WIT-SVID functionality is not yet implemented")))
    }

    async fn list_federated_bundles(
        &self,
        request: Request<pb::ListFederatedBundlesRequest>,
    ) -> Result<Response<pb::ListFederatedBundlesResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let page = convert::page(request.page_size, request.page_token);
        let listed = self.bundles.list_federated(call.operator()?, page).await;
        let (bundles, next) = listed.map_err(|error| call.fail(&error))?;
        let mask = request.output_mask.as_ref();
        Ok(Response::new(pb::ListFederatedBundlesResponse {
            bundles: bundles.iter().map(|bundle| bundle_message(bundle, mask)).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<pb::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let found = self.bundles.federated(&call.reader()?, &request.trust_domain).await;
        let about = about(&request.trust_domain);
        let bundle = found.map_err(|error| call.fail_about(&error, about))?;
        Ok(Response::new(bundle_message(&bundle, request.output_mask.as_ref())))
    }

    async fn batch_create_federated_bundle(
        &self,
        request: Request<pb::BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<pb::BatchCreateFederatedBundleResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.bundle.len());
        for bundle in request.bundle {
            let bundle = raw_bundle(bundle);
            let created = self.bundles.create(call.operator()?, &bundle).await;
            if let Ok(created) = &created {
                let trust_domain_id = created.trust_domain.as_str();
                log_call!(debug, call, { trust_domain_id, }, "Federated bundle created");
            }
            let (status, bundle) =
                outcome(&call, &bundle.trust_domain, created, request.output_mask.as_ref());
            results.push(pb::batch_create_federated_bundle_response::Result { status, bundle });
        }
        Ok(Response::new(pb::BatchCreateFederatedBundleResponse { results }))
    }

    async fn batch_update_federated_bundle(
        &self,
        request: Request<pb::BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<pb::BatchUpdateFederatedBundleResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let fields = bundle_fields(request.input_mask.as_ref());
        let mut results = Vec::with_capacity(request.bundle.len());
        for bundle in request.bundle {
            let bundle = raw_bundle(bundle);
            let updated = self.bundles.update(call.operator()?, &bundle, fields).await;
            if let Ok(updated) = &updated {
                let trust_domain_id = updated.trust_domain.as_str();
                log_call!(debug, call, { trust_domain_id, }, "Federated bundle updated");
            }
            let (status, bundle) =
                outcome(&call, &bundle.trust_domain, updated, request.output_mask.as_ref());
            results.push(pb::batch_update_federated_bundle_response::Result { status, bundle });
        }
        Ok(Response::new(pb::BatchUpdateFederatedBundleResponse { results }))
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<pb::BatchSetFederatedBundleRequest>,
    ) -> Result<Response<pb::BatchSetFederatedBundleResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.bundle.len());
        for bundle in request.bundle {
            let trust_domain = bundle.trust_domain.clone();
            let set = self.bundles.set(call.operator()?, &raw_bundle(bundle)).await;
            if set.is_ok() {
                let trust_domain_id = trust_domain.as_str();
                log_call!(info, call, { trust_domain_id, }, "Bundle set successfully");
            }
            let (status, bundle) = outcome(&call, &trust_domain, set, request.output_mask.as_ref());
            results.push(pb::batch_set_federated_bundle_response::Result { status, bundle });
        }
        Ok(Response::new(pb::BatchSetFederatedBundleResponse { results }))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<pb::BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<pb::BatchDeleteFederatedBundleResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let (mode, mode_name) = match Mode::try_from(request.mode) {
            Ok(mode @ Mode::Restrict) => (DeleteMode::Restrict, mode.as_str_name()),
            Ok(mode @ Mode::Delete) => (DeleteMode::Delete, mode.as_str_name()),
            Ok(mode @ Mode::Dissociate) => (DeleteMode::Dissociate, mode.as_str_name()),
            Err(_unknown) => {
                let number = request.mode;
                return Err(call.refuse(Status::invalid_argument(format!(
                    "failed to parse deletion mode: unhandled delete mode \"{number}\""
                ))));
            }
        };
        let mut results = Vec::with_capacity(request.trust_domains.len());
        for trust_domain in request.trust_domains {
            let deleted = self.bundles.delete(call.operator()?, &trust_domain, mode).await;
            let about = About { delete_mode: Some(mode_name), ..about(&trust_domain) };
            let status = deleted.map_or_else(|error| call.fail_item(&error, about), |()| ok());
            results.push(pb::batch_delete_federated_bundle_response::Result {
                status: Some(status),
                trust_domain,
            });
        }
        Ok(Response::new(pb::BatchDeleteFederatedBundleResponse { results }))
    }
}

fn about(trust_domain: &str) -> About<'_> {
    About { trust_domain_id: Some(trust_domain), ..About::default() }
}

/// What a batch says of one bundle.
fn outcome(
    call: &Call,
    trust_domain: &str,
    result: Result<steeple_pki::Bundle, steeple_server_core::bundles::BundleError>,
    mask: Option<&types::BundleMask>,
) -> (Option<types::Status>, Option<types::Bundle>) {
    match result {
        Ok(bundle) => (Some(ok()), Some(bundle_message(&bundle, mask))),
        Err(error) => (Some(call.fail_item(&error, about(trust_domain))), None),
    }
}

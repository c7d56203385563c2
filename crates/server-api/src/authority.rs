//! `spire.api.server.localauthority.v1.LocalAuthority`.

use std::sync::Arc;

use steeple_ca::{AuthorityKind, AuthorityState};
use steeple_proto::spire::api::server::localauthority::v1 as pb;
use steeple_proto::spire::api::server::localauthority::v1::local_authority_server::LocalAuthority;
use steeple_server_core::authorities::Authorities;
use tonic::{Request, Response, Status};

use crate::call::Call;
use crate::convert::expires_at;

/// The LocalAuthority service.
pub(crate) struct AuthorityService {
    pub(crate) authorities: Arc<Authorities>,
}

impl AuthorityService {
    async fn prepare<T>(
        &self,
        request: &Request<T>,
        kind: AuthorityKind,
    ) -> Result<Option<pb::AuthorityState>, Status> {
        let call = Call::of(request)?;
        let prepared = self.authorities.prepare(call.operator()?, kind).await;
        prepared.map(|state| Some(message(state))).map_err(|error| call.fail(&error))
    }

    async fn activate<T>(
        &self,
        request: &Request<T>,
        kind: AuthorityKind,
        id: &str,
    ) -> Result<Option<pb::AuthorityState>, Status> {
        let call = Call::of(request)?;
        let activated = self.authorities.activate(call.operator()?, kind, id).await;
        activated.map(|state| Some(message(state))).map_err(|error| call.fail(&error))
    }

    async fn taint<T>(
        &self,
        request: &Request<T>,
        kind: AuthorityKind,
        id: &str,
    ) -> Result<pb::AuthorityState, Status> {
        let call = Call::of(request)?;
        let tainted = self.authorities.taint(call.operator()?, kind, id).await;
        tainted.map(message).map_err(|error| call.fail(&error))
    }

    async fn revoke<T>(
        &self,
        request: &Request<T>,
        kind: AuthorityKind,
        id: &str,
    ) -> Result<Option<pb::AuthorityState>, Status> {
        let call = Call::of(request)?;
        let revoked = self.authorities.revoke(call.operator()?, kind, id).await;
        revoked.map_err(|error| call.fail(&error))?;
        Ok(Some(named(id.to_owned())))
    }
}

#[tonic::async_trait]
impl LocalAuthority for AuthorityService {
    async fn get_x509_authority_state(
        &self,
        request: Request<pb::GetX509AuthorityStateRequest>,
    ) -> Result<Response<pb::GetX509AuthorityStateResponse>, Status> {
        let call = Call::of(&request)?;
        let states = self.authorities.states(call.operator()?, AuthorityKind::X509).await;
        let states = states.map_err(|error| call.fail(&error))?;
        Ok(Response::new(pb::GetX509AuthorityStateResponse {
            active: Some(message(states.active)),
            prepared: states.prepared.map(message),
            old: states.old.map(message),
        }))
    }

    async fn prepare_x509_authority(
        &self,
        request: Request<pb::PrepareX509AuthorityRequest>,
    ) -> Result<Response<pb::PrepareX509AuthorityResponse>, Status> {
        let prepared_authority = self.prepare(&request, AuthorityKind::X509).await?;
        Ok(Response::new(pb::PrepareX509AuthorityResponse { prepared_authority }))
    }

    async fn activate_x509_authority(
        &self,
        request: Request<pb::ActivateX509AuthorityRequest>,
    ) -> Result<Response<pb::ActivateX509AuthorityResponse>, Status> {
        let id = &request.get_ref().authority_id;
        let activated_authority = self.activate(&request, AuthorityKind::X509, id).await?;
        Ok(Response::new(pb::ActivateX509AuthorityResponse { activated_authority }))
    }

    async fn taint_x509_authority(
        &self,
        request: Request<pb::TaintX509AuthorityRequest>,
    ) -> Result<Response<pb::TaintX509AuthorityResponse>, Status> {
        let id = &request.get_ref().authority_id;
        let tainted = self.taint(&request, AuthorityKind::X509, id).await?;
        Ok(Response::new(pb::TaintX509AuthorityResponse { tainted_authority: Some(tainted) }))
    }

    async fn taint_x509_upstream_authority(
        &self,
        request: Request<pb::TaintX509UpstreamAuthorityRequest>,
    ) -> Result<Response<pb::TaintX509UpstreamAuthorityResponse>, Status> {
        let call = Call::of(&request)?;
        let id = &request.get_ref().subject_key_id;
        let tainted = self.authorities.taint_upstream(call.operator()?, id).await;
        let upstream_authority_subject_key_id = tainted.map_err(|error| call.fail(&error))?;
        Ok(Response::new(pb::TaintX509UpstreamAuthorityResponse {
            upstream_authority_subject_key_id,
        }))
    }

    async fn revoke_x509_authority(
        &self,
        request: Request<pb::RevokeX509AuthorityRequest>,
    ) -> Result<Response<pb::RevokeX509AuthorityResponse>, Status> {
        let id = &request.get_ref().authority_id;
        let revoked_authority = self.revoke(&request, AuthorityKind::X509, id).await?;
        Ok(Response::new(pb::RevokeX509AuthorityResponse { revoked_authority }))
    }

    async fn revoke_x509_upstream_authority(
        &self,
        request: Request<pb::RevokeX509UpstreamAuthorityRequest>,
    ) -> Result<Response<pb::RevokeX509UpstreamAuthorityResponse>, Status> {
        let call = Call::of(&request)?;
        let id = &request.get_ref().subject_key_id;
        let revoked = self.authorities.revoke_upstream(call.operator()?, id).await;
        let upstream_authority_subject_key_id = revoked.map_err(|error| call.fail(&error))?;
        Ok(Response::new(pb::RevokeX509UpstreamAuthorityResponse {
            upstream_authority_subject_key_id,
        }))
    }

    async fn get_jwt_authority_state(
        &self,
        request: Request<pb::GetJwtAuthorityStateRequest>,
    ) -> Result<Response<pb::GetJwtAuthorityStateResponse>, Status> {
        let call = Call::of(&request)?;
        let states = self.authorities.states(call.operator()?, AuthorityKind::Jwt).await;
        let states = states.map_err(|error| call.fail(&error))?;
        Ok(Response::new(pb::GetJwtAuthorityStateResponse {
            active: Some(message(states.active)),
            prepared: states.prepared.map(message),
            old: states.old.map(message),
        }))
    }

    async fn prepare_jwt_authority(
        &self,
        request: Request<pb::PrepareJwtAuthorityRequest>,
    ) -> Result<Response<pb::PrepareJwtAuthorityResponse>, Status> {
        let prepared_authority = self.prepare(&request, AuthorityKind::Jwt).await?;
        Ok(Response::new(pb::PrepareJwtAuthorityResponse { prepared_authority }))
    }

    async fn activate_jwt_authority(
        &self,
        request: Request<pb::ActivateJwtAuthorityRequest>,
    ) -> Result<Response<pb::ActivateJwtAuthorityResponse>, Status> {
        let id = &request.get_ref().authority_id;
        let activated_authority = self.activate(&request, AuthorityKind::Jwt, id).await?;
        Ok(Response::new(pb::ActivateJwtAuthorityResponse { activated_authority }))
    }

    async fn taint_jwt_authority(
        &self,
        request: Request<pb::TaintJwtAuthorityRequest>,
    ) -> Result<Response<pb::TaintJwtAuthorityResponse>, Status> {
        let id = &request.get_ref().authority_id;
        let tainted = self.taint(&request, AuthorityKind::Jwt, id).await?;
        // Of a tainted JWT authority, SPIRE tells the id and nothing else.
        let tainted_authority = Some(named(tainted.authority_id));
        Ok(Response::new(pb::TaintJwtAuthorityResponse { tainted_authority }))
    }

    async fn revoke_jwt_authority(
        &self,
        request: Request<pb::RevokeJwtAuthorityRequest>,
    ) -> Result<Response<pb::RevokeJwtAuthorityResponse>, Status> {
        let id = &request.get_ref().authority_id;
        let revoked_authority = self.revoke(&request, AuthorityKind::Jwt, id).await?;
        Ok(Response::new(pb::RevokeJwtAuthorityResponse { revoked_authority }))
    }

    async fn get_wit_authority_state(
        &self,
        request: Request<pb::GetWitAuthorityStateRequest>,
    ) -> Result<Response<pb::GetWitAuthorityStateResponse>, Status> {
        Err(no_wit(&request))
    }

    async fn prepare_wit_authority(
        &self,
        request: Request<pb::PrepareWitAuthorityRequest>,
    ) -> Result<Response<pb::PrepareWitAuthorityResponse>, Status> {
        Err(no_wit(&request))
    }

    async fn activate_wit_authority(
        &self,
        request: Request<pb::ActivateWitAuthorityRequest>,
    ) -> Result<Response<pb::ActivateWitAuthorityResponse>, Status> {
        Err(no_wit(&request))
    }

    async fn taint_wit_authority(
        &self,
        request: Request<pb::TaintWitAuthorityRequest>,
    ) -> Result<Response<pb::TaintWitAuthorityResponse>, Status> {
        Err(no_wit(&request))
    }

    async fn revoke_wit_authority(
        &self,
        request: Request<pb::RevokeWitAuthorityRequest>,
    ) -> Result<Response<pb::RevokeWitAuthorityResponse>, Status> {
        Err(no_wit(&request))
    }
}

/// As in SPIRE, whose API has these methods and does not implement them.
fn no_wit<T>(request: &Request<T>) -> Status {
    match Call::of(request).and_then(|call| call.operator().map(drop)) {
        Ok(()) => Status::unimplemented("WIT-SVID functionality is not yet implemented"),
        Err(status) => status,
    }
}

fn named(authority_id: String) -> pb::AuthorityState {
    pb::AuthorityState { authority_id, ..pb::AuthorityState::default() }
}

fn message(state: AuthorityState) -> pb::AuthorityState {
    pb::AuthorityState {
        authority_id: state.authority_id,
        expires_at: expires_at(state.expires_at),
        upstream_authority_subject_key_id: state.upstream_authority_id,
    }
}

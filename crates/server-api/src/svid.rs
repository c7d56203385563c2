//! `spire.api.server.svid.v1.SVID`.

use std::sync::Arc;

use steeple_proto::spire::api::server::svid::v1 as pb;
use steeple_proto::spire::api::types;
use steeple_server_core::svids::{
    IssuedJwt, IssuedX509, SvidError, Svids, WitKey, WitRequest, X509Request,
};
use steeple_server_core::time::rfc3339;
use tonic::{Request, Response, Status};

use crate::call::{About, Call, log_call};
use crate::convert::{chain_message, expires_at, id_message, id_text, raw_id, x509_svid_message};
use crate::name::go_name;
use crate::status::ok;

/// The longest audience that the log repeats, in bytes.
const MAX_AUDIENCE_TEXT: usize = 512;

/// The SVID service.
pub(crate) struct SvidService {
    pub(crate) svids: Arc<Svids>,
}

#[tonic::async_trait]
impl pb::svid_server::Svid for SvidService {
    async fn mint_x509svid(
        &self,
        request: Request<pb::MintX509svidRequest>,
    ) -> Result<Response<pb::MintX509svidResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let operator = call.operator()?;
        let minted = self.svids.mint_x509(operator, &request.csr, request.ttl, call.now()).await;
        let svid = minted.map_err(|error| call.fail(&error))?;
        log_signed(&call, &svid, None);
        let leaf = &svid.chain[0];
        call.note(|fields| {
            fields.text("expires_at", rfc3339(leaf.not_after()));
            fields.text("spiffe_id", &svid.id);
            fields.text("dns_name", leaf.dns_sans().join(","));
            let subject = leaf.subject().map_or_else(|_| String::new(), |name| go_name(&name));
            fields.text("subject", subject);
        });
        let svid = Some(x509_svid_message(&svid.id, &svid.chain));
        Ok(Response::new(pb::MintX509svidResponse { svid }))
    }

    async fn mint_jwtsvid(
        &self,
        request: Request<pb::MintJwtsvidRequest>,
    ) -> Result<Response<pb::MintJwtsvidResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let named = id_text(&request.id);
        let id = request.id.map(raw_id);
        let audience = audience_text(&request.audience);
        let minted = self
            .svids
            .mint_jwt(call.operator()?, id.as_ref(), request.audience, request.ttl, call.now())
            .await;
        let svid = minted.map_err(|error| {
            let named = Some(&*named).filter(|_| !matches!(error, SvidError::BadId(_)));
            call.fail_about(&error, About { spiffe_id: named, ..About::default() })
        })?;
        let svid = Some(jwt_message(&call, svid, &audience));
        Ok(Response::new(pb::MintJwtsvidResponse { svid }))
    }

    async fn mint_witsvid(
        &self,
        request: Request<pb::MintWitsvidRequest>,
    ) -> Result<Response<pb::MintWitsvidResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let named = id_text(&request.id);
        let id = request.id.map(raw_id);
        let key = wit_key(&request.public_key, request.signing_algorithm);
        let minted =
            self.svids.mint_wit(call.operator()?, id.as_ref(), key, request.ttl, call.now()).await;
        let svid = minted.map_err(|error| {
            let named = Some(&*named).filter(|_| !matches!(error, SvidError::BadId(_)));
            call.fail_about(&error, About { spiffe_id: named, ..About::default() })
        })?;
        Ok(Response::new(pb::MintWitsvidResponse { svid: Some(wit_message(&call, svid)) }))
    }

    async fn batch_new_x509svid(
        &self,
        request: Request<pb::BatchNewX509svidRequest>,
    ) -> Result<Response<pb::BatchNewX509svidResponse>, Status> {
        let call = Call::of(&request)?;
        let params = request.into_inner().params;
        if params.is_empty() {
            return Err(call.refuse(missing_parameters()));
        }
        call.spend_per_item(params.len()).await?;
        let ids: Vec<String> = params.iter().map(|params| params.entry_id.clone()).collect();
        let requests = params
            .into_iter()
            .map(|params| X509Request { entry_id: params.entry_id, csr: params.csr.to_vec() })
            .collect();
        let results = self.svids.batch_new_x509(call.agent()?, requests, call.now()).await;
        let results = ids
            .iter()
            .zip(results)
            .map(|(entry_id, result)| match result {
                Ok(svid) => {
                    log_signed(&call, &svid, Some(entry_id));
                    pb::batch_new_x509svid_response::Result {
                        status: Some(ok()),
                        svid: Some(x509_svid_message(&svid.id, &svid.chain)),
                    }
                }
                Err(error) => pb::batch_new_x509svid_response::Result {
                    status: Some(call.fail_item(&error, about_entry(entry_id))),
                    svid: None,
                },
            })
            .collect();
        Ok(Response::new(pb::BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<pb::NewJwtsvidRequest>,
    ) -> Result<Response<pb::NewJwtsvidResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let audience = audience_text(&request.audience);
        let issued = self
            .svids
            .new_jwt(call.agent()?, &request.entry_id, request.audience, call.now())
            .await;
        let svid = issued.map_err(|error| call.fail(&error))?;
        call.note(|fields| {
            fields.text("spiffe_id", &svid.id);
            fields.bare("ttl", svid.entry_ttl);
        });
        let svid = Some(jwt_message(&call, svid, &audience));
        Ok(Response::new(pb::NewJwtsvidResponse { svid }))
    }

    async fn batch_new_witsvid(
        &self,
        request: Request<pb::BatchNewWitsvidRequest>,
    ) -> Result<Response<pb::BatchNewWitsvidResponse>, Status> {
        let call = Call::of(&request)?;
        let params = request.into_inner().params;
        let agent = call.agent()?;
        if params.is_empty() {
            return Err(call.refuse(missing_parameters()));
        }
        call.spend_per_item(params.len()).await?;
        let ids: Vec<String> = params.iter().map(|params| params.entry_id.clone()).collect();
        let requests = params
            .into_iter()
            .map(|params| WitRequest {
                entry_id: params.entry_id,
                key: wit_key(&params.public_key, params.signing_algorithm),
            })
            .collect();
        let results = self.svids.batch_new_wit(agent, requests, call.now()).await;
        let results = ids.iter().zip(results).map(|(entry_id, result)| match result {
            // SPIRE leaves this status out, which means the same.
            Ok(svid) => pb::batch_new_witsvid_response::Result {
                status: Some(ok()),
                svid: Some(wit_message(&call, svid)),
            },
            Err(error) => pb::batch_new_witsvid_response::Result {
                status: Some(call.fail_item(&error, about_entry(entry_id))),
                svid: None,
            },
        });
        Ok(Response::new(pb::BatchNewWitsvidResponse { results: results.collect() }))
    }

    async fn new_downstream_x509ca(
        &self,
        request: Request<pb::NewDownstreamX509caRequest>,
    ) -> Result<Response<pb::NewDownstreamX509caResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let issued = self
            .svids
            .new_downstream_ca(call.downstream()?, &request.csr, request.preferred_ttl, call.now())
            .await;
        let ca = issued.map_err(|error| call.fail(&error))?;
        log_call!(
            debug,
            call,
            {
                spiffe_id = ca.chain[0].uri_sans().first().map(String::as_str),
                expiration = rfc3339(ca.chain[0].not_after()),
            },
            "Signed X509 CA SVID"
        );
        call.note(|fields| fields.bare("expires_at", expires_at(ca.chain[0].not_after())));
        Ok(Response::new(pb::NewDownstreamX509caResponse {
            ca_cert_chain: chain_message(&ca.chain),
            x509_authorities: chain_message(&ca.roots),
        }))
    }
}

fn about_entry(id: &str) -> About<'_> {
    About { entry_id: Some(id).filter(|id| !id.is_empty()), ..About::default() }
}

fn missing_parameters() -> Status {
    Status::invalid_argument("missing parameters")
}

fn wit_key(public_key: &[u8], algorithm: String) -> WitKey {
    WitKey { public_key: public_key.to_vec(), algorithm }
}

fn wit_message(call: &Call, issued: IssuedJwt) -> types::Witsvid {
    log_call!(
        debug,
        call,
        { spiffe_id = %issued.id, expiration = rfc3339(issued.svid.expires_at), },
        "Server CA successfully signed WIT-SVID"
    );
    types::Witsvid {
        id: Some(id_message(&issued.id)),
        expires_at: expires_at(issued.svid.expires_at),
        issued_at: expires_at(issued.svid.issued_at),
        token: issued.svid.token,
        hint: String::new(),
    }
}

/// An audience as upstream's log has it, when the log will have it.
fn audience_text(audience: &[String]) -> String {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return String::new();
    }
    let mut text = format!("[{}]", audience.join(" "));
    text.truncate(text.floor_char_boundary(MAX_AUDIENCE_TEXT));
    text
}

fn jwt_message(call: &Call, issued: IssuedJwt, audience: &str) -> types::Jwtsvid {
    log_call!(
        debug,
        call,
        { spiffe_id = %issued.id, audience, expiration = rfc3339(issued.svid.expires_at), },
        "Server CA successfully signed JWT SVID"
    );
    types::Jwtsvid {
        id: Some(id_message(&issued.id)),
        expires_at: expires_at(issued.svid.expires_at),
        issued_at: expires_at(issued.svid.issued_at),
        token: issued.svid.token,
        hint: String::new(),
    }
}

fn log_signed(call: &Call, svid: &IssuedX509, entry_id: Option<&str>) {
    // Serial numbers and dates are made into text for nobody at higher levels.
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    // Names that an operator asked for are of interest; those of an entry are in the entry.
    let leaf = &svid.chain[0];
    let minted = entry_id.is_none();
    let subject = minted.then(|| leaf.subject().map_or_else(|_| String::new(), |it| go_name(&it)));
    log_call!(
        debug,
        call,
        {
            spiffe_id = %svid.id,
            dns_name = minted.then(|| leaf.dns_sans().join(",")),
            subject,
            entry_id,
            revision_number = entry_id.map(|_| svid.revision_number),
            serial_num = leaf.serial_decimal(),
            expiration = rfc3339(leaf.not_after()),
        },
        "Signed X509 SVID"
    );
}

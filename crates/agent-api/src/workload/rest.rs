//! The Workload API as HTTP/1.1 with JSON, for those without gRPC: ours, on the
//! same socket, off unless the configuration says so.
//!
//! A caller is attested exactly as one that speaks gRPC. What a browser or a
//! proxy could be tricked into sending is refused: the security header must be
//! there, `Host` must name this machine, and a request that came through
//! somebody else is none of ours.

mod ask;
mod say;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use steeple_peer::Peer;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use self::ask::{Parameters, Watch};
use self::say::{Refusal, Render};
use super::{
    JWT_BUNDLES, StreamKind, WIT_BUNDLES, WorkloadService, X509_BUNDLES, X509_SVIDS, proto,
};
use crate::caller;
use crate::share::{Share, Shares};
use crate::streaming::Frames;

/// The JSON face of a [`WorkloadService`], within the same limits.
#[derive(Clone)]
pub(crate) struct RestService(WorkloadService);

impl RestService {
    pub(crate) fn new(workload: WorkloadService) -> Self {
        Self(workload)
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, Refusal> {
        let peer = caller::peer(request.extensions())?;
        ask::check_origin(&request)?;
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let Some(resource) = RESOURCES.iter().find(|it| it.path == path) else {
            return Err(Refusal::not_found());
        };
        if !resource.methods.contains(&parts.method) {
            return Err(Refusal::method(resource.allow));
        }
        let query = Parameters::of_query(parts.uri.query().unwrap_or_default())?;
        let api = self.0.api.clone();
        match resource.what {
            What::Stream(kind, render) => {
                let (watch, share) =
                    (Watch::of(&parts.headers, query)?, take(&self.0.open_streams, &peer)?);
                let (source, first) = api.open(kind, peer, share).await?;
                say::watched(watch, source, first, render).await
            }
            What::WitSvids => {
                let mut query = query;
                let spiffe_id = query.take_one("spiffe_id")?.unwrap_or_default();
                let (watch, share) =
                    (Watch::of(&parts.headers, query)?, take(&self.0.open_streams, &peer)?);
                let (source, first) = api.open_wit(peer, spiffe_id, share).await?;
                say::watched(watch, source, first, say::wit_svids).await
            }
            What::WitBundles if api.wit.is_none() => {
                Err(Status::unimplemented("fetching WIT bundles is not implemented").into())
            }
            What::WitBundles => {
                let (watch, share) =
                    (Watch::of(&parts.headers, query)?, take(&self.0.open_streams, &peer)?);
                let (source, first) = api.open(&WIT_BUNDLES, peer, share).await?;
                say::watched(watch, source, first, say::wit_bundles).await
            }
            What::JwtSvids => {
                let _share = take(&self.0.open_unary, &peer)?;
                let mut asked = match parts.method {
                    Method::GET => query,
                    _ => read(&parts.headers, body).await?,
                };
                let audience = asked.take_all("audience");
                let spiffe_id = asked.take_one("spiffe_id")?.unwrap_or_default();
                asked.finish()?;
                let request = proto::JwtsvidRequest { audience, spiffe_id };
                let answer = api.fetch_jwt_svid(peer, request).await?;
                Ok(say::jwt_svids(&answer.into_inner()))
            }
            What::ValidateJwtSvid => {
                let _share = take(&self.0.open_unary, &peer)?;
                let mut asked = read(&parts.headers, body).await?;
                let audience = asked.take_one("audience")?.unwrap_or_default();
                let svid = asked.take_one("svid")?.unwrap_or_default();
                asked.finish()?;
                let request = proto::ValidateJwtsvidRequest { audience, svid };
                let answer = api.validate_jwt_svid(peer, request).await?;
                Ok(say::validated(answer.into_inner()))
            }
        }
    }
}

impl Service<Request<Body>> for RestService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.answer(request).await.unwrap_or_else(Refusal::response)) })
    }
}

/// The body's JSON object.
async fn read(headers: &http::HeaderMap, body: Body) -> Result<Parameters, Refusal> {
    ask::check_content_type(headers)?;
    let collected = tokio::time::timeout(BODY_DEADLINE, Limited::new(body, MAX_BODY).collect());
    let body = match collected.await {
        Err(_) => return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come")),
        Ok(Err(_)) => {
            let text = format!("the body is broken or larger than {MAX_BODY} bytes");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        Ok(Ok(body)) => body.to_bytes(),
    };
    Parameters::of_json(&body)
}

fn take(shares: &Shares, peer: &Peer) -> Result<Share, Status> {
    let share = shares.take(peer.uid());
    share.ok_or_else(|| Status::unavailable("too many calls of this user are open"))
}

struct Resource {
    path: &'static str,
    methods: &'static [Method],
    allow: &'static str,
    what: What,
}

enum What {
    Stream(&'static StreamKind, Render),
    JwtSvids,
    ValidateJwtSvid,
    WitSvids,
    WitBundles,
}

const fn get(path: &'static str, what: What) -> Resource {
    Resource { path, methods: &[Method::GET], allow: "GET", what }
}

static RESOURCES: [Resource; 7] = [
    get("/v1/x509/svids", What::Stream(&X509_SVIDS, say::x509_svids)),
    get("/v1/x509/bundles", What::Stream(&X509_BUNDLES, say::x509_bundles)),
    get("/v1/jwt/bundles", What::Stream(&JWT_BUNDLES, say::jwt_bundles)),
    get("/v1/wit/svids", What::WitSvids),
    get("/v1/wit/bundles", What::WitBundles),
    Resource {
        path: "/v1/jwt/svids",
        methods: &[Method::GET, Method::POST],
        allow: "GET, POST",
        what: What::JwtSvids,
    },
    Resource {
        path: "/v1/jwt/validate",
        methods: &[Method::POST],
        allow: "POST",
        what: What::ValidateJwtSvid,
    },
];

const MAX_BODY: usize = 64 * 1024;
const BODY_DEADLINE: Duration = Duration::from_secs(10);

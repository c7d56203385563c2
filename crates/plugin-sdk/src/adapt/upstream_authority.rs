//! Upstream authorities: the answer is the first message of a stream, updates are the others.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use steeple_pki::{JwtAuthority, X509Authority};
use steeple_plugin::{Updates, UpstreamAuthority};
use steeple_proto::spire::plugin::server::upstreamauthority::v1 as api;
use steeple_proto::spire::plugin::types;
use tonic::{Request, Response, Status};

use crate::wire;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(crate) struct Upstream(pub(crate) Arc<dyn UpstreamAuthority>);

fn follow<T: Send + 'static, M: Send + 'static>(
    first: M,
    updates: Updates<T>,
    message: fn(T) -> M,
) -> Response<Messages<M>> {
    let rest = updates.map(move |it| it.map(message).map_err(|error| wire::status(&error)));
    Response::new(Box::pin(stream::iter([Ok(first)]).chain(rest)))
}

fn roots(roots: &[X509Authority]) -> Vec<types::X509Certificate> {
    roots.iter().map(wire::x509_out).collect()
}

fn jwt_keys(keys: &[JwtAuthority]) -> Vec<types::JwtKey> {
    keys.iter().map(wire::jwt_out).collect()
}

#[tonic::async_trait]
impl api::upstream_authority_server::UpstreamAuthority for Upstream {
    type MintX509CAAndSubscribeStream = Messages<api::MintX509caResponse>;
    type PublishJWTKeyAndSubscribeStream = Messages<api::PublishJwtKeyResponse>;
    type SubscribeToLocalBundleStream = Messages<api::SubscribeToLocalBundleResponse>;

    async fn mint_x509ca_and_subscribe(
        &self,
        request: Request<api::MintX509caRequest>,
    ) -> Result<Response<Self::MintX509CAAndSubscribeStream>, Status> {
        let request = request.into_inner();
        let ttl = Duration::from_secs(request.preferred_ttl.max(0).unsigned_abs().into());
        let minted = self.0.mint_x509_ca(&request.csr, ttl).await;
        let minted = minted.map_err(|error| wire::status(&error))?;
        let chain = minted
            .chain
            .into_iter()
            .map(|certificate| wire::x509_out(&X509Authority::new(certificate)))
            .collect();
        let first = api::MintX509caResponse {
            x509_ca_chain: chain,
            upstream_x509_roots: roots(&minted.roots),
        };
        Ok(follow(first, minted.root_updates, |update| api::MintX509caResponse {
            x509_ca_chain: Vec::new(),
            upstream_x509_roots: roots(&update),
        }))
    }

    async fn publish_jwt_key_and_subscribe(
        &self,
        request: Request<api::PublishJwtKeyRequest>,
    ) -> Result<Response<Self::PublishJWTKeyAndSubscribeStream>, Status> {
        let key = request.into_inner().jwt_key.into_iter().collect();
        let mut keys = wire::jwt_keys_in(key).map_err(Status::invalid_argument)?;
        let key = keys.pop().ok_or_else(|| Status::invalid_argument("missing JWT key"))?;
        let published = self.0.publish_jwt_key(&key).await;
        let published = published.map_err(|error| wire::status(&error))?;
        let first = api::PublishJwtKeyResponse { upstream_jwt_keys: jwt_keys(&published.keys) };
        Ok(follow(first, published.updates, |update| api::PublishJwtKeyResponse {
            upstream_jwt_keys: jwt_keys(&update),
        }))
    }

    async fn subscribe_to_local_bundle(
        &self,
        _: Request<api::SubscribeToLocalBundleRequest>,
    ) -> Result<Response<Self::SubscribeToLocalBundleStream>, Status> {
        let updates = self.0.subscribe_to_local_bundle().await;
        let updates = updates.map_err(|error| wire::status(&error))?;
        let messages = updates.map(|update| {
            update.map_err(|error| wire::status(&error)).map(|bundle| {
                api::SubscribeToLocalBundleResponse {
                    upstream_x509_roots: roots(&bundle.x509_roots),
                    upstream_jwt_keys: jwt_keys(&bundle.jwt_keys),
                }
            })
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

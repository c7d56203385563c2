//! `spire`: another server of the same trust domain, above ours, signs the CA (PS-19, UP-01).
//!
//! Our identity towards it comes from the Workload API of the agent beside us, and follows that.
//! Nothing here runs by itself: what is not being asked for is not polled.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use serde::Deserialize;
use steeple_hcl::Block;
use steeple_net::channel::{self, Channel};
use steeple_net::tls::ClientTls;
use steeple_pki::JwtAuthority;
use steeple_pki::x509::Certificate;
use steeple_plugin::{
    Code, HostContext, Kind, LocalBundle, MintedX509Ca, PluginError, PublishedJwtKeys, Updates,
    UpstreamAuthority, no_updates,
};
use steeple_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use steeple_proto::spire::api::server::bundle::v1::{GetBundleRequest, PublishJwtAuthorityRequest};
use steeple_proto::spire::api::server::svid::v1::NewDownstreamX509caRequest;
use steeple_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use steeple_spiffe::SpiffeId;
use tonic::{Request, Status};

use source::Source;
use steeple_plugin::settings::decode_leniently;

mod convert;
mod source;
#[cfg(test)]
mod tests;

/// The plugin's name in configuration.
pub const NAME: &str = "spire";

/// Between two looks at the bundle of the server above.
const POLL: Duration = Duration::from_secs(5);
/// How long the server above may take for one call.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    server_address: String,
    server_port: String,
    workload_api_socket: String,
    experimental: Experimental,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Experimental {
    workload_api_named_pipe_name: String,
    require_pq_kem: bool,
}

/// The server that the settings name.
///
/// # Errors
/// When the settings are wrong. Nobody is asked anything yet.
pub fn from_config(
    data: Option<&Block>,
    host: &HostContext,
) -> Result<Arc<dyn UpstreamAuthority>, PluginError> {
    let (config, port) = settings(data)?;
    let source = Source::new(&config.workload_api_socket, host.trust_domain.clone());
    let server = SpiffeId::server(&host.trust_domain);
    let tls = ClientTls::new(server, source.roots(), Some(source.identity()));
    let channel = channel::tls(&config.server_address, port, tls)
        .map_err(|reason| error(Code::InvalidArgument, reason.to_string()))?;
    Ok(Arc::new(Spire(Arc::new(Inner { source, channel }))))
}

pub(crate) fn check(data: Option<&Block>) -> Result<(), PluginError> {
    settings(data).map(drop)
}

fn settings(data: Option<&Block>) -> Result<(Config, u16), PluginError> {
    let refusal = "plugin configuration is malformed";
    let config: Config = decode_leniently(Kind::UpstreamAuthority, NAME, data, refusal)?;
    let invalid = |text: &str| Err(error(Code::InvalidArgument, text));
    if config.server_address.is_empty() {
        return invalid("server_address is required");
    }
    if config.server_port.is_empty() {
        return invalid("server_port is required");
    }
    if !config.experimental.workload_api_named_pipe_name.is_empty() {
        return invalid(
            "configuration: workload_api_named_pipe_name is not supported on this platform; \
             please use workload_api_socket instead",
        );
    }
    if config.workload_api_socket.is_empty() {
        return invalid("workload_api_socket is required");
    }
    if config.experimental.require_pq_kem {
        return invalid(
            "require_pq_kem is not available yet: post-quantum key exchange is offered, and used \
             whenever the server above knows it, but cannot be made a condition",
        );
    }
    match config.server_port.parse() {
        Ok(port) if port != 0 => Ok((config, port)),
        _ => invalid("server_port is not the number of a port"),
    }
}

struct Spire(Arc<Inner>);

struct Inner {
    source: Source,
    channel: Channel,
}

#[async_trait]
impl UpstreamAuthority for Spire {
    fn name(&self) -> &str {
        NAME
    }

    async fn mint_x509_ca(
        &self,
        csr: &[u8],
        preferred_ttl: Duration,
    ) -> Result<MintedX509Ca, PluginError> {
        let inner = &self.0;
        inner.source.ready().await?;
        let chain = inner.new_downstream_x509_ca(csr, preferred_ttl).await?;
        // The answer to that call has roots, too, but does not say which are tainted.
        let bundle = inner.bundle().await?;
        // What comes later, the subscription tells.
        Ok(MintedX509Ca { chain, roots: bundle.x509_roots, root_updates: no_updates() })
    }

    async fn publish_jwt_key(&self, key: &JwtAuthority) -> Result<PublishedJwtKeys, PluginError> {
        let inner = &self.0;
        inner.source.ready().await?;
        let jwt_authority = Some(convert::jwt_message(key));
        let request = timed(PublishJwtAuthorityRequest { jwt_authority });
        let answer = BundleClient::new(inner.channel.clone())
            .publish_jwt_authority(request)
            .await
            .map_err(|status| failed("failed to push JWT authority", &status))?;
        let keys = convert::jwt_keys(&answer.into_inner().jwt_authorities)?;
        Ok(PublishedJwtKeys { keys, updates: no_updates() })
    }

    async fn subscribe_to_local_bundle(&self) -> Result<Updates<LocalBundle>, PluginError> {
        let inner = Arc::clone(&self.0);
        inner.source.ready().await?;
        let first = inner.bundle().await?;
        let updates =
            stream::unfold((inner, None, Some(first)), |(inner, told, first)| async move {
                let next = match first {
                    Some(first) => first,
                    None => inner.next_bundle(told.as_ref()).await,
                };
                Some((Ok(next.clone()), (inner, Some(next), None)))
            });
        Ok(Box::pin(updates))
    }
}

impl Inner {
    async fn new_downstream_x509_ca(
        &self,
        csr: &[u8],
        preferred_ttl: Duration,
    ) -> Result<Vec<Certificate>, PluginError> {
        let request = timed(NewDownstreamX509caRequest {
            csr: csr.to_vec().into(),
            preferred_ttl: i32::try_from(preferred_ttl.as_secs()).unwrap_or(i32::MAX),
        });
        let what = "unable to request a new Downstream X509CA";
        let answer = SvidClient::new(self.channel.clone())
            .new_downstream_x509ca(request)
            .await
            .map_err(|status| failed(what, &status))?;
        convert::chain(&answer.into_inner().ca_cert_chain)
    }

    async fn bundle(&self) -> Result<LocalBundle, PluginError> {
        let answer = BundleClient::new(self.channel.clone())
            .get_bundle(timed(GetBundleRequest::default()))
            .await
            .map_err(|status| {
                failed("failed to fetch bundle from upstream server: failed to get bundle", &status)
            })?;
        convert::bundle(&answer.into_inner())
    }

    /// Polls until the bundle is another than `told`.
    async fn next_bundle(&self, told: Option<&LocalBundle>) -> LocalBundle {
        loop {
            tokio::time::sleep(POLL).await;
            self.source.refresh().await;
            match self.bundle().await {
                Ok(bundle) if told == Some(&bundle) => {}
                Ok(bundle) => return bundle,
                Err(error) => tracing::warn!(
                    plugin_name = NAME,
                    plugin_type = Kind::UpstreamAuthority.name(),
                    %error,
                    "Failed to fetch bundle while polling"
                ),
            }
        }
    }
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_DEADLINE);
    request
}

/// A failed call, as grpc-go prints it.
fn failed(what: &str, status: &Status) -> PluginError {
    let code = Code::from_number(status.code() as i32);
    let reason: String = status.message().chars().take(MAX_REASON).collect();
    let text = format!("{what}: rpc error: code = {code} desc = {reason}");
    error(Code::Internal, text)
}

/// How much of a server's reason is repeated.
const MAX_REASON: usize = 300;

fn error(code: Code, message: impl AsRef<str>) -> PluginError {
    PluginError::new(Kind::UpstreamAuthority, NAME, code, message)
}

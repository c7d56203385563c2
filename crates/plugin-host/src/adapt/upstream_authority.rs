//! Upstream authorities: the first message of a stream is the answer, the others are updates.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use steeple_pki::{JwtAuthority, X509Authority};
use steeple_plugin::{
    Code, LocalBundle, MintedX509Ca, PluginError, PublishedJwtKeys, Updates, UpstreamAuthority,
};
use steeple_plugin_sdk::wire;
use steeple_proto::spire::plugin::server::upstreamauthority::v1 as api;
use steeple_proto::spire::plugin::types;
use tonic::{Response, Status, Streaming};

use crate::plugin::{MAX_MESSAGE, Plugin};

/// For the first message; others may take any time.
const FIRST: Duration = Duration::from_secs(120);

pub(super) struct Upstream(pub(super) Plugin);

impl Upstream {
    fn client(
        &self,
    ) -> api::upstream_authority_client::UpstreamAuthorityClient<tonic::transport::Channel> {
        api::upstream_authority_client::UpstreamAuthorityClient::new(self.0.channel())
            .max_decoding_message_size(MAX_MESSAGE)
    }

    async fn first<T>(
        &self,
        call: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
    ) -> Result<(T, Streaming<T>), PluginError> {
        let plugin = &self.0;
        let answer = async {
            let mut stream = plugin.call(FIRST, call).await?;
            match stream.message().await {
                Ok(Some(first)) => Ok((first, stream)),
                Ok(None) => Err(plugin.error(Code::Internal, "plugin closed stream unexpectedly")),
                Err(status) => Err(plugin.failed(&status)),
            }
        };
        tokio::time::timeout(FIRST, answer).await.unwrap_or_else(|_| Err(plugin.too_late()))
    }
}

/// The messages after the first. What cannot be read is said and left out.
fn updates<M: Send + 'static, T: 'static>(
    plugin: Plugin,
    messages: Streaming<M>,
    what: &'static str,
    read: fn(&Plugin, M) -> Result<T, PluginError>,
) -> Updates<T> {
    Box::pin(stream::unfold((plugin, Some(messages)), move |(plugin, messages)| async move {
        let mut messages = messages?;
        loop {
            match messages.message().await {
                Ok(Some(message)) => match read(&plugin, message) {
                    Ok(update) => return Some((Ok(update), (plugin, Some(messages)))),
                    Err(error) => tracing::warn!(
                        subsystem_name = "catalog",
                        external = true,
                        plugin_name = plugin.name(),
                        plugin_type = "UpstreamAuthority",
                        error = crate::rpc_text(&error),
                        "Failed to parse {what} update from the upstream authority plugin. Please \
                         report this bug."
                    ),
                },
                Ok(None) => return None,
                Err(status) => {
                    let error = plugin.failed(&status);
                    return Some((Err(error), (plugin, None)));
                }
            }
        }
    }))
}

fn roots(
    plugin: &Plugin,
    roots: Vec<types::X509Certificate>,
) -> Result<Vec<X509Authority>, PluginError> {
    let roots = wire::roots_in(roots).map_err(|error| {
        let message = format!("plugin response has malformed upstream X.509 roots: {error}");
        plugin.error(Code::Internal, message)
    })?;
    if roots.is_empty() {
        return Err(plugin.error(Code::Internal, "plugin response missing upstream X.509 roots"));
    }
    Ok(roots)
}

fn jwt_keys(plugin: &Plugin, keys: Vec<types::JwtKey>) -> Result<Vec<JwtAuthority>, PluginError> {
    wire::jwt_keys_in(keys)
        .map_err(|error| plugin.error(Code::Internal, format!("invalid plugin response: {error}")))
}

fn root_update(
    plugin: &Plugin,
    message: api::MintX509caResponse,
) -> Result<Vec<X509Authority>, PluginError> {
    if !message.x509_ca_chain.is_empty() {
        let text = "plugin response has an X.509 CA chain after the first response";
        return Err(plugin.error(Code::Internal, text));
    }
    roots(plugin, message.upstream_x509_roots)
}

fn bundle(
    plugin: &Plugin,
    message: api::SubscribeToLocalBundleResponse,
) -> Result<LocalBundle, PluginError> {
    let jwt_keys = jwt_keys(plugin, message.upstream_jwt_keys)?;
    Ok(LocalBundle { x509_roots: roots(plugin, message.upstream_x509_roots)?, jwt_keys })
}

#[async_trait]
impl UpstreamAuthority for Upstream {
    fn name(&self) -> &str {
        self.0.name()
    }

    async fn mint_x509_ca(
        &self,
        csr: &[u8],
        preferred_ttl: Duration,
    ) -> Result<MintedX509Ca, PluginError> {
        let request = api::MintX509caRequest {
            csr: Bytes::copy_from_slice(csr),
            preferred_ttl: i32::try_from(preferred_ttl.as_secs()).unwrap_or(i32::MAX),
        };
        let mut client = self.client();
        let (answer, stream) = self.first(client.mint_x509ca_and_subscribe(request)).await?;
        let chain = wire::chain_in(answer.x509_ca_chain).map_err(|error| {
            let message = format!("plugin response has malformed X.509 CA chain: {error}");
            self.0.error(Code::Internal, message)
        })?;
        if chain.is_empty() {
            return Err(self.0.error(Code::Internal, "plugin response missing X.509 CA chain"));
        }
        Ok(MintedX509Ca {
            chain,
            roots: roots(&self.0, answer.upstream_x509_roots)?,
            root_updates: updates(self.0.clone(), stream, "an X.509 root", root_update),
        })
    }

    async fn publish_jwt_key(&self, key: &JwtAuthority) -> Result<PublishedJwtKeys, PluginError> {
        let request = api::PublishJwtKeyRequest { jwt_key: Some(wire::jwt_out(key)) };
        let mut client = self.client();
        let (answer, stream) = self.first(client.publish_jwt_key_and_subscribe(request)).await?;
        let read = |plugin: &Plugin, message: api::PublishJwtKeyResponse| {
            jwt_keys(plugin, message.upstream_jwt_keys)
        };
        Ok(PublishedJwtKeys {
            keys: jwt_keys(&self.0, answer.upstream_jwt_keys)?,
            updates: updates(self.0.clone(), stream, "a JWT key", read),
        })
    }

    /// The answer is the first of the updates.
    async fn subscribe_to_local_bundle(&self) -> Result<Updates<LocalBundle>, PluginError> {
        let mut client = self.client();
        let request = api::SubscribeToLocalBundleRequest {};
        let (answer, stream) = self.first(client.subscribe_to_local_bundle(request)).await?;
        let first = bundle(&self.0, answer)?;
        let rest = updates(self.0.clone(), stream, "an X.509 root", bundle);
        Ok(Box::pin(futures_util::StreamExt::chain(stream::iter([Ok(first)]), rest)))
    }
}

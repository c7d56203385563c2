//! Many Envoys, each with a stream of secrets open on a connection of its own.

use steeple_net::channel::Channel;
use steeple_proto::envoy::config::core::v3::Node;
use steeple_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use steeple_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Context, Scenario, streams};
use crate::deployment::Deployment;
use crate::error::{Error, Result};
use crate::figures::{CONNECTION, cost, lower};
use crate::load::answer;

const CALL: &str = "StreamSecrets";
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// A stream that is kept: the client's half, which acknowledged, and the server's.
pub struct Kept {
    _requests: mpsc::Sender<DiscoveryRequest>,
    _responses: Streaming<DiscoveryResponse>,
}

/// What is measured, and how.
pub const SCENARIO: Scenario = Scenario::shared(
    "sds",
    "open StreamSecrets streams, a connection each",
    &[
        lower("sds.rss", "Memory per open SDS stream (RSS)", "KiB"),
        cost("sds.open", "Opening an SDS stream to stay, agent CPU").limit(CONNECTION),
        lower("sds.agent", "Agent with all SDS streams open (RSS)", "MiB"),
    ],
    |deployment, context| Box::pin(run(deployment, context)),
)
.at_most(2);

async fn run(deployment: &Deployment, context: &mut Context<'_>) -> Result<()> {
    let kept = streams::measure(deployment, context, CALL, open).await?;
    context.add("sds.rss", kept.rss);
    context.add("sds.open", kept.open);
    context.add("sds.agent", kept.agent);
    Ok(())
}

/// Asks for a certificate and the bundle, as an Envoy with mTLS does, and acknowledges both.
async fn open(channel: Channel) -> Result<Kept> {
    let (requests, outgoing) = mpsc::channel(2);
    let mut client = SecretDiscoveryServiceClient::new(channel);
    let first = request("", "");
    // The other end of the channel is held by the call.
    let _ = requests.send(first).await;
    let pending = client.stream_secrets(ReceiverStream::new(outgoing));
    let mut responses = answer(CALL, pending).await?.into_inner();
    let response = answer(CALL, responses.message()).await?;
    let response =
        response.ok_or_else(|| Error::Wrong { call: CALL, what: "no response".into() })?;
    if response.resources.len() != 2 {
        let what = format!("{} secrets instead of two", response.resources.len());
        return Err(Error::Wrong { call: CALL, what });
    }
    let _ = requests.send(request(&response.version_info, &response.nonce)).await;
    Ok(Kept { _requests: requests, _responses: responses })
}

fn request(version: &str, nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: version.into(),
        node: Some(Node { id: "bench".into(), ..Default::default() }),
        resource_names: vec!["default".into(), "ROOTCA".into()],
        type_url: SECRET.into(),
        response_nonce: nonce.into(),
        ..Default::default()
    }
}

//! Calls of the Workload API.

use std::path::Path;
use std::time::Duration;

use steeple_net::channel::{self, Channel};
use steeple_proto::workload as proto;
use steeple_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tonic::{Code, Request, Status, Streaming};

/// The agent, by its socket.
#[derive(Clone)]
pub(crate) struct Workload(SpiffeWorkloadApiClient<Channel>);

impl Workload {
    pub(crate) fn new(socket: &Path) -> Self {
        let client = SpiffeWorkloadApiClient::new(channel::unix(socket));
        Self(client.max_decoding_message_size(MAX_ANSWER))
    }

    /// Every X.509-SVID there is, and there will be.
    pub(crate) async fn x509_svids(&self) -> Result<Streaming<proto::X509svidResponse>, Status> {
        let call = request(proto::X509svidRequest {});
        Ok(within(self.0.clone().fetch_x509svid(call)).await?.into_inner())
    }

    pub(crate) async fn jwt_bundles(&self) -> Result<Streaming<proto::JwtBundlesResponse>, Status> {
        let call = request(proto::JwtBundlesRequest {});
        Ok(within(self.0.clone().fetch_jwt_bundles(call)).await?.into_inner())
    }

    pub(crate) async fn jwt_svid(
        &self,
        audience: &[String],
    ) -> Result<proto::JwtsvidResponse, Status> {
        let call = proto::JwtsvidRequest { audience: audience.to_vec(), spiffe_id: String::new() };
        Ok(within(self.0.clone().fetch_jwtsvid(request(call))).await?.into_inner())
    }
}

/// The first message of a stream.
pub(crate) async fn first<T>(mut stream: Streaming<T>) -> Result<T, Status> {
    within(stream.message()).await?.ok_or_else(|| Status::unavailable("EOF"))
}

/// Tries again while the agent knows no identity of ours: a new entry takes
/// seconds to arrive.
pub(crate) async fn patiently<T, F>(call: impl Fn() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    let mut pause = Duration::from_millis(10);
    for _ in 1..ATTEMPTS {
        match call().await {
            Err(status) if status.code() == Code::PermissionDenied => {}
            done => return done,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 5).min(LONGEST_PAUSE);
    }
    call().await
}

/// A failed call as Go's libraries word it.
pub(crate) fn worded(status: &Status) -> String {
    let code = steeple_net::outcome::code_name(status.code());
    format!("rpc error: code = {code} desc = {}", status.message())
}

async fn within<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(CALL_TIME, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded("the agent did not answer in time")),
    }
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = tonic::metadata::MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", value);
    request
}

const ATTEMPTS: usize = 10;
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The agent answers a stream only once every SVID is there.
const CALL_TIME: Duration = Duration::from_secs(60);
const MAX_ANSWER: usize = 16 << 20;

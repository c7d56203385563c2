//! go-plugin's own services, and the private one by which a SPIRE host begins and ends.

use std::path::PathBuf;
use std::pin::Pin;

use futures_util::Stream;
use steeple_proto::plugin::grpc_broker_server::GrpcBroker;
use steeple_proto::plugin::grpc_controller_server::GrpcController;
use steeple_proto::plugin::grpc_stdio_server::GrpcStdio;
use steeple_proto::plugin::{ConnInfo, Empty, StdioData};
use steeple_proto::spire::service::private::init::v1 as init;
use steeple_runtime::Tasks;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use crate::host::HostClient;

/// The broker's number of the host's services.
const HOST_SERVICES: u32 = 1;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Learns where the host's services listen.
pub(crate) struct Broker {
    pub(crate) host: HostClient,
    pub(crate) tasks: Tasks,
}

#[tonic::async_trait]
impl GrpcBroker for Broker {
    type StartStreamStream = Messages<ConnInfo>;

    async fn start_stream(
        &self,
        request: Request<Streaming<ConnInfo>>,
    ) -> Result<Response<Self::StartStreamStream>, Status> {
        let mut offers = request.into_inner();
        let host = self.host.clone();
        self.tasks.spawn_isolated("broker", async move {
            while let Ok(Some(offer)) = offers.message().await {
                if offer.service_id == HOST_SERVICES && offer.network == "unix" {
                    host.set(PathBuf::from(offer.address));
                }
            }
        });
        // Nothing is offered from here.
        Ok(Response::new(Box::pin(futures_util::stream::pending())))
    }
}

/// Ends the plugin.
pub(crate) struct Controller(pub(crate) watch::Sender<bool>);

#[tonic::async_trait]
impl GrpcController for Controller {
    async fn shutdown(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.0.send_replace(true);
        Ok(Response::new(Empty {}))
    }
}

/// Nothing is printed here, so there is nothing to pass on.
pub(crate) struct Stdio;

#[tonic::async_trait]
impl GrpcStdio for Stdio {
    type StreamStdioStream = Messages<StdioData>;

    async fn stream_stdio(
        &self,
        _: Request<()>,
    ) -> Result<Response<Self::StreamStdioStream>, Status> {
        Ok(Response::new(Box::pin(futures_util::stream::pending())))
    }
}

/// Says which services the plugin has.
pub(crate) struct Init(pub(crate) Vec<String>);

#[tonic::async_trait]
impl init::init_server::Init for Init {
    async fn init(
        &self,
        _: Request<init::InitRequest>,
    ) -> Result<Response<init::InitResponse>, Status> {
        Ok(Response::new(init::InitResponse { plugin_service_names: self.0.clone() }))
    }

    async fn deinit(
        &self,
        _: Request<init::DeinitRequest>,
    ) -> Result<Response<init::DeinitResponse>, Status> {
        Ok(Response::new(init::DeinitResponse {}))
    }
}

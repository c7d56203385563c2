//! go-plugin's own services of a plugin: the broker, through which it learns where the host's
//! services listen, and what it prints after the handshake.

use futures_util::StreamExt;
use steeple_proto::plugin::grpc_broker_client::GrpcBrokerClient;
use steeple_proto::plugin::grpc_stdio_client::GrpcStdioClient;
use steeple_proto::plugin::{ConnInfo, stdio_data};
use steeple_runtime::log::{Extra, Level};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::output::{Lines, Voice};

/// The broker's number of the host's services.
const HOST_SERVICES: u32 = 1;

/// Tells the plugin where the host's services listen, and keeps the stream open until the plugin
/// ends it.
pub(crate) async fn broker(channel: Channel, address: String) {
    let (sender, receiver) = mpsc::channel(1);
    let info =
        ConnInfo { service_id: HOST_SERVICES, network: "unix".to_owned(), address, knock: None };
    // It waits in the channel: a Go server sends no headers before its first message, so that the
    // call's answer may never come.
    let _ = sender.try_send(info);
    let mut client = GrpcBrokerClient::new(channel);
    if let Ok(answer) = client.start_stream(ReceiverStream::new(receiver)).await {
        let mut offers = answer.into_inner();
        // What plugins offer through the broker, no kind of plugin of SPIRE's uses.
        while let Ok(Some(_)) = offers.message().await {}
    }
    drop(sender);
}

/// Logs what the plugin prints after the handshake. Plugins without this service are fine.
pub(crate) async fn stdio(channel: Channel, voice: Voice) {
    let Ok(answer) = GrpcStdioClient::new(channel).stream_stdio(()).await else { return };
    let mut pieces = answer.into_inner();
    let (out_end, out) = tokio::io::duplex(16 * 1024);
    let (err_end, err) = tokio::io::duplex(16 * 1024);
    let feed = async move {
        let (mut out, mut err) = (out_end, err_end);
        while let Some(Ok(piece)) = pieces.next().await {
            use tokio::io::AsyncWriteExt;
            let written = match piece.channel() {
                stdio_data::Channel::Stdout => out.write_all(&piece.data).await,
                stdio_data::Channel::Stderr => err.write_all(&piece.data).await,
                stdio_data::Channel::Invalid => Ok(()),
            };
            if written.is_err() {
                return;
            }
        }
    };
    tokio::join!(feed, say(out, voice.named("stdout")), say(err, voice.named("stderr")));
}

async fn say(stream: tokio::io::DuplexStream, voice: Voice) {
    let mut lines = Lines::new(stream);
    while let Some(line) = lines.next().await {
        voice.say(Level::Debug, &line.text, &Extra::new());
    }
}

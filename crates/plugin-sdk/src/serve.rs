//! From `main` to the end of the process.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use steeple_net::serve::{Limits, serve as serve_connections};
use steeple_net::unix::{self, UntrackedIncoming};
use steeple_proto::plugin::grpc_broker_server::GrpcBrokerServer;
use steeple_proto::plugin::grpc_controller_server::GrpcControllerServer;
use steeple_proto::plugin::grpc_stdio_server::GrpcStdioServer;
use steeple_proto::spire::service::private::init::v1::init_server::InitServer;
use steeple_runtime::{Tasks, drain};
use tokio::sync::watch;

use crate::go_plugin::{Broker, Controller, Init, Stdio};
use crate::log;
use crate::service::Service;

/// How long open calls may go on after the host has asked the plugin to end.
const GRACE: Duration = Duration::from_secs(1);

/// Serves a plugin until its host ends it; to be returned from `main`.
///
/// Everything that the plugin logs with `tracing` goes to the host's log. It must not print on
/// standard output.
#[must_use]
pub fn serve(service: Service) -> ExitCode {
    let kind = service.kind.name();
    if std::env::var(kind).ok().as_deref() != Some(kind) {
        complain(
            "This binary is a plugin. These are not meant to be executed directly.\nPlease \
             execute the program that consumes these plugins, which will\nload any plugins \
             automatically\n",
        );
        return ExitCode::FAILURE;
    }
    log::init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start: {error}\n"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(service));
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("plugin init error: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

fn complain(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

async fn run(service: Service) -> Result<(), Box<dyn std::error::Error>> {
    // For this user only, as the socket is.
    let directory = tempfile::Builder::new().prefix("plugin").tempdir()?;
    let path = directory.path().join("plugin");
    let incoming = unix::bind(&path, 0o600, 0o700)?;
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_service_status("plugin", tonic_health::ServingStatus::Serving).await;
    let (stop, mut stopped) = watch::channel(false);
    let broker = Broker { host: service.host.clone(), tasks: Tasks::new() };
    let router = service
        .router
        .add_service(health)
        .add_service(GrpcBrokerServer::new(broker))
        .add_service(GrpcControllerServer::new(Controller(stop)))
        .add_service(GrpcStdioServer::new(Stdio))
        .add_service(InitServer::new(Init(service.names)));
    let (trigger, watcher) = drain::channel();
    let tasks = Tasks::new();
    let limits = Limits { drain_grace: GRACE, ..Limits::unix() };
    let serving = serve_connections(UntrackedIncoming::from(incoming), router, limits, watcher);
    tasks.spawn("plugin", serving);
    announce(&path.display().to_string())?;
    tokio::select! {
        _ = stopped.wait_for(|stop| *stop) => {}
        task = tasks.panicked() => return Err(format!("task {task} panicked").into()),
        () = orphaned() => {}
    }
    trigger.drain(GRACE).await;
    Ok(())
}

/// The handshake, which the host waits for.
fn announce(path: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "1|1|unix|{path}|grpc|")?;
    out.flush()
}

/// Resolves when the host is gone without a word. Interrupts, which a terminal sends to the whole
/// group, are the host's to act upon.
async fn orphaned() {
    use tokio::signal::unix::{SignalKind, signal};
    let host = std::os::unix::process::parent_id();
    let mut interrupts = signal(SignalKind::interrupt()).ok();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    while std::os::unix::process::parent_id() == host {
        match &mut interrupts {
            Some(interrupts) => tokio::select! {
                _ = interrupts.recv() => {}
                _ = ticks.tick() => {}
            },
            None => {
                ticks.tick().await;
            }
        }
    }
}

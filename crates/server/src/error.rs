//! Why the server does not start, or stops.

use std::io;
use std::path::PathBuf;

use steeple_ca::RotationError;
use steeple_net::unix::BindError;
use steeple_ops::telemetry::TelemetryError;
use steeple_policy::LoadError;
use steeple_runtime::gotext;
use steeple_server_core::ServerSvidError;
use steeple_server_core::notify::NotifyError;
use steeple_server_core::startup::StartupError;
use steeple_store::StoreError;
use steeple_web::{ListenError, TlsError};

/// Why the server does not start, or stops.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum ServerError {
    #[error("unable to create data directory {path:?}: {source}")]
    DataDir { path: PathBuf, source: io::Error },
    #[error("failed to configure plugin \"sql\": {0}")]
    Datastore(#[source] StoreError),
    #[error("{0}")]
    Plugins(String),
    #[error(transparent)]
    Startup(#[from] StartupError),
    #[error("{0}")]
    Authority(#[from] RotationError),
    #[error("{0}")]
    Notify(#[from] NotifyError),
    #[error("{0}")]
    Svid(#[from] ServerSvidError),
    #[error("unable to read the registration entries: {0}")]
    Index(#[source] StoreError),
    #[error("listen tcp {address}: bind: {}", gotext::system(source))]
    Tcp { address: String, source: io::Error },
    #[error(transparent)]
    Unix(#[from] BindError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error("unable to obtain authpolicy engine: {0}")]
    Policy(#[source] LoadError),
    #[error("unable to serve the bundle endpoint: {0}")]
    BundleEndpoint(#[source] ListenError),
    #[error("unable to serve the bundle endpoint: {0}")]
    BundleEndpointTls(#[source] TlsError),
    #[error("unable to catch signals: {0}")]
    Signals(#[source] io::Error),
    #[error("task {0} panicked")]
    Panicked(&'static str),
}

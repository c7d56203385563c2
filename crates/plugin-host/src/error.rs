//! Why an external plugin is not loaded.

use std::io;
use std::path::PathBuf;

use steeple_plugin::PluginError;

/// Why an external plugin is not loaded. The texts are those that SPIRE's users know.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
#[non_exhaustive]
pub enum HostError {
    #[error("checksum is not a valid hex string")]
    ChecksumNotHex,
    #[error("expected checksum of length 64; got {0}")]
    ChecksumLength(usize),
    #[error("failed to resolve plugin path: {0}")]
    Path(#[source] io::Error),
    #[error("failed to launch plugin: {0}")]
    Launch(#[from] LaunchError),
    #[error("{0}")]
    Init(String),
    #[error("no supported plugin interface found in: {}", quoted(.0))]
    NoInterface(Vec<String>),
    #[error("no supported configuration interface found")]
    NoConfig,
    #[error("failed to load plugin data: {0}")]
    Data(String),
    #[error("{0}")]
    Configure(PluginError),
}

/// Why a plugin's process does not serve.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
#[non_exhaustive]
pub enum LaunchError {
    #[error("error verifying checksum: {0}")]
    Checksum(String),
    #[error("checksums did not match")]
    ChecksumMismatch,
    #[error("fork/exec {}: {reason}", .path.display())]
    Exec { path: PathBuf, reason: String },
    #[error("timeout while waiting for plugin to start")]
    Timeout,
    #[error("plugin exited before we could connect")]
    Exited,
    #[error("Unrecognized remote plugin message: {line}{note}")]
    Unrecognized { line: String, note: String },
    #[error("error parsing core protocol version: strconv.Atoi: parsing {0:?}: invalid syntax")]
    CoreNotNumber(String),
    #[error(
        "incompatible core API version with plugin. Plugin version: {0}, Core version: 1\n\nTo fix \
         this, the plugin usually only needs to be recompiled.\nPlease report this to the plugin \
         author"
    )]
    CoreVersion(String),
    #[error("Error parsing protocol version {0:?}: strconv.Atoi: parsing {0:?}: invalid syntax")]
    VersionNotNumber(String),
    #[error("incompatible API version with plugin. Plugin version: {0}, Client versions: [1]")]
    Version(i64),
    #[error("unknown address type: {0}")]
    Network(String),
    #[error("unsupported plugin protocol {0:?}. Supported: [grpc]")]
    Protocol(String),
    #[error("cannot reach the plugin at {address}: {reason}")]
    Dial { address: String, reason: String },
    #[error("{0}")]
    Host(String),
}

/// A list as Go's `%q` prints it.
fn quoted(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
    format!("[{}]", names.join(" "))
}

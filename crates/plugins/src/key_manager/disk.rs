//! `disk`: keys that are kept in `keys.json`.
//!
//! The server names the file (`keys_path`), the agent its directory (`directory`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use steeple_hcl::Block;
use steeple_plugin::{Code, HostContext, KeyManager, Kind, PluginError};
use steeple_runtime::fsx;

use super::keys_file::KeysFile;
use super::local::LocalKeys;
use steeple_plugin::settings::decode_leniently;

#[cfg(test)]
mod tests;

/// The plugin's name in configuration.
pub const NAME: &str = "disk";

/// The name of the file in the agent's directory.
const KEYS_FILE: &str = "keys.json";
const DIRECTORY_MODE: u32 = 0o700;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ServerConfig {
    keys_path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AgentConfig {
    directory: String,
}

/// The server's manager, on the file `keys_path`.
///
/// # Errors
/// When the settings are wrong, or the file is there and cannot be used.
pub fn server_from_config(
    data: Option<&Block>,
    _host: &HostContext,
) -> Result<Arc<dyn KeyManager>, PluginError> {
    open(server_path(data)?)
}

/// The agent's manager, on `keys.json` in `directory`, which is made when missing.
///
/// # Errors
/// When the settings are wrong, the directory cannot be used, or the file is there and cannot be.
pub fn agent_from_config(
    data: Option<&Block>,
    _host: &HostContext,
) -> Result<Arc<dyn KeyManager>, PluginError> {
    let directory = agent_directory(data)?;
    verify_directory(&directory).map_err(|reason| {
        error(Code::FailedPrecondition, format!("directory validation failed: {reason}"))
    })?;
    open(directory.join(KEYS_FILE))
}

/// A manager on the file at `path`, which need not be there yet.
///
/// # Errors
/// When the file is there and cannot be used; it is left as it is.
pub fn open(path: PathBuf) -> Result<Arc<dyn KeyManager>, PluginError> {
    let file = KeysFile::new(path);
    let keys = file.load().map_err(|reason| error(Code::Internal, reason.to_string()))?;
    Ok(Arc::new(LocalKeys::on_disk(NAME, file, keys)))
}

pub(crate) fn check_server(data: Option<&Block>) -> Result<(), PluginError> {
    server_path(data).map(drop)
}

pub(crate) fn check_agent(data: Option<&Block>) -> Result<(), PluginError> {
    agent_directory(data).map(drop)
}

fn server_path(data: Option<&Block>) -> Result<PathBuf, PluginError> {
    let config: ServerConfig = decode(data)?;
    match config.keys_path.as_str() {
        "" => Err(error(Code::InvalidArgument, "keys_path is required")),
        path => Ok(PathBuf::from(path)),
    }
}

fn agent_directory(data: Option<&Block>) -> Result<PathBuf, PluginError> {
    let config: AgentConfig = decode(data)?;
    match config.directory.as_str() {
        "" => Err(error(Code::InvalidArgument, "directory must be configured")),
        directory => Ok(PathBuf::from(directory)),
    }
}

fn decode<T: Default + serde::de::DeserializeOwned>(
    data: Option<&Block>,
) -> Result<T, PluginError> {
    decode_leniently(Kind::KeyManager, NAME, data, "unable to decode configuration")
}

/// Makes the directory and tries that a file can be written into it, so that an operator hears of
/// it now and not when the first key is made.
fn verify_directory(directory: &Path) -> std::io::Result<()> {
    fsx::create_dir_all(directory, DIRECTORY_MODE)?;
    fsx::probe(directory)
}

fn error(code: Code, message: impl AsRef<str>) -> PluginError {
    PluginError::new(Kind::KeyManager, NAME, code, message)
}

//! `unix`: what the kernel and the user database say of a process, and what program it runs.

mod cache;
mod digest;
mod names;
mod process;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use steeple_hcl::Block;
use steeple_plugin::{Code, HostContext, Kind, PluginError, WorkloadAttestor};
use steeple_spiffe::Selector;

use digest::{DigestError, Digests};
use names::Names;
use process::{Owner, Process, ProcessError};
use steeple_plugin::settings::decode_leniently;

/// The plugin's name in configuration, and the type of its selectors.
pub const NAME: &str = "unix";

/// The settings.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Whether to look at the executable, which takes the right to.
    pub discover_workload_path: bool,
    /// The largest executable to hash, in bytes; 0 for any, below 0 to hash none.
    pub workload_size_limit: i64,
}

/// The attestor.
pub struct Unix {
    config: Config,
    shared: Arc<Shared>,
    digests: Digests,
}

struct Shared {
    proc_root: PathBuf,
    names: Names,
}

/// What was found of a process without reading its executable.
struct Found {
    values: Vec<String>,
    /// The executable, held open, when it is to be hashed.
    executable: Option<(File, PathBuf)>,
}

/// The attestor that a configuration asks for.
///
/// # Errors
/// When the settings are wrong.
pub fn from_config(
    data: Option<&Block>,
    host: &HostContext,
) -> Result<Arc<dyn WorkloadAttestor>, PluginError> {
    Ok(Arc::new(Unix::new(decode(data)?, host)))
}

pub(crate) fn check(data: Option<&Block>) -> Result<(), PluginError> {
    decode(data).map(drop)
}

fn decode(data: Option<&Block>) -> Result<Config, PluginError> {
    decode_leniently(Kind::WorkloadAttestor, NAME, data, "failed to decode configuration")
}

impl Unix {
    /// An attestor that looks at the processes of `host`.
    pub fn new(config: Config, host: &HostContext) -> Self {
        let names = Names::new(Arc::clone(&host.clock));
        let shared = Shared { proc_root: host.proc_root.clone(), names };
        let digests = Digests::new(Arc::clone(&host.clock));
        Self { config, shared: Arc::new(shared), digests }
    }
}

#[async_trait]
impl WorkloadAttestor for Unix {
    fn name(&self) -> &str {
        NAME
    }

    async fn attest(&self, pid: i32) -> Result<Vec<Selector>, PluginError> {
        let (shared, config) = (Arc::clone(&self.shared), self.config);
        // Looking names up may ask a server elsewhere, and a file may lie on one.
        let found = tokio::task::spawn_blocking(move || shared.examine(pid, config)).await;
        let Found { mut values, executable } =
            found.map_err(|stopped| internal(format!("attestation stopped: {stopped}")))??;
        if let Some((executable, path)) = executable {
            let digest =
                self.digests.sha256(executable, &path, self.config.workload_size_limit).await?;
            values.push(format!("sha256:{digest}"));
        }
        Ok(values.iter().map(|value| Selector::new(NAME, value)).collect())
    }
}

impl Shared {
    /// In SPIRE's order; a name that nobody knows is left out, all else that fails, fails.
    fn examine(&self, pid: i32, config: Config) -> Result<Found, PluginError> {
        let process = Process::open(&self.proc_root, pid)
            .map_err(|reason| internal(format!("failed to get process: {reason}")))?;
        let owner = process.owner()?;
        let mut values = self.owner_values(&owner);
        let mut executable = None;
        if config.discover_workload_path {
            let path_value = |path: &Path| match path.to_str() {
                Some(path) => Ok(format!("path:{path}")),
                None => Err(internal("path lookup: path is not valid UTF-8")),
            };
            let linked = process.exe()?;
            if config.workload_size_limit < 0 {
                values.push(path_value(&linked)?);
            } else {
                let file = process.open_exe()?;
                // The path of the file that is going to be hashed, whatever the process
                // executes by now.
                values.push(path_value(&process::path_of(&file)?)?);
                executable = Some((file, process.exe_link()));
            }
        }
        Ok(Found { values, executable })
    }

    fn owner_values(&self, owner: &Owner) -> Vec<String> {
        let mut values = vec![format!("uid:{}", owner.uid)];
        values.extend(self.names.user(owner.uid).map(|name| format!("user:{name}")));
        values.push(format!("gid:{}", owner.gid));
        values.extend(self.names.group(owner.gid).map(|name| format!("group:{name}")));
        for &gid in &owner.supplementary_gids {
            values.push(format!("supplementary_gid:{gid}"));
            let name = self.names.group(gid);
            values.extend(name.map(|name| format!("supplementary_group:{name}")));
        }
        values
    }
}

fn internal(message: impl Into<String>) -> PluginError {
    PluginError::new(Kind::WorkloadAttestor, NAME, Code::Internal, message.into())
}

impl From<ProcessError> for PluginError {
    fn from(error: ProcessError) -> Self {
        internal(error.to_string())
    }
}

impl From<DigestError> for PluginError {
    fn from(error: DigestError) -> Self {
        internal(error.to_string())
    }
}

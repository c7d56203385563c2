//! `unix`: what the kernel and the user database say of a process, and what program it runs.

mod cache;
mod digest;
mod names;
mod process;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use serde::Deserialize;
use steeple_hcl::Block;
use steeple_plugin::{Code, HostContext, Kind, PluginError, WorkloadAttestor};
use steeple_spiffe::Selector;

use cache::Cache;
use digest::{DigestError, Digests};
use names::{Answer, Names};
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
    owners: Mutex<Cache<Owner, Known>>,
}

/// What an owner's selectors are, and since when that was known of the name that was looked up
/// first.
struct Known {
    selectors: Vec<Selector>,
    since: SystemTime,
}

/// How many owners' selectors are remembered.
const OWNERS: usize = 1024;

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
        let owners = Mutex::new(Cache::new(OWNERS));
        let shared = Shared { proc_root: host.proc_root.clone(), names, owners };
        let digests = Digests::new(Arc::clone(&host.clock));
        Self { config, shared: Arc::new(shared), digests }
    }
}

#[async_trait]
impl WorkloadAttestor for Unix {
    fn name(&self) -> &str {
        NAME
    }

    /// In SPIRE's order; a name that nobody knows is left out, all else that fails, fails.
    ///
    /// What the kernel knows is asked right here: it answers in less time than another thread
    /// takes to wake, whatever the process does. Looking names up may ask a server elsewhere, and a
    /// file may lie on one.
    async fn attest(&self, pid: i32) -> Result<Vec<Selector>, PluginError> {
        let process = Process::open(&self.shared.proc_root, pid).map_err(|it| not_found(&it))?;
        let owner = process.owner().map_err(|reason| match reason {
            ProcessError::NotRunning => not_found(&reason),
            reason => reason.into(),
        })?;
        let mut selectors = match self.shared.known(&owner) {
            Some(selectors) => selectors,
            None => {
                let shared = Arc::clone(&self.shared);
                apart(move || shared.look_up(owner)).await?
            }
        };
        if self.config.discover_workload_path {
            self.examine_program(process, &mut selectors).await?;
        }
        Ok(selectors)
    }
}

impl Unix {
    async fn examine_program(
        &self,
        process: Process,
        selectors: &mut Vec<Selector>,
    ) -> Result<(), PluginError> {
        let path_selector = |path: &Path| match path.to_str() {
            Some(path) => Ok(Selector::new(NAME, &format!("path:{path}"))),
            None => Err(internal("path lookup: path is not valid UTF-8")),
        };
        let linked = process.exe()?;
        let limit = self.config.workload_size_limit;
        if limit < 0 {
            selectors.push(path_selector(&linked)?);
            return Ok(());
        }
        let link = process.exe_link();
        // The path of the file that is going to be hashed, whatever the process executes by now.
        let opened = move || {
            let file = process.open_exe()?;
            let path = process::path_of(&file)?;
            Ok::<_, ProcessError>((file, path))
        };
        let (file, path) = apart(opened).await??;
        selectors.push(path_selector(&path)?);
        let digest = self.digests.sha256(file, &link, limit).await?;
        selectors.push(Selector::new(NAME, &format!("sha256:{digest}")));
        Ok(())
    }
}

/// Does what may take a while on a thread for that.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PluginError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|stopped| internal(format!("attestation stopped: {stopped}")))
}

impl Shared {
    /// The selectors of an owner whose names need no lookup.
    fn known(&self, owner: &Owner) -> Option<Vec<Selector>> {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let known = owners.get(owner).filter(|known| self.names.holds(known.since))?;
        Some(known.selectors.clone())
    }

    /// The selectors of an owner. Blocks.
    fn look_up(&self, owner: Owner) -> Vec<Selector> {
        let mut since = Some(self.names.now());
        let mut selectors = Vec::with_capacity(4 + 2 * owner.supplementary_gids.len());
        let mut add = |kind: &str, id: u32, name_kind: &str, answer: Option<Answer>| {
            selectors.push(Selector::new(NAME, &format!("{kind}:{id}")));
            // What could not be asked is asked again by the next.
            since = since.zip(answer.as_ref()).map(|(since, (_, at))| since.min(*at));
            if let Some((Some(name), _)) = answer {
                selectors.push(Selector::new(NAME, &format!("{name_kind}:{name}")));
            }
        };
        add("uid", owner.uid, "user", self.names.user(owner.uid));
        add("gid", owner.gid, "group", self.names.group(owner.gid));
        for &gid in &owner.supplementary_gids {
            add("supplementary_gid", gid, "supplementary_group", self.names.group(gid));
        }
        if let Some(since) = since {
            let known = Known { selectors: selectors.clone(), since };
            self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(owner, known);
        }
        selectors
    }
}

fn not_found(reason: &ProcessError) -> PluginError {
    internal(format!("failed to get process: {reason}"))
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

//! `docker`: what Docker or Podman says of the container that a process is in.
//!
//! A process in no container has no selectors, which is no failure. Nothing is remembered: what
//! was true of a container is asked again for every caller.
//!
//! Start reading at [`Docker::attest`](WorkloadAttestor::attest); what keeps a process from passing
//! for one of another container is in `member`.

mod answer;
mod daemon;
mod endpoint;
mod member;

mod podman;
mod settings;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use steeple_hcl::Block;
use steeple_plugin::{Code, HostContext, Kind, PluginError, WorkloadAttestor};
use steeple_spiffe::Selector;

use super::container::{self, Cgroup, Container, Locator, Source, cgroups, shorten, user_slice};
use super::patience::Patience;
use answer::{ContainerAnswer, Running};
use daemon::{DaemonError, Session};
use endpoint::Endpoint;
use member::Membership;
use podman::Runtime;
use settings::Settings;

/// The plugin's name in configuration, and the type of its selectors.
pub const NAME: &str = "docker";

/// For all that is asked of a daemon about one caller.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a daemon that fails is asked again.
const RETRIES: u32 = 3;
/// Before the first time; doubled for each further one.
const BACKOFF: Duration = Duration::from_millis(100);

/// The attestor.
struct Docker {
    shared: Arc<Shared>,
    patience: Patience,
    deadline: Duration,
}

struct Shared {
    proc_root: PathBuf,
    settings: Settings,
}

/// Where a process is.
struct Found {
    pid: i32,
    container: Container,
    groups: Vec<Cgroup>,
}

/// Why a container's process stays unknown.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Daemon(#[from] DaemonError),
    #[error("the docker API's answer about the container has no Config")]
    NoConfig,
    #[error("container {0} is not running")]
    NotRunning(String),
    #[error("process {pid} is not in container {id}, whose name its cgroups or mounts bear")]
    Forged { pid: i32, id: String },
    #[error("it cannot be verified that process {pid} is in container {id}")]
    Unverified { pid: i32, id: String },
}

/// The attestor that a configuration asks for.
///
/// # Errors
/// When the settings are wrong. Nobody is asked anything yet.
pub fn from_config(
    data: Option<&Block>,
    host: &HostContext,
) -> Result<Arc<dyn WorkloadAttestor>, PluginError> {
    let (settings, _) = Settings::read(data)?;
    if settings.matchers.is_some() {
        tracing::warn!(
            plugin_name = NAME,
            plugin_type = Kind::WorkloadAttestor.name(),
            "{}",
            settings::LEGACY_LOCATOR
        );
    }
    Ok(Arc::new(Docker::new(settings, host)))
}

pub(crate) fn check(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    Settings::read(data).map(|(_, notes)| notes)
}

impl Docker {
    fn new(settings: Settings, host: &HostContext) -> Self {
        let shared = Shared { proc_root: host.proc_root.clone(), settings };
        Self { shared: Arc::new(shared), patience: Patience::default(), deadline: DEADLINE }
    }

    /// What the daemon says, of a process that is in the container indeed.
    async fn examine(
        &self,
        endpoint: &Endpoint,
        rootless: bool,
        found: &Found,
    ) -> Result<Vec<String>, Failure> {
        let mut tried = 0;
        let (mut session, answer) = loop {
            let failure = match self.inspect(endpoint, &found.container.id).await {
                Err(error) => Failure::Daemon(error),
                Ok((session, answer)) => match self.verify(&answer, found, rootless, tried) {
                    Ok(()) => break (session, answer),
                    Err(forged @ Failure::Forged { .. }) => return Err(forged),
                    Err(failure) => failure,
                },
            };
            if tried == RETRIES {
                return Err(failure);
            }
            tokio::time::sleep(BACKOFF * 2_u32.pow(tried)).await;
            tried += 1;
        };
        let mut values = answer.selector_values().ok_or(Failure::NoConfig)?;
        if let Some(digest) = config_digest(&mut session, &answer).await {
            values.push(format!("image_config_digest:{digest}"));
        }
        Ok(values)
    }

    async fn inspect<'a>(
        &self,
        endpoint: &'a Endpoint,
        id: &str,
    ) -> Result<(Session<'a>, ContainerAnswer), DaemonError> {
        // The version is the one of Docker's; a Podman says its own.
        let version = self.shared.settings.version;
        let version = version.filter(|_| *endpoint == self.shared.settings.docker);
        let mut session = Session::open(endpoint, version).await?;
        let answer = session.container(id).await?;
        Ok((session, answer))
    }

    /// A user's own daemon may say what it likes of that user's processes; it is asked about
    /// nobody else's.
    fn verify(
        &self,
        answer: &ContainerAnswer,
        found: &Found,
        rootless: bool,
        tried: u32,
    ) -> Result<(), Failure> {
        let Found { pid, container, groups } = found;
        let id = || shorten(&container.id).to_owned();
        let membership = match answer.running() {
            Running::No => return Err(Failure::NotRunning(id())),
            Running::As(first) => {
                member::check(&self.shared.proc_root, container, groups, (*pid, first))
            }
            Running::Unsaid => Membership::Unknown,
        };
        match membership {
            Membership::Proven => Ok(()),
            Membership::Refuted => Err(Failure::Forged { pid: *pid, id: id() }),
            // The container may have just started again: another look, at what it runs as now.
            Membership::Unknown if tried == 0 && answer.running() != Running::Unsaid => {
                Err(Failure::Unverified { pid: *pid, id: id() })
            }
            Membership::Unknown if !rootless && member::may_be_invented(container, groups) => {
                Err(Failure::Unverified { pid: *pid, id: id() })
            }
            Membership::Unknown => {
                tracing::debug!(
                    plugin_name = NAME,
                    plugin_type = Kind::WorkloadAttestor.name(),
                    pid,
                    container_id = id(),
                    "The container's first process is not to be seen; its name has to do"
                );
                Ok(())
            }
        }
    }
}

/// The digest of the image that the container was made of. By its name only where the daemon does
/// not say which that was: a name may mean another image by now.
async fn config_digest(session: &mut Session<'_>, answer: &ContainerAnswer) -> Option<String> {
    let name = answer.image_name()?;
    let mut found = match answer.image_id() {
        Some(id) => session.image(id).await,
        None => session.image(name).await,
    };
    if answer.image_id().is_some() && matches!(found, Err(DaemonError::Refused(_))) {
        found = session.image(name).await;
    }
    match found {
        Ok(image) => image.id.filter(|id| !id.is_empty()),
        Err(error) => {
            tracing::debug!(
                plugin_name = NAME,
                plugin_type = Kind::WorkloadAttestor.name(),
                error = %error,
                "The container's image cannot be inspected"
            );
            None
        }
    }
}

#[async_trait]
impl WorkloadAttestor for Docker {
    fn name(&self) -> &str {
        NAME
    }

    async fn attest(&self, pid: i32) -> Result<Vec<Selector>, PluginError> {
        let shared = Arc::clone(&self.shared);
        // A process may have so many mounts that reading them takes its time.
        let found = tokio::task::spawn_blocking(move || shared.find(pid)).await;
        let found = found.map_err(|stopped| {
            failed(Code::Internal, format!("attestation stopped: {stopped}"))
        })??;
        let Some(found) = found else { return Ok(Vec::new()) };
        let (socket, rootless) = match self.shared.settings.podman.of(&found.groups) {
            Runtime::Docker => (None, false),
            Runtime::Podman(socket) => (Some(socket), false),
            Runtime::Rootless(socket) => (Some(socket), true),
            Runtime::Ignored => return Ok(Vec::new()),
        };
        let podman = socket.map(|socket| {
            Endpoint::parse(&socket).map_err(|error| {
                let text = format!("unable to create Podman client for socket {socket:?}: {error}");
                failed(Code::Unknown, text)
            })
        });
        let podman = podman.transpose()?;
        let endpoint = podman.as_ref().unwrap_or(&self.shared.settings.docker);
        let Some(turn) = self.patience.turn(&endpoint.host) else {
            let text = format!(
                "the docker API at {} does not answer; another attestation is waiting for it",
                endpoint.host
            );
            return Err(failed(Code::Unavailable, text));
        };
        let examined = self.examine(endpoint, rootless, &found);
        match tokio::time::timeout(self.deadline, examined).await {
            Ok(Ok(values)) => {
                turn.answered();
                Ok(values.iter().map(|value| Selector::new(NAME, value)).collect())
            }
            Ok(Err(failure)) => {
                turn.answered();
                Err(failure.into())
            }
            Err(_) => {
                turn.hung();
                let text = format!(
                    "no answer from the docker API at {} within {:?}",
                    endpoint.host, self.deadline
                );
                Err(failed(Code::DeadlineExceeded, text))
            }
        }
    }
}

impl Shared {
    fn find(&self, pid: i32) -> Result<Option<Found>, PluginError> {
        let Some(matchers) = &self.settings.matchers else {
            let locator = Locator::new(&self.proc_root, NAME).verbose(self.settings.verbose);
            let (container, groups) = locator
                .locate_with_groups(pid)
                .map_err(|error| failed(error.code(), error.to_string()))?;
            return Ok(container.map(|container| Found { pid, container, groups }));
        };
        let unknown = |message: String| failed(Code::Unknown, message);
        let groups = cgroups(&self.proc_root, pid).map_err(|error| unknown(error.to_string()))?;
        let id = matchers.find(&groups).map_err(|error| unknown(error.to_string()))?;
        Ok(id.map(|id| {
            let named = groups.iter().find(|group| group.path.contains(&id));
            let user_slice = named.and_then(|group| user_slice(&group.path));
            let container = Container { id, pod_uid: None, source: Source::Cgroup, user_slice };
            Found { pid, container, groups }
        }))
    }
}

fn failed(code: Code, message: impl AsRef<str>) -> PluginError {
    PluginError::new(Kind::WorkloadAttestor, NAME, code, message)
}

impl From<Failure> for PluginError {
    fn from(failure: Failure) -> Self {
        let code = match &failure {
            Failure::Daemon(_) | Failure::NoConfig => Code::Unknown,
            Failure::NotRunning(_) => Code::FailedPrecondition,
            Failure::Forged { .. } | Failure::Unverified { .. } => Code::PermissionDenied,
        };
        failed(code, failure.to_string())
    }
}

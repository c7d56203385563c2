//! `k8s`: the pod and the container of a process, by the kernel's word for which they are and the
//! kubelet's, or the API server's, for what they are (PA-18, PK-01 to PK-20; ADR 10).

mod config;
mod fetcher;
mod kubelet;
mod node_watch;
mod pods;
mod reference;
mod selectors;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use steeple_hcl::Block;
use steeple_plugin::{Code, HostContext, Kind, PluginError, WorkloadAttestor, WorkloadReference};
use steeple_runtime::Tasks;
use steeple_runtime::duration::format_go;
use steeple_spiffe::{Selector, SpiffeId};
use tokio::time::Instant;

use crate::kube::{Client, Environment, Mapper, Resource};
use crate::workload_attestor::container::{self, Locator};
use config::Config;
use fetcher::{Fetcher, Versioned};
use kubelet::KubeletError;
use node_watch::NodeWatch;
use pods::{Lookup, Pod};
use reference::{Caches, Object};

/// The plugin's name in configuration, and the type of its selectors.
pub const NAME: &str = "k8s";

/// The attestor.
pub struct K8s {
    config: Config,
    locator: Locator,
    proc_root: PathBuf,
    fetcher: Option<Fetcher>,
    /// The API server; asked when something needs it.
    client: Arc<Client>,
    mapper: Mapper,
    caches: Caches,
    node_watch: Mutex<Option<Arc<NodeWatch>>>,
    own_user_slice: OnceLock<Option<u32>>,
    tasks: Tasks,
}

/// Whose selectors they are.
struct Attested {
    /// Without their type.
    values: Vec<String>,
    /// The object, for who has to authorise it; none when a process is in no pod.
    object: Option<Object>,
}

/// The attestor that a configuration asks for.
///
/// # Errors
/// When the settings are wrong, or a file that they name cannot be used.
pub fn from_config(
    data: Option<&Block>,
    host: &HostContext,
) -> Result<Arc<dyn WorkloadAttestor>, PluginError> {
    Ok(Arc::new(K8s::new(data, host, Environment::of_process())?))
}

pub(crate) fn check(data: Option<&Block>) -> Result<(), PluginError> {
    let environment = Environment::of_process();
    config::read(data, &|name| environment.variable(name)).map(drop)
}

impl K8s {
    fn new(
        data: Option<&Block>,
        host: &HostContext,
        environment: Environment,
    ) -> Result<Self, PluginError> {
        let config = config::read(data, &|name| environment.variable(name))?;
        Self::build(config, host, environment)
    }

    fn build(
        config: Config,
        host: &HostContext,
        environment: Environment,
    ) -> Result<Self, PluginError> {
        if config.new_container_locator {
            log_info("Using the new container locator");
        } else {
            tracing::warn!(
                plugin_name = NAME,
                plugin_type = KIND,
                "Using the legacy container locator. This option will be removed in a future \
                 release."
            );
        }
        let invalid = |reason: KubeletError| error(Code::InvalidArgument, reason.to_string());
        let fetcher = config
            .kubelet
            .clone()
            .map(|kubelet| Fetcher::new(kubelet, config.poll_retry_interval).map_err(invalid));
        let client = Arc::new(Client::new(environment));
        Ok(Self {
            locator: Locator::new(&host.proc_root, NAME)
                .with_pods()
                .verbose(config.verbose_locator),
            proc_root: host.proc_root.clone(),
            fetcher: fetcher.transpose()?,
            mapper: Mapper::new(Arc::clone(&client)),
            caches: Caches::default(),
            client,
            node_watch: Mutex::default(),
            own_user_slice: OnceLock::new(),
            tasks: Tasks::new(),
            config,
        })
    }

    async fn attest_pid(&self, pid: i32) -> Result<Attested, PluginError> {
        let watch = self.node_watch();
        if self.fetcher.is_none() && watch.is_none() {
            return Err(kubelet_disabled());
        }
        let Some(found) = self.locate(pid).await? else {
            return Ok(Attested { values: Vec::new(), object: None });
        };
        let (pod, container) = self.wait_for(&found, watch.as_deref()).await?;
        let mut values = selectors::of_pod(&pod);
        if let Some(status) = container.then(|| pod.container(&found.id)).flatten()
            && self.config.container_selectors
        {
            values.extend(selectors::of_container(status));
        }
        self.add_namespace_labels(&mut values, &pod.namespace).await?;
        Ok(Attested { values, object: Some(Object::pod(&pod)) })
    }

    /// Which container a process is in, if it is in one that counts.
    async fn locate(&self, pid: i32) -> Result<Option<container::Container>, PluginError> {
        let (locator, new) = (self.locator.clone(), self.config.new_container_locator);
        let work = move || if new { locator.locate(pid) } else { locator.locate_legacy(pid) };
        let found = match tokio::task::spawn_blocking(work).await {
            Ok(found) => found.map_err(|reason| error(reason.code(), reason.to_string()))?,
            Err(_) => return Err(error(Code::Internal, "looking for the container stopped")),
        };
        let Some(found) = found else { return Ok(None) };
        let own = || *self.own_user_slice.get_or_init(|| self.own_slice());
        if let Some(user) = found.user_slice
            && own() != Some(user)
        {
            // A user may name groups in his own part of the tree as he likes; pods are elsewhere,
            // unless all of Kubernetes, and we with it, run in that part.
            tracing::warn!(
                plugin_name = NAME,
                plugin_type = KIND,
                pid,
                user,
                container_id = %found.id,
                "Process is in a group of a user's own that is named as a pod's container; not \
                 believed"
            );
            return Ok(None);
        }
        Ok(Some(found))
    }

    /// The user in whose part of the cgroup tree we are.
    fn own_slice(&self) -> Option<u32> {
        let pid = i32::try_from(std::process::id()).ok()?;
        let groups = container::cgroups(&self.proc_root, pid).ok()?;
        groups.iter().find_map(|group| {
            let slices = group.path.split('/');
            slices
                .filter_map(|it| it.strip_prefix("user-")?.strip_suffix(".slice")?.parse().ok())
                .next()
        })
    }

    /// The pod of a container, as soon as anybody knows it; and whether the container is in it.
    async fn wait_for(
        &self,
        found: &container::Container,
        watch: Option<&NodeWatch>,
    ) -> Result<(Arc<Pod>, bool), PluginError> {
        let without_container = !self.config.container_selectors;
        let interval = self.config.poll_retry_interval;
        let uid = found.pod_uid.as_deref();
        let mut version = 0;
        let mut attempt = 0;
        let mut news = watch.map(NodeWatch::news);
        loop {
            attempt += 1;
            if let (Some(watch), Some(news)) = (watch, &mut news) {
                let until = Instant::now() + interval;
                let lookup = |pods: &pods::Pods| pods.find(uid, &found.id, without_container);
                if let Some(lookup) = watch.find(news, until, lookup).await
                    && let Some(answer) = conclude(lookup)?
                {
                    return Ok(answer);
                }
            }
            let list = match &self.fetcher {
                Some(fetcher) => Some(fetcher.next(version).await),
                None => None,
            };
            if let Some(Ok(Versioned { pods, version: read })) = &list {
                version = *read;
                if let Some(answer) = conclude(pods.find(uid, &found.id, without_container))? {
                    return Ok(answer);
                }
            }
            let failure = match list {
                Some(Err(failure)) => Some(failure.to_string()),
                Some(Ok(_)) => None,
                None => watch.and_then(NodeWatch::failure),
            };
            self.log_attempt(found, attempt, failure.as_deref());
            if attempt >= self.config.max_poll_attempts {
                return Err(match failure {
                    Some(failure) => error(Code::Unavailable, failure),
                    None => {
                        error(Code::DeadlineExceeded, "no selectors found after max poll attempts")
                    }
                });
            }
        }
    }

    fn log_attempt(&self, found: &container::Container, attempt: u32, failure: Option<&str>) {
        let pod_uid = found.pod_uid.as_deref().unwrap_or_default();
        let container_id = found.id.as_str();
        let interval = format_go(self.config.poll_retry_interval);
        match (failure, attempt >= self.config.max_poll_attempts) {
            (Some(failure), true) => tracing::warn!(
                plugin_name = NAME,
                plugin_type = KIND,
                pod_uid,
                container_id,
                attempt,
                error = failure,
                "Unable to get pod list; giving up"
            ),
            (None, true) => tracing::warn!(
                plugin_name = NAME,
                plugin_type = KIND,
                pod_uid,
                container_id,
                attempt,
                "Container id not found; giving up"
            ),
            (Some(failure), false) => tracing::warn!(
                plugin_name = NAME,
                plugin_type = KIND,
                pod_uid,
                container_id,
                attempt,
                error = failure,
                retry_interval = interval,
                "Unable to get pod list; will retry after backoff"
            ),
            (None, false) => tracing::debug!(
                plugin_name = NAME,
                plugin_type = KIND,
                pod_uid,
                container_id,
                attempt,
                retry_interval = interval,
                "Container id not found; will retry after backoff"
            ),
        }
    }

    async fn add_namespace_labels(
        &self,
        values: &mut Vec<String>,
        namespace: &str,
    ) -> Result<(), PluginError> {
        if !self.config.namespace_labels {
            return Ok(());
        }
        let resource = Resource {
            group: String::new(),
            version: "v1".to_owned(),
            plural: "namespaces".to_owned(),
            kind: "Namespace".to_owned(),
            namespaced: false,
        };
        let found = self.metadata(&resource, "", namespace).await.map_err(|reason| {
            let text = format!(
                "unable to get namespace labels for {namespace:?}: unable to get namespace \
                 {namespace:?}: {reason}"
            );
            error(Code::Internal, text)
        })?;
        values.extend(found.labels.iter().map(|(key, value)| format!("ns-label:{key}:{value}")));
        Ok(())
    }

    /// The watch of our node's pods; begun by who asks first.
    fn node_watch(&self) -> Option<Arc<NodeWatch>> {
        let node = self.config.watch_node.as_deref()?;
        let mut watch = self.node_watch.lock().unwrap_or_else(PoisonError::into_inner);
        let watch = watch.get_or_insert_with(|| {
            Arc::new(NodeWatch::start(Arc::clone(&self.client), node, &self.tasks))
        });
        Some(Arc::clone(watch))
    }
}

#[async_trait]
impl WorkloadAttestor for K8s {
    fn name(&self) -> &str {
        NAME
    }

    fn waits(&self) -> Option<Duration> {
        // The last request may take its time, and so may what is asked about the namespace.
        let Config { max_poll_attempts, poll_retry_interval, .. } = self.config;
        Some(poll_retry_interval.saturating_mul(max_poll_attempts).saturating_add(SLACK).min(HOUR))
    }

    async fn attest(&self, pid: i32) -> Result<Vec<Selector>, PluginError> {
        Ok(selected(&self.attest_pid(pid).await?.values))
    }

    async fn attest_reference(
        &self,
        reference: &WorkloadReference,
        caller: Option<&SpiffeId>,
    ) -> Result<Vec<Selector>, PluginError> {
        Ok(selected(&self.attest_by_reference(reference, caller).await?.values))
    }
}

/// What a look at the pods comes to; nothing when they do not say yet.
fn conclude(lookup: Lookup) -> Result<Option<(Arc<Pod>, bool)>, PluginError> {
    match lookup {
        Lookup::Found { pod, container } => Ok(Some((pod, container))),
        Lookup::Missing => Ok(None),
        Lookup::Ambiguous => {
            tracing::warn!(
                plugin_name = NAME,
                plugin_type = KIND,
                "Two pods found with same container Id"
            );
            Err(error(Code::Internal, "two pods found with same container Id"))
        }
        Lookup::Malformed(reason) => Err(error(
            Code::Unavailable,
            format!("unable to decode pod info from kubelet response: {reason}"),
        )),
    }
}

fn selected(values: &[String]) -> Vec<Selector> {
    values.iter().map(|value| Selector::new(NAME, value)).collect()
}

fn kubelet_disabled() -> PluginError {
    error(Code::FailedPrecondition, "kubelet client is disabled")
}

fn log_info(text: &'static str) {
    tracing::info!(plugin_name = NAME, plugin_type = KIND, "{text}");
}

/// Beyond the time that a caller waits for its container.
const SLACK: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

/// The kind of plugin, as the log calls it.
const KIND: &str = Kind::WorkloadAttestor.name();

fn error(code: Code, message: impl AsRef<str>) -> PluginError {
    PluginError::new(Kind::WorkloadAttestor, NAME, code, message)
}

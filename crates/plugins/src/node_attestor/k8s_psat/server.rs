//! The server's half: has the token reviewed by the cluster that the agent names, and looks the
//! pod and the node up there. Each cluster has connections, places and time of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use steeple_plugin::{AgentAttributes, Challenger, Code, NodeAttestor, PluginError};
use steeple_spiffe::{IdError, SpiffeId, TrustDomain};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::config::{ClusterConfig, ServerConfig};
use super::payload::Payload;
use super::review::{Metadata, Node, Pod, ReviewRequest, ReviewStatus, TokenReview, cut};
use super::{NAME, error};
use crate::kube::{Client, Environment, Form, KubeError, segment};

/// How long the questions about one agent may take together.
const DEADLINE: Duration = Duration::from_secs(30);
/// How many agents of a cluster are looked at at once.
const PLACES: usize = 32;
/// How large an object may be; etcd keeps none that is larger.
const MAX_OBJECT: usize = 2 * 1024 * 1024;
/// How large all selectors may be together.
const MAX_SELECTORS: usize = 64 * 1024;

pub(super) struct Server {
    trust_domain: TrustDomain,
    clusters: BTreeMap<String, Cluster>,
    deadline: Duration,
}

struct Cluster {
    config: ClusterConfig,
    audience: Vec<String>,
    client: Client,
    places: Semaphore,
}

/// Why a question has no answer that could be used.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("unable to get clientset: unable to create client config: {0}")]
    Client(String),
    #[error("unable to query {0} API: {1}")]
    Query(&'static str, KubeError),
    #[error("unable to query {0} API: context deadline exceeded")]
    Late(&'static str),
    #[error("token review API response contains an error: {0}")]
    Review(String),
    #[error("token review API did not validate audience: wanted one of {0} but got {1}")]
    Audience(String, String),
    #[error("empty node name")]
    NoNodeName,
}

impl Server {
    pub(super) fn new(
        config: ServerConfig,
        trust_domain: TrustDomain,
        surroundings: &Environment,
    ) -> Self {
        let cluster = |config: ClusterConfig| Cluster {
            audience: config.audience(),
            client: Client::new(surroundings.clone().only(config.kubeconfig()))
                .with_limit(MAX_OBJECT),
            places: Semaphore::new(PLACES),
            config,
        };
        let clusters =
            config.clusters.into_iter().map(|(name, config)| (name, cluster(config))).collect();
        Self { trust_domain, clusters, deadline: DEADLINE }
    }

    #[cfg(test)]
    pub(super) fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    fn agent_id(&self, cluster: &str, uids: &Uids<'_>) -> Result<SpiffeId, IdError> {
        // A name with slashes makes several segments of the path, each of which must be one.
        let path = match uids {
            Uids::Node(uid) => format!("/spire/agent/{NAME}/{cluster}/{uid}"),
            Uids::Pod(uid) => format!("/spire/agent/{NAME}/{cluster}/pod/{uid}"),
        };
        SpiffeId::from_path(&self.trust_domain, &path)
    }
}

/// What an agent is told apart by.
enum Uids<'a> {
    Node(&'a str),
    Pod(&'a str),
}

#[async_trait]
impl NodeAttestor for Server {
    fn name(&self) -> &str {
        NAME
    }

    async fn attest(
        &self,
        payload: &[u8],
        _challenger: &mut dyn Challenger,
    ) -> Result<AgentAttributes, PluginError> {
        let payload = Payload::parse(payload)
            .map_err(|reason| error(Code::InvalidArgument, reason.to_string()))?;
        let name = payload.cluster.as_str();
        let Some(cluster) = self.clusters.get(name) else {
            let text = format!("not configured for cluster {:?}", cut(name));
            return Err(error(Code::InvalidArgument, text));
        };
        let until = Instant::now() + self.deadline;
        let _place = cluster.place(name, until).await?;
        let internal = |what: &str, reason: &dyn std::fmt::Display| {
            error(Code::Internal, format!("{what} for cluster {name:?}: {reason}"))
        };

        let status = cluster
            .review(&payload.token, until)
            .await
            .map_err(|reason| internal("unable to validate token with TokenReview API", &reason))?;
        if !status.authenticated {
            let text = format!(
                "token not authenticated according to TokenReview API for cluster {name:?}"
            );
            return Err(error(Code::PermissionDenied, text));
        }
        let (namespace, account) = status.account().map_err(|reason| {
            internal("failed to parse username from token review status", &reason)
        })?;
        let full = format!("{namespace}:{account}");
        if !cluster.config.service_account_allow_list.contains(&full) {
            let full = cut(&full);
            let text = format!("{full:?} is not an allowed service account for cluster {name:?}");
            return Err(error(Code::PermissionDenied, text));
        }
        let pod_name = status.pod_name().map_err(|reason| {
            internal("failed to get pod name from token review status", &reason)
        })?;
        let pod_uid = status.pod_uid().map_err(|reason| {
            internal("failed to get pod UID from token review status", &reason)
        })?;

        let pod = cluster
            .pod(namespace, pod_name, until)
            .await
            .map_err(|reason| internal("failed to get pod from k8s API server", &reason))?;
        if pod.metadata.uid != pod_uid {
            let (pod_name, pod_uid) = (cut(pod_name), cut(pod_uid));
            let text = format!(
                "pod UID mismatch for pod {pod_name:?} in cluster {name:?}: token bound to pod \
                 UID {pod_uid:?}"
            );
            return Err(error(Code::PermissionDenied, text));
        }
        let node = cluster
            .node(&pod.spec.node_name, until)
            .await
            .map_err(|reason| internal("failed to get node from k8s API server", &reason))?;
        let node_uid = node.metadata.uid.as_str();
        if node_uid.is_empty() {
            let text = format!("node UID is empty for cluster {name:?}");
            return Err(error(Code::Internal, text));
        }

        let config = &cluster.config;
        let mut values = vec![
            format!("cluster:{name}"),
            format!("agent_ns:{namespace}"),
            format!("agent_sa:{account}"),
            format!("agent_pod_name:{pod_name}"),
            format!("agent_pod_uid:{pod_uid}"),
        ];
        values.extend(of_node(config, &pod, &node));
        if values.iter().map(String::len).sum::<usize>() > MAX_SELECTORS {
            let reason = format!("its selectors have more than {MAX_SELECTORS} bytes");
            return Err(internal("failed to describe the agent", &reason));
        }
        let uids = match config.use_pod_uid_for_agent_id {
            true => Uids::Pod(pod_uid),
            false => Uids::Node(node_uid),
        };
        let agent_id = self
            .agent_id(name, &uids)
            .map_err(|reason| internal("failed to create agent ID", &reason))?;
        Ok(AgentAttributes { agent_id, selector_values: values, can_reattest: true })
    }
}

/// The selectors of the node, and of the labels of both.
fn of_node(config: &ClusterConfig, pod: &Pod, node: &Node) -> Vec<String> {
    let mut values = vec![
        format!("agent_node_ip:{}", pod.status.host_ip),
        format!("agent_node_name:{}", pod.spec.node_name),
        format!("agent_node_uid:{}", node.metadata.uid),
    ];
    values.extend(labels("agent_node_label", &node.metadata, &config.allowed_node_label_keys));
    values.extend(labels("agent_pod_label", &pod.metadata, &config.allowed_pod_label_keys));
    values
}

fn labels<'a>(
    kind: &'a str,
    object: &'a Metadata,
    allowed: &'a std::collections::BTreeSet<String>,
) -> impl Iterator<Item = String> {
    let labels = object.labels.iter().filter(|(key, _)| allowed.contains(*key));
    labels.map(move |(key, value)| format!("{kind}:{key}:{value}"))
}

impl Cluster {
    /// A place among the agents that are looked at; it ends with the permit.
    async fn place(&self, name: &str, until: Instant) -> Result<SemaphorePermit<'_>, PluginError> {
        match timeout_at(until, self.places.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            _ => {
                let text = format!("too many agents of cluster {name:?} are being attested");
                Err(error(Code::Unavailable, text))
            }
        }
    }

    /// What the API server makes of a token, which it knows to be meant for us.
    async fn review(&self, token: &str, until: Instant) -> Result<ReviewStatus, AskError> {
        const WHAT: &str = "token review";
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let request = ReviewRequest::new(token, &self.audience);
        let review: TokenReview = in_time(WHAT, until, self.client.create(path, &request)).await?;
        let status = review.status;
        if !status.error.is_empty() {
            return Err(AskError::Review(cut(&status.error)));
        }
        let meant = self.audience.iter().any(|it| status.audiences.contains(it));
        if status.authenticated && !self.audience.is_empty() && !meant {
            return Err(AskError::Audience(list(&self.audience), list(&status.audiences)));
        }
        Ok(status)
    }

    async fn pod(&self, namespace: &str, name: &str, until: Instant) -> Result<Pod, AskError> {
        self.get("pods", &["/api/v1/namespaces/", namespace, "/pods/", name], Form::Whole, until)
            .await
    }

    async fn node(&self, name: &str, until: Instant) -> Result<Node, AskError> {
        if name.is_empty() {
            return Err(AskError::NoNodeName);
        }
        self.get("nodes", &["/api/v1/nodes/", name], Form::Metadata, until).await
    }

    /// Gets an object, whose path is of fixed parts and names by turns.
    async fn get<T: DeserializeOwned>(
        &self,
        what: &'static str,
        parts: &[&str],
        form: Form,
        until: Instant,
    ) -> Result<T, AskError> {
        let mut path = String::new();
        for pair in parts.chunks(2) {
            path.push_str(pair[0]);
            path.push_str(&segment(pair[1]).map_err(|error| AskError::Query(what, error))?);
        }
        in_time(what, until, self.client.get(&path, form)).await
    }
}

async fn in_time<T>(
    what: &'static str,
    until: Instant,
    answer: impl Future<Output = Result<T, KubeError>>,
) -> Result<T, AskError> {
    match timeout_at(until, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(KubeError::Cluster(error))) => Err(AskError::Client(error.reason().to_owned())),
        Ok(Err(error)) => Err(AskError::Query(what, error)),
        Err(_) => Err(AskError::Late(what)),
    }
}

/// Go's `%q` of a list, of which no more than a few are shown.
fn list(texts: &[String]) -> String {
    let shown: Vec<String> = texts.iter().take(8).map(|it| format!("{:?}", cut(it))).collect();
    format!("[{}]", shown.join(" "))
}

//! Workloads that a broker names: processes, pods, and any other object of Kubernetes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message as _;
use serde::Deserialize;
use steeple_plugin::{Code, PluginError, WorkloadReference};
use steeple_proto::spiffe::broker::{
    KubernetesObjectKey, KubernetesObjectReference, WorkloadPidReference,
};
use steeple_spiffe::SpiffeId;

use super::config::PodScope;
use super::pods::{Owner, Pod, labels, nullable};
use super::{Attested, K8s, error, kubelet_disabled, selectors};
use crate::kube::{Form, Found, KubeError, Reflector, Resource, Sink};

const PID: &str = "type.googleapis.com/spiffe.broker.WorkloadPIDReference";
const OBJECT: &str = "type.googleapis.com/spiffe.broker.KubernetesObjectReference";
/// What a broker has to be allowed to do with an object.
const VERB: &str = "impersonate-via-spire";
/// How long the first list of a kind of object may take.
const SYNC: Duration = Duration::from_secs(15);
/// How many kinds of object are kept.
const MAX_CACHES: usize = 64;

/// An object that was resolved, as Kubernetes is asked about it.
pub(super) struct Object {
    group: String,
    plural: String,
    namespace: String,
    name: String,
}

impl Object {
    pub(super) fn pod(pod: &Pod) -> Self {
        Self {
            group: String::new(),
            plural: "pods".to_owned(),
            namespace: pod.namespace.to_string(),
            name: pod.name.to_string(),
        }
    }
}

/// What is kept of an object that is no pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct ObjectMetadata {
    #[serde(deserialize_with = "nullable")]
    pub(crate) uid: Box<str>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) namespace: Box<str>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) name: Box<str>,
    #[serde(deserialize_with = "labels")]
    pub(crate) labels: BTreeMap<Box<str>, Box<str>>,
    #[serde(rename = "ownerReferences", deserialize_with = "nullable")]
    pub(crate) owners: Vec<Owner>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Partial {
    metadata: ObjectMetadata,
}

/// Objects of one kind by uid, and their uids by name.
#[derive(Default)]
struct Objects {
    by_uid: HashMap<Box<str>, Arc<ObjectMetadata>>,
    by_name: HashMap<(Box<str>, Box<str>), Box<str>>,
}

impl Sink for Objects {
    fn put(&mut self, object: &[u8]) {
        let Ok(Partial { metadata }) = serde_json::from_slice(object) else { return };
        let key = (metadata.namespace.clone(), metadata.name.clone());
        // One that was deleted and made again may have been missed between.
        if let Some(before) = self.by_name.insert(key, metadata.uid.clone())
            && before != metadata.uid
        {
            self.by_uid.remove(&before);
        }
        self.by_uid.insert(metadata.uid.clone(), Arc::new(metadata));
    }

    fn remove(&mut self, object: &[u8]) {
        let Ok(Partial { metadata }) = serde_json::from_slice(object) else { return };
        self.by_uid.remove(&metadata.uid);
        let key = (metadata.namespace, metadata.name);
        if self.by_name.get(&key) == Some(&metadata.uid) {
            self.by_name.remove(&key);
        }
    }
}

/// The kinds of object that are kept.
#[derive(Default)]
pub(super) struct Caches(Mutex<HashMap<String, Arc<Reflector<Objects>>>>);

/// Why an object's metadata was not had.
#[derive(Debug, thiserror::Error)]
pub(super) enum MetadataError {
    #[error("{0}")]
    Kube(#[from] KubeError),
    #[error("not found")]
    Missing,
    #[error("timed out waiting for Kubernetes cache to start")]
    Sync,
}

impl MetadataError {
    fn is_not_found(&self) -> bool {
        match self {
            Self::Kube(error) => error.is_not_found(),
            Self::Missing => true,
            Self::Sync => false,
        }
    }
}

/// Who asks.
#[derive(Clone)]
struct Broker {
    id: String,
    scope: PodScope,
}

/// A reference to an object that makes sense.
struct Wanted {
    plural: String,
    group: String,
    key: Option<KubernetesObjectKey>,
    uid: String,
}

impl Wanted {
    fn read(value: &[u8]) -> Result<Self, PluginError> {
        let invalid = |text: &str| error(Code::InvalidArgument, text);
        let reference = KubernetesObjectReference::decode(value).map_err(|reason| {
            invalid(&format!("unable to unmarshal object reference: {reason}"))
        })?;
        let kind = reference.r#type.ok_or_else(|| invalid("object reference is missing type"))?;
        if kind.plural.is_empty() {
            return Err(invalid("object reference type is missing plural"));
        }
        if kind.group.is_empty() {
            return Err(invalid("object reference type is missing group"));
        }
        match &reference.key {
            None if reference.uid.is_empty() => {
                return Err(invalid("object reference is missing key and UID"));
            }
            Some(key) if key.name.is_empty() => {
                return Err(invalid("object reference key is missing name"));
            }
            _ => {}
        }
        let (plural, group) = (kind.plural, kind.group);
        Ok(Self { plural, group, key: reference.key, uid: reference.uid })
    }

    /// Namespace and name, both empty without a key.
    fn name(&self) -> (&str, &str) {
        self.key.as_ref().map_or(("", ""), |key| (&key.namespace, &key.name))
    }
}

impl K8s {
    pub(super) async fn attest_by_reference(
        &self,
        reference: &WorkloadReference,
        caller: Option<&SpiffeId>,
    ) -> Result<Attested, PluginError> {
        let broker = caller.map(|caller| self.broker(caller)).transpose()?;
        let attested = match reference.type_url.as_str() {
            PID => {
                let reference =
                    WorkloadPidReference::decode(&reference.value[..]).map_err(|reason| {
                        let text = format!("unable to unmarshal PID reference: {reason}");
                        error(Code::InvalidArgument, text)
                    })?;
                self.attest_pid(reference.pid).await?
            }
            OBJECT => {
                let wanted = Wanted::read(&reference.value)?;
                match (wanted.plural.as_str(), wanted.group.as_str()) {
                    ("pods", "core") => self.attest_pod(&wanted, broker.as_ref()).await?,
                    _ => self.attest_object(&wanted).await?,
                }
            }
            other => {
                let text = format!("unsupported reference type: {}", shorten(other));
                return Err(error(Code::InvalidArgument, text));
            }
        };
        if let (Some(broker), Some(object)) = (&broker, &attested.object) {
            self.authorise(broker, object).await?;
        }
        Ok(attested)
    }

    fn broker(&self, caller: &SpiffeId) -> Result<Broker, PluginError> {
        let Some(config) = &self.config.broker else {
            return Err(error(Code::Internal, "broker configuration missing"));
        };
        match config.brokers.get(caller.as_str()) {
            Some(&scope) => Ok(Broker { id: caller.as_str().to_owned(), scope }),
            None => {
                let text = format!("broker {:?} is not configured", caller.as_str());
                Err(error(Code::PermissionDenied, text))
            }
        }
    }

    /// Asks Kubernetes whether a broker may be told of an object.
    async fn authorise(&self, broker: &Broker, object: &Object) -> Result<(), PluginError> {
        if !self.config.broker.as_ref().is_some_and(|config| config.enforced) {
            return Ok(());
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Review {
            status: ReviewStatus,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct ReviewStatus {
            allowed: bool,
        }
        let review = serde_json::json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "metadata": {},
            "spec": {
                "user": broker.id,
                "resourceAttributes": {
                    "namespace": object.namespace,
                    "verb": VERB,
                    "group": object.group,
                    "resource": object.plural,
                    "name": object.name,
                },
            },
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let review: Review = self.client.create(path, &review).await.map_err(|reason| {
            let what = match reason {
                KubeError::Cluster(_) => "unable to set up Kubernetes client",
                _ => "unable to check Kubernetes authorization for broker",
            };
            error(Code::Internal, format!("{what}: {reason}"))
        })?;
        if !review.status.allowed {
            return Err(error(
                Code::PermissionDenied,
                "Kubernetes authorizer does not allow the broker to use impersonate-via-spire for \
                 the referenced object",
            ));
        }
        Ok(())
    }

    async fn attest_pod(
        &self,
        wanted: &Wanted,
        broker: Option<&Broker>,
    ) -> Result<Attested, PluginError> {
        let scope = broker.map_or(PodScope::AgentNode, |broker| broker.scope);
        let uid = wanted.uid.as_str();
        let pod = match wanted.name() {
            ("", "") => self.pod_by_uid(uid, scope).await?,
            ("", _) => return Err(namespace_required()),
            (namespace, name) => self.pod_by_name(namespace, name, scope).await?,
        };
        if !uid.is_empty() && *pod.uid != *uid {
            let found = format!("pod {}/{} has UID {}", pod.namespace, pod.name, pod.uid);
            return Err(error(Code::NotFound, format!("{found}, expected {}", shorten(uid))));
        }
        let mut values = selectors::of_pod(&pod);
        self.add_namespace_labels(&mut values, &pod.namespace).await?;
        Ok(Attested { values, object: Some(Object::pod(&pod)) })
    }

    async fn pod_by_name(
        &self,
        namespace: &str,
        name: &str,
        scope: PodScope,
    ) -> Result<Arc<Pod>, PluginError> {
        let find = |pods: &super::pods::Pods| pods.by_name(namespace, name).cloned();
        if let Some(pod) = self.on_node(scope, find).await? {
            return Ok(pod);
        }
        let shown = format!("pod {}/{}", shorten(namespace), shorten(name));
        if scope == PodScope::AgentNode {
            return Err(error(Code::NotFound, format!("{shown} not found on agent node")));
        }
        self.pod_from_server(namespace, name).await
    }

    async fn pod_by_uid(&self, uid: &str, scope: PodScope) -> Result<Arc<Pod>, PluginError> {
        let find = |pods: &super::pods::Pods| {
            let found = pods.by_uid(uid)?;
            Some(found.cloned().map_err(|reason| {
                let text = format!("unable to decode pod info from kubelet response: {reason}");
                error(Code::Internal, text)
            }))
        };
        if let Some(pod) = self.on_node(scope, find).await? {
            return pod;
        }
        let shown = shorten(uid);
        if scope == PodScope::AgentNode {
            let text = format!("pod with UID {shown} not found on agent node");
            return Err(error(Code::NotFound, text));
        }
        // Kubernetes finds nothing by uid: the metadata of all pods is looked through.
        let pods = Resource {
            group: String::new(),
            version: "v1".to_owned(),
            plural: "pods".to_owned(),
            kind: "Pod".to_owned(),
            namespaced: true,
        };
        let named = self.object_by_uid(&pods, uid).await?;
        let pod = self.pod_from_server(&named.namespace, &named.name).await?;
        if *pod.uid != *uid {
            let found = format!("pod {}/{} has UID {}", pod.namespace, pod.name, pod.uid);
            return Err(error(Code::NotFound, format!("{found}, expected {shown}")));
        }
        Ok(pod)
    }

    /// Looks among the pods of our node; nothing too when those are not known, and the scope is
    /// wider.
    async fn on_node<T>(
        &self,
        scope: PodScope,
        look: impl Fn(&super::pods::Pods) -> Option<T>,
    ) -> Result<Option<T>, PluginError> {
        let watch = self.node_watch();
        if let Some(found) = watch.as_ref().and_then(|watch| watch.live(&look)).flatten() {
            return Ok(Some(found));
        }
        let Some(fetcher) = &self.fetcher else {
            return match scope {
                PodScope::Cluster => Ok(None),
                PodScope::AgentNode if watch.is_some() => Ok(None),
                PodScope::AgentNode => Err(kubelet_disabled()),
            };
        };
        match fetcher.next(0).await {
            Ok(list) => Ok(look(&list.pods)),
            Err(reason) if scope == PodScope::AgentNode => {
                Err(error(Code::Unavailable, reason.to_string()))
            }
            Err(reason) => {
                tracing::debug!(
                    plugin_name = super::NAME,
                    plugin_type = super::KIND,
                    error = %reason,
                    "Unable to query kubelet for pod reference; falling back to Kubernetes API"
                );
                Ok(None)
            }
        }
    }

    async fn pod_from_server(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, PluginError> {
        let pods = Resource {
            group: String::new(),
            version: "v1".to_owned(),
            plural: "pods".to_owned(),
            kind: "Pod".to_owned(),
            namespaced: true,
        };
        let failed = |reason: KubeError| match reason {
            reason if reason.is_not_found() => {
                let shown = format!("pod {}/{}", shorten(namespace), shorten(name));
                error(Code::NotFound, format!("{shown} not found"))
            }
            reason => {
                error(Code::Internal, format!("unable to get pod from Kubernetes API: {reason}"))
            }
        };
        let path = pods.object_path(namespace, name).map_err(failed)?;
        let text: serde_json::Value = self.client.get(&path, Form::Whole).await.map_err(failed)?;
        let pod = Pod::parse_as_is(text.to_string().as_bytes()).map_err(|reason| {
            error(Code::Internal, format!("unable to get pod from Kubernetes API: {reason}"))
        })?;
        Ok(Arc::new(pod))
    }

    async fn attest_object(&self, wanted: &Wanted) -> Result<Attested, PluginError> {
        let Wanted { plural, group, uid, .. } = wanted;
        let (namespace, name) = wanted.name();
        // Kubernetes calls the core group nothing at all.
        let kube_group = if group == "core" { "" } else { group };
        let resource = self.mapper.find(kube_group, plural).await.map_err(|reason| {
            let shown = format!("{}.{}", shorten(plural), shorten(group));
            let text = format!("unknown Kubernetes resource {shown}: {reason}");
            error(Code::InvalidArgument, text)
        })?;
        if resource.namespaced && !name.is_empty() && namespace.is_empty() {
            return Err(namespace_required());
        }
        if !resource.namespaced && !namespace.is_empty() {
            return Err(error(
                Code::InvalidArgument,
                "namespace must be empty for cluster-scoped resource",
            ));
        }
        let object = if name.is_empty() {
            self.object_by_uid(&resource, uid).await?
        } else {
            self.metadata(&resource, namespace, name).await.map_err(|reason| {
                let kind = &resource.kind;
                match reason.is_not_found() {
                    true => {
                        let shown = format!("{}/{}", shorten(namespace), shorten(name));
                        error(Code::NotFound, format!("{kind} {shown} not found"))
                    }
                    false => error(Code::Internal, format!("unable to get {kind}: {reason}")),
                }
            })?
        };
        if !uid.is_empty() && *object.uid != **uid {
            let shown = format!("{plural}.{group} {}/{}", object.namespace, object.name);
            let text = format!("{shown} has UID {}, expected {}", object.uid, shorten(uid));
            return Err(error(Code::NotFound, text));
        }
        let mut values = selectors::of_object(plural, group, &resource, &object);
        if resource.namespaced && !object.namespace.is_empty() {
            self.add_namespace_labels(&mut values, &object.namespace).await?;
        }
        let object = Object {
            group: resource.group,
            plural: resource.plural,
            namespace: object.namespace.to_string(),
            name: object.name.to_string(),
        };
        Ok(Attested { values, object: Some(object) })
    }

    /// The metadata of one object by its name.
    pub(super) async fn metadata(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<ObjectMetadata>, MetadataError> {
        let path = resource.object_path(namespace, name)?;
        if let Some(cache) = self.cache(resource) {
            synced(&cache).await?;
            let objects = cache.objects();
            let uid = objects.by_name.get(&(namespace.into(), name.into()));
            let found = uid.and_then(|uid| objects.by_uid.get(uid));
            return found.cloned().ok_or(MetadataError::Missing);
        }
        let object: Partial = self.client.get(&path, Form::Metadata).await?;
        Ok(Arc::new(object.metadata))
    }

    async fn object_by_uid(
        &self,
        resource: &Resource,
        uid: &str,
    ) -> Result<Arc<ObjectMetadata>, PluginError> {
        let kind = &resource.kind;
        let failed =
            |reason: String| error(Code::Internal, format!("unable to list {kind}: {reason}"));
        let mut found = None;
        if let Some(cache) = self.cache(resource) {
            synced(&cache).await.map_err(|reason| failed(reason.to_string()))?;
            found = cache.objects().by_uid.get(uid).cloned();
        } else {
            let mut look = |item: Found<'_>| {
                if let Found::Item(text) = item
                    && found.is_none()
                    && let Ok(Partial { metadata }) = serde_json::from_slice(text)
                    && *metadata.uid == *uid
                {
                    found = Some(Arc::new(metadata));
                }
            };
            let listed = self.client.list(&resource.path(), Form::MetadataList, &mut look).await;
            listed.map_err(|reason| failed(reason.to_string()))?;
        }
        found.ok_or_else(|| {
            error(Code::NotFound, format!("{kind} with UID {} not found", shorten(uid)))
        })
    }

    /// What is kept of a kind of object, if that is wanted; begun by who asks first.
    fn cache(&self, resource: &Resource) -> Option<Arc<Reflector<Objects>>> {
        if !self.config.api_server_cache {
            return None;
        }
        let mut caches = self.caches.0.lock().unwrap_or_else(PoisonError::into_inner);
        let path = resource.path();
        if !caches.contains_key(&path) && caches.len() >= MAX_CACHES {
            return None;
        }
        let cache = caches.entry(path.clone()).or_insert_with(|| {
            Arc::new(Reflector::start(Arc::clone(&self.client), path, true, &self.tasks))
        });
        Some(Arc::clone(cache))
    }
}

/// Waits for the first list.
async fn synced(cache: &Reflector<Objects>) -> Result<(), MetadataError> {
    let mut progress = cache.progress();
    let listed = progress.wait_for(|progress| progress.version > 0);
    match tokio::time::timeout(SYNC, listed).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(cache.last_error().map_or(MetadataError::Sync, MetadataError::Kube)),
    }
}

fn namespace_required() -> PluginError {
    error(Code::InvalidArgument, "namespace is required when name is set for a namespaced resource")
}

/// As much of a broker's words as an error repeats.
fn shorten(text: &str) -> String {
    text.chars().take(253).collect()
}

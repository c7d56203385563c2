//! What is kept of the pods of a node, and how one is found.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

/// What selectors need of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) uid: Box<str>,
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) labels: BTreeMap<Box<str>, Box<str>>,
    pub(crate) owners: Vec<Owner>,
    pub(crate) service_account: Box<str>,
    pub(crate) node: Box<str>,
    pub(crate) containers: Vec<Container>,
    pub(crate) init_containers: Vec<Container>,
}

/// Who a pod belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Owner {
    #[serde(rename = "apiVersion", deserialize_with = "nullable")]
    pub(crate) api_version: Box<str>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) kind: Box<str>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) name: Box<str>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) uid: Box<str>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) controller: bool,
}

/// The status of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Container {
    #[serde(deserialize_with = "nullable")]
    pub(crate) name: Box<str>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) image: Box<str>,
    #[serde(rename = "imageID", deserialize_with = "nullable")]
    pub(crate) image_id: Box<str>,
    #[serde(rename = "containerID", deserialize_with = "nullable")]
    pub(crate) container_id: Box<str>,
}

/// Why a pod cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PodError {
    /// It does not say who it is.
    #[error("pod has no UID")]
    NoUid,
    /// It says who it is, and no more that can be understood.
    #[error("{reason}")]
    Malformed { uid: Box<str>, reason: String },
}

impl Pod {
    /// Reads a pod's JSON.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, PodError> {
        match serde_json::from_slice::<RawPod>(text) {
            Ok(mut raw) => {
                raw.metadata.be_static();
                Self::from_raw(raw).ok_or(PodError::NoUid)
            }
            Err(error) => match serde_json::from_slice::<Named>(text) {
                Ok(named) if !named.metadata.uid.is_empty() => Err(PodError::Malformed {
                    uid: named.metadata.uid,
                    // The words of the decoder, which quote no more than a character or a type.
                    reason: error.to_string().chars().take(MAX_REASON).collect(),
                }),
                _ => Err(PodError::NoUid),
            },
        }
    }

    /// Reads the JSON of a pod that the API server was asked for by its name there; a mirror pod
    /// is not taken for the static pod that it shows.
    pub(crate) fn parse_as_is(text: &[u8]) -> Result<Self, PodError> {
        match serde_json::from_slice(text) {
            Ok(raw) => Self::from_raw(raw).ok_or(PodError::NoUid),
            Err(error) => {
                Err(PodError::Malformed { uid: Box::default(), reason: error.to_string() })
            }
        }
    }

    fn from_raw(raw: RawPod) -> Option<Self> {
        let RawPod { metadata, spec, status } = raw;
        (!metadata.uid.is_empty()).then_some(Self {
            uid: metadata.uid,
            namespace: metadata.namespace,
            name: metadata.name,
            labels: metadata.labels,
            owners: metadata.owner_references,
            service_account: spec.service_account_name,
            node: spec.node_name,
            containers: status.container_statuses,
            init_containers: status.init_container_statuses,
        })
    }

    /// The container with this id, regular ones first. Ephemeral ones are not looked at.
    pub(crate) fn container(&self, id: &str) -> Option<&Container> {
        self.statuses().find(|container| container.id() == Some(id))
    }

    fn statuses(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().chain(&self.init_containers)
    }
}

impl Container {
    /// The id without its runtime (`containerd://…`): the host of that, read as a URL.
    fn id(&self) -> Option<&str> {
        let (_, rest) = self.container_id.split_once("://")?;
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        Some(host.rsplit('@').next().unwrap_or(host)).filter(|host| !host.is_empty())
    }
}

/// The pods of a node at some moment.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    by_uid: HashMap<Box<str>, Result<Arc<Pod>, String>>,
    by_container: HashMap<Box<str>, Holders>,
    malformed: usize,
}

/// The uids of the pods that have a container; more than one only if somebody is wrong.
#[derive(Debug, PartialEq, Eq)]
enum Holders {
    One(Box<str>),
    Several(Vec<Box<str>>),
}

/// What the pods say of a container.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Its pod, and whether the container itself is there.
    Found { pod: Arc<Pod>, container: bool },
    /// Nothing yet.
    Missing,
    /// More than one pod has it.
    Ambiguous,
    /// The pod, or one that might be it, cannot be read.
    Malformed(String),
}

impl Pods {
    /// Adds a pod, or replaces the one with its uid.
    pub(crate) fn insert(&mut self, pod: Result<Pod, PodError>) {
        let (uid, pod) = match pod {
            Ok(pod) => (pod.uid.clone(), Ok(Arc::new(pod))),
            Err(PodError::Malformed { uid, reason }) => (uid, Err(reason)),
            Err(PodError::NoUid) => return,
        };
        self.remove(&uid);
        match &pod {
            Ok(pod) => {
                for id in pod.statuses().filter_map(Container::id) {
                    self.hold(id, &uid);
                }
            }
            Err(_) => self.malformed += 1,
        }
        self.by_uid.insert(uid, pod);
    }

    /// Removes the pod with this uid.
    pub(crate) fn remove(&mut self, uid: &str) {
        match self.by_uid.remove(uid) {
            Some(Ok(pod)) => {
                for id in pod.statuses().filter_map(Container::id) {
                    self.release(id, uid);
                }
            }
            Some(Err(_)) => self.malformed -= 1,
            None => {}
        }
    }

    /// The pod of a container: the one that the kernel named, if it named one.
    ///
    /// `without_container` takes a pod that the kernel named though the container is not in it.
    pub(crate) fn find(
        &self,
        pod_uid: Option<&str>,
        container_id: &str,
        without_container: bool,
    ) -> Lookup {
        let uid = match (pod_uid, self.by_container.get(container_id)) {
            (Some(uid), _) => uid,
            (None, Some(Holders::One(uid))) => uid,
            (None, Some(Holders::Several(_))) => return Lookup::Ambiguous,
            (None, None) if self.malformed > 0 => {
                let reason = self.by_uid.values().find_map(|pod| pod.as_ref().err());
                return Lookup::Malformed(reason.cloned().unwrap_or_default());
            }
            (None, None) => return Lookup::Missing,
        };
        match self.by_uid.get(uid) {
            None => Lookup::Missing,
            Some(Err(reason)) => Lookup::Malformed(reason.clone()),
            Some(Ok(pod)) => match pod.container(container_id).is_some() {
                container if container || without_container => {
                    Lookup::Found { pod: Arc::clone(pod), container }
                }
                _ => Lookup::Missing,
            },
        }
    }

    /// The pod with this uid, or why it cannot be read.
    pub(crate) fn by_uid(&self, uid: &str) -> Option<Result<&Arc<Pod>, &str>> {
        self.by_uid.get(uid).map(|pod| pod.as_ref().map_err(String::as_str))
    }

    /// The pod with this name.
    pub(crate) fn by_name(&self, namespace: &str, name: &str) -> Option<&Arc<Pod>> {
        let mut pods = self.by_uid.values().filter_map(|pod| pod.as_ref().ok());
        pods.find(|pod| &*pod.namespace == namespace && &*pod.name == name)
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_uid.len()
    }

    fn hold(&mut self, container: &str, uid: &str) {
        match self.by_container.get_mut(container) {
            None => {
                self.by_container.insert(container.into(), Holders::One(uid.into()));
            }
            Some(Holders::One(other)) if &**other == uid => {}
            Some(holders) => {
                let mut uids = match holders {
                    Holders::One(other) => vec![other.clone()],
                    Holders::Several(uids) => std::mem::take(uids),
                };
                if !uids.iter().any(|other| &**other == uid) {
                    uids.push(uid.into());
                }
                *holders = Holders::Several(uids);
            }
        }
    }

    fn release(&mut self, container: &str, uid: &str) {
        let left = match self.by_container.remove(container) {
            Some(Holders::Several(mut uids)) => {
                uids.retain(|other| &**other != uid);
                match uids.len() {
                    0 => return,
                    1 => Holders::One(uids.remove(0)),
                    _ => Holders::Several(uids),
                }
            }
            Some(Holders::One(other)) if &*other != uid => Holders::One(other),
            _ => return,
        };
        self.by_container.insert(container.into(), left);
    }
}

/// As much of a decoder's error as is kept.
const MAX_REASON: usize = 200;

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPod {
    #[serde(deserialize_with = "nullable")]
    metadata: Metadata,
    #[serde(deserialize_with = "nullable")]
    spec: Spec,
    #[serde(deserialize_with = "nullable")]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    #[serde(deserialize_with = "nullable")]
    uid: Box<str>,
    #[serde(deserialize_with = "nullable")]
    namespace: Box<str>,
    #[serde(deserialize_with = "nullable")]
    name: Box<str>,
    #[serde(deserialize_with = "labels")]
    labels: BTreeMap<Box<str>, Box<str>>,
    #[serde(deserialize_with = "nullable")]
    annotations: Annotations,
    #[serde(rename = "ownerReferences", deserialize_with = "nullable")]
    owner_references: Vec<Owner>,
}

impl Metadata {
    /// A mirror pod becomes the static pod that the kubelet itself lists: that belongs to nobody,
    /// and its uid is the one that cgroups are named by.
    fn be_static(&mut self) {
        if let Some(uid) = self.annotations.mirror.take().filter(|uid| !uid.is_empty()) {
            self.uid = uid;
            self.owner_references = Vec::new();
        }
    }
}

/// How a mirror pod names the static pod of the kubelet's that it shows; others may be long.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(rename = "serviceAccountName", deserialize_with = "nullable")]
    service_account_name: Box<str>,
    #[serde(rename = "nodeName", deserialize_with = "nullable")]
    node_name: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(rename = "containerStatuses", deserialize_with = "nullable")]
    container_statuses: Vec<Container>,
    #[serde(rename = "initContainerStatuses", deserialize_with = "nullable")]
    init_container_statuses: Vec<Container>,
}

/// Who a pod says it is, when the rest makes no sense.
#[derive(Deserialize)]
struct Named {
    metadata: NamedMetadata,
}

#[derive(Deserialize)]
struct NamedMetadata {
    #[serde(default)]
    uid: Box<str>,
}

/// Null is nothing, as for Go's decoder.
pub(crate) fn nullable<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// A label without a value has the empty one.
pub(crate) fn labels<'de, D>(from: D) -> Result<BTreeMap<Box<str>, Box<str>>, D::Error>
where
    D: Deserializer<'de>,
{
    let labels: Option<BTreeMap<Box<str>, Option<Box<str>>>> = Option::deserialize(from)?;
    let labels = labels.unwrap_or_default().into_iter();
    Ok(labels.map(|(key, value)| (key, value.unwrap_or_default())).collect())
}

#[cfg(test)]
mod tests;

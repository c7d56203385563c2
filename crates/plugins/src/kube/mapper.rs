//! Which version and kind a resource has, by the server's own word (discovery).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::{Client, Form, KubeError, segment};

/// How long the server's word is good for: a definition may change its versions.
const GOOD_FOR: Duration = Duration::from_secs(600);
/// How many resources are remembered.
const CAPACITY: usize = 1024;

/// A resource that the server has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Resource {
    /// Empty for the core group.
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
}

impl Resource {
    /// What objects call it: `v1`, `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The path of all of them.
    pub(crate) fn path(&self) -> String {
        let Self { group, version, plural, .. } = self;
        match group.as_str() {
            "" => format!("/api/{version}/{plural}"),
            group => format!("/apis/{group}/{version}/{plural}"),
        }
    }

    /// The path of one of them.
    ///
    /// # Errors
    /// When a name could be anything but a name.
    pub(crate) fn object_path(&self, namespace: &str, name: &str) -> Result<String, KubeError> {
        let Self { group, version, plural, .. } = self;
        let root = match group.as_str() {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        let name = segment(name)?;
        Ok(match self.namespaced {
            true => format!("{root}/namespaces/{}/{plural}/{name}", segment(namespace)?),
            false => format!("{root}/{plural}/{name}"),
        })
    }
}

/// Why a resource is not known.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum MapperError {
    #[error("no matches for {group}/, Resource={plural}")]
    NoMatch { group: String, plural: String },
    #[error("failed to get server groups: {0}")]
    Groups(KubeError),
    #[error("failed to get API group resources: {0}")]
    Resources(KubeError),
}

/// Asks, and remembers.
pub(crate) struct Mapper {
    client: Arc<Client>,
    known: Mutex<HashMap<(String, String), (Resource, Instant)>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Group {
    name: String,
    versions: Vec<GroupVersion>,
    #[serde(rename = "preferredVersion")]
    preferred: GroupVersion,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct GroupVersion {
    version: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resources {
    resources: Vec<Listed>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Listed {
    name: String,
    kind: String,
    namespaced: bool,
}

impl Mapper {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// The resource `plural` of `group`, the empty one being the core group, in the version that
    /// the server prefers of those that have it.
    ///
    /// # Errors
    /// When there is none, or the server does not say.
    pub(crate) async fn find(&self, group: &str, plural: &str) -> Result<Resource, MapperError> {
        let key = (group.to_owned(), plural.to_owned());
        if let Some((resource, at)) = self.lock().get(&key)
            && at.elapsed() < GOOD_FOR
        {
            return Ok(resource.clone());
        }
        let resource = self.ask(group, plural).await?;
        let mut known = self.lock();
        if known.len() >= CAPACITY {
            known.clear();
        }
        known.insert(key, (resource.clone(), Instant::now()));
        Ok(resource)
    }

    async fn ask(&self, group: &str, plural: &str) -> Result<Resource, MapperError> {
        let none = || MapperError::NoMatch { group: shown(group), plural: shown(plural) };
        let versions = if group.is_empty() {
            vec![("v1".to_owned(), "/api/v1".to_owned())]
        } else {
            // Whatever a stranger calls a group: only one that the server lists is asked for.
            let found: Groups =
                self.client.get("/apis", Form::Whole).await.map_err(MapperError::Groups)?;
            let found = found.groups.into_iter().find(|it| it.name == group).ok_or_else(none)?;
            let preferred = found.preferred.version;
            let mut versions: Vec<_> = found.versions.into_iter().map(|it| it.version).collect();
            versions.sort_by_key(|version| *version != preferred);
            versions
                .into_iter()
                .map(|version| {
                    let path = format!("/apis/{group}/{version}");
                    (version, path)
                })
                .collect()
        };
        for (version, path) in versions {
            let listed: Resources = match self.client.get(&path, Form::Whole).await {
                Ok(listed) => listed,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(MapperError::Resources(error)),
            };
            // What has a slash in its name is a part of another (`pods/log`).
            let found = listed.resources.into_iter().find(|it| it.name == plural);
            if let Some(found) = found.filter(|it| !it.name.contains('/')) {
                return Ok(Resource {
                    group: group.to_owned(),
                    version,
                    plural: found.name,
                    kind: found.kind,
                    namespaced: found.namespaced,
                });
            }
        }
        Err(none())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), (Resource, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shown(name: &str) -> String {
    name.chars().take(253).collect()
}

//! Keeps what the API server lists, by watching it.
//!
//! One task lists, watches from there, and begins anew when it is told that it has missed
//! something. It ends with the last [`Reflector`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use steeple_runtime::Tasks;
use steeple_runtime::backoff::Backoff;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Client, Form, Found, KubeError, escape, member};

/// For how long the server is asked to go on with one watch, in seconds.
const WATCH_SECONDS: u32 = 290;
/// Between attempts, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A watch that lasts so long works.
const LASTING: Duration = Duration::from_secs(5);

/// What is kept of the objects.
pub(crate) trait Sink: Default + Send + 'static {
    /// An object that is new, or as it is now, as JSON.
    fn put(&mut self, object: &[u8]);
    /// An object that is gone, as it was last.
    fn remove(&mut self, object: &[u8]);
}

/// How far it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Changes so far; 0 before the first list.
    pub(crate) version: u64,
    /// Whether changes are being told.
    pub(crate) live: bool,
}

/// Objects that are kept.
pub(crate) struct Reflector<S: Sink> {
    shared: Arc<Shared<S>>,
    /// The task ends when this is dropped.
    _alive: watch::Sender<()>,
}

struct Shared<S> {
    objects: Mutex<S>,
    progress: watch::Sender<Progress>,
    last_error: Mutex<Option<KubeError>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Head {
    #[serde(rename = "type")]
    kind: String,
    object: HeadObject,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct HeadObject {
    metadata: HeadMetadata,
    code: u16,
    reason: String,
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct HeadMetadata {
    #[serde(rename = "resourceVersion")]
    resource_version: String,
}

impl<S: Sink> Reflector<S> {
    /// Begins to keep what is listed at `path` (which may have a query), whole or its metadata.
    /// Must be called where tasks can run.
    pub(crate) fn start(client: Arc<Client>, path: String, metadata: bool, tasks: &Tasks) -> Self {
        let shared = Arc::new(Shared {
            objects: Mutex::new(S::default()),
            progress: watch::Sender::new(Progress::default()),
            last_error: Mutex::default(),
        });
        let (alive, mut gone) = watch::channel(());
        let work = Arc::clone(&shared);
        tasks.spawn_isolated("kubernetes-watch", async move {
            tokio::select! {
                _ = gone.changed() => {}
                () = work.run(&client, &path, metadata) => {}
            }
        });
        Self { shared, _alive: alive }
    }

    /// The objects; hold them for as short as possible.
    pub(crate) fn objects(&self) -> MutexGuard<'_, S> {
        self.shared.objects()
    }

    /// Tells of changes.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// Why nothing came last time, if so.
    pub(crate) fn last_error(&self) -> Option<KubeError> {
        self.shared.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<S: Sink> Shared<S> {
    fn objects(&self) -> MutexGuard<'_, S> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self, client: &Client, path: &str, metadata: bool) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            match self.list(client, path, metadata).await {
                Ok(version) => self.follow(client, path, metadata, version, &mut backoff).await,
                Err(error) => self.failed(path, &error),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Watches from `version` on, until that is too long ago.
    async fn follow(
        &self,
        client: &Client,
        path: &str,
        metadata: bool,
        mut version: String,
        backoff: &mut Backoff,
    ) {
        loop {
            let started = Instant::now();
            let watched = self.watch(client, path, metadata, &mut version).await;
            let lasted = started.elapsed() >= LASTING;
            match watched {
                // The server ends a watch when its time is over, which is no reason to wait.
                Ok(()) if lasted => {
                    backoff.reset();
                    continue;
                }
                Ok(()) => self.live(false),
                Err(error) if error.is_expired() => return self.live(false),
                Err(error) => self.failed(path, &error),
            }
            if lasted {
                backoff.reset();
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    fn live(&self, live: bool) {
        self.progress.send_modify(|progress| progress.live = live);
    }

    fn failed(&self, path: &str, error: &KubeError) {
        tracing::warn!(path, error = %error, "Watching the Kubernetes API server failed");
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        self.live(false);
    }

    /// Lists all, and puts it in the place of what there was.
    async fn list(&self, client: &Client, path: &str, metadata: bool) -> Result<String, KubeError> {
        let form = if metadata { Form::MetadataList } else { Form::Whole };
        let mut objects = S::default();
        let mut put = |found: Found<'_>| match found {
            Found::Item(text) => objects.put(text),
            Found::TooLarge => tracing::warn!("Kubernetes object is too large, and left out"),
        };
        let listed = client.list(path, form, &mut put).await?;
        *self.objects() = objects;
        self.progress.send_modify(|progress| progress.version += 1);
        Ok(listed.resource_version)
    }

    async fn watch(
        &self,
        client: &Client,
        path: &str,
        metadata: bool,
        version: &mut String,
    ) -> Result<(), KubeError> {
        let form = if metadata { Form::Metadata } else { Form::Whole };
        let join = if path.contains('?') { '&' } else { '?' };
        let target = format!(
            "{path}{join}watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}\
             &resourceVersion={}",
            escape(version)
        );
        let begun = || {
            *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.live(true);
        };
        client.watch(&target, form, begun, |event| self.apply(event, version)).await
    }

    fn apply(&self, event: &[u8], version: &mut String) -> Result<(), KubeError> {
        let head: Head =
            serde_json::from_slice(event).map_err(|error| KubeError::Decode(error.to_string()))?;
        let HeadObject { metadata, code, reason, message } = head.object;
        let object = member(event, "object").unwrap_or_default();
        match head.kind.as_str() {
            "ADDED" | "MODIFIED" => self.objects().put(object),
            "DELETED" => self.objects().remove(object),
            "BOOKMARK" => {}
            "ERROR" => return Err(KubeError::Status { code, reason, message }),
            _ => return Ok(()),
        }
        if !metadata.resource_version.is_empty() {
            *version = metadata.resource_version;
        }
        if head.kind != "BOOKMARK" {
            self.progress.send_modify(|progress| progress.version += 1);
        }
        Ok(())
    }
}

//! Who is told of our trust bundle: notifiers, and publishers of it (UP-07, UP-08).
//!
//! One task watches the stored bundle; each plugin has a task and a deadline of its own, so that
//! one that hangs delays nobody. A plugin that is slower than the changes is told of the latest
//! one alone.
//!
//! SPIRE tells of the changes that the server itself makes. Here, those of other servers on the
//! same database count too; they are found within [`POLL`].

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use steeple_pki::Bundle;
use steeple_plugin::{BundlePublisher, Code, Kind, Notifier, PluginError};
use steeple_runtime::backoff::Backoff;
use steeple_runtime::{Tasks, Watcher};
use steeple_spiffe::TrustDomain;
use steeple_store::Store;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// Where our own bundle is read.
#[async_trait]
pub trait OwnBundle: Send + Sync {
    /// The bundle as it is stored.
    ///
    /// # Errors
    /// With what the store said.
    async fn own_bundle(&self) -> Result<Option<Bundle>, String>;
}

/// Our own bundle in the datastore.
pub struct StoredBundle {
    /// The datastore.
    pub store: Arc<dyn Store>,
    /// Whose bundle it is.
    pub trust_domain: TrustDomain,
}

#[async_trait]
impl OwnBundle for StoredBundle {
    async fn own_bundle(&self) -> Result<Option<Bundle>, String> {
        self.store.fetch_bundle(&self.trust_domain).await.map_err(|error| error.to_string())
    }
}

/// Why the server is not to start.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// Notifiers refused; one message a line.
    #[error("one or more notifiers returned an error: {0}")]
    Refused(String),
    /// The bundle could not be read.
    #[error("{0}")]
    Store(String),
    /// There is no bundle.
    #[error("trust domain bundle is missing")]
    NoBundle,
}

/// The plugins that are told of our bundle.
pub struct Notify {
    source: Arc<dyn OwnBundle>,
    notifiers: Vec<Arc<dyn Notifier>>,
    publishers: Vec<Arc<dyn BundlePublisher>>,
    /// The bundle that notifiers were told of last.
    known: Option<Arc<Bundle>>,
}

impl Notify {
    /// Tells these plugins of the bundle in `source`.
    #[must_use]
    pub fn new(
        source: Arc<dyn OwnBundle>,
        notifiers: Vec<Arc<dyn Notifier>>,
        publishers: Vec<Arc<dyn BundlePublisher>>,
    ) -> Self {
        Self { source, notifiers, publishers, known: None }
    }

    /// Tells the notifiers that the bundle was loaded, all at once, and waits for their advice.
    /// To be called before anything is served.
    ///
    /// # Errors
    /// A notifier fails or is too slow, or there is no bundle: the server is not to start.
    pub async fn bundle_loaded(&mut self) -> Result<(), NotifyError> {
        if self.notifiers.is_empty() {
            return Ok(());
        }
        let read = self.source.own_bundle().await.map_err(NotifyError::Store)?;
        let bundle = Arc::new(read.ok_or(NotifyError::NoBundle)?);
        let tell = |notifier: &Arc<dyn Notifier>| {
            let (notifier, bundle) = (Arc::clone(notifier), Arc::clone(&bundle));
            async move {
                let told = within(
                    ADVICE_DEADLINE,
                    Kind::Notifier,
                    notifier.name(),
                    notifier.bundle_loaded(&bundle),
                );
                let told = told.await;
                log_told(notifier.name(), "bundle loaded", &told);
                told.err()
            }
        };
        let failures = futures_util::future::join_all(self.notifiers.iter().map(tell)).await;
        let failures: Vec<String> =
            failures.into_iter().flatten().map(|error| error.to_string()).collect();
        self.known = Some(bundle);
        if failures.is_empty() { Ok(()) } else { Err(NotifyError::Refused(failures.join("\n"))) }
    }

    /// Keeps telling until the drain begins. `hints` change when the bundle may have.
    pub fn spawn(self, hints: Vec<watch::Receiver<u64>>, tasks: &Tasks, drain: &Watcher) {
        if self.notifiers.is_empty() && self.publishers.is_empty() {
            return;
        }
        let (latest, updates) = watch::channel(self.known);
        for notifier in self.notifiers {
            let telling = keep_told(notifier, updates.clone(), drain.clone());
            tasks.spawn_isolated("notifier", telling);
        }
        for publisher in self.publishers {
            let publishing = keep_published(publisher, updates.clone(), drain.clone());
            tasks.spawn_isolated("bundle_publisher", publishing);
        }
        tasks.spawn("bundle_watch", follow(self.source, hints, latest, drain.clone()));
    }
}

/// Reads the bundle when it may have changed, and once in a while.
async fn follow(
    source: Arc<dyn OwnBundle>,
    mut hints: Vec<watch::Receiver<u64>>,
    latest: watch::Sender<Option<Arc<Bundle>>>,
    mut drain: Watcher,
) {
    let mut poll = tokio::time::interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            () = drain.signalled() => return,
            () = any_change(&mut hints) => {}
            _ = poll.tick() => {}
        }
        let reading = tokio::time::timeout(READ_DEADLINE, source.own_bundle());
        let read = tokio::select! {
            () = drain.signalled() => return,
            read = reading => read,
        };
        let error = match read {
            Ok(Ok(Some(bundle))) => {
                failing = false;
                latest.send_if_modified(|known| {
                    let is_new = known.as_deref() != Some(&bundle);
                    if is_new {
                        *known = Some(Arc::new(bundle));
                    }
                    is_new
                });
                continue;
            }
            Ok(Ok(None)) => NotifyError::NoBundle.to_string(),
            Ok(Err(error)) => error,
            Err(_) => format!("no answer within {} seconds", READ_DEADLINE.as_secs()),
        };
        // Once for each time that the datastore is away.
        if !std::mem::replace(&mut failing, true) {
            tracing::warn!(subsystem_name = CA_MANAGER, error, "Failed to notify on bundle update");
        }
    }
}

async fn any_change(hints: &mut [watch::Receiver<u64>]) {
    if hints.is_empty() {
        return pending().await;
    }
    let changes = hints.iter_mut().map(|hint| {
        Box::pin(async {
            if hint.changed().await.is_err() {
                // Whoever gave these hints has stopped; others may go on.
                pending::<()>().await;
            }
        })
    });
    futures_util::future::select_all(changes).await;
}

async fn keep_told(
    notifier: Arc<dyn Notifier>,
    mut updates: watch::Receiver<Option<Arc<Bundle>>>,
    mut drain: Watcher,
) {
    loop {
        tokio::select! {
            () = drain.signalled() => return,
            changed = updates.changed() => if changed.is_err() {
                return;
            },
        }
        let Some(bundle) = updates.borrow_and_update().clone() else { continue };
        let name = notifier.name();
        let telling = within(DEADLINE, Kind::Notifier, name, notifier.bundle_updated(&bundle));
        let told = tokio::select! {
            () = drain.signalled() => return,
            told = telling => told,
        };
        log_told(name, "bundle updated", &told);
        if let Err(error) = told {
            tracing::warn!(
                subsystem_name = CA_MANAGER,
                error = %NotifyError::Refused(error.to_string()),
                "Failed to notify on bundle update"
            );
        }
    }
}

async fn keep_published(
    publisher: Arc<dyn BundlePublisher>,
    mut updates: watch::Receiver<Option<Arc<Bundle>>>,
    mut drain: Watcher,
) {
    let mut backoff = Backoff::new(FIRST_RETRY, PUBLISH_EVERY);
    loop {
        let bundle = updates.borrow_and_update().clone();
        let mut pause = PUBLISH_EVERY;
        if let Some(bundle) = bundle {
            let name = publisher.name();
            let publishing = publisher.publish_bundle(&bundle);
            let published = tokio::select! {
                () = drain.signalled() => return,
                published = within(DEADLINE, Kind::BundlePublisher, name, publishing) => published,
            };
            match published {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    pause = backoff.next().min(PUBLISH_EVERY);
                    tracing::error!(
                        subsystem_name = BUNDLE_PUBLISHING,
                        BundlePublisher = name,
                        %error,
                        "Failed to publish bundle"
                    );
                }
            }
        }
        tokio::select! {
            () = drain.signalled() => return,
            () = tokio::time::sleep(pause) => {}
            changed = updates.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

fn log_told(notifier: &str, event: &str, told: &Result<(), PluginError>) {
    let failure = "Notifier failed to handle event";
    match told {
        Ok(()) => {
            tracing::debug!(subsystem_name = CA_MANAGER, notifier, event, "Notifier handled event");
        }
        // Advice is taken at start only; what comes later is for information.
        Err(error) if event == "bundle loaded" => {
            tracing::error!(subsystem_name = CA_MANAGER, notifier, event, %error, "{failure}");
        }
        Err(error) => {
            tracing::warn!(subsystem_name = CA_MANAGER, notifier, event, %error, "{failure}");
        }
    }
}

async fn within(
    deadline: Duration,
    kind: Kind,
    name: &str,
    call: impl Future<Output = Result<(), PluginError>>,
) -> Result<(), PluginError> {
    tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| {
        let text = format!("no answer within {} seconds", deadline.as_secs());
        Err(PluginError::new(kind, name, Code::DeadlineExceeded, text))
    })
}

/// Between two looks at the stored bundle when nothing hints at a change.
pub const POLL: Duration = Duration::from_secs(5);
/// Between two publications of the same bundle (UP-08).
pub const PUBLISH_EVERY: Duration = Duration::from_secs(30);

/// How long a plugin may take to be told, or to publish.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long notifiers may keep the server from starting.
const ADVICE_DEADLINE: Duration = Duration::from_secs(60);
const READ_DEADLINE: Duration = Duration::from_secs(30);
/// After a publication that failed for the first time.
const FIRST_RETRY: Duration = Duration::from_secs(1);

const CA_MANAGER: &str = "ca_manager";
const BUNDLE_PUBLISHING: &str = "bundle_publishing";

#[cfg(test)]
mod tests;

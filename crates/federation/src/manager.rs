//! The task that knows whom to follow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use steeple_runtime::{Clock, Tasks, Watcher};
use steeple_spiffe::TrustDomain;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::sleep;

use crate::fetch::Fetch;
use crate::follower::{Follower, Means, Ticket};
use crate::relationship::{Keep, Relationships, merge};
use crate::update::UpdateError;

/// Between two looks at the list of relationships (FE-10).
const RELOAD: Duration = Duration::from_secs(10);

/// Questions that wait for the manager at once; more wait with whoever asks.
const QUESTIONS: usize = 64;

/// What a manager is made of.
pub struct ManagerConfig {
    /// The trust domain served, which is never followed.
    pub trust_domain: TrustDomain,
    /// The relationships of the configuration.
    pub configured: Relationships,
    /// The relationships of the datastore, and the bundles.
    pub keep: Arc<dyn Keep>,
    /// The way to endpoints.
    pub fetch: Arc<dyn Fetch>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where followers run.
    pub tasks: Tasks,
}

/// Keeps a follower for each trust domain that there is a relationship with.
pub struct Manager {
    own: TrustDomain,
    configured: Relationships,
    means: Means,
    tasks: Tasks,
    followers: BTreeMap<TrustDomain, Follower>,
    questions: mpsc::Receiver<Question>,
    reload: Arc<Notify>,
}

/// What a [`Manager`] is told and asked through. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Refresher {
    questions: mpsc::Sender<Question>,
    reload: Arc<Notify>,
}

#[derive(Debug)]
struct Question {
    of: TrustDomain,
    ticket: oneshot::Sender<Option<Ticket>>,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").finish_non_exhaustive()
    }
}

impl Refresher {
    /// Has the list of relationships read again, soon.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Refreshes the bundle of a trust domain, by what the list says now, and waits for it.
    /// `None` when there is no relationship with it.
    ///
    /// # Errors
    /// [`UpdateError`].
    pub async fn refresh(&self, of: &TrustDomain) -> Option<Result<(), UpdateError>> {
        let (ticket, given) = oneshot::channel();
        self.questions.send(Question { of: of.clone(), ticket }).await.ok()?;
        given.await.ok()??.answer().await
    }
}

impl Manager {
    /// A manager that follows nobody yet, and what it is told through.
    #[must_use]
    pub fn new(config: ManagerConfig) -> (Self, Refresher) {
        let (asking, questions) = mpsc::channel(QUESTIONS);
        let reload = Arc::new(Notify::new());
        let refresher = Refresher { questions: asking, reload: Arc::clone(&reload) };
        let ManagerConfig { trust_domain, mut configured, keep, fetch, clock, tasks } = config;
        if configured.remove(&trust_domain).is_some() {
            tracing::warn!(
                subsystem_name = "bundle_client",
                trust_domain = trust_domain.as_str(),
                "Ignoring federation relationship with the server's own trust domain"
            );
        }
        let manager = Self {
            own: trust_domain,
            configured,
            means: Means { keep, fetch, clock },
            tasks,
            followers: BTreeMap::new(),
            questions,
            reload,
        };
        (manager, refresher)
    }

    /// Follows until drained.
    pub async fn run(mut self, mut drain: Watcher) {
        let watcher = drain.clone();
        tokio::select! {
            () = drain.signalled() => {}
            () = self.manage(&watcher) => {}
        }
        tracing::info!(subsystem_name = "bundle_client", "Shutting down");
    }

    async fn manage(&mut self, drain: &Watcher) {
        let mut waiting = Vec::new();
        loop {
            self.reconcile(drain).await;
            for Question { of, ticket } in waiting.drain(..) {
                // Whoever asked may have gone.
                let _ = ticket.send(self.followers.get(&of).map(Follower::ask));
            }
            tokio::select! {
                () = sleep(RELOAD) => {}
                () = self.reload.notified() => {}
                count = self.questions.recv_many(&mut waiting, QUESTIONS) => {
                    if count == 0 {
                        // Nobody is left to ask; the list is still to be followed.
                        sleep(RELOAD).await;
                    }
                }
            }
        }
    }

    /// Reads the list, and has a follower for each trust domain on it and no other.
    async fn reconcile(&mut self, drain: &Watcher) {
        let subsystem_name = "bundle_client";
        let stored = match self.means.keep.relationships().await {
            Ok(stored) => stored,
            Err(error) => {
                tracing::error!(subsystem_name, %error, "Failed to reload configs");
                return;
            }
        };
        let wanted = merge(&self.own, &self.configured, stored);
        self.followers.retain(|of, _| {
            let keep = wanted.contains_key(of);
            if !keep {
                tracing::info!(
                    subsystem_name,
                    entry = of.as_str(),
                    "Trust domain no longer managed"
                );
            }
            keep
        });
        for (of, relationship) in wanted {
            let bundle_endpoint_url = relationship.shown_url();
            let bundle_endpoint_profile = relationship.profile_name();
            if let Some(follower) = self.followers.get(&of) {
                if follower.set(&relationship) {
                    tracing::info!(
                        subsystem_name,
                        entry = of.as_str(),
                        bundle_endpoint_url,
                        bundle_endpoint_profile,
                        "Updated configuration for managed trust domain"
                    );
                }
                continue;
            }
            tracing::info!(
                subsystem_name,
                trust_domain = of.as_str(),
                bundle_endpoint_url,
                bundle_endpoint_profile,
                "Trust domain is now managed"
            );
            let (follower, work) =
                Follower::new(of.clone(), relationship, self.means.clone(), drain.clone());
            self.tasks.spawn("bundle_follower", work);
            self.followers.insert(of, follower);
        }
    }
}

#[cfg(test)]
mod tests;

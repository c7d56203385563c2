//! The task that follows one trust domain.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_runtime::{Clock, Watcher};
use steeple_spiffe::TrustDomain;
use steeple_telemetry::call;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::fetch::Fetch;
use crate::relationship::{Keep, Relationship};
use crate::schedule::next_refresh;
use crate::update::{UpdateError, update};

/// What all followers have in common.
#[derive(Clone)]
pub(crate) struct Means {
    pub(crate) keep: Arc<dyn Keep>,
    pub(crate) fetch: Arc<dyn Fetch>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// A follower at work, as its owner sees it. Dropped, the task ends.
pub(crate) struct Follower {
    relationship: watch::Sender<Relationship>,
    /// The number of the newest question.
    asked: watch::Sender<u64>,
    answered: watch::Receiver<Answered>,
}

/// What became of the questions up to a number.
#[derive(Clone, Debug)]
struct Answered {
    up_to: u64,
    result: Result<(), UpdateError>,
}

/// The right to one answer.
pub(crate) struct Ticket {
    number: u64,
    answered: watch::Receiver<Answered>,
}

impl Follower {
    /// A follower, and its work, which is to be spawned.
    pub(crate) fn new(
        of: TrustDomain,
        relationship: Relationship,
        means: Means,
        drain: Watcher,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (relationship, relationships) = watch::channel(relationship);
        let (asked, questions) = watch::channel(0);
        let (answers, answered) = watch::channel(Answered { up_to: 0, result: Ok(()) });
        let work = Work { of, means, relationships, questions, answers };
        (Self { relationship, asked, answered }, work.run(drain))
    }

    /// Follows by another relationship from now on. Says whether it is another.
    pub(crate) fn set(&self, relationship: &Relationship) -> bool {
        self.relationship.send_if_modified(|known| {
            let other = known != relationship;
            if other {
                known.clone_from(relationship);
            }
            other
        })
    }

    /// Asks for a refresh that begins from now on.
    pub(crate) fn ask(&self) -> Ticket {
        let mut number = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        Ticket { number, answered: self.answered.clone() }
    }
}

impl Ticket {
    /// What became of the refresh; `None` if the trust domain is followed no more.
    pub(crate) async fn answer(mut self) -> Option<Result<(), UpdateError>> {
        let number = self.number;
        let answered = self.answered.wait_for(|answered| answered.up_to >= number).await;
        answered.ok().map(|answered| answered.result.clone())
    }
}

struct Work {
    of: TrustDomain,
    means: Means,
    relationships: watch::Receiver<Relationship>,
    questions: watch::Receiver<u64>,
    answers: watch::Sender<Answered>,
}

impl Work {
    async fn run(mut self, mut drain: Watcher) {
        let mut owner = self.questions.clone();
        tokio::select! {
            () = drain.signalled() => {}
            // The owner let go: its sender is closed.
            _ = owner.wait_for(|_| false) => {}
            () = self.follow() => {}
        }
        tracing::info!(
            subsystem_name = "bundle_client",
            trust_domain = self.of.as_str(),
            "No longer polling for updates"
        );
    }

    async fn follow(&mut self) {
        loop {
            let wait = self.refresh().await;
            tokio::select! {
                () = sleep(wait) => {}
                asked = self.questions.changed() => if asked.is_err() { return },
                changed = self.relationships.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Refreshes once, answers whoever asked before it began, and says how long to wait.
    async fn refresh(&mut self) -> Duration {
        let trust_domain = self.of.as_str();
        let subsystem_name = "bundle_client";
        tracing::debug!(subsystem_name, trust_domain, "Polling for bundle update");
        let up_to = *self.questions.borrow_and_update();
        let relationship = self.relationships.borrow_and_update().clone();
        let (keep, fetch) = (self.means.keep.as_ref(), self.means.fetch.as_ref());
        let call = call(&["bundle_manager", "fetch", "federated_bundle"])
            .with("trust_domain_id", trust_domain.to_owned());
        let updated = update(keep, fetch, &self.of, &relationship).await;
        call.outcome(&updated.result);
        match &updated.result {
            Ok(()) => tracing::info!(subsystem_name, trust_domain, "Bundle refreshed"),
            Err(error) => {
                tracing::error!(subsystem_name, trust_domain, %error, "Error updating bundle");
            }
        }
        self.answers.send_replace(Answered { up_to, result: updated.result });
        let wait = next_refresh(updated.bundle.as_ref());
        let at = rfc3339(self.means.clock.now() + wait);
        tracing::debug!(subsystem_name, trust_domain, at, "Scheduling next bundle refresh");
        wait
    }
}

/// A time as Go's RFC 3339 writes it: UTC, whole seconds.
fn rfc3339(time: SystemTime) -> String {
    time::OffsetDateTime::from(time)
        .replace_nanosecond(0)
        .expect("zero is a nanosecond")
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;

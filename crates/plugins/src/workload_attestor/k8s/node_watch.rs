//! The pods of our node as the API server tells them, instead of asking the kubelet.

use std::sync::Arc;

use steeple_runtime::Tasks;
use tokio::sync::watch;
use tokio::time::Instant;

use super::pods::{Lookup, Pod, Pods};
use crate::kube::{Client, KubeError, Progress, Reflector, Sink, escape};

impl Sink for Pods {
    fn put(&mut self, object: &[u8]) {
        self.insert(Pod::parse(object));
    }

    fn remove(&mut self, object: &[u8]) {
        if let Ok(pod) = Pod::parse(object) {
            Pods::remove(self, &pod.uid);
        }
    }
}

/// The watch.
pub(super) struct NodeWatch(Reflector<Pods>);

/// What has been looked at.
pub(super) type News = watch::Receiver<Progress>;

impl NodeWatch {
    /// Begins to watch the pods of `node`.
    pub(super) fn start(client: Arc<Client>, node: &str, tasks: &Tasks) -> Self {
        let selector = escape(&format!("spec.nodeName={node}"));
        let path = format!("/api/v1/pods?fieldSelector={selector}");
        Self(Reflector::start(client, path, false, tasks))
    }

    pub(super) fn news(&self) -> News {
        self.0.progress()
    }

    /// Looks until `lookup` finds something, at each change, but no longer than `until`; nothing
    /// when the watch is not established by then, or has not found it.
    pub(super) async fn find(
        &self,
        news: &mut News,
        until: Instant,
        lookup: impl Fn(&Pods) -> Lookup,
    ) -> Option<Lookup> {
        loop {
            let progress = *news.borrow_and_update();
            if progress.live {
                let found = lookup(&self.0.objects());
                if found != Lookup::Missing {
                    return Some(found);
                }
            }
            match tokio::time::timeout_at(until, news.changed()).await {
                Ok(Ok(())) => {}
                _ => return None,
            }
        }
    }

    /// The pods, if changes of them are being told.
    pub(super) fn live<T>(&self, look: impl FnOnce(&Pods) -> T) -> Option<T> {
        let live = self.0.progress().borrow().live;
        live.then(|| look(&self.0.objects()))
    }

    /// Why nothing came last time, if so.
    pub(super) fn failure(&self) -> Option<String> {
        self.0.last_error().as_ref().map(KubeError::to_string)
    }
}

//! The streams of the delegated identity API.

use std::sync::Arc;
use std::time::Instant;

use steeple_agent_core::cache::{BundleWatch, KnownBundles, Subscription, Update};
use steeple_agent_core::wire::Frame;
use steeple_runtime::Watcher;
use tonic::Status;
use tonic::body::Body;
use tracing::{Level, debug, enabled};

use super::authority::Delegate;
use super::{Call, DelegatedApi, Subject};
use crate::measured::note_first;
use crate::share::Share;
use crate::streaming::{self, Frames, stopping};

/// A stream of one workload's SVIDs. It begins once all of them are there.
pub(super) async fn x509_svids(
    api: Arc<DelegatedApi>,
    call: Call,
    mut delegate: Delegate,
    subject: Subject,
    started: Instant,
    share: Share,
) -> Result<http::Response<Body>, Status> {
    let mut subscription = api.cache.subscribe(subject.selectors.clone(), api.clock.now());
    let mut drain = api.drain.clone();
    let update = {
        let ready = subscription.ready();
        tokio::pin!(ready);
        // What is there already is sent even while the agent stops, or hands over.
        loop {
            tokio::select! {
                biased;
                standing = delegate.changed(&api, call) => standing?,
                () = ended(&subject) => return Err(gone()),
                update = &mut ready => break update,
                () = drain.signalled() => return Err(stopping()),
            }
        }
    };
    delegate.check(&api, call)?;
    let mut first_svid = Some(started);
    note_first(&mut first_svid, &update);
    let first = update.delegated_x509_svids().clone();
    log_sent(&api, call, &update);
    let stream =
        X509Svids { api, call, delegate, subject, subscription, drain, first_svid, _share: share };
    Ok(streaming::streamed(first, stream))
}

struct X509Svids {
    api: Arc<DelegatedApi>,
    call: Call,
    delegate: Delegate,
    subject: Subject,
    subscription: Subscription,
    drain: Watcher,
    /// When the call came, until an SVID was sent.
    first_svid: Option<Instant>,
    _share: Share,
}

impl Frames for X509Svids {
    async fn next(&mut self, sent: &Frame) -> Result<Frame, Status> {
        loop {
            let update = tokio::select! {
                update = self.subscription.changed() => update,
                standing = self.delegate.changed(&self.api, self.call) => {
                    standing?;
                    continue;
                }
                () = ended(&self.subject) => return Err(gone()),
                () = self.drain.signalled() => return Err(stopping()),
            };
            self.delegate.check(&self.api, self.call)?;
            note_first(&mut self.first_svid, &update);
            let frame = update.delegated_x509_svids();
            if !frame.same(sent) {
                log_sent(&self.api, self.call, &update);
                return Ok(frame.clone());
            }
        }
    }
}

/// A stream of every bundle.
pub(super) fn bundles(
    api: Arc<DelegatedApi>,
    call: Call,
    delegate: Delegate,
    render: fn(&KnownBundles) -> &Frame,
    share: Share,
) -> http::Response<Body> {
    let mut watch = api.cache.watch_bundles();
    let first = render(&watch.current()).clone();
    let drain = api.drain.clone();
    streaming::streamed(first, Bundles { api, call, delegate, watch, render, drain, _share: share })
}

struct Bundles {
    api: Arc<DelegatedApi>,
    call: Call,
    delegate: Delegate,
    watch: BundleWatch,
    render: fn(&KnownBundles) -> &Frame,
    drain: Watcher,
    _share: Share,
}

impl Frames for Bundles {
    async fn next(&mut self, sent: &Frame) -> Result<Frame, Status> {
        loop {
            let bundles = tokio::select! {
                bundles = self.watch.changed() => bundles,
                standing = self.delegate.changed(&self.api, self.call) => {
                    standing?;
                    continue;
                }
                () = self.drain.signalled() => return Err(stopping()),
            };
            self.delegate.check(&self.api, self.call)?;
            let frame = (self.render)(&bundles);
            if !frame.same(sent) {
                return Ok(frame.clone());
            }
        }
    }
}

/// The end of the workload's process; never, if selectors were given.
async fn ended(subject: &Subject) {
    match &subject.exit {
        Some(exit) => exit.ended().await,
        None => std::future::pending().await,
    }
}

fn gone() -> Status {
    Status::unavailable("the process has ended")
}

fn log_sent(api: &DelegatedApi, call: Call, update: &Update) {
    if !enabled!(Level::DEBUG) {
        return;
    }
    let Call { service, method, pid, .. } = call;
    let (now, count) = (api.clock.now(), update.delegable().count());
    for identity in update.delegable() {
        let ttl = identity.expires_at().duration_since(now).unwrap_or_default().as_secs_f64();
        debug!(service, method, pid, count, spiffe_id = %identity.entry().spiffe_id, ttl,
            "Fetched X.509 SVID for delegated identity");
    }
}

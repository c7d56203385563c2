//! The streams of the Broker API.

use std::sync::Arc;
use std::time::Instant;

use steeple_agent_core::cache::{BundleWatch, KnownBundles, Subscription, Update};
use steeple_agent_core::selectors::SelectorSet;
use steeple_agent_core::wire::Frame;
use steeple_runtime::Watcher;
use tonic::Status;
use tonic::body::Body;
use tracing::{Level, debug, enabled, warn};

use super::{BrokerApi, Call, SERVICE};
use crate::measured::note_first;
use crate::share::Share;
use crate::streaming::{self, Frames, stopping};

/// A stream of one workload's SVIDs. It begins once all of them are there.
pub(super) async fn x509_svids(
    api: Arc<BrokerApi>,
    call: Call,
    selectors: SelectorSet,
    started: Instant,
    share: Share,
) -> Result<http::Response<Body>, Status> {
    let mut subscription = api.cache.subscribe(selectors, api.clock.now());
    let mut drain = api.drain.clone();
    // What is there already is sent even while the agent stops, or hands over.
    let update = tokio::select! {
        biased;
        update = subscription.ready() => update,
        () = drain.signalled() => return Err(stopping()),
    };
    let mut first_svid = Some(started);
    note_first(&mut first_svid, &update);
    let first = update.brokered_x509_svids().clone();
    log_sent(&api, &call, &update);
    let stream = X509Svids { api, call, subscription, drain, first_svid, _share: share };
    Ok(streaming::streamed(first, stream))
}

struct X509Svids {
    api: Arc<BrokerApi>,
    call: Call,
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
                () = self.drain.signalled() => return Err(stopping()),
            };
            note_first(&mut self.first_svid, &update);
            let frame = update.brokered_x509_svids();
            if !frame.same(sent) {
                log_sent(&self.api, &self.call, &update);
                return Ok(frame.clone());
            }
        }
    }
}

/// A stream of every bundle.
pub(super) fn bundles(
    api: &BrokerApi,
    render: fn(&KnownBundles) -> &Frame,
    share: Share,
) -> http::Response<Body> {
    let mut watch = api.cache.watch_bundles();
    let first = render(&watch.current()).clone();
    let drain = api.drain.clone();
    streaming::streamed(first, Bundles { watch, render, drain, _share: share })
}

struct Bundles {
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
                () = self.drain.signalled() => return Err(stopping()),
            };
            let frame = (self.render)(&bundles);
            if !frame.same(sent) {
                return Ok(frame.clone());
            }
        }
    }
}

fn log_sent(api: &BrokerApi, call: &Call, update: &Update) {
    let (method, broker) = (call.method, &call.broker);
    for hidden in update.hidden() {
        warn!(service = SERVICE, method, broker_peer = %broker, entry_id = %hidden.entry().id,
            hint = %hidden.entry().hint, "Ignoring entry with duplicate hint");
    }
    if !enabled!(Level::DEBUG) {
        return;
    }
    let now = api.clock.now();
    let sent = || update.identities().filter(|identity| identity.is_delegable());
    let count = sent().count();
    for identity in sent() {
        let ttl = identity.expires_at().duration_since(now).unwrap_or_default().as_secs_f64();
        debug!(service = SERVICE, method, broker_peer = %broker, count,
            spiffe_id = %identity.entry().spiffe_id, ttl, "Fetched X.509 SVID for broker");
    }
}

//! The one loop behind every stream.
//!
//! A stream waits for its group's next update, shows it, and sends the shared
//! bytes if they differ from what it sent last. Between updates it holds one
//! subscription and one reference to the last message; it owns no buffer.

use std::sync::Arc;

use steeple_agent_core::cache::{Subscription, Update};
use steeple_agent_core::wire::Frame;
use steeple_runtime::Watcher;
use tonic::Status;
use tracing::{debug, warn};

use super::{API, StreamKind, WorkloadApi};
use crate::caller::{Caller, SUBSYSTEM};
use crate::share::Share;
use crate::streaming::{Frames, stopping};

pub(super) struct Stream {
    pub(super) api: Arc<WorkloadApi>,
    pub(super) kind: &'static StreamKind,
    pub(super) caller: Caller,
    pub(super) subscription: Subscription,
    pub(super) drain: Watcher,
    /// Of the calls that its user may have open.
    pub(super) _share: Share,
}

impl Frames for Stream {
    async fn next(&mut self, sent: &Frame) -> Result<Frame, Status> {
        loop {
            let update = tokio::select! {
                update = self.subscription.changed() => update,
                () = self.drain.signalled() => return Err(stopping()),
            };
            let frame = entitled(&self.api, self.kind, &self.caller, &update)?;
            if !frame.same(sent) {
                log_sent(&self.api, self.kind, &self.caller, &update);
                return Ok(frame.clone());
            }
        }
    }
}

/// What the caller gets of an update: a message, or the end of its stream.
pub(super) fn show(
    api: &WorkloadApi,
    kind: &StreamKind,
    caller: &Caller,
    update: &Update,
) -> Result<Frame, Status> {
    let frame = entitled(api, kind, caller, update)?.clone();
    log_sent(api, kind, caller, update);
    Ok(frame)
}

fn entitled<'u>(
    api: &WorkloadApi,
    kind: &StreamKind,
    caller: &Caller,
    update: &'u Update,
) -> Result<&'u Frame, Status> {
    let verifier = kind.open_to_verifiers && api.allow_unauthenticated_verifiers;
    if update.has_identity() || verifier {
        Ok((kind.render)(update))
    } else {
        Err(api.callers.no_identity(caller))
    }
}

fn log_sent(api: &WorkloadApi, kind: &StreamKind, caller: &Caller, update: &Update) {
    if caller.is_agent || kind.method != super::X509_SVIDS.method {
        return;
    }
    let (method, pid) = (kind.method, caller.pid);
    for hidden in update.hidden() {
        warn!(subsystem_name = SUBSYSTEM, service = API.logged, method, pid,
            entry_id = %hidden.entry().id, hint = %hidden.entry().hint,
            "Ignoring entry with duplicate hint");
    }
    let now = api.clock.now();
    let count = update.identities().count();
    for identity in update.identities() {
        let ttl = identity.expires_at().duration_since(now).unwrap_or_default().as_secs_f64();
        debug!(subsystem_name = SUBSYSTEM, service = API.logged, method, pid, registered = true, count, spiffe_id = %identity.entry().spiffe_id,
            ttl, "Fetched X.509 SVID");
    }
}

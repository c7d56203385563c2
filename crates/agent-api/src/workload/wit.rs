//! The stream of WIT-SVIDs: as the others, but what it shows is signed for it.

use std::sync::Arc;
use std::time::Duration;

use steeple_agent_core::cache::Subscription;
use steeple_agent_core::entry::Entry;
use steeple_agent_core::wire::{self, Frame};
use steeple_agent_core::wit::WitSvids;
use steeple_peer::Peer;
use steeple_runtime::Watcher;
use steeple_spiffe::SpiffeId;
use tonic::Status;
use tracing::{debug, error};

use super::{API, MAX_ECHO, WorkloadApi};
use crate::caller::{Caller, SUBSYSTEM};
use crate::share::Share;
use crate::streaming::{Frames, stopping};

pub(super) struct WitStream {
    api: Arc<WorkloadApi>,
    wit: Arc<WitSvids>,
    caller: Caller,
    /// The one identity that is wanted; empty for all.
    spiffe_id: String,
    subscription: Subscription,
    drain: Watcher,
    /// Of the calls that its user may have open.
    _share: Share,
}

impl WorkloadApi {
    /// The stream and its first message.
    pub(super) async fn open_wit(
        self: Arc<Self>,
        peer: Peer,
        spiffe_id: String,
        share: Share,
    ) -> Result<(WitStream, Frame), Status> {
        let (service, method, pid) = (API.logged, METHOD, peer.pid());
        let Some(wit) = self.wit.clone() else {
            return Err(Status::unimplemented("fetching WIT-SVIDs is not implemented"));
        };
        if !spiffe_id.is_empty()
            && let Err(error) = SpiffeId::parse(&spiffe_id)
        {
            let spiffe_id: String = spiffe_id.chars().take(MAX_ECHO).collect();
            error!(subsystem_name = SUBSYSTEM, service, method, pid, spiffe_id, %error,
                "Invalid requested SPIFFE ID");
            return Err(Status::invalid_argument(format!("invalid requested SPIFFE ID: {error}")));
        }
        let caller = self.callers.attest(&API, peer, METHOD).await?;
        let subscription = self.cache.subscribe(caller.selectors.clone(), self.clock.now());
        let drain = self.drain.clone();
        let mut stream =
            WitStream { api: self, wit, caller, spiffe_id, subscription, drain, _share: share };
        let first = stream.show().await?;
        Ok((stream, first))
    }
}

impl WitStream {
    /// What the caller gets now; a change of its entries while it is signed is taken up at once.
    async fn show(&mut self) -> Result<Frame, Status> {
        loop {
            self.subscription.current();
            let entries = self.wanted(self.api.entries_of(&self.caller));
            if entries.is_empty() {
                return Err(self.api.callers.no_identity(&self.caller));
            }
            let now = self.api.clock.now();
            let mut drain = self.drain.clone();
            let fetched = tokio::select! {
                biased;
                fetched = self.wit.fetch(&entries, now) => fetched,
                () = drain.signalled() => return Err(stopping()),
            };
            if self.entries() != entries {
                continue;
            }
            let (service, method, pid) = (API.logged, METHOD, self.caller.pid);
            let svids = fetched.map_err(|error| {
                error!(
                    subsystem_name = SUBSYSTEM,
                    service,
                    method,
                    pid,
                    registered = true,
                    error,
                    "Could not fetch WIT-SVID"
                );
                Status::unavailable(format!("could not fetch WIT-SVID: {error}"))
            })?;
            for svid in &svids {
                let left = svid.expires_at().duration_since(now).unwrap_or_default();
                debug!(subsystem_name = SUBSYSTEM, service, method, pid, registered = true,
                    spiffe_id = %svid.entry().spiffe_id, ttl = left.as_secs_f64(), "Fetched WIT SVID");
            }
            return Ok(wire::wit_svids(&svids));
        }
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.wanted(self.api.entries_and_hidden(&self.caller).0)
    }

    fn wanted(&self, mut entries: Vec<Arc<Entry>>) -> Vec<Arc<Entry>> {
        if !self.spiffe_id.is_empty() {
            entries.retain(|entry| entry.spiffe_id.as_str() == self.spiffe_id);
        }
        entries
    }

    /// How long until a token is to be renewed.
    fn until_due(&self) -> Duration {
        let left = self
            .wit
            .next_due(&self.entries())
            .map_or(LONGEST, |due| due.duration_since(self.api.clock.now()).unwrap_or_default());
        left.clamp(SHORTEST, LONGEST)
    }
}

impl Frames for WitStream {
    async fn next(&mut self, sent: &Frame) -> Result<Frame, Status> {
        loop {
            let pause = self.until_due();
            tokio::select! {
                _ = self.subscription.changed() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.drain.signalled() => return Err(stopping()),
            }
            let frame = self.show().await?;
            if !frame.same(sent) {
                return Ok(frame);
            }
        }
    }
}

const METHOD: &str = "FetchWITSVID";
const SHORTEST: Duration = Duration::from_secs(1);
/// Also while nothing is due: the clock may have been set.
const LONGEST: Duration = Duration::from_secs(60);

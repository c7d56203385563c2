//! The agent's own identity, as connections to the server use it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use steeple_agent_api::admin::AgentStatus;
use steeple_agent_core::lifetime::{RenewalRule, steady_dice};
use steeple_agent_core::node::AgentRotation;
use steeple_net::tls::{Identity, IdentitySlot};
use steeple_pki::{Certificate, Signer};

use crate::data::DataFile;

/// An SVID with its key, fresh from attestation, renewal or the disk.
pub(crate) struct AgentSvid {
    pub(crate) chain: Vec<Certificate>,
    pub(crate) key: Arc<dyn Signer>,
    pub(crate) key_id: String,
    pub(crate) reattestable: bool,
}

impl AgentSvid {
    /// The agent's SPIFFE ID, for logs.
    pub(crate) fn id(&self) -> &str {
        self.chain.first().and_then(|leaf| leaf.uri_sans().first()).map_or("", String::as_str)
    }
}

/// The identity in use. The slot is what new connections show.
pub(crate) struct Credentials {
    slot: IdentitySlot,
    rule: RenewalRule,
    state: Mutex<State>,
}

struct State {
    svid: AgentSvid,
    rotation: AgentRotation,
    last_sync: SystemTime,
}

impl Credentials {
    /// Puts the SVID into `slot`, where its successors will go too.
    pub(crate) fn new(svid: AgentSvid, rule: RenewalRule, slot: IdentitySlot) -> Self {
        slot.set(Identity::new(&svid.chain, svid.key.clone()));
        let rotation = AgentRotation::of(&svid.chain[0], rule, dice(svid.id()));
        let state = State { svid, rotation, last_sync: SystemTime::UNIX_EPOCH };
        Self { slot, rule, state: Mutex::new(state) }
    }

    /// What connections show; follows every change.
    pub(crate) fn slot(&self) -> IdentitySlot {
        self.slot.clone()
    }

    /// Uses a new SVID, once it is on disk.
    pub(crate) fn replace(&self, svid: AgentSvid, data: &DataFile) {
        data.store_svid(svid.chain.clone(), svid.reattestable);
        self.slot.set(Identity::new(&svid.chain, svid.key.clone()));
        let mut state = self.lock();
        state.rotation = AgentRotation::of(&svid.chain[0], self.rule, dice(svid.id()));
        state.svid = svid;
    }

    pub(crate) fn reattestable(&self) -> bool {
        self.lock().svid.reattestable
    }

    /// How long the SVID holds.
    pub(crate) fn left(&self, now: SystemTime) -> Duration {
        let state = self.lock();
        let end = state.svid.chain.first().map(Certificate::not_after);
        end.and_then(|end| end.duration_since(now).ok()).unwrap_or_default()
    }

    /// The agent's SPIFFE ID.
    pub(crate) fn id(&self) -> String {
        self.lock().svid.id().to_owned()
    }

    /// Whatever its time, it is to be replaced.
    pub(crate) fn force_rotation(&self) {
        self.lock().rotation.force();
    }

    pub(crate) fn key_id(&self) -> String {
        self.lock().svid.key_id.clone()
    }

    pub(crate) fn rotation(&self) -> AgentRotation {
        self.lock().rotation
    }

    pub(crate) fn taint(&self) {
        self.lock().rotation.taint();
    }

    pub(crate) fn synced(&self, now: SystemTime) {
        self.lock().last_sync = now;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the credentials")
    }
}

impl AgentStatus for Credentials {
    fn svid(&self) -> Vec<Certificate> {
        self.lock().svid.chain.clone()
    }

    fn last_sync(&self) -> SystemTime {
        self.lock().last_sync
    }

    fn renews_at(&self, now: SystemTime) -> Option<SystemTime> {
        match self.rotation().until_due(now) {
            Duration::MAX => Some(now),
            left => now.checked_add(left),
        }
    }
}

/// When in its window this agent renews.
pub(crate) fn dice(id: &str) -> f64 {
    steady_dice(steeple_pki::digest::seed(id), fastrand::f64())
}

/// Whether the SVID's lifetime cannot honour the availability target; said
/// once per SVID.
pub(crate) fn warn_of_fallback(
    rule: RenewalRule,
    leaf: &Certificate,
    spiffe_id: &str,
    entry_id: &str,
) {
    let lifetime = leaf.not_after().duration_since(leaf.not_before()).unwrap_or(Duration::ZERO);
    if rule.falls_back(lifetime) {
        tracing::warn!(
            subsystem_name = "manager",
            spiffe_id,
            entry_id,
            "X509 SVID lifetime isn't long enough to guarantee the availability_target, falling back to the default rotation strategy"
        );
    }
}

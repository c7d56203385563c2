//! Whether a caller is a delegate, now and for as long as its streams are open.

use steeple_agent_core::cache::Subscription;
use steeple_agent_core::selectors::SelectorSet;
use tonic::Status;
use tracing::{debug, error};

use super::{Call, DelegatedApi};

/// A caller that was found to be a delegate, and a watch on what makes it one.
pub(super) struct Delegate {
    selectors: SelectorSet,
    entries: Subscription,
}

impl Delegate {
    pub(super) fn new(
        api: &DelegatedApi,
        call: Call,
        selectors: SelectorSet,
    ) -> Result<Self, Status> {
        // Before the look, so that no change between the two is missed.
        let entries = api.cache.subscribe(selectors.clone(), api.clock.now());
        let mut delegate = Self { selectors, entries };
        delegate.entries.current();
        delegate.check(api, call)?;
        Ok(delegate)
    }

    /// Resolves when what the caller is entitled to has changed, with whether it is a delegate
    /// still.
    pub(super) async fn changed(&mut self, api: &DelegatedApi, call: Call) -> Result<(), Status> {
        self.entries.changed().await;
        self.check(api, call)
    }

    /// Whether the caller is a delegate at this moment.
    pub(super) fn check(&self, api: &DelegatedApi, call: Call) -> Result<(), Status> {
        let Call { service, method, pid, .. } = call;
        let entries = api.cache.matching(&self.selectors);
        let Some(first) = entries.first() else {
            error!(service, method, pid, "No identity issued");
            return Err(Status::permission_denied("no identity issued"));
        };
        if let Some(entry) = entries.iter().find(|it| api.authorized.contains(&it.spiffe_id)) {
            debug!(service, method, pid, delegate_id = %entry.spiffe_id,
                "Caller authorized as delegate");
            return Ok(());
        }
        error!(service, method, pid, num_registered_entries = entries.len(),
            default_id = %first.spiffe_id,
            "Permission denied; caller not configured as an authorized delegate.");
        Err(Status::permission_denied("caller not configured as an authorized delegate"))
    }
}

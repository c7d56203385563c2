//! From nothing, or what is on disk, to an agent that knows what it is authorised for.

use std::time::{Duration, Instant};

use steeple_agent_core::lifetime::heed;
use steeple_agent_core::node::{BOOTSTRAP_INTERVAL, BOOTSTRAP_PATIENCE, Refusal};
use steeple_agent_core::sealed::Kept;
use steeple_pki::Bundle;
use steeple_runtime::Backoff;
use tracing::{error, info, warn};

use crate::app::Agent;
use crate::attestation::NodeAttestation;
use crate::credentials::AgentSvid;
use crate::data::DataFile;
use crate::error::AgentError;
use crate::manager::Manager;
use crate::offline::OfflineCache;
use crate::trust::TrustSource;

/// With rebootstrapping, and with an offline cache.
const LONG_PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the first sync may take before what was kept is served.
const HEAD_START: Duration = Duration::from_secs(5);

/// What an agent starts from.
pub(crate) struct Start<'a> {
    pub(crate) agent: &'a Agent,
    pub(crate) attestation: &'a NodeAttestation,
    pub(crate) data: &'a DataFile,
    pub(crate) rebootstrap: bool,
}

/// What it starts with.
pub(crate) struct Begun {
    pub(crate) svid: AgentSvid,
    pub(crate) bundle: Bundle,
    /// What was kept for a start without a server, if it may be used.
    pub(crate) kept: Option<Kept>,
}

impl Start<'_> {
    /// Attests, or takes up the stored identity: tries for a minute, unless the server says no.
    /// While no server answers, an identity whose time is over will do for a start if there is
    /// something to serve.
    pub(crate) async fn begin(&self, offline: Option<&OfflineCache>) -> Result<Begun, AgentError> {
        let clock = &self.agent.clock;
        let source = TrustSource::new(&self.agent.config, self.data);
        let mut kept = self.kept(offline).await;
        let mut patience = Patience::new(self.rebootstrap || offline.is_some());
        loop {
            let outcome = match source.first_trust(clock.now()).await {
                Ok(trust) => self.attestation.begin(self.data, trust).await,
                Err(error) => Err(error),
            };
            let error = match outcome {
                Ok((svid, bundle)) => {
                    source.succeeded(clock.now(), |data| {
                        data.bundle = bundle.certificates().cloned().collect();
                        data.svid = svid.chain.clone();
                        data.reattestable = svid.reattestable;
                    })?;
                    // Attested anew as somebody else it has no claim to it.
                    let kept = kept.take().filter(|(stored, _)| stored.id() == svid.id());
                    return Ok(Begun { svid, bundle, kept: kept.map(|(_, kept)| kept) });
                }
                Err(error) if error.is_denied() => {
                    if let (Some(offline), true) = (offline, kept.is_some()) {
                        offline.destroy().await;
                    }
                    return Err(error);
                }
                Err(error) => {
                    if error.refusal() == Refusal::UnknownAuthority && source.is_bootstrap() {
                        info!("Trust Bundle and Server don't agree, bootstrapping again");
                    }
                    error
                }
            };
            if let Some((svid, kept)) = kept.take_if(|_| error.is_outage() || error.is_local()) {
                error!(%error, "No server to attest to, and this agent's SVID has expired; serving what was kept until one answers");
                let trust_domain = self.attestation.trust_domain.clone();
                let bundle = Bundle::from_certificates(trust_domain, self.data.read().bundle);
                return Ok(Begun { svid, bundle, kept: Some(kept) });
            }
            if self.rebootstrap && error.refusal() == Refusal::UnknownAuthority {
                source.disagrees(clock.now())?;
            }
            patience.wait("Failed to retrieve attestation result", error).await?;
        }
    }

    /// What was kept for the stored identity, be its time over or not.
    async fn kept(&self, offline: Option<&OfflineCache>) -> Option<(AgentSvid, Kept)> {
        let offline = offline?;
        let stored = self.attestation.stored(self.data).await?;
        if self.data.read().bundle.is_empty() {
            return None;
        }
        let kept = offline.load(stored.id(), self.agent.clock.now()).await?;
        Some((stored, kept))
    }
}

/// The first sync, tried for a minute; then workloads may come. What was kept is served when it
/// takes long, or no server answers.
pub(crate) async fn first_contact(manager: &Manager) -> Result<(), AgentError> {
    let rebootstrap = manager.settings.rebootstrap;
    let mut patience = Patience::new(rebootstrap || manager.offline.is_some());
    let may_do_without = manager.offline.is_some() && manager.cache.count_entries() > 0;
    loop {
        let head_start = if may_do_without { HEAD_START } else { Duration::MAX };
        let error = match tokio::time::timeout(head_start, manager.initialize()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if may_do_without && error.is_outage() => {
                warn!(%error, "Failed to initialize manager");
                manager.serve_offline();
                return Ok(());
            }
            Ok(Err(error)) => error,
            Err(_) => {
                manager.serve_offline();
                return Ok(());
            }
        };
        let error = match error.refusal() {
            Refusal::Reattest | Refusal::Banned => return Err(error),
            Refusal::UnknownAuthority if rebootstrap => match manager.on_unknown_authority(error) {
                Some(fatal) => return Err(fatal),
                None => AgentError::Bootstrap("Trust Bundle and Server don't agree".into()),
            },
            Refusal::UnknownAuthority | Refusal::Transient => error,
        };
        patience.wait("Failed to initialize manager", error).await?;
    }
}

/// Attempts with growing pauses, up to a limit in all.
struct Patience {
    pauses: Backoff,
    since: Instant,
    limit: Duration,
}

impl Patience {
    fn new(long: bool) -> Self {
        let limit = if long { LONG_PATIENCE } else { BOOTSTRAP_PATIENCE };
        Self { pauses: Backoff::with_default_max(BOOTSTRAP_INTERVAL), since: Instant::now(), limit }
    }

    /// Waits before the next attempt, or gives the failure back for good.
    async fn wait(&mut self, line: &'static str, error: AgentError) -> Result<(), AgentError> {
        // A server that says when to come again is there: waiting for it is no failure, so that
        // none of a fleet gives up because all of it starts at once.
        let asked = error.asked_to_wait();
        let pause = heed(self.pauses.next(), asked, None);
        if asked.is_some() {
            self.limit = (self.limit + pause).min(LONG_PATIENCE);
        }
        if self.since.elapsed() + pause > self.limit {
            return Err(error);
        }
        let retry_interval = steeple_runtime::duration::format_go(pause);
        warn!(%error, retry_interval, "{line}");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

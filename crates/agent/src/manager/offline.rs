//! Going on with what was kept, and keeping it (ADR 11).

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use steeple_agent_api::admin::AgentStatus as _;
use steeple_agent_core::bundle::CachedBundle;
use steeple_agent_core::cache::SignedSvid;
use steeple_agent_core::entry::EntryId;
use steeple_agent_core::sealed::Kept;
use steeple_agent_core::sync::EntryDelta;
use steeple_pki::verify::verify_path;
use steeple_pki::{Bundle, Certificate};
use steeple_runtime::{VERSION, Watcher};
use steeple_telemetry as telemetry;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::MutexGuard;
use tracing::{info, warn};

use super::Manager;

const SUBSYSTEM: &str = "offline_cache";
/// Between looks at what changed.
const LOOK: Duration = Duration::from_secs(1);
/// Between two files, unless something was taken away.
const REST: Duration = Duration::from_secs(10);
/// Between two files that differ in JWT-SVIDs only.
const TOKEN_REST: Duration = Duration::from_secs(60);
/// How long another process waits for what is being written.
const STILLNESS: Duration = Duration::from_secs(10);
/// Between two lines of log while no server answers.
const REMINDER: Duration = Duration::from_secs(60);

/// What the file on disk tells of.
#[derive(Clone, Copy, PartialEq)]
struct Saved {
    versions: (u64, u64),
    tokens: u64,
    at: Instant,
}

impl Manager {
    /// Puts back what was kept, as if it had been synced and signed just now.
    pub(crate) fn restore(&self, kept: Kept) {
        let now = self.clock.now();
        let (mut upserted, mut signed) = (Vec::new(), Vec::new());
        let own = self.restored_bundle(&kept);
        let roots: Vec<Certificate> = own.certificates().cloned().collect();
        for kept in &kept.entries {
            upserted.push((*kept.entry).clone());
            let Some(svid) = &kept.svid else { continue };
            let Some((leaf, intermediates)) = svid.chain.split_first() else { continue };
            if verify_path(leaf, intermediates, &roots, now).is_err() {
                warn!(subsystem_name = SUBSYSTEM, entry_id = %kept.entry.id, "A kept X509-SVID does not chain to the trust bundle; leaving it out");
                continue;
            }
            let (chain, key_pkcs8) = (svid.chain.clone(), svid.key_pkcs8.clone());
            signed.push((kept.entry.clone(), SignedSvid { chain, key_pkcs8, due: svid.due }));
        }
        let delta = EntryDelta { upserted, removed: Vec::new() };
        self.remember(&delta);
        let others: Vec<Bundle> =
            kept.bundles.into_iter().filter(|it| it.trust_domain != own.trust_domain).collect();
        let bundles = others
            .into_iter()
            .chain([own])
            .map(|bundle| (bundle.trust_domain.clone(), Arc::new(CachedBundle::new(bundle))));
        self.cache.apply(delta, bundles.collect(), now);
        self.cache.install(signed);
        let entry = |id: &EntryId| {
            kept.entries.iter().find(|kept| kept.entry.id == *id).map(|kept| &kept.entry)
        };
        for token in kept.tokens {
            if let Some(entry) = entry(&token.entry) {
                self.jwt.restore(entry, &token.audience, token.svid);
            }
        }
        info!(
            subsystem_name = SUBSYSTEM,
            confirmed_at = %text(kept.confirmed_at),
            x509_svids = self.cache.count_x509_svids(),
            jwt_svids = self.jwt.count(),
            "Took up what was kept before the restart"
        );
    }

    /// The X.509 authorities are those of the agent's own file, which is written first; the rest
    /// is what was kept.
    fn restored_bundle(&self, kept: &Kept) -> Bundle {
        let held = self.cache.own_bundle();
        let mut own = held.bundle().clone();
        let Some(kept) = kept.bundles.iter().find(|it| it.trust_domain == own.trust_domain) else {
            return own;
        };
        if kept.certificates().eq(own.certificates()) {
            return kept.clone();
        }
        own.jwt_authorities.clone_from(&kept.jwt_authorities);
        own.wit_authorities.clone_from(&kept.wit_authorities);
        own
    }

    /// From now on the cache is served although no server answered yet.
    pub(crate) fn serve_offline(&self) {
        self.offline_since_start.store(true, Ordering::SeqCst);
        self.remind();
    }

    /// Writes what changed, not more often than needed, and tells how long no server answered.
    async fn keeping_loop(&self) -> Infallible {
        let Some(offline) = &self.offline else { return std::future::pending().await };
        let mut saved: Option<Saved> = None;
        let mut reminded = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            let confirmed = self.credentials.last_sync();
            if self.offline_since_start.load(Ordering::SeqCst) {
                if confirmed > SystemTime::UNIX_EPOCH {
                    self.back_online().await;
                } else if reminded.elapsed() >= REMINDER {
                    reminded = Instant::now();
                    self.remind();
                }
            }
            if confirmed == SystemTime::UNIX_EPOCH {
                continue;
            }
            let tokens = if offline.jwt_svids { self.jwt.version() } else { 0 };
            let (versions, at) = (self.cache.versions(), Instant::now());
            let state = Saved { versions, tokens, at };
            if saved.is_none_or(|saved| saved.is_stale(&state, offline.confirm_every())) {
                // What could not be written is tried again after a rest.
                let changes = if self.keep(confirmed).await { versions.0 } else { u64::MAX };
                let versions = (changes, versions.1);
                saved = Some(Saved { versions, at: Instant::now(), ..state });
            }
        }
    }

    /// Keeps what there is until the agent stops, and once more then.
    pub(crate) async fn keep_offline(self: Arc<Self>, mut drain: Watcher) {
        tokio::select! {
            never = self.keeping_loop() => match never {},
            () = drain.signalled() => {}
        }
        let confirmed = self.credentials.last_sync();
        if confirmed > SystemTime::UNIX_EPOCH {
            self.keep(confirmed).await;
        }
    }

    /// Waits for what is being written to the data directory, so that another process may have it;
    /// but not for a server that does not answer.
    pub(crate) async fn hold_still(&self) -> Option<MutexGuard<'_, bool>> {
        tokio::time::timeout(STILLNESS, self.upkeep.lock()).await.ok()
    }

    /// Lets go of the data directory, up to date for the process that has it next. To be called
    /// when the loops have stopped.
    pub(crate) async fn leave(&self, still: Option<MutexGuard<'_, bool>>) {
        let mut ours = match still {
            Some(ours) => ours,
            None => self.upkeep.lock().await,
        };
        let confirmed = self.credentials.last_sync();
        if self.offline.is_some() && confirmed > SystemTime::UNIX_EPOCH {
            // Its failure is logged; a key manager that hangs must not keep the other waiting.
            let _ = tokio::time::timeout(STILLNESS / 2, self.write(confirmed)).await;
        }
        *ours = false;
    }

    /// The data directory is ours again.
    pub(crate) async fn stay(&self) {
        *self.upkeep.lock().await = true;
    }

    /// The agent's identity is gone, and with it everything that was kept for it.
    pub(super) async fn forget_identity(&self) {
        let _upkeep = self.upkeep.lock().await;
        self.data.delete_svid();
        if let Some(offline) = &self.offline {
            offline.destroy().await;
        }
    }

    async fn keep(&self, confirmed_at: SystemTime) -> bool {
        let ours = self.upkeep.lock().await;
        // What another process keeps there is not to be touched any more.
        !*ours || self.write(confirmed_at).await
    }

    async fn write(&self, confirmed_at: SystemTime) -> bool {
        let Some(offline) = &self.offline else { return false };
        let own = self.cache.own_bundle();
        let all = self.cache.bundles();
        let others = all.values().filter(|bundle| bundle.trust_domain() != own.trust_domain());
        let bundles = std::iter::once(&own).chain(others);
        let now = self.clock.now();
        let kept = Kept {
            confirmed_at,
            bundles: bundles.map(|bundle| bundle.bundle().clone()).collect(),
            entries: self.cache.kept(),
            tokens: if offline.jwt_svids { self.jwt.kept(now) } else { Vec::new() },
        };
        offline.save(&self.credentials.id(), kept).await
    }

    async fn back_online(&self) {
        self.offline_since_start.store(false, Ordering::SeqCst);
        telemetry::gauge(&["offline_cache", "serving"], 0.0, &[]);
        info!(subsystem_name = SUBSYSTEM, "A server answers; what was kept is up to date again");
        // Its failure is logged.
        let _ = self.server.post_status(VERSION).await;
    }

    fn remind(&self) {
        telemetry::gauge(&["offline_cache", "serving"], 1.0, &[]);
        warn!(
            subsystem_name = SUBSYSTEM,
            x509_svids = self.cache.count_x509_svids(),
            jwt_svids = self.jwt.count(),
            "No server has answered since the start: serving identities that were kept on disk; what was revoked since is not known"
        );
    }
}

impl Saved {
    fn is_stale(&self, state: &Saved, confirm_every: Duration) -> bool {
        let age = state.at.duration_since(self.at);
        let taken = self.versions.1 != state.versions.1;
        let changed = self.versions != state.versions && age >= REST;
        let tokens = self.tokens != state.tokens && age >= TOKEN_REST;
        taken || changed || tokens || age >= confirm_every
    }
}

fn text(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

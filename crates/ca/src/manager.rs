//! The driver: performs what [`crate::rotation`] asks for and keeps the credentials up to date.
//!
//! All changes of authorities, by time or by an operator, go through one lock. The credentials
//! are read without it. A call that is dropped half-way leaves a step unanswered, which the next
//! tick takes again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use steeple_plugin::{CredentialComposer, KeyManager, UpstreamAuthority};
use steeple_runtime::{Clock, Watcher};
use steeple_telemetry as telemetry;
use tokio::sync::{Mutex, watch};
use tokio::time::MissedTickBehavior;

pub use operator::{AuthorityKind, AuthorityState, AuthorityStates};

use crate::config::CaConfig;
use crate::credentials::Credentials;
use crate::error::RotationError;
use crate::journal::{Journal, Remains, SUBSYSTEM, SlotKeys, restore};
use crate::kind::{Issuing, Jwt, JwtKey, Kind, Wit, WitKey, X509, X509Ca};
use crate::rotation::{Action, Authority, Event, Rotation, SlotId, TICK, activation_threshold};
use crate::store::AuthorityStore;
use crate::times::go_time;
use crate::upstream::Upstream;

mod operator;
mod tainted;

/// Keeps one authority of each kind active at any time. Cheap to clone.
#[derive(Clone)]
pub struct CaManager(Arc<Inner>);

struct Inner {
    config: CaConfig,
    key_manager: Arc<dyn KeyManager>,
    store: Arc<dyn AuthorityStore>,
    clock: Arc<dyn Clock>,
    credentials: Credentials,
    upstream: Option<Arc<Upstream>>,
    /// Consecutive ticks with a failure.
    failures: AtomicU64,
    bundle_updates: watch::Sender<u64>,
    tainted: watch::Sender<Arc<[steeple_pki::x509::Certificate]>>,
    state: Mutex<State>,
    /// What an operator sees while somebody is at work on the state.
    view: ArcSwap<operator::View>,
}

struct State {
    journal: Journal,
    x509: Rotation<X509Ca>,
    /// `None`: JWT-SVIDs are disabled (CA-21).
    jwt: Option<Rotation<JwtKey>>,
    /// `None`: WIT-SVIDs are disabled.
    wit: Option<Rotation<WitKey>>,
}

impl CaManager {
    /// Goes on with what an earlier run left in key manager, journal and bundle (CA-09). Nothing
    /// is made or written yet: that is [`CaManager::initialize`]. `upstream` signs the CA; without
    /// one it signs itself. `composers` have a say in what is issued.
    ///
    /// # Errors
    /// Key manager or datastore fail, or the journal is damaged.
    pub async fn load(
        config: CaConfig,
        key_manager: Arc<dyn KeyManager>,
        store: Arc<dyn AuthorityStore>,
        upstream: Option<Arc<dyn UpstreamAuthority>>,
        composers: Vec<Arc<dyn CredentialComposer>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RotationError> {
        let now = clock.now();
        let journal = Journal::load(key_manager.as_ref(), store.as_ref()).await?;
        let entries = journal.entries();
        tracing::info!(
            subsystem_name = SUBSYSTEM,
            x509_cas = entries.x509_c_as.len(),
            jwt_keys = entries.jwt_keys.len(),
            wit_keys = entries.wit_keys.len(),
            "Journal loaded"
        );
        let bundle = store.bundle().await?;
        let x509_keys = slot_keys::<X509>(key_manager.as_ref()).await?;
        let jwt_keys = slot_keys::<Jwt>(key_manager.as_ref()).await?;
        if !journal.is_stored() && (x509_keys.a.is_some() || x509_keys.b.is_some()) {
            tell_of_lost_database(bundle.is_some());
        }
        let from = Remains { journal: &journal, bundle: bundle.as_ref(), now };
        let x509 = restore::<X509>(from, &x509_keys, upstream.is_some())?;
        let jwt = match config.disable_jwt {
            true => None,
            false => Some(restore::<Jwt>(from, &jwt_keys, false)?),
        };
        let wit = match config.enable_wit {
            true => {
                Some(restore::<Wit>(from, &slot_keys::<Wit>(key_manager.as_ref()).await?, false)?)
            }
            false => None,
        };
        let credentials = Credentials::with_composers(&config, composers);
        install_restored::<X509>(&credentials, &x509, &config, now);
        if let Some(jwt) = &jwt {
            install_restored::<Jwt>(&credentials, jwt, &config, now);
        }
        if let Some(wit) = &wit {
            install_restored::<Wit>(&credentials, wit, &config, now);
        }
        let bundle_updates = watch::Sender::new(0);
        let upstream = upstream.map(|authority| {
            let (store, clock) = (Arc::clone(&store), Arc::clone(&clock));
            let trust_domain = config.trust_domain.clone();
            let told = bundle_updates.clone();
            Arc::new(Upstream::new(authority, store, clock, trust_domain, told))
        });
        Ok(Self(Arc::new(Inner {
            config,
            key_manager,
            store,
            clock,
            credentials,
            upstream,
            failures: AtomicU64::new(0),
            bundle_updates,
            tainted: watch::Sender::new(Arc::from([])),
            view: ArcSwap::default(),
            state: Mutex::new(State { journal, x509, jwt, wit }),
        })))
    }

    /// What issues credentials with the authorities that are active at the time.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        self.0.credentials.clone()
    }

    /// Makes sure that there are authorities to sign with. To be called before anything is
    /// served.
    ///
    /// # Errors
    /// None could be made, and there is none from an earlier run.
    pub async fn initialize(&self) -> Result<(), RotationError> {
        let Err(error) = self.tick().await else { return Ok(()) };
        let state = self.0.state.lock().await;
        let now = self.0.clock.now();
        let x509 = state.x509.current().is_some_and(|ca| now < ca.not_after());
        let jwt = state
            .jwt
            .as_ref()
            .is_none_or(|jwt| jwt.current().is_some_and(|key| now < key.not_after()));
        if x509 && jwt { Ok(()) } else { Err(error) }
    }

    /// Rotates when it is time to, until told to stop. Failures are logged and counted, and what
    /// failed is tried again.
    pub async fn run(self, watcher: Watcher) {
        let Some(upstream) = &self.0.upstream else { return self.tend(watcher).await };
        let mut stop = watcher.clone();
        tokio::select! {
            () = upstream.follow(&self) => {}
            () = self.tend(watcher) => {}
            () = stop.signalled() => {}
        }
    }

    async fn tend(&self, mut watcher: Watcher) {
        // Authorities of a few minutes would else outlive their last sixth unseen.
        let mut tick = every(TICK.min(self.0.config.ca_ttl / 12).max(Duration::from_secs(1)));
        let mut prune_bundle = every(PRUNE_BUNDLE_INTERVAL);
        let mut prune_journals = every(PRUNE_JOURNALS_INTERVAL);
        loop {
            tokio::select! {
                () = watcher.signalled() => break,
                _ = tick.tick() => drop(self.tick().await),
                _ = prune_bundle.tick() => self.prune_bundle().await,
                _ = prune_journals.tick() => self.prune_journals().await,
            }
        }
    }

    /// One round: does all that is due now.
    ///
    /// # Errors
    /// The first failure; it has been logged and counted.
    pub async fn tick(&self) -> Result<(), RotationError> {
        let mut state = self.0.state.lock().await;
        let State { journal, x509, jwt, wit } = &mut *state;
        let action = x509.on_timer(self.0.clock.now());
        let mut outcome = self.drive::<X509>(x509, journal, action).await;
        // Without a row there is no place to note a JWT key in.
        if let Some(jwt) = jwt.as_mut().filter(|_| x509.current().is_some()) {
            let action = jwt.on_timer(self.0.clock.now());
            let jwt_outcome = self.drive::<Jwt>(jwt, journal, action).await;
            outcome = outcome.and(jwt_outcome);
        }
        if let Some(wit) = wit.as_mut().filter(|_| x509.current().is_some()) {
            let action = wit.on_timer(self.0.clock.now());
            let wit_outcome = self.drive::<Wit>(wit, journal, action).await;
            outcome = outcome.and(wit_outcome);
        }
        self.remember(&state);
        match &outcome {
            Ok(()) => self.0.failures.store(0, Ordering::Relaxed),
            Err(_) => drop(self.0.failures.fetch_add(1, Ordering::Relaxed)),
        }
        outcome
    }

    /// Rounds that failed in a row. Health fails above [`MAX_ROTATION_FAILURES`] (SB-15).
    #[must_use]
    pub fn rotation_failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// Changes whenever this manager has changed the trust bundle (CA-19).
    #[must_use]
    pub fn bundle_updates(&self) -> watch::Receiver<u64> {
        self.0.bundle_updates.subscribe()
    }

    /// The X.509 authorities that are tainted, told whenever an operator taints one: what they
    /// signed has to be replaced (CA-17). Empty until then.
    #[must_use]
    pub fn tainted_authorities(&self) -> watch::Receiver<Arc<[steeple_pki::x509::Certificate]>> {
        self.0.tainted.subscribe()
    }

    async fn drive<K: Kind>(
        &self,
        rotation: &mut Rotation<K::Authority>,
        journal: &mut Journal,
        mut next: Option<Action<K::Authority>>,
    ) -> Result<(), RotationError> {
        let mut fresh_key = None;
        let mut preparing = None;
        while let Some(action) = next {
            if let Action::GenerateKey { .. } = action {
                preparing = Some(telemetry::call(K::PREPARE));
            }
            let publishes = matches!(action, Action::Publish { .. });
            let performed = self.perform::<K>(action, journal, &mut fresh_key).await;
            if let Some(call) = preparing.take_if(|_| publishes || performed.is_err()) {
                call.outcome(&performed);
            }
            match performed {
                Ok(event) => next = rotation.on_event(event, self.0.clock.now()),
                Err(error) => {
                    rotation.on_event(Event::Failed, self.0.clock.now());
                    tracing::error!(
                        subsystem_name = SUBSYSTEM, %error, "Unable to rotate {}", K::NAME
                    );
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn perform<K: Kind>(
        &self,
        action: Action<K::Authority>,
        journal: &mut Journal,
        fresh_key: &mut Option<Arc<dyn steeple_pki::Signer>>,
    ) -> Result<Event<K::Authority>, RotationError> {
        let Inner { config, key_manager, store, credentials, upstream, .. } = &*self.0;
        let store = store.as_ref();
        let issuing = Issuing { config, credentials, store, upstream: upstream.as_deref() };
        match action {
            Action::GenerateKey { slot } => {
                tracing::debug!(
                    subsystem_name = SUBSYSTEM,
                    slot = slot.as_str(),
                    "Preparing {}",
                    K::NAME
                );
                let key_type = K::key_type(config);
                *fresh_key = Some(key_manager.generate_key(&K::key_id(slot), key_type).await?);
                Ok(Event::Done)
            }
            Action::SelfSign { slot, issued_at } => {
                let signer =
                    fresh_key.take().ok_or_else(|| RotationError::KeyGone(K::key_id(slot)))?;
                Ok(Event::Issued(K::issue(issuing, signer, issued_at).await?))
            }
            Action::Journal(change) => {
                let mut changed = journal.clone();
                changed.apply::<K>(&change);
                *journal = changed.save(store).await?;
                Ok(Event::Done)
            }
            Action::Publish { slot, authority } => {
                let bundle = K::publish(issuing, &authority).await?;
                let now = self.0.clock.now();
                if !K::is_published(&bundle, &authority, upstream.is_some(), now) {
                    return Err(RotationError::NotInBundle);
                }
                self.0.bundle_updates.send_modify(|count| *count += 1);
                log_prepared::<K>(slot, &authority);
                Ok(Event::Done)
            }
            Action::Activate { slot, authority } => {
                log_activated::<K>(slot, &authority, config, self.0.clock.now());
                K::install(credentials, &authority);
                Ok(Event::Done)
            }
        }
    }

    /// Removes what expired more than a day ago from the trust bundle (CA-05).
    async fn prune_bundle(&self) {
        let call = telemetry::call(&["ca", "manager", "bundle", "prune"]);
        let pruned = self.0.store.prune_bundle(self.0.clock.now() - BUNDLE_GRACE).await;
        call.outcome(&pruned);
        match pruned {
            Ok(true) => {
                telemetry::incr(&["ca", "manager", "bundle", "pruned"], 1.0, &[]);
                tracing::debug!(
                    subsystem_name = SUBSYSTEM,
                    "Expired certificates were successfully pruned from bundle"
                );
                self.0.bundle_updates.send_modify(|count| *count += 1);
            }
            Ok(false) => {}
            Err(error) => tracing::error!(
                subsystem_name = SUBSYSTEM,
                error = %format_args!("unable to prune bundle: {error}"),
                "Could not prune CA certificates"
            ),
        }
    }

    /// Removes journals whose servers have been gone for two weeks (CA-06).
    async fn prune_journals(&self) {
        if let Err(error) = self.0.store.prune_ca_journals(self.0.clock.now() - JOURNAL_GRACE).await
        {
            tracing::error!(
                subsystem_name = SUBSYSTEM,
                error = %format_args!("unable to prune CA journals: {error}"),
                "Could not prune CA journals"
            );
        }
    }
}

async fn slot_keys<K: Kind>(key_manager: &dyn KeyManager) -> Result<SlotKeys, RotationError> {
    Ok(SlotKeys {
        a: key_manager.key(&K::key_id(SlotId::A)).await?,
        b: key_manager.key(&K::key_id(SlotId::B)).await?,
    })
}

/// An authority from an earlier run signs from the start, even when its successor is due: that
/// one may not come about.
fn install_restored<K: Kind>(
    credentials: &Credentials,
    rotation: &Rotation<K::Authority>,
    config: &CaConfig,
    now: SystemTime,
) {
    let Some(current) = rotation.current() else { return };
    if now <= activation_threshold(current) {
        log_activated::<K>(rotation.slot(), current, config, now);
    }
    K::install(credentials, current);
}

fn log_prepared<K: Kind>(slot: SlotId, authority: &K::Authority) {
    let names_upstream = K::NAMES_THE_JOURNAL;
    tracing::info!(
        subsystem_name = SUBSYSTEM,
        slot = slot.as_str(),
        issued_at = go_time(authority.issued_at()),
        expiration = go_time(authority.not_after()),
        self_signed = names_upstream.then(|| authority.upstream_id().is_empty()),
        local_authority_id = authority.id(),
        upstream_authority_id = names_upstream.then(|| authority.upstream_id()),
        "{} prepared",
        K::NAME
    );
}

fn log_activated<K: Kind>(
    slot: SlotId,
    authority: &K::Authority,
    config: &CaConfig,
    now: SystemTime,
) {
    let is_x509 = K::NAMES_THE_JOURNAL;
    telemetry::incr(K::ACTIVATED, 1.0, &[]);
    tracing::info!(
        subsystem_name = SUBSYSTEM,
        slot = slot.as_str(),
        issued_at = go_time(authority.issued_at()),
        expiration = go_time(authority.not_after()),
        local_authority_id = authority.id(),
        upstream_authority_id = is_x509.then(|| authority.upstream_id()),
        "{} activated",
        K::NAME
    );
    if is_x509 {
        let left = authority.not_after().duration_since(now).unwrap_or_default();
        let labels = &[("trust_domain_id", config.trust_domain.as_str())];
        let ends = authority.not_after().duration_since(SystemTime::UNIX_EPOCH);
        let ends = ends.unwrap_or_default().as_secs() as f64;
        telemetry::gauge(&["manager", "x509_ca", "rotate", "expiration"], ends, labels);
        telemetry::gauge(&["manager", "x509_ca", "rotate", "ttl"], left.as_secs_f64(), labels);
        tracing::debug!(
            subsystem_name = SUBSYSTEM,
            trust_domain_id = config.trust_domain.id_string(),
            ttl = left.as_secs_f64(),
            "Successfully rotated X.509 CA"
        );
    }
}

fn tell_of_lost_database(bundle_exists: bool) {
    let database = if bundle_exists { "knows no CA journal of theirs" } else { "is empty" };
    tracing::error!(
        subsystem_name = SUBSYSTEM,
        "The key manager holds CA keys, but the database {database}: was it lost, replaced or \
         misconfigured? A new CA is made; agents and workloads that trust the one before will \
         not trust this server. If that is not what you want, stop the server, restore the \
         database that belongs to these keys, and start again"
    );
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Health fails when more rounds than this have failed in a row (CA-20).
pub const MAX_ROTATION_FAILURES: u64 = 10;

const PRUNE_BUNDLE_INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);
const PRUNE_JOURNALS_INTERVAL: Duration = Duration::from_secs(8 * 60 * 60);
const BUNDLE_GRACE: Duration = Duration::from_secs(24 * 60 * 60);
const JOURNAL_GRACE: Duration = Duration::from_secs(14 * 24 * 60 * 60);

#[cfg(test)]
mod tests;

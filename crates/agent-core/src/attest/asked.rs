//! One attestor, its queue and its deadline.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use steeple_plugin::{Code, PluginError, WorkloadAttestor};
use steeple_spiffe::Selector;
use steeple_telemetry as telemetry;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::turnstile::Turnstile;
use super::{AttestLimits, SUBSYSTEM};

/// An attestor that is asked about processes.
pub(super) struct Asked {
    attestor: Arc<dyn WorkloadAttestor>,
    turns: Turnstile,
    limits: AttestLimits,
    /// How many answers in a row did not come in time.
    missed: AtomicU32,
    /// Whether somebody waits for a silent one with all patience, to find out if it came back.
    probing: AtomicBool,
}

impl Deref for Asked {
    type Target = dyn WorkloadAttestor;

    fn deref(&self) -> &Self::Target {
        &*self.attestor
    }
}

impl Asked {
    pub(super) fn new(attestor: Arc<dyn WorkloadAttestor>, mut limits: AttestLimits) -> Self {
        if let Some(rightly) = attestor.waits() {
            // Those who wait for a pod to appear keep nobody from being told what is there.
            limits.running_per_uid = limits.waiting_per_uid;
            limits.running = limits.waiting_per_uid * 8;
            limits.attestor_deadline = limits.attestor_deadline.max(rightly);
        }
        let turns = Turnstile::new(limits.running, limits.running_per_uid);
        Self { attestor, turns, limits, missed: 0.into(), probing: false.into() }
    }

    /// What it finds of a process of this user.
    pub(super) async fn about(&self, pid: i32, uid: u32) -> Result<Vec<Selector>, PluginError> {
        let call = telemetry::call(&["workload_api", "workload_attestor"])
            .with("attestor", self.name().to_owned());
        let answer = self.in_time(Some(pid), uid, self.attestor.attest(pid)).await;
        call.status(answer.as_ref().map_or_else(|failure| failure.code.name(), |_| "OK"));
        answer
    }

    /// Waits for an answer: for the turn of this user first, then for the attestor. Of one that
    /// was silent several times on end, nobody waits for long, save one who tries.
    pub(super) async fn in_time<T>(
        &self,
        pid: Option<i32>,
        uid: u32,
        work: impl Future<Output = Result<T, PluginError>>,
    ) -> Result<T, PluginError> {
        let failed = |code, message| Err(PluginError { code, message });
        let probe = self.is_silent().then(|| Probe::begin(&self.probing)).flatten();
        let impatient = self.is_silent() && probe.is_none();
        let at_most = |deadline: Duration| if impatient { deadline.min(SHORT) } else { deadline };
        let Ok(_turn) = timeout(at_most(self.limits.queue_deadline), self.turns.pass(uid)).await
        else {
            let text = "too many workload attestations are waiting";
            return failed(Code::ResourceExhausted, text.to_owned());
        };
        let deadline = at_most(self.limits.attestor_deadline);
        let started = Instant::now();
        let Ok(answer) = timeout(deadline, work).await else {
            if self.missed.fetch_add(1, Ordering::Relaxed) + 1 == SILENT {
                warn!(
                    subsystem_name = SUBSYSTEM,
                    attestor = self.name(),
                    "Workload attestor is silent; callers will hardly wait for it"
                );
            }
            let text = format!("no answer within {} seconds", deadline.as_secs());
            return failed(Code::DeadlineExceeded, text);
        };
        if self.missed.swap(0, Ordering::Relaxed) >= SILENT {
            info!(
                subsystem_name = SUBSYSTEM,
                attestor = self.name(),
                "Workload attestor answers again"
            );
        }
        let took = started.elapsed();
        if took >= SLOW && self.waits().is_none() {
            warn!(
                subsystem_name = SUBSYSTEM,
                attestor = self.name(),
                pid,
                duration_ms = took.as_millis(),
                "Workload attestor is slow"
            );
        }
        answer
    }

    fn is_silent(&self) -> bool {
        self.missed.load(Ordering::Relaxed) >= SILENT
    }

    /// How many users wait here.
    #[cfg(test)]
    pub(super) fn users(&self) -> usize {
        self.turns.users()
    }
}

/// The one caller that waits for a silent attestor.
struct Probe<'a>(&'a AtomicBool);

impl<'a> Probe<'a> {
    fn begin(probing: &'a AtomicBool) -> Option<Self> {
        (!probing.swap(true, Ordering::AcqRel)).then(|| Self(probing))
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// What takes this long is worth a line.
const SLOW: Duration = Duration::from_secs(5);
/// So many answers that do not come are no accident.
const SILENT: u32 = 4;
/// How long one waits for an attestor that is silent.
const SHORT: Duration = Duration::from_secs(1);

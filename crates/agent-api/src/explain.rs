//! `steeple.agent.explain.v1.Explain`, on the admin socket: why a workload has
//! the identities it has, or none.
//!
//! The process is attested as if it had called. Nothing is signed, subscribed
//! or changed by asking. Of selectors only the values are shown that the log
//! may show (`log_selectors`), unless the operator asks for all: what runs on a
//! node is nothing to paste into a ticket unawares.

mod container;
mod words;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_agent_core::attest::{Examined, WorkloadAttestation};
use steeple_agent_core::cache::{Identity, IdentityCache};
use steeple_agent_core::entry::{Entry, duplicate_hints};
use steeple_agent_core::explain::{Examination, Matched, Missed, SyncBook, SyncNotes};
use steeple_agent_core::selectors::{SelectorSet, is_loggable};
use steeple_proto::steeple::agent::explain::v1 as pb;
use steeple_runtime::Clock;
use steeple_spiffe::Selector;
use tonic::{Request, Response, Status};

use crate::admin::AgentStatus;

/// What explanations are made from.
pub struct ExplainService {
    /// How workloads are attested.
    pub attestation: Arc<WorkloadAttestation>,
    /// Who gets which identity.
    pub cache: Arc<IdentityCache>,
    /// The agent's own identity.
    pub status: Arc<dyn AgentStatus>,
    /// How the agent last heard from its server.
    pub book: Arc<SyncBook>,
    /// How often the agent asks its server.
    pub sync_interval: Duration,
    /// Selector prefixes that may be shown.
    pub log_selectors: Vec<String>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// What is known of one question.
struct Findings {
    pid: i32,
    /// How many processes of the container there are; 0 when none was asked about.
    processes: usize,
    attestors: Vec<Examined>,
    shown: SelectorSet,
    cache: Examination,
    /// Of `cache.matched`, those whose hint an older one has.
    hidden: HashSet<usize>,
    stored: Vec<Arc<Entry>>,
    notes: SyncNotes,
    entries: usize,
    agent_id: String,
    agent_ends: Option<SystemTime>,
    interval: Duration,
    now: SystemTime,
}

#[tonic::async_trait]
impl pb::explain_server::Explain for ExplainService {
    async fn explain_workload(
        &self,
        request: Request<pb::ExplainWorkloadRequest>,
    ) -> Result<Response<pb::ExplainWorkloadResponse>, Status> {
        let asker = crate::caller::peer(request.extensions())?.uid();
        let request = request.into_inner();
        let (pid, processes, attestors, shown) = self.meant(&request, asker).await?;
        let found = self.look(pid, processes, attestors, shown);
        let sight = if request.show_selectors {
            Sight::All
        } else {
            let given = request.selectors.iter().map(|it| format!("{}:{}", it.r#type, it.value));
            Sight::Only(self.log_selectors.iter().cloned().chain(given).collect())
        };
        Ok(Response::new(self.answer(&found, &sight)))
    }
}

impl ExplainService {
    /// Who is asked about, and what it shows.
    async fn meant(
        &self,
        request: &pb::ExplainWorkloadRequest,
        asker: u32,
    ) -> Result<(i32, usize, Vec<Examined>, SelectorSet), Status> {
        let ways =
            [request.pid != 0, !request.container_id.is_empty(), !request.selectors.is_empty()];
        if ways.into_iter().filter(|way| *way).count() != 1 {
            return Err(Status::invalid_argument(
                "exactly one of a process, a container or selectors must be specified",
            ));
        }
        if !request.selectors.is_empty() {
            let parsed: Result<Vec<Selector>, _> = request
                .selectors
                .iter()
                .take(MAX_SELECTORS)
                .map(|it| Selector::checked(&it.r#type, &it.value))
                .collect();
            let shown = parsed.map_err(|error| Status::invalid_argument(error.to_string()))?;
            return Ok((0, 0, Vec::new(), SelectorSet::new(shown)));
        }
        let (pid, processes) = match request.container_id.as_str() {
            "" => (request.pid, 0),
            id => container::process_of(id.to_owned()).await?,
        };
        let examined = self.attestation.examine(pid, asker).await.map_err(|error| {
            Status::not_found(format!("process {pid} cannot be attested: {error}"))
        })?;
        let found = examined.iter().filter_map(|it| it.outcome.as_ref().ok()).flatten();
        let shown = SelectorSet::new(found.cloned().collect());
        Ok((pid, processes, examined, shown))
    }

    fn look(
        &self,
        pid: i32,
        processes: usize,
        attestors: Vec<Examined>,
        shown: SelectorSet,
    ) -> Findings {
        let cache = self.cache.examine(&shown, MAX_MISSES);
        let hidden = duplicate_hints(cache.matched.iter().map(|it| it.entry.as_ref()));
        let notes = self.book.read();
        let stored = notes.stored.values();
        let svid = self.status.svid();
        Findings {
            pid,
            processes,
            attestors,
            hidden: hidden.into_iter().collect(),
            stored: stored.filter(|it| shown.contains_all(&it.selectors)).cloned().collect(),
            shown,
            cache,
            entries: self.cache.count_entries() + notes.stored.len(),
            notes,
            agent_id: svid
                .first()
                .and_then(|leaf| leaf.uri_sans().first().cloned())
                .unwrap_or_default(),
            agent_ends: svid.first().map(|leaf| leaf.not_after()),
            interval: self.sync_interval,
            now: self.clock.now(),
        }
    }

    fn answer(&self, found: &Findings, sight: &Sight) -> pb::ExplainWorkloadResponse {
        let matched = found.cache.matched.iter().enumerate();
        let entries = matched
            .map(|(position, it)| described(found, position, it, sight))
            .chain(found.stored.iter().map(|entry| stored(entry, sight)));
        pb::ExplainWorkloadResponse {
            verdict: words::verdict(found, sight),
            findings: words::findings(found),
            pid: found.pid,
            attestors: found.attestors.iter().map(|it| attestor(it, sight)).collect(),
            selectors: sight.texts(found.shown.iter()),
            entries: entries.collect(),
            near_misses: found.cache.missed.iter().map(|it| near_miss(it, sight)).collect(),
            agent: Some(pb::Agent {
                spiffe_id: found.agent_id.clone(),
                svid_expires_at: found.agent_ends.map_or(0, unix),
                svid_renews_at: self.status.renews_at(found.now).map_or(0, unix),
                entries: count(found.entries),
                x509_svids: count(self.cache.count_x509_svids()),
            }),
            sync: Some(pb::Sync {
                last_success: found.notes.last_success.map_or(0, unix),
                mode: if found.notes.push { "push" } else { "poll" }.to_owned(),
                interval_seconds: i64::try_from(found.interval.as_secs()).unwrap_or(i64::MAX),
                last_error: found
                    .notes
                    .last_failure
                    .as_ref()
                    .map_or_else(String::new, |(_, error)| error.clone()),
            }),
        }
    }
}

fn described(found: &Findings, position: usize, it: &Matched, sight: &Sight) -> pb::Entry {
    let (state, reason) = words::state(found, position, it);
    let identity = it.identity.as_deref();
    let leaf = identity.and_then(Identity::leaf);
    let leaf = leaf.as_ref();
    pb::Entry {
        state: state.to_owned(),
        reason,
        x509_svid_not_before: leaf.map_or(0, |leaf| unix(leaf.not_before())),
        x509_svid_expires_at: leaf.map_or(0, |leaf| unix(leaf.not_after())),
        x509_svid_renews_at: identity.map_or(0, |identity| unix(Identity::due(identity))),
        x509_svid_serial_number: leaf.map_or_else(String::new, |leaf| leaf.serial_decimal()),
        missing_bundles: it.missing_bundles.iter().map(ToString::to_string).collect(),
        ..plain(&it.entry, sight)
    }
}

fn stored(entry: &Entry, sight: &Sight) -> pb::Entry {
    pb::Entry {
        state: "stored".to_owned(),
        reason: "its SVID goes to SVID stores and is never served on the Workload API".to_owned(),
        ..plain(entry, sight)
    }
}

fn plain(entry: &Entry, sight: &Sight) -> pb::Entry {
    pb::Entry {
        id: entry.id.to_string(),
        spiffe_id: entry.spiffe_id.to_string(),
        selectors: sight.texts(entry.selectors.iter()),
        hint: entry.hint.clone(),
        federates_with: entry.federates_with.iter().map(ToString::to_string).collect(),
        ..pb::Entry::default()
    }
}

fn attestor(it: &Examined, sight: &Sight) -> pb::Attestor {
    let (selectors, error) = match &it.outcome {
        Ok(found) => (sight.texts(found.iter()), String::new()),
        Err(error) => (Vec::new(), error.clone()),
    };
    pb::Attestor {
        name: it.attestor.clone(),
        duration_microseconds: i64::try_from(it.took.as_micros()).unwrap_or(i64::MAX),
        error,
        selectors,
    }
}

fn near_miss(it: &Missed, sight: &Sight) -> pb::NearMiss {
    pb::NearMiss {
        entry_id: it.entry.id.to_string(),
        spiffe_id: it.entry.spiffe_id.to_string(),
        missing: sight.texts(it.missing.iter()),
        instead: sight.texts(it.instead.iter()),
    }
}

/// Which selectors an operator sees in full.
enum Sight {
    All,
    Only(Vec<String>),
}

impl Sight {
    /// A selector, or what it is about with its value left out: `unix:uid:…`.
    fn text(&self, selector: &Selector) -> String {
        let whole = selector.to_string();
        match self {
            Self::All => whole,
            Self::Only(prefixes) if is_loggable(&whole, prefixes) => whole,
            Self::Only(_) => match selector.value.split_once(':') {
                Some((name, _)) => format!("{}:{name}:…", selector.kind),
                None => format!("{}:…", selector.kind),
            },
        }
    }

    fn texts<'s>(&self, selectors: impl Iterator<Item = &'s Selector>) -> Vec<String> {
        selectors.map(|selector| self.text(selector)).collect()
    }
}

fn unix(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

const MAX_MISSES: usize = 10;
const MAX_SELECTORS: usize = 1024;

#[cfg(test)]
mod tests;

//! Having X.509-SVIDs signed: whatever the cache wants, in batches.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steeple_agent_core::cache::{SignedSvid, SigningRequest};
use steeple_agent_core::entry::{Entry, EntryId};
use steeple_agent_core::sync::BatchSize;
use steeple_pki::{Certificate, KeyType, PrivateKey};
use steeple_runtime::Backoff;
use steeple_telemetry as telemetry;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::{debug, error, info};

use super::{Manager, SUBSYSTEM};
use crate::attestation::request_subject;
use crate::credentials::{dice, warn_of_fallback};
use crate::error::AgentError;

/// What the server made of a batch.
pub(super) struct Minted {
    pub(super) signed: Vec<(Arc<Entry>, SignedSvid)>,
    pub(super) refused: Vec<EntryId>,
}

impl Manager {
    /// Signs until nothing is wanted that the server would sign now.
    pub(crate) async fn sign_all(&self) -> Result<(), AgentError> {
        self.sign_until(&mut None).await
    }

    /// As [`Self::sign_all`]; after a failure `soonest` is when the first of what was to be
    /// replaced ends.
    async fn sign_until(&self, soonest: &mut Option<SystemTime>) -> Result<(), AgentError> {
        loop {
            let now = self.clock.now();
            self.cache.expire(now);
            let limit = self.batch().size();
            let wanted = self.cache.wanted(limit, now);
            if wanted.is_empty() {
                return Ok(());
            }
            debug!(
                subsystem_name = SUBSYSTEM,
                cache_type = "workload",
                count = self.cache.backlog(now),
                limit,
                "Renewing stale entries"
            );
            let attempted = wanted.len();
            *soonest = wanted.iter().filter_map(|it| it.current_expires_at).min();
            let renewals =
                wanted.iter().filter(|request| request.current_expires_at.is_some()).count();
            if renewals > 0 {
                telemetry::sample(&["cache_manager", "expiring_svids"], renewals as f64, &[]);
            }
            let call = telemetry::call(&["manager", "sync", "fetch_svids_updates"]);
            let outcome = self.sign(wanted).await;
            crate::telemetry::end(call, &outcome);
            let held = self.cache.count_x509_svids() as f64;
            telemetry::gauge(&["lru_cache_svid_map_size"], held, &[("svid_type", "X509")]);
            if let Err(error) = outcome {
                self.cache.attempted(false);
                // A server that is busy is not served by more and smaller requests.
                if error.asked_to_wait().is_none() {
                    self.batch().failed(attempted);
                }
                return Err(error);
            }
            self.batch().succeeded();
        }
    }

    /// Waits until a caller needs an SVID, one is due, or one ends.
    pub(super) async fn signing_loop(&self) -> Infallible {
        let mut patience = Backoff::new(FIRST_PAUSE, LAST_PAUSE);
        let mut jolts = self.jolts.subscribe();
        loop {
            let mut soonest = None;
            match self.sign_until(&mut soonest).await {
                Ok(()) => {
                    patience.reset();
                    let until_due = self.cache.next_deadline().map_or(LAST_PAUSE, |at| {
                        at.duration_since(self.clock.now()).unwrap_or_default().max(SHORTEST_SLEEP)
                    });
                    // Also while nothing is due: the clock may have been set.
                    tokio::select! {
                        () = self.cache.signing_needed() => {}
                        () = tokio::time::sleep(until_due.min(LAST_PAUSE)) => {}
                    }
                }
                Err(error) => {
                    error!(subsystem_name = SUBSYSTEM, %error, "SVID sync failed");
                    let pause = self.heed(patience.next(), &error, soonest);
                    if Self::nap(&mut jolts, pause).await {
                        patience.reset();
                    }
                }
            }
        }
    }

    async fn sign(&self, wanted: Vec<SigningRequest>) -> Result<(), AgentError> {
        let minted = self.mint(wanted).await?;
        self.cache.refused(&minted.refused, self.clock.now());
        self.cache.attempted(minted.refused.is_empty());
        self.cache.install(minted.signed);
        Ok(())
    }

    /// Makes keys and has the server sign for them.
    pub(super) async fn mint(&self, wanted: Vec<SigningRequest>) -> Result<Minted, AgentError> {
        wanted.iter().for_each(announce);
        let key_type = self.settings.workload_key_type;
        let ids: Vec<String> =
            wanted.iter().map(|request| request.entry.spiffe_id.to_string()).collect();
        // Keys cost: an RSA one a good part of a second.
        let made = tokio::task::spawn_blocking(move || {
            ids.iter().map(|id| key_and_csr(key_type, id)).collect::<Result<Vec<_>, _>>()
        });
        let made = made.await.map_err(|_| AgentError::Panicked("key generation"))??;
        let (keys, csrs): (Vec<PrivateKey>, Vec<Vec<u8>>) = made.into_iter().unzip();
        let requests = wanted.iter().map(|request| request.entry.id.clone()).zip(csrs).collect();
        let chains = self.server.sign_x509_svids(requests).await?;
        let dice = dice(&self.credentials.id());
        let mut signed = Vec::with_capacity(chains.len());
        let mut refused: Vec<EntryId> = Vec::new();
        for ((request, key), chain) in wanted.into_iter().zip(keys).zip(chains) {
            match chain.filter(|chain| is_for(chain, &key)) {
                Some(chain) => {
                    signed.push((request.entry.clone(), self.svid(&request, &key, chain, dice)));
                }
                None => refused.push(request.entry.id.clone()),
            }
        }
        Ok(Minted { signed, refused })
    }

    fn svid(
        &self,
        request: &SigningRequest,
        key: &PrivateKey,
        chain: Vec<Certificate>,
        dice: f64,
    ) -> SignedSvid {
        let rule = self.settings.renewal;
        let (leaf, entry) = (&chain[0], &request.entry);
        warn_of_fallback(rule, leaf, entry.spiffe_id.as_str(), &entry.id);
        // The certificate is backdated: of one that lives for seconds, half the
        // life may be over already. It must not be signed anew in a tight loop.
        let due = rule
            .due(leaf.not_before(), leaf.not_after(), dice)
            .max(self.clock.now() + SHORTEST_RENEWAL);
        SignedSvid { chain, key_pkcs8: key.to_pkcs8_der(), due }
    }

    pub(super) fn batch(&self) -> std::sync::MutexGuard<'_, BatchSize> {
        self.batch.lock().expect("no code panics while it holds the batch size")
    }
}

fn announce(request: &SigningRequest) {
    let (entry_id, spiffe_id) = (&request.entry.id, &request.entry.spiffe_id);
    match request.current_expires_at {
        None => {
            info!(subsystem_name = SUBSYSTEM, entry_id = %entry_id, spiffe_id = %spiffe_id, "Creating X509-SVID");
        }
        Some(expires_at) => {
            let expires_at = OffsetDateTime::from(expires_at).format(&Rfc3339).unwrap_or_default();
            info!(subsystem_name = SUBSYSTEM, entry_id = %entry_id, spiffe_id = %spiffe_id, expires_at, "Renewing X509-SVID");
        }
    }
}

fn key_and_csr(key_type: KeyType, spiffe_id: &str) -> Result<(PrivateKey, Vec<u8>), AgentError> {
    let key = PrivateKey::generate(key_type).map_err(steeple_pki::csr::CsrError::from)?;
    let csr = steeple_pki::csr::create(&key, &request_subject(), &[spiffe_id])?;
    Ok((key, csr))
}

fn is_for(chain: &[Certificate], key: &PrivateKey) -> bool {
    chain.first().is_some_and(|leaf| leaf.public_key() == key.public_key())
}

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(4 * 60);
const SHORTEST_RENEWAL: Duration = Duration::from_secs(1);
/// Renewals that fall due within it go into one batch.
const SHORTEST_SLEEP: Duration = Duration::from_millis(500);

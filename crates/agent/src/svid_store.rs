//! The SVIDStore service: has SVIDs signed for the entries whose SVIDs are stored, and tells the
//! stores.
//!
//! A store is told as soon as there is something new, and again every few seconds until it did
//! what it was told. Stores are served side by side, so that one that hangs holds up its own
//! entries alone.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use steeple_agent_core::entry::Entry;
use steeple_agent_core::svid_store::{Job, Put, StoreCache};
use steeple_pki::PrivateKey;
use steeple_plugin::{Code, PluginError, StoredX509Svid, SvidStore};
use steeple_telemetry as telemetry;
use tracing::{debug, error};

use crate::error::as_rpc;

/// Tells stores what the cache says.
pub(crate) struct StoreService {
    cache: Arc<StoreCache>,
    stores: Vec<Arc<dyn SvidStore>>,
}

impl StoreService {
    pub(crate) fn new(cache: Arc<StoreCache>, stores: Vec<Arc<dyn SvidStore>>) -> Self {
        Self { cache, stores }
    }

    /// Works for as long as it is asked to.
    pub(crate) async fn work(&self) -> Infallible {
        loop {
            self.process().await;
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = self.cache.storing_needed() => {}
            }
        }
    }

    /// One round.
    pub(crate) async fn process(&self) {
        let call = telemetry::call(&["store", "store_svid_updates"]);
        let mut by_store: BTreeMap<String, Vec<Job>> = BTreeMap::new();
        for job in self.cache.jobs() {
            // Where it is to be taken from may be another store; the name only keeps jobs apart.
            let entry = job.put.as_ref().map(|put| &put.entry).or(job.clear.first());
            let name = entry.and_then(|entry| store_of(entry).ok()).map(|(name, _)| name);
            by_store.entry(name.unwrap_or_default()).or_default().push(job);
        }
        join_all(by_store.into_values().map(|jobs| self.process_all(jobs))).await;
        call.ok();
    }

    async fn process_all(&self, jobs: Vec<Job>) {
        for job in jobs {
            for entry in &job.clear {
                if self.delete(&job, entry).await {
                    self.cache.cleared(&job.id, entry);
                }
            }
            if let Some(put) = &job.put
                && self.put(&job, put).await
            {
                self.cache.stored(&job.id, put, job.revision);
            }
        }
    }

    /// Gives whether there is nothing left to do about it.
    async fn delete(&self, job: &Job, entry: &Entry) -> bool {
        let (revision_number, id, spiffe_id) = (job.revision, &entry.id, &entry.spiffe_id);
        let (name, metadata) = match store_of(entry) {
            Ok(place) => place,
            Err(error) => {
                error!(subsystem_name = SERVICE, revision_number, entry = %id, %spiffe_id, error,
                    "Invalid store name in selectors");
                // Nothing was ever stored for such an entry.
                return true;
            }
        };
        let Some(store) = self.store(&name) else {
            error!(subsystem_name = SERVICE, revision_number, entry = %id, %spiffe_id,
                svid_store = name, "Error deleting SVID: SVIDStore not found");
            return false;
        };
        match timely(store.delete_x509_svid(&metadata)).await {
            Ok(()) => {
                debug!(subsystem_name = SERVICE, revision_number, entry = %id, %spiffe_id,
                    svid_store = name, "SVID deleted successfully");
                true
            }
            Err(error) if error.code == Code::InvalidArgument => {
                debug!(subsystem_name = SERVICE, revision_number, entry = %id, %spiffe_id,
                    svid_store = name, error = as_rpc(&error),
                    "Failed to delete SVID because of malformed selectors");
                true
            }
            Err(error) => {
                error!(subsystem_name = SERVICE, revision_number, entry = %id, %spiffe_id,
                    svid_store = name, error = as_rpc(&error), "Failed to delete SVID");
                false
            }
        }
    }

    async fn put(&self, job: &Job, put: &Put) -> bool {
        let (revision_number, id, spiffe_id) = (job.revision, &job.id, &put.entry.spiffe_id);
        let (name, metadata) = match store_of(&put.entry) {
            Ok(place) => place,
            Err(error) => {
                error!(subsystem_name = SERVICE, revision_number, entry = %id, %spiffe_id, error,
                    "Invalid store name in selectors");
                return false;
            }
        };
        let Some(store) = self.store(&name) else {
            error!(subsystem_name = SERVICE, revision_number, entry = %id, %spiffe_id,
                svid_store = name, "Error storing SVID: SVIDStore not found");
            return false;
        };
        let svid = match request(put, metadata) {
            Ok(svid) => svid,
            Err(error) => {
                error!(subsystem_name = SERVICE, revision_number, entry = %id, %spiffe_id,
                    svid_store = name, error, "Failed to parse record");
                return false;
            }
        };
        match timely(store.put_x509_svid(&svid)).await {
            Ok(()) => {
                debug!(subsystem_name = SERVICE, revision_number, entry = %id, %spiffe_id,
                    svid_store = name, "SVID stored successfully");
                true
            }
            Err(error) => {
                error!(subsystem_name = SERVICE, revision_number, entry = %id, %spiffe_id,
                    svid_store = name, error = as_rpc(&error), "Failed to put X509-SVID");
                false
            }
        }
    }

    fn store(&self, name: &str) -> Option<&Arc<dyn SvidStore>> {
        self.stores.iter().find(|store| store.name() == name)
    }
}

/// An entry's selectors name its store and are, without that name, what the store is told.
fn store_of(entry: &Entry) -> Result<(String, Vec<String>), &'static str> {
    let mut selectors = entry.selectors.iter();
    let first = selectors.next().ok_or("no selectors found")?;
    if selectors.any(|selector| selector.kind != first.kind) {
        return Err("selector contains multiple types");
    }
    let values = entry.selectors.iter().map(|selector| selector.value.to_string());
    Ok((first.kind.to_string(), values.collect()))
}

fn request(put: &Put, metadata: Vec<String>) -> Result<StoredX509Svid, String> {
    let private_key =
        PrivateKey::from_pkcs8_der(&put.svid.key_pkcs8).map_err(|error| error.to_string())?;
    Ok(StoredX509Svid {
        spiffe_id: put.entry.spiffe_id.clone(),
        expires_at: put.svid.expires_at().ok_or("the SVID has no certificate")?,
        chain: put.svid.chain.clone(),
        private_key,
        bundle: put.bundle.bundle().clone(),
        federated_bundles: put.federated.iter().map(|it| it.bundle().clone()).collect(),
        metadata,
    })
}

async fn timely(call: impl Future<Output = Result<(), PluginError>>) -> Result<(), PluginError> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(answer) => answer,
        Err(_) => Err(PluginError {
            code: Code::DeadlineExceeded,
            message: format!("no answer within {} seconds", DEADLINE.as_secs()),
        }),
    }
}

const SERVICE: &str = "svid_store_service";
/// Between two rounds in which nothing new came.
const INTERVAL: Duration = Duration::from_secs(5);
/// For one call of a store.
const DEADLINE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;

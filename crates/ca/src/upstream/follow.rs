//! Follows what the upstream authority says after its first answers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use steeple_pki::JwtAuthority;
use steeple_plugin::{Code, LocalBundle, PluginError, Updates};
use steeple_runtime::backoff::Backoff;
use tokio::time::sleep;

use super::{Fresh, MINT_DEADLINE, Upstream, within};
use crate::error::RotationError;
use crate::journal::SUBSYSTEM;
use crate::manager::CaManager;

impl Upstream {
    /// Runs until it is dropped.
    pub(crate) async fn follow(self: &Arc<Self>, manager: &CaManager) {
        tokio::join!(
            follow_fresh(
                &self.root_updates,
                "The upstream authority plugin stopped streaming X.509 root updates \
                 prematurely. Please report this bug. Will retry later.",
                "Failed to store X.509 roots received by the upstream authority plugin.",
                |roots| async move { self.sync_roots(&roots).await.map(drop) },
            ),
            follow_fresh(
                &self.key_updates,
                "The upstream authority plugin stopped streaming JWT key updates prematurely. \
                 Please report this bug. Will retry later.",
                "Failed to store JWT keys received by the upstream authority plugin.",
                |keys| async move { self.append_keys(keys).await.map(drop) },
            ),
            self.follow_local_bundle(),
            self.process_tainted(manager),
        );
    }

    /// Follows the upstream's whole bundle (CA-12), anew when that ends in a failure.
    async fn follow_local_bundle(&self) {
        let mut backoff = Backoff::new(SUBSCRIBE_AFTER, SUBSCRIBE_MAX);
        loop {
            sleep(backoff.next()).await;
            let subscribing = self.authority.subscribe_to_local_bundle();
            let updates = match within(MINT_DEADLINE, self.authority.name(), subscribing).await {
                Ok(updates) => updates,
                Err(error) if error.code == Code::Unimplemented => return,
                Err(error) => {
                    tracing::error!(
                        subsystem_name = SUBSYSTEM,
                        %error,
                        "Failed to subscribe to the upstream bundle. Will retry later."
                    );
                    continue;
                }
            };
            if self.drain_local_bundle(updates, &mut backoff).await {
                return;
            }
        }
    }

    /// Stores what comes. Says whether the plugin ended the stream of its own accord.
    async fn drain_local_bundle(
        &self,
        mut updates: Updates<LocalBundle>,
        backoff: &mut Backoff,
    ) -> bool {
        while let Some(update) = updates.next().await {
            let bundle = match update {
                Ok(bundle) => bundle,
                Err(error) => {
                    log_end(
                        &error,
                        "The upstream authority plugin stopped streaming authorities updates \
                         prematurely. Please report this bug. Will retry later.",
                    );
                    return false;
                }
            };
            backoff.reset();
            let LocalBundle { x509_roots, jwt_keys } = bundle;
            if let Err(error) = self.sync_roots(&x509_roots).await {
                log_unstored(
                    &error,
                    "Failed to store X.509 CAs received by the upstream authority plugin.",
                );
            }
            if let Err(error) = self.sync_keys(jwt_keys).await {
                log_unstored(
                    &error,
                    "Failed to store JWT keys received by the upstream authority plugin.",
                );
            }
        }
        true
    }

    async fn sync_keys(&self, keys: Vec<JwtAuthority>) -> Result<(), RotationError> {
        if keys.is_empty() { Ok(()) } else { self.append_keys(keys).await.map(drop) }
    }

    /// Replaces what tainted roots stand above, then marks them, until it is done (CA-13).
    async fn process_tainted(&self, manager: &CaManager) {
        let mut backoff = Backoff::new(TAINT_BACKOFF, TAINT_BACKOFF_MAX);
        loop {
            let tainted = self.tainted();
            if tainted.is_empty() {
                self.tainted_added.notified().await;
                continue;
            }
            tracing::debug!(
                subsystem_name = SUBSYSTEM,
                "Processing tainted keys on upstream authority"
            );
            match manager.replace_tainted(&tainted).await {
                Ok(()) => {
                    self.tainted_done(tainted);
                    backoff.reset();
                }
                Err(error) => {
                    tracing::warn!(
                        subsystem_name = SUBSYSTEM,
                        %error,
                        "Failed to process tainted keys on upstream authority"
                    );
                    sleep(backoff.next()).await;
                }
            }
        }
    }
}

/// Stores what each item of the newest stream says; a newer stream ends the one before.
async fn follow_fresh<T, F>(
    fresh: &Fresh<T>,
    ended: &'static str,
    unstored: &'static str,
    store: impl Fn(T) -> F,
) where
    F: Future<Output = Result<(), RotationError>>,
{
    let mut updates = fresh.take().await;
    loop {
        tokio::select! {
            newer = fresh.take() => updates = newer,
            item = updates.next() => match item {
                Some(Ok(list)) => {
                    if let Err(error) = store(list).await {
                        log_unstored(&error, unstored);
                    }
                }
                Some(Err(error)) => {
                    log_end(&error, ended);
                    updates = fresh.take().await;
                }
                None => updates = fresh.take().await,
            },
        }
    }
}

fn log_end(error: &PluginError, text: &'static str) {
    if error.code != Code::Cancelled {
        tracing::error!(subsystem_name = SUBSYSTEM, %error, "{text}");
    }
}

fn log_unstored(error: &RotationError, text: &'static str) {
    tracing::error!(subsystem_name = SUBSYSTEM, %error, "{text}");
}

/// When the upstream's bundle is first subscribed to, and the first wait between two attempts.
const SUBSCRIBE_AFTER: Duration = Duration::from_secs(5);
/// The longest wait between two attempts.
const SUBSCRIBE_MAX: Duration = Duration::from_secs(60);
/// The first wait between two attempts to replace what a tainted root stands above.
const TAINT_BACKOFF: Duration = Duration::from_secs(5);
/// The longest.
const TAINT_BACKOFF_MAX: Duration = Duration::from_secs(60);

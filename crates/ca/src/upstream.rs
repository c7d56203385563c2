//! The PKI above ours, where there is one: it signs our CA, and what it says of roots and keys
//! goes into our bundle (ADR 6).
//!
//! Nothing of what it answers is believed before [`verify`] has looked at it, and nothing waits
//! for it without a deadline.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use steeple_pki::x509::{Certificate, authority_id};
use steeple_pki::{Bundle, JwtAuthority, Signer, X509Authority};
use steeple_plugin::{Code, PluginError, Updates, UpstreamAuthority};
use steeple_runtime::Clock;
use steeple_spiffe::TrustDomain;
use tokio::sync::{Notify, watch};

use crate::config::CaConfig;
use crate::credentials::Credentials;
use crate::error::RotationError;
use crate::journal::SUBSYSTEM;
use crate::kind::X509Ca;
use crate::store::AuthorityStore;

mod follow;
mod verify;

/// The upstream authority and what is known of its bundle.
pub(crate) struct Upstream {
    authority: Arc<dyn UpstreamAuthority>,
    store: Arc<dyn AuthorityStore>,
    clock: Arc<dyn Clock>,
    trust_domain: TrustDomain,
    /// Changes with the bundle (CA-19).
    bundle_updates: watch::Sender<u64>,
    /// Roots after those of the last mint.
    root_updates: Fresh<Vec<X509Authority>>,
    /// Keys after those of the last publication.
    key_updates: Fresh<Vec<JwtAuthority>>,
    /// Roots that the upstream calls tainted.
    tainted: Mutex<Tainted>,
    tainted_added: Notify,
    /// It was said that JWT keys cannot be published.
    said_no_jwt: AtomicBool,
}

/// Roots that the upstream calls tainted (CA-13).
#[derive(Default)]
struct Tainted {
    /// What is under them is still to be replaced.
    open: Vec<Certificate>,
    /// Nothing of ours is under them any more.
    done: Vec<Certificate>,
}

/// The newest stream of a kind, until somebody takes it up; it ends the one before.
struct Fresh<T> {
    stream: Mutex<Option<Updates<T>>>,
    put: Notify,
}

impl<T> Fresh<T> {
    fn new() -> Self {
        Self { stream: Mutex::new(None), put: Notify::new() }
    }

    fn put(&self, stream: Updates<T>) {
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        self.put.notify_one();
    }

    async fn take(&self) -> Updates<T> {
        loop {
            let taken = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            match taken {
                Some(stream) => return stream,
                None => self.put.notified().await,
            }
        }
    }
}

impl Upstream {
    pub(crate) fn new(
        authority: Arc<dyn UpstreamAuthority>,
        store: Arc<dyn AuthorityStore>,
        clock: Arc<dyn Clock>,
        trust_domain: TrustDomain,
        bundle_updates: watch::Sender<u64>,
    ) -> Self {
        Self {
            authority,
            store,
            clock,
            trust_domain,
            bundle_updates,
            root_updates: Fresh::new(),
            key_updates: Fresh::new(),
            tainted: Mutex::default(),
            tainted_added: Notify::new(),
            said_no_jwt: AtomicBool::new(false),
        }
    }

    /// Has the CA of this key signed.
    ///
    /// # Errors
    /// The upstream refuses, is too slow, or its answer is not one that may be used.
    pub(crate) async fn mint(
        &self,
        config: &CaConfig,
        credentials: &Credentials,
        signer: Arc<dyn Signer>,
    ) -> Result<X509Ca, RotationError> {
        let csr = credentials.upstream_csr(config, signer.as_ref()).await?;
        let minting = self.authority.mint_x509_ca(&csr, config.ca_ttl);
        let minted = within(MINT_DEADLINE, self.authority.name(), minting).await?;
        let issued_at = self.clock.now();
        let chain = minted.chain;
        verify::minted(&chain, &minted.roots, &signer, &self.trust_domain, issued_at)
            .await
            .map_err(RotationError::Minted)?;
        let certificate = chain[0].clone();
        self.root_updates.put(minted.root_updates);
        Ok(X509Ca::minted(certificate, chain, minted.roots, signer, issued_at))
    }

    /// Puts a JWT key, ours or that of a server below, into the upstream's bundle, and the
    /// upstream's keys into ours (CA-10).
    ///
    /// # Errors
    /// The upstream refuses or is too slow, or the datastore fails.
    pub(crate) async fn publish_jwt_key(
        &self,
        key: &JwtAuthority,
    ) -> Result<Bundle, RotationError> {
        let publishing = self.authority.publish_jwt_key(key);
        match within(PUBLISH_DEADLINE, self.authority.name(), publishing).await {
            Ok(published) => {
                let bundle = self.append_keys(published.keys).await?;
                self.key_updates.put(published.updates);
                Ok(bundle)
            }
            Err(error) if error.code == Code::Unimplemented => {
                if !self.said_no_jwt.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        subsystem_name = SUBSYSTEM,
                        plugin_name = self.authority.name(),
                        "UpstreamAuthority plugin does not support JWT-SVIDs. Workloads managed \
                         by this server may have trouble communicating with workloads outside \
                         this cluster when using JWT-SVIDs."
                    );
                }
                self.append_keys(vec![key.clone()]).await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Appends keys to our bundle.
    async fn append_keys(&self, keys: Vec<JwtAuthority>) -> Result<Bundle, RotationError> {
        verify::count(keys.len()).map_err(RotationError::Minted)?;
        let mut addition = Bundle::new(self.trust_domain.clone());
        for key in keys {
            addition.set_jwt_authority(key);
        }
        self.append(addition).await
    }

    /// Makes our bundle agree with the upstream's list of roots, as far as that is ours to do:
    /// adds, removes what is tainted here and gone there, and has tainting begin.
    ///
    /// # Errors
    /// There are too many, or the datastore fails.
    pub(crate) async fn sync_roots(
        &self,
        roots: &[X509Authority],
    ) -> Result<Bundle, RotationError> {
        verify::count(roots.len()).map_err(RotationError::Minted)?;
        let stored = self.store.bundle().await?;
        let known = stored.map(|bundle| bundle.x509_authorities).unwrap_or_default();
        let mut addition = Bundle::new(self.trust_domain.clone());
        for root in roots {
            match known.iter().find(|known| known.certificate == root.certificate) {
                None => drop(addition.add_x509_authority(root.clone())),
                // Another server on our database may have marked it before we could act on it.
                Some(known) if root.tainted => {
                    self.begin_taint(&root.certificate, !known.tainted);
                }
                Some(_) => {}
            }
        }
        self.forget_tainted(roots);
        let named = |id: &str| roots.iter().any(|root| root.certificate.authority_id() == id);
        for gone in known.iter().filter(|root| root.tainted) {
            let id = gone.certificate.authority_id();
            if !id.is_empty() && !named(&id) {
                self.store.revoke_x509(&id).await?;
                self.bundle_changed();
                tracing::info!(
                    subsystem_name = SUBSYSTEM,
                    subject_key_id = id,
                    "X.509 authority revoked"
                );
            }
        }
        self.append(addition).await
    }

    /// However many updates come, our bundle stays within its bounds.
    async fn append(&self, addition: Bundle) -> Result<Bundle, RotationError> {
        if let Some(known) = self.store.bundle().await? {
            let is_new = |key: &&JwtAuthority| {
                let same =
                    |it: &JwtAuthority| it.key_id == key.key_id && it.public_key == key.public_key;
                !known.jwt_authorities.iter().any(same)
            };
            let roots = known.x509_authorities.len() + addition.x509_authorities.len();
            let added = addition.jwt_authorities.iter().filter(is_new).count();
            let keys = known.jwt_authorities.len() + added;
            verify::count(roots.max(keys)).map_err(RotationError::Minted)?;
        }
        let bundle = self.store.append_bundle(addition).await?;
        self.bundle_changed();
        Ok(bundle)
    }

    fn begin_taint(&self, root: &Certificate, is_news: bool) {
        let mut tainted = self.tainted.lock().unwrap_or_else(PoisonError::into_inner);
        if tainted.open.contains(root) || tainted.done.contains(root) {
            return;
        }
        if is_news {
            tracing::info!(
                subsystem_name = SUBSYSTEM,
                subject_key_id = root.subject_key_id().map(authority_id),
                "X.509 authority tainted"
            );
        }
        tainted.open.push(root.clone());
        self.tainted_added.notify_one();
    }

    fn tainted(&self) -> Vec<Certificate> {
        self.tainted.lock().unwrap_or_else(PoisonError::into_inner).open.clone()
    }

    fn tainted_done(&self, done: Vec<Certificate>) {
        let mut tainted = self.tainted.lock().unwrap_or_else(PoisonError::into_inner);
        tainted.open.retain(|root| !done.contains(root));
        tainted.done.extend(done);
    }

    /// Forgets about roots that the upstream no longer names.
    fn forget_tainted(&self, roots: &[X509Authority]) {
        let mut tainted = self.tainted.lock().unwrap_or_else(PoisonError::into_inner);
        tainted.done.retain(|done| roots.iter().any(|root| root.certificate == *done));
    }

    fn bundle_changed(&self) {
        self.bundle_updates.send_modify(|count| *count += 1);
    }
}

/// An answer of the plugin, or its failure to give one in time.
async fn within<T>(
    deadline: Duration,
    name: &str,
    answer: impl Future<Output = Result<T, PluginError>>,
) -> Result<T, PluginError> {
    let late = |_| {
        let text = format!("no answer within {} seconds", deadline.as_secs());
        let kind = steeple_plugin::Kind::UpstreamAuthority;
        Err(PluginError::new(kind, name, Code::DeadlineExceeded, text))
    };
    tokio::time::timeout(deadline, answer).await.unwrap_or_else(late)
}

/// How long an upstream may take to sign our CA. It may have to wait for an identity of its own.
const MINT_DEADLINE: Duration = Duration::from_secs(60);
/// How long it may take to publish a key (CA-10).
const PUBLISH_DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;

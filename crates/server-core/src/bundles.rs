//! Trust bundles: our own, and those of federated trust domains.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use steeple_ca::{CaManager, RotationError};
use steeple_pki::x509::CertificateError;
use steeple_pki::{Bundle, Certificate, JwtAuthority, KeyError, PublicKey, X509Authority};
use steeple_spiffe::{IdError, TrustDomain};
use steeple_store::model::{BundleMask, DeleteMode, Page};
use steeple_store::{Store, StoreError};
use tokio::sync::watch;

use crate::access::{DownstreamCaller, Operator, Reader};
use crate::time::from_unix_seconds;

/// How long a bundle that was read is good for callers that come often (CH-11).
const FRESH: Duration = Duration::from_secs(1);

/// How old a bundle may be that is answered while the datastore cannot be reached.
const USABLE_IN_OUTAGE: Duration = Duration::from_secs(60 * 60);

/// With this many JWT authorities in our bundle, servers below add no more. (Servers of our own
/// do, so that nobody below can keep them from rotating.) Agents get the bundle whole, in messages
/// of 4 MiB at most.
const MAX_PUBLISHED: usize = 1000;

/// The longest key ID of a server below, in bytes.
const MAX_KEY_ID: usize = 255;

/// Why a use case about bundles failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum BundleError {
    #[error("bundle not found")]
    NotFound,
    #[error("bundle already exists")]
    Exists,
    #[error("trust domain argument is not valid")]
    TrustDomain(#[source] IdError),
    #[error("{verb} a federated bundle for the server's own trust domain is not allowed")]
    Own { verb: &'static str },
    #[error("removing the bundle for the server trust domain is not allowed")]
    RemoveOwn,
    #[error("no authorities to append")]
    NothingToAppend,
    #[error("failed to convert X.509 authority")]
    X509Authority(#[source] AuthorityRule),
    #[error("failed to convert JWT authority")]
    JwtAuthority(#[source] AuthorityRule),
    #[error("missing JWT authority")]
    NoJwtAuthority,
    #[error("invalid JWT authority")]
    PublishedJwtAuthority(#[source] AuthorityRule),
    #[error("another JWT authority has this key ID")]
    KeyIdTaken,
    #[error("the bundle has no room for more JWT authorities")]
    Full,
    #[error("failed to convert bundle")]
    Malformed(#[source] BundleRule),
    #[error("failed to fetch bundle")]
    Fetch(#[source] StoreError),
    #[error("failed to append bundle")]
    Append(#[source] StoreError),
    #[error("failed to publish JWT key")]
    Publish(#[source] StoreError),
    #[error("failed to publish JWT key")]
    PublishUpward(#[source] RotationError),
    #[error("failed to count bundles")]
    Count(#[source] StoreError),
    #[error("failed to list bundles")]
    List(#[source] StoreError),
    #[error("unable to create bundle")]
    Create(#[source] StoreError),
    #[error("failed to update bundle")]
    Update(#[source] StoreError),
    #[error("failed to set bundle")]
    Set(#[source] StoreError),
    #[error("failed to delete federated bundle")]
    Delete(#[source] StoreError),
}

/// What is wrong with an authority.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum AuthorityRule {
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("missing key ID")]
    NoKeyId,
    #[error("key ID is longer than {MAX_KEY_ID} bytes")]
    LongKeyId,
}

/// What is wrong with a bundle.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its text")]
pub enum BundleRule {
    #[error("unable to parse X.509 authority: {0}")]
    X509(#[source] AuthorityRule),
    #[error("unable to parse JWT authority: {0}")]
    Jwt(#[source] AuthorityRule),
}

/// A JWT authority as the wire carries it.
#[derive(Clone, Debug, Default)]
pub struct RawJwtAuthority {
    /// The `kid`.
    pub key_id: String,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Bytes,
    /// Seconds since the epoch; 0 = unknown.
    pub expires_at: i64,
}

/// A bundle as the wire carries it.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each field is the one of the same name in Bundle")]
pub struct RawBundle {
    pub trust_domain: String,
    pub x509_authorities: Vec<Bytes>,
    pub jwt_authorities: Vec<RawJwtAuthority>,
    pub refresh_hint: i64,
    pub sequence_number: u64,
}

/// Bundles, and when they were read.
type Recent = HashMap<TrustDomain, (SystemTime, Arc<Bundle>)>;

/// The use cases about bundles. Cheap to clone; clones share the cache.
#[derive(Clone)]
pub struct Bundles {
    store: Arc<dyn Store>,
    trust_domain: TrustDomain,
    recent: Arc<Mutex<Recent>>,
    /// Counts what may have changed a bundle.
    changes: watch::Sender<u64>,
    /// Publishes JWT keys of servers below, upward too.
    publisher: Option<CaManager>,
}

impl Bundles {
    /// The trust domain served.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Bundles as the server of `trust_domain` sees them.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, trust_domain: TrustDomain) -> Self {
        let (recent, changes) = (Arc::default(), watch::Sender::new(0));
        Self { store, trust_domain, recent, changes, publisher: None }
    }

    /// Has JWT keys of servers below published by `manager`, which knows who is above.
    #[must_use]
    pub fn publishing_by(self, manager: CaManager) -> Self {
        Self { publisher: Some(manager), ..self }
    }

    /// Our own bundle, at most a second old. Open to everyone.
    ///
    /// # Errors
    /// [`BundleError::NotFound`] before the first authority, or the store's.
    pub async fn own(&self, now: SystemTime) -> Result<Arc<Bundle>, BundleError> {
        self.recent(&self.trust_domain, now).await?.ok_or(BundleError::NotFound)
    }

    /// The bundle of some trust domain, at most a second old, to verify a peer with.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn recent(
        &self,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Option<Arc<Bundle>>, BundleError> {
        if let Some(bundle) = self.cached(trust_domain, now, FRESH) {
            return Ok(Some(bundle));
        }
        let read = match self.store.fetch_bundle(trust_domain).await {
            Ok(read) => read,
            Err(error @ StoreError::Unavailable(_)) => {
                let last = self.cached(trust_domain, now, USABLE_IN_OUTAGE);
                return last.map(Some).ok_or(BundleError::Fetch(error));
            }
            Err(error) => return Err(BundleError::Fetch(error)),
        };
        let Some(bundle) = read.map(Arc::new) else {
            self.cache().remove(trust_domain);
            return Ok(None);
        };
        self.cache().insert(trust_domain.clone(), (now, Arc::clone(&bundle)));
        Ok(Some(bundle))
    }

    fn cached(
        &self,
        trust_domain: &TrustDomain,
        now: SystemTime,
        at_most: Duration,
    ) -> Option<Arc<Bundle>> {
        let cache = self.cache();
        let (read_at, bundle) = cache.get(trust_domain)?;
        now.duration_since(*read_at).is_ok_and(|age| age < at_most).then(|| Arc::clone(bundle))
    }

    /// A bundle was read elsewhere, just now.
    pub(crate) fn learn(&self, bundle: &Bundle, now: SystemTime) {
        let read = (now, Arc::new(bundle.clone()));
        self.cache().insert(bundle.trust_domain.clone(), read);
    }

    /// A bundle is gone.
    pub(crate) fn unlearn(&self, trust_domain: &TrustDomain) {
        self.cache().remove(trust_domain);
    }

    /// Forgets what was read, so that the next reader sees what has just been written.
    pub fn forget(&self) {
        self.cache().clear();
        self.changes.send_modify(|count| *count += 1);
    }

    /// Changes whenever this server may have changed a bundle.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Adds authorities to our own bundle.
    ///
    /// # Errors
    /// [`BundleError`].
    pub async fn append(
        &self,
        _operator: &Operator,
        x509: &[Bytes],
        jwt: &[RawJwtAuthority],
    ) -> Result<Bundle, BundleError> {
        if x509.is_empty() && jwt.is_empty() {
            return Err(BundleError::NothingToAppend);
        }
        let mut addition = Bundle::new(self.trust_domain.clone());
        addition.jwt_authorities = jwt_authorities(jwt).map_err(BundleError::JwtAuthority)?;
        addition.x509_authorities = x509_authorities(x509).map_err(BundleError::X509Authority)?;
        let appended = self.store.append_bundle(&addition).await.map_err(BundleError::Append)?;
        self.forget();
        Ok(appended)
    }

    /// Takes up a downstream server's JWT authority; answers all of ours.
    ///
    /// # Errors
    /// [`BundleError`].
    pub async fn publish_jwt_authority(
        &self,
        _downstream: &DownstreamCaller,
        authority: Option<RawJwtAuthority>,
    ) -> Result<Vec<JwtAuthority>, BundleError> {
        let authority = authority.ok_or(BundleError::NoJwtAuthority)?;
        let mut keys = jwt_authorities(&[authority]).map_err(BundleError::PublishedJwtAuthority)?;
        for key in &keys {
            self.check_published(key).await?;
        }
        let appended = match (&self.publisher, keys.pop()) {
            (Some(manager), Some(key)) => {
                manager.publish_jwt_key(key).await.map_err(BundleError::PublishUpward)?
            }
            (_, key) => {
                let mut addition = Bundle::new(self.trust_domain.clone());
                addition.jwt_authorities = key.into_iter().collect();
                self.store.append_bundle(&addition).await.map_err(BundleError::Publish)?
            }
        };
        self.forget();
        Ok(appended.jwt_authorities)
    }

    /// Whether a server below may add `key`. A key under another's ID would make that one's tokens
    /// fail wherever the later key of an ID counts.
    async fn check_published(&self, key: &JwtAuthority) -> Result<(), BundleError> {
        if key.key_id.len() > MAX_KEY_ID {
            return Err(BundleError::PublishedJwtAuthority(AuthorityRule::LongKeyId));
        }
        let bundle = self.store.fetch_bundle(&self.trust_domain).await;
        let Some(bundle) = bundle.map_err(BundleError::Publish)? else { return Ok(()) };
        match bundle.find_jwt_authority(&key.key_id) {
            Some(known) if known.public_key == key.public_key => Ok(()),
            Some(_) => Err(BundleError::KeyIdTaken),
            None if bundle.jwt_authorities.len() >= MAX_PUBLISHED => Err(BundleError::Full),
            None => Ok(()),
        }
    }

    /// How many bundles there are, our own among them.
    ///
    /// # Errors
    /// The store's.
    pub async fn count(&self, _operator: &Operator) -> Result<u64, BundleError> {
        self.store.count_bundles().await.map_err(BundleError::Count)
    }

    /// The bundles of other trust domains, and the token of the next page. Our own takes up a
    /// place on its page and is left out.
    ///
    /// # Errors
    /// For a malformed page token, or the store's.
    pub async fn list_federated(
        &self,
        _operator: &Operator,
        page: Option<Page>,
    ) -> Result<(Vec<Bundle>, Option<String>), BundleError> {
        let (mut bundles, next) =
            self.store.list_bundles(page.as_ref()).await.map_err(BundleError::List)?;
        bundles.retain(|bundle| bundle.trust_domain != self.trust_domain);
        Ok((bundles, next))
    }

    /// The bundle of another trust domain.
    ///
    /// # Errors
    /// [`BundleError`].
    pub async fn federated(
        &self,
        _reader: &Reader,
        trust_domain: &str,
    ) -> Result<Bundle, BundleError> {
        let trust_domain = self.foreign(trust_domain, "getting")?;
        let bundle = self.store.fetch_bundle(&trust_domain).await.map_err(BundleError::Fetch)?;
        bundle.ok_or(BundleError::NotFound)
    }

    /// Keeps the bundle of a trust domain that has none.
    ///
    /// # Errors
    /// [`BundleError`].
    pub async fn create(&self, _: &Operator, raw: &RawBundle) -> Result<Bundle, BundleError> {
        let bundle = self.foreign_bundle(raw, "creating")?;
        let created = self.store.create_bundle(&bundle).await.map_err(|error| match error {
            StoreError::AlreadyExists(_) => BundleError::Exists,
            other => BundleError::Create(other),
        })?;
        self.forget();
        Ok(created)
    }

    /// Overwrites parts of the bundle of another trust domain.
    ///
    /// # Errors
    /// [`BundleError`].
    pub async fn update(
        &self,
        _operator: &Operator,
        raw: &RawBundle,
        mask: BundleMask,
    ) -> Result<Bundle, BundleError> {
        let bundle = self.foreign_bundle(raw, "updating")?;
        let updated =
            self.store.update_bundle(&bundle, mask).await.map_err(|error| match error {
                StoreError::NotFound(_) => BundleError::NotFound,
                other => BundleError::Update(other),
            })?;
        self.forget();
        Ok(updated)
    }

    /// Keeps the bundle of another trust domain in the place of what there is.
    ///
    /// # Errors
    /// [`BundleError`].
    pub async fn set(&self, _: &Operator, raw: &RawBundle) -> Result<Bundle, BundleError> {
        let bundle = self.foreign_bundle(raw, "setting")?;
        let set = self.store.set_bundle(&bundle).await.map_err(BundleError::Set)?;
        self.forget();
        Ok(set)
    }

    /// Deletes the bundle of another trust domain.
    ///
    /// # Errors
    /// [`BundleError`].
    pub async fn delete(
        &self,
        _operator: &Operator,
        trust_domain: &str,
        mode: DeleteMode,
    ) -> Result<(), BundleError> {
        let trust_domain = parse_trust_domain(trust_domain)?;
        if trust_domain == self.trust_domain {
            return Err(BundleError::RemoveOwn);
        }
        self.store.delete_bundle(&trust_domain, mode).await.map_err(|error| match error {
            StoreError::NotFound(_) => BundleError::NotFound,
            other => BundleError::Delete(other),
        })?;
        self.forget();
        Ok(())
    }

    fn foreign_bundle(&self, raw: &RawBundle, verb: &'static str) -> Result<Bundle, BundleError> {
        bundle_of(self.foreign(&raw.trust_domain, verb)?, raw).map_err(BundleError::Malformed)
    }

    fn foreign(&self, name: &str, verb: &'static str) -> Result<TrustDomain, BundleError> {
        let trust_domain = parse_trust_domain(name)?;
        if trust_domain == self.trust_domain {
            return Err(BundleError::Own { verb });
        }
        Ok(trust_domain)
    }

    fn cache(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse_trust_domain(name: &str) -> Result<TrustDomain, BundleError> {
    TrustDomain::from_name_or_id(name).map_err(BundleError::TrustDomain)
}

/// What `raw` says of a trust domain.
pub(crate) fn bundle_of(trust_domain: TrustDomain, raw: &RawBundle) -> Result<Bundle, BundleRule> {
    let mut bundle = Bundle::new(trust_domain);
    bundle.x509_authorities = x509_authorities(&raw.x509_authorities).map_err(BundleRule::X509)?;
    bundle.jwt_authorities = jwt_authorities(&raw.jwt_authorities).map_err(BundleRule::Jwt)?;
    bundle.refresh_hint = Duration::from_secs(u64::try_from(raw.refresh_hint).unwrap_or(0));
    bundle.sequence_number = raw.sequence_number;
    Ok(bundle)
}

fn x509_authorities(raw: &[Bytes]) -> Result<Vec<X509Authority>, AuthorityRule> {
    let mut authorities = Vec::with_capacity(raw.len());
    for der in raw {
        let certificates = Certificate::parse_concatenated_der(der)?;
        authorities.extend(certificates.into_iter().map(X509Authority::new));
    }
    Ok(authorities)
}

fn jwt_authorities(raw: &[RawJwtAuthority]) -> Result<Vec<JwtAuthority>, AuthorityRule> {
    raw.iter()
        .map(|key| {
            let public_key = PublicKey::from_spki_der(&key.public_key)?;
            if key.key_id.is_empty() {
                return Err(AuthorityRule::NoKeyId);
            }
            Ok(JwtAuthority {
                key_id: key.key_id.clone(),
                public_key,
                expires_at: from_unix_seconds(key.expires_at).filter(|_| key.expires_at != 0),
                tainted: false,
            })
        })
        .collect()
}

//! A world for tests: key manager, database and clock in memory, which fail or kill on demand.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use prost::Message;
use steeple_pki::{Bundle, KeyType, PrivateKey, Signer};
use steeple_plugin::{Code, KeyManager, PluginError, UpstreamAuthority};
use steeple_proto::journal::Entries;
use steeple_runtime::ManualClock;
use steeple_spiffe::TrustDomain;

use crate::config::CaConfig;
use crate::error::{AuthorityStoreError, RotationError};
use crate::manager::CaManager;
use crate::store::{AuthorityStore, StoredJournal};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_348_800)
}

pub(crate) fn config() -> CaConfig {
    CaConfig::new(TrustDomain::parse("example.org").unwrap())
}

/// What happens to one operation on the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It fails and has no effect.
    Fail,
    /// It has its effect, and the answer is lost.
    LoseAnswer,
    /// The process dies before it.
    KillBefore,
    /// The process dies after it.
    KillAfter,
}

/// What outlives a process.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<Durable>>);

#[derive(Default)]
pub(crate) struct Durable {
    pub(crate) keys: BTreeMap<String, Arc<dyn Signer>>,
    pub(crate) bundle: Option<Bundle>,
    pub(crate) journals: Vec<StoredJournal>,
    /// The fault that comes after this many more operations.
    pub(crate) fault: Option<(usize, Fault)>,
    pub(crate) operations: usize,
}

impl Durable {
    fn fail_plainly(&mut self) {
        if self.fault == Some((0, Fault::LoseAnswer)) {
            self.fault = Some((0, Fault::Fail));
        }
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn durable(&self) -> MutexGuard<'_, Durable> {
        self.0.lock().unwrap()
    }

    /// Starts a process in this world.
    pub(crate) async fn start(
        &self,
        config: &CaConfig,
        clock: &ManualClock,
    ) -> Result<CaManager, RotationError> {
        self.start_under(None, config, clock).await
    }

    /// Starts a process in this world whose CA is signed upstream.
    pub(crate) async fn start_under(
        &self,
        upstream: Option<Arc<dyn UpstreamAuthority>>,
        config: &CaConfig,
        clock: &ManualClock,
    ) -> Result<CaManager, RotationError> {
        let world = Arc::new(self.clone());
        let clock = Arc::new(clock.clone());
        CaManager::load(config.clone(), world.clone(), world, upstream, Vec::new(), clock).await
    }

    pub(crate) fn entries(&self) -> Entries {
        match self.durable().journals.as_slice() {
            [] => Entries::default(),
            [journal] => Entries::decode(journal.data.as_slice()).unwrap(),
            several => panic!("{} journals of one server", several.len()),
        }
    }

    /// Runs one operation, with the fault that is due for it.
    async fn operate<T>(&self, effect: impl FnOnce(&mut Durable) -> T) -> Result<T, Fault> {
        let fault = {
            let mut durable = self.durable();
            durable.operations += 1;
            match durable.fault.take() {
                Some((0, fault)) => Some(fault),
                Some((left, fault)) => {
                    durable.fault = Some((left - 1, fault));
                    None
                }
                None => None,
            }
        };
        let done = match fault {
            Some(Fault::Fail) => return Err(Fault::Fail),
            Some(Fault::KillBefore) => pending().await,
            _ => effect(&mut self.durable()),
        };
        match fault {
            Some(Fault::LoseAnswer) => Err(Fault::LoseAnswer),
            Some(Fault::KillAfter) => pending().await,
            _ => Ok(done),
        }
    }

    async fn store<T>(
        &self,
        effect: impl FnOnce(&mut Durable) -> T,
    ) -> Result<T, AuthorityStoreError> {
        self.operate(effect).await.map_err(|fault| AuthorityStoreError {
            code: Code::Unavailable,
            message: format!("database: {fault:?}"),
        })
    }
}

#[async_trait]
impl KeyManager for World {
    async fn generate_key(&self, id: &str, kind: KeyType) -> Result<Arc<dyn Signer>, PluginError> {
        let key: Arc<dyn Signer> = Arc::new(PrivateKey::generate(kind).unwrap());
        let failed = |_| PluginError {
            code: Code::Unavailable,
            message: "keymanager(test): out of order".to_owned(),
        };
        // A key manager that fails has kept the key before.
        self.durable().fail_plainly();
        self.operate(|durable| {
            durable.keys.insert(id.to_owned(), key.clone());
            key
        })
        .await
        .map_err(failed)
    }

    async fn key(&self, id: &str) -> Result<Option<Arc<dyn Signer>>, PluginError> {
        Ok(self.durable().keys.get(id).cloned())
    }

    async fn keys(&self) -> Result<Vec<(String, Arc<dyn Signer>)>, PluginError> {
        Ok(self.durable().keys.iter().map(|(id, key)| (id.clone(), key.clone())).collect())
    }
}

#[async_trait]
impl AuthorityStore for World {
    async fn bundle(&self) -> Result<Option<Bundle>, AuthorityStoreError> {
        Ok(self.durable().bundle.clone())
    }

    async fn append_bundle(&self, more: Bundle) -> Result<Bundle, AuthorityStoreError> {
        self.store(|durable| {
            let bundle =
                durable.bundle.get_or_insert_with(|| Bundle::new(more.trust_domain.clone()));
            for authority in more.x509_authorities {
                bundle.add_x509_authority(authority);
            }
            for authority in more.jwt_authorities {
                bundle.set_jwt_authority(authority);
            }
            for authority in more.wit_authorities {
                bundle.set_wit_authority(authority);
            }
            bundle.clone()
        })
        .await
    }

    async fn prune_bundle(&self, _: SystemTime) -> Result<bool, AuthorityStoreError> {
        self.store(|_| false).await
    }

    async fn taint_x509(&self, id: &str) -> Result<(), AuthorityStoreError> {
        self.store(|durable| {
            let roots = &mut durable.bundle.as_mut().unwrap().x509_authorities;
            let root = roots.iter_mut().find(|root| root.certificate.authority_id() == id);
            root.unwrap().tainted = true;
        })
        .await
    }

    async fn revoke_x509(&self, id: &str) -> Result<(), AuthorityStoreError> {
        self.store(|durable| {
            let roots = &mut durable.bundle.as_mut().unwrap().x509_authorities;
            roots.retain(|root| root.certificate.authority_id() != id);
        })
        .await
    }

    async fn taint_jwt(&self, id: &str) -> Result<(), AuthorityStoreError> {
        self.store(|durable| {
            let keys = &mut durable.bundle.as_mut().unwrap().jwt_authorities;
            keys.iter_mut().find(|key| key.key_id == id).unwrap().tainted = true;
        })
        .await
    }

    async fn revoke_jwt(&self, id: &str) -> Result<(), AuthorityStoreError> {
        self.store(|durable| {
            let keys = &mut durable.bundle.as_mut().unwrap().jwt_authorities;
            keys.retain(|key| key.key_id != id);
        })
        .await
    }

    async fn ca_journal(&self, id: &str) -> Result<Option<StoredJournal>, AuthorityStoreError> {
        let durable = self.durable();
        Ok(durable.journals.iter().find(|it| it.active_x509_authority_id == id).cloned())
    }

    async fn save_ca_journal(&self, mut it: StoredJournal) -> Result<u64, AuthorityStoreError> {
        self.store(|durable| {
            if it.id == 0 {
                it.id = durable.journals.len() as u64 + 1;
                durable.journals.push(it.clone());
            } else {
                durable.journals[it.id as usize - 1] = it.clone();
            }
            it.id
        })
        .await
    }

    async fn prune_ca_journals(&self, _: SystemTime) -> Result<(), AuthorityStoreError> {
        self.store(|_| ()).await
    }
}

/// Runs a future that never waits. `None`: the process was killed in it.
pub(crate) fn run<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

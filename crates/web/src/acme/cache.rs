//! What is kept between runs, as Go's autocert keeps it in a directory: a file per name with key
//! and chain, one for the account's key, and one per check under way.
//!
//! With a key manager, the files hold chains only, and the manager holds the keys, as SPIRE's
//! server has it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::CertifiedKey;
use steeple_net::tls::Identity;
use steeple_pki::{Certificate, KeyType, PrivateKey, Signer, pem};
use steeple_plugin::KeyManager;
use steeple_runtime::fsx;

use super::AcmeError;

/// The largest file that is read, in bytes.
const MAX_LEN: u64 = 256 * 1024;
/// The most certificates of a chain.
const MAX_CHAIN: usize = 16;
const ACCOUNT: &str = "acme_account+key";
/// Where autocert kept it before 2018.
const OLD_ACCOUNT: &str = "acme_account.key";
/// What the ids of keys in a key manager begin with.
const KEY_PREFIX: &str = "bundle-acme-";

/// A key, and where it is.
#[derive(Clone)]
pub(super) enum Key {
    Here(Arc<PrivateKey>),
    Managed(Arc<dyn Signer>),
}

impl Key {
    pub(super) fn signer(&self) -> Arc<dyn Signer> {
        match self {
            Self::Here(key) => Arc::clone(key) as Arc<dyn Signer>,
            Self::Managed(key) => Arc::clone(key),
        }
    }
}

/// A certificate that serves.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) key: Key,
    pub(super) chain: Vec<Certificate>,
    pub(super) certified: Arc<CertifiedKey>,
}

impl Held {
    /// Checks that the chain is for `domain` and `key`, and valid at `now`.
    pub(super) fn new(
        domain: &str,
        key: Key,
        chain: Vec<Certificate>,
        now: SystemTime,
    ) -> Result<Self, AcmeError> {
        let signer = key.signer();
        let reason = match chain.first() {
            None => "there is none",
            Some(_) if chain.len() > MAX_CHAIN => "its chain is too long",
            Some(leaf) if !leaf.is_valid_at(now) => "it is not valid now",
            Some(leaf) if leaf.public_key().spki_der() != signer.public_key().spki_der() => {
                "it is for another key"
            }
            Some(leaf) if !leaf.dns_sans().iter().any(|it| it.eq_ignore_ascii_case(domain)) => {
                "it is for another name"
            }
            Some(_) => {
                let certified = Arc::clone(Identity::new(&chain, signer).certified());
                return Ok(Self { key, chain, certified });
            }
        };
        Err(AcmeError::Certificate { domain: domain.to_owned(), reason })
    }

    pub(super) fn leaf(&self) -> &Certificate {
        &self.chain[0]
    }
}

pub(super) struct Cache {
    pub(super) dir: Option<PathBuf>,
    pub(super) key_manager: Option<Arc<dyn KeyManager>>,
    pub(super) subsystem: Option<&'static str>,
}

impl Cache {
    /// The account's key; made if there is none.
    pub(super) async fn account_key(&self) -> Result<Arc<dyn Signer>, AcmeError> {
        if self.key_manager.is_some() {
            return match self.managed_key(ACCOUNT).await? {
                Some(key) => Ok(key),
                None => self.make_managed_key(ACCOUNT).await,
            };
        }
        for name in [ACCOUNT, OLD_ACCOUNT] {
            if let Some(text) = self.read(name)? {
                let key = PrivateKey::from_pem(&text);
                return Ok(Arc::new(key.map_err(|_| AcmeError::AccountKey)?));
            }
        }
        let key = new_key()?;
        self.write(ACCOUNT, &key.to_traditional_pem())?;
        Ok(Arc::new(key))
    }

    /// A key for a certificate that is about to be ordered. One in a key manager stays, as the
    /// manager has room for one of each name, and the old certificate still serves.
    pub(super) async fn key_for(&self, domain: &str) -> Result<Key, AcmeError> {
        if self.key_manager.is_none() {
            return Ok(Key::Here(Arc::new(new_key()?)));
        }
        match self.managed_key(domain).await? {
            Some(key) => Ok(Key::Managed(key)),
            None => self.make_managed_key(domain).await.map(Key::Managed),
        }
    }

    /// The certificate for `domain`, if there is one that can serve at `now`.
    pub(super) async fn load(
        &self,
        domain: &str,
        now: SystemTime,
    ) -> Result<Option<Held>, AcmeError> {
        let Some(text) = self.read(domain)? else { return Ok(None) };
        let key = if self.key_manager.is_some() {
            self.managed_key(domain).await?.map(Key::Managed)
        } else {
            PrivateKey::from_pem(&text).ok().map(|key| Key::Here(Arc::new(key)))
        };
        // What cannot be used is replaced by what will be ordered.
        Ok(key.and_then(|key| Held::new(domain, key, chain(&text)?, now).ok()))
    }

    pub(super) fn store(&self, domain: &str, held: &Held) -> Result<(), AcmeError> {
        let mut text = match &held.key {
            Key::Here(key) => key.to_traditional_pem(),
            Key::Managed(_) => zeroize::Zeroizing::default(),
        };
        held.chain.iter().for_each(|it| text.push_str(&it.pem()));
        self.write(domain, &text)
    }

    /// Lets other processes with this cache answer the authority, as far as they can have the key.
    pub(super) fn store_token(&self, domain: &str, held: &Held) {
        if self.key_manager.is_none() {
            // It is this process that is most likely asked.
            let _ = self.store(&token_name(domain), held);
        }
    }

    pub(super) fn remove_token(&self, domain: &str) {
        if let (Some(dir), None) = (&self.dir, &self.key_manager) {
            let _ = std::fs::remove_file(dir.join(token_name(domain)));
        }
    }

    /// What another process with this cache shows the authority.
    pub(super) fn token(&self, domain: &str, now: SystemTime) -> Option<Arc<CertifiedKey>> {
        if self.key_manager.is_some() {
            return None;
        }
        let text = self.read(&token_name(domain)).ok()??;
        let key = PrivateKey::from_pem(&text).ok()?;
        let held = Held::new(domain, Key::Here(Arc::new(key)), chain(&text)?, now).ok()?;
        Some(held.certified)
    }

    fn read(&self, name: &str) -> Result<Option<zeroize::Zeroizing<String>>, AcmeError> {
        let Some(dir) = &self.dir else { return Ok(None) };
        let found = fsx::read_limited(&dir.join(name), MAX_LEN).map_err(AcmeError::Cache)?;
        Ok(found.map(|it| zeroize::Zeroizing::new(String::from_utf8(it).unwrap_or_default())))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), AcmeError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        fsx::create_dir_all(dir, 0o700)
            .and_then(|()| fsx::write_atomic(&dir.join(name), text.as_bytes(), 0o600))
            .map_err(AcmeError::Cache)
    }

    async fn managed_key(&self, name: &str) -> Result<Option<Arc<dyn Signer>>, AcmeError> {
        let Some(manager) = &self.key_manager else { return Ok(None) };
        let id = format!("{KEY_PREFIX}{name}");
        manager.key(&id).await.map_err(|error| AcmeError::KeyManager(error.to_string()))
    }

    async fn make_managed_key(&self, name: &str) -> Result<Arc<dyn Signer>, AcmeError> {
        let Some(manager) = &self.key_manager else { return Err(AcmeError::AccountKey) };
        let id = format!("{KEY_PREFIX}{name}");
        let key = manager
            .generate_key(&id, KeyType::EcP256)
            .await
            .map_err(|error| AcmeError::KeyManager(error.to_string()))?;
        tracing::info!(subsystem_name = self.subsystem, id, "Generated new key");
        Ok(key)
    }
}

fn new_key() -> Result<PrivateKey, AcmeError> {
    PrivateKey::generate(KeyType::EcP256).map_err(|_| AcmeError::NewKey)
}

fn token_name(domain: &str) -> String {
    format!("{domain}+token")
}

/// The certificates of a PEM text; none if one of them is broken.
pub(super) fn chain(text: &str) -> Option<Vec<Certificate>> {
    let mut chain = Vec::new();
    for block in pem::blocks(text) {
        let block = block.ok()?;
        if block.label == "CERTIFICATE" {
            chain.push(Certificate::from_der(block.contents).ok()?);
        }
    }
    Some(chain)
}

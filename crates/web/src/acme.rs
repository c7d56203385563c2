//! Certificates from an ACME authority (RFC 8555), which checks that a name is ours by a TLS
//! handshake with the server itself (RFC 8737).
//!
//! One task for each name has a certificate ordered when there is none in the cache, and again
//! when the one that serves has used up two thirds of its time.

mod cache;
mod client;
mod http;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ::http::StatusCode;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use steeple_pki::csr;
use steeple_pki::x509::{self, DistinguishedName, Extension, KeyUsage, SerialNumber, Template};
use steeple_pki::{KeyType, PrivateKey, SignError, Signer};
use steeple_plugin::KeyManager;
use steeple_runtime::backoff::Backoff;
use steeple_runtime::drain::{Tasks, Watcher};
use tokio::sync::watch;

use cache::{Cache, Held, Key};
use client::{Client, Prover};
pub use http::HttpError;

/// The protocol of a handshake in which an authority checks a name.
pub(crate) const ALPN: &[u8] = b"acme-tls/1";

/// Let's Encrypt, SPIRE's default.
pub const LETS_ENCRYPT_URL: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Between two attempts; authorities count failures, and few an hour are too many.
const RETRY: Duration = Duration::from_secs(60);
const MAX_RETRY: Duration = Duration::from_secs(3600);
/// A whole order with all its checks.
const ORDER_DEADLINE: Duration = Duration::from_secs(600);
/// The longest sleep, so that a clock that was set is noticed.
const MAX_SLEEP: Duration = Duration::from_secs(3600);

/// How to get certificates from an ACME authority.
#[derive(Clone)]
pub struct AcmeOptions {
    /// The authority's directory; [`LETS_ENCRYPT_URL`] if empty.
    pub directory_url: String,
    /// The names that certificates are for, each with its own; handshakes for others are refused.
    pub domains: Vec<String>,
    /// Whom the authority may write to.
    pub email: String,
    /// Whether its terms of service were accepted; without, no account is made.
    pub tos_accepted: bool,
    /// Where certificates are kept, as Go's autocert keeps them: made with mode 0700; `None` keeps
    /// them in memory only.
    pub cache_dir: Option<PathBuf>,
    /// Who keeps the keys (as `bundle-acme-…`), as SPIRE's server does; `None` keeps them in the
    /// cache beside the certificates, as SPIRE's OIDC discovery provider does.
    pub key_manager: Option<Arc<dyn KeyManager>>,
    /// What the client calls itself.
    pub user_agent: String,
    /// Told the address of the terms of service when they are accepted, instead of a log line in
    /// the words of SPIRE's server.
    pub on_terms: Option<fn(&str)>,
}

impl fmt::Debug for AcmeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcmeOptions")
            .field("directory_url", &self.directory_url)
            .field("domains", &self.domains)
            .field("cache_dir", &self.cache_dir)
            .finish_non_exhaustive()
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// A name is none that certificates are made for; holds its beginning.
    #[error("{0:?} is not a valid domain name")]
    Domain(String),
    /// The cache cannot be read or written.
    #[error("ACME cache: {0}")]
    Cache(io::Error),
    /// The account's key in the cache is none, or of the wrong kind.
    #[error("invalid account key found in cache: an EC P-256 key is needed")]
    AccountKey,
    /// No key can be made.
    #[error("unable to generate a key")]
    NewKey,
    /// The key manager failed; holds its reason.
    #[error("key manager: {0}")]
    KeyManager(String),
    /// A request cannot be signed.
    #[error("unable to sign a request: {0}")]
    Sign(SignError),
    /// The authority cannot be asked.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The authority refused.
    #[error("the authority answered {status}: {text}")]
    Problem {
        /// The status of its answer.
        status: StatusCode,
        /// The last part of the problem's type.
        kind: String,
        /// What it says.
        text: String,
        /// How long to wait before asking again.
        retry_after: Option<Duration>,
    },
    /// The authority does not keep to RFC 8555; holds in what.
    #[error("{0}")]
    Protocol(&'static str),
    /// The terms of service were not accepted.
    #[error("the authority's terms of service have not been accepted")]
    Terms,
    /// The authority does not check names over TLS.
    #[error("the authority offers no tls-alpn-01 challenge")]
    Challenge,
    /// The authority's check of the name failed.
    #[error("authorization is {status}: {reason}")]
    Authorization {
        /// The authorization's status.
        status: String,
        /// What the authority says.
        reason: String,
    },
    /// The order did not lead to a certificate.
    #[error("order is {status}: {reason}")]
    Order {
        /// The order's status.
        status: String,
        /// What the authority says.
        reason: String,
    },
    /// The authority is not done after this long.
    #[error("the authority was not done within {0:?}")]
    Patience(Duration),
    /// What the authority issued is not what was asked for.
    #[error("unusable certificate for {domain}: {reason}")]
    Certificate {
        /// The name.
        domain: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Gets certificates, in `tasks` until `drain` is signalled, from when `serving` holds.
pub(crate) async fn start(
    options: AcmeOptions,
    subsystem: Option<&'static str>,
    serving: watch::Receiver<bool>,
    tasks: &Tasks,
    drain: &Watcher,
) -> Result<Arc<dyn ResolvesServerCert>, AcmeError> {
    let mut domains: Vec<String> = Vec::new();
    for domain in &options.domains {
        let domain = checked_domain(domain)?;
        if !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    if !options.tos_accepted {
        tracing::warn!(
            subsystem_name = subsystem,
            "ACME Terms of Service have not been accepted. See the `tos_accepted` configurable"
        );
    }
    let cache = Cache {
        dir: options.cache_dir.clone(),
        key_manager: options.key_manager.clone(),
        subsystem,
    };
    let manager = Arc::new(Manager {
        options,
        cache,
        subsystem,
        certificates: domains.iter().map(|it| (it.clone(), Mutex::default())).collect(),
        tokens: Mutex::default(),
        turn: tokio::sync::Mutex::default(),
    });
    for domain in domains {
        // At once, so that whoever comes first is served from the cache.
        let held = manager.cache.load(&domain, SystemTime::now()).await?;
        manager.install(&domain, held.as_ref());
        let (manager, mut drain, mut serving) =
            (Arc::clone(&manager), drain.clone(), serving.clone());
        tasks.spawn("acme_certificate", async move {
            let kept = async {
                // An error means that nobody ever will.
                if serving.wait_for(|it| *it).await.is_ok() {
                    manager.keep(&domain, held).await;
                }
            };
            tokio::select! {
                () = drain.signalled() => {}
                () = kept => {}
            }
        });
    }
    Ok(Arc::new(Resolver(manager)))
}

/// The name as DNS and TLS have it.
fn checked_domain(domain: &str) -> Result<String, AcmeError> {
    let invalid = || AcmeError::Domain(domain.chars().take(100).collect());
    let ascii = idna::domain_to_ascii_strict(domain).map_err(|_| invalid())?;
    // It becomes a file's name.
    let plain = ascii.bytes().all(|it| it.is_ascii_alphanumeric() || b"-.".contains(&it));
    if ascii.is_empty() || !plain || ascii.starts_with('.') || ascii.ends_with('.') {
        return Err(invalid());
    }
    Ok(ascii)
}

type Slot = Mutex<Option<Arc<CertifiedKey>>>;

struct Manager {
    options: AcmeOptions,
    cache: Cache,
    subsystem: Option<&'static str>,
    /// Every name that is ours, with what serves it.
    certificates: HashMap<String, Slot>,
    /// What is shown to an authority that checks a name.
    tokens: Mutex<HashMap<String, Arc<CertifiedKey>>>,
    /// One order at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Manager {
    fn install(&self, domain: &str, held: Option<&Held>) {
        if let (Some(slot), Some(held)) = (self.certificates.get(domain), held) {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(Arc::clone(&held.certified));
        }
    }

    /// Sees to it that there always is a certificate for `domain`.
    async fn keep(&self, domain: &str, mut held: Option<Held>) {
        let mut backoff = Backoff::new(RETRY, MAX_RETRY);
        loop {
            if let Some(held) = &held {
                let leaf = held.leaf();
                let at = renewal(leaf.not_before(), leaf.not_after(), fastrand::f64());
                sleep_until(at).await;
            }
            // Another process with this cache may have been faster.
            let now = SystemTime::now();
            if let Ok(Some(cached)) = self.cache.load(domain, now).await
                && is_newer(&cached, held.as_ref())
            {
                self.install(domain, Some(&cached));
                held = Some(cached);
                continue;
            }
            match self.order(domain).await {
                Ok(ordered) => {
                    backoff.reset();
                    self.install(domain, Some(&ordered));
                    held = Some(ordered);
                    tracing::info!(subsystem_name = self.subsystem, domain, "Obtained certificate");
                }
                Err(error) => {
                    let asked = match &error {
                        AcmeError::Problem { retry_after, .. } => retry_after.unwrap_or_default(),
                        _ => Duration::ZERO,
                    };
                    let pause = backoff.next().max(asked).min(MAX_RETRY * 24);
                    tracing::error!(
                        subsystem_name = self.subsystem,
                        domain,
                        %error,
                        retry_in = pause.as_secs(),
                        "Failed to obtain certificate"
                    );
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn order(&self, domain: &str) -> Result<Held, AcmeError> {
        let _turn = self.turn.lock().await;
        match tokio::time::timeout(ORDER_DEADLINE, self.order_now(domain)).await {
            Ok(ordered) => ordered,
            Err(_) => Err(AcmeError::Patience(ORDER_DEADLINE)),
        }
    }

    async fn order_now(&self, domain: &str) -> Result<Held, AcmeError> {
        let account = self.cache.account_key().await?;
        let url = match self.options.directory_url.as_str() {
            "" => LETS_ENCRYPT_URL,
            url => url,
        };
        let http = http::Http::new(self.options.user_agent.clone()).await?;
        let accept = |terms: &str| self.accept(url, terms);
        let client = Client::new(http, url, account, &self.options.email, accept).await?;
        let key = self.cache.key_for(domain).await?;
        let subject =
            DistinguishedName { common_name: domain.to_owned(), ..DistinguishedName::default() };
        let request = csr::create_for_dns(&*key.signer(), &subject, &[domain])
            .await
            .map_err(|_| AcmeError::NewKey)?;
        let chain = client.certificate(domain, &request, self).await?;
        let chain =
            cache::chain(&chain).ok_or(AcmeError::Protocol("the certificate cannot be parsed"))?;
        let held = Held::new(domain, key, chain, SystemTime::now())?;
        if let Err(error) = self.cache.store(domain, &held) {
            // It serves all the same; only the next start has to order anew.
            tracing::error!(subsystem_name = self.subsystem, domain, %error, "Failed to keep certificate");
        }
        Ok(held)
    }

    fn accept(&self, directory_url: &str, tos_url: &str) -> bool {
        let subsystem_name = self.subsystem;
        let email = self.options.email.as_str();
        if !self.options.tos_accepted {
            tracing::warn!(
                subsystem_name,
                directory_url,
                tos_url,
                email,
                "ACME Terms of Service have not been accepted. See the `tos_accepted` configurable"
            );
            return false;
        }
        match self.options.on_terms {
            Some(on_terms) => on_terms(tos_url),
            None => tracing::info!(
                subsystem_name,
                directory_url,
                tos_url,
                email,
                "ACME Terms of Service accepted"
            ),
        }
        true
    }
}

impl Prover for Manager {
    async fn prove(&self, domain: &str, digest: [u8; 32]) -> Result<(), AcmeError> {
        let held = proof(domain, digest, SystemTime::now()).await?;
        self.cache.store_token(domain, &held);
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(domain.to_owned(), held.certified);
        Ok(())
    }

    fn done(&self, domain: &str) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(domain);
        self.cache.remove_token(domain);
    }
}

/// The certificate of RFC 8737 section 3 for `digest`, that of a key authorization.
async fn proof(domain: &str, digest: [u8; 32], now: SystemTime) -> Result<Held, AcmeError> {
    let key = PrivateKey::generate(KeyType::EcP256).map_err(|_| AcmeError::NewKey)?;
    let key = Arc::new(key);
    // id-pe-acmeIdentifier, with an OCTET STRING.
    let id = "1.3.6.1.5.5.7.1.31".parse().map_err(|_| AcmeError::NewKey)?;
    let value = [&[0x04, 0x20], digest.as_slice()].concat();
    let template = Template {
        subject: DistinguishedName::default(),
        public_key: key.public_key().clone(),
        serial: SerialNumber::random(),
        not_before: now - Duration::from_secs(3600),
        not_after: now + Duration::from_secs(24 * 3600),
        ca: false,
        key_usage: KeyUsage::DIGITAL_SIGNATURE,
        ext_key_usage: Vec::new(),
        uri_sans: Vec::new(),
        dns_names: vec![domain.to_owned()],
        policies: Vec::new(),
        extra_extensions: vec![Extension { id, critical: true, value }],
    };
    let signer = Arc::clone(&key) as Arc<dyn Signer>;
    let certificate = x509::self_sign(&template, signer).await.map_err(|_| AcmeError::NewKey)?;
    Held::new(domain, Key::Here(key), vec![certificate], now)
}

fn is_newer(found: &Held, held: Option<&Held>) -> bool {
    held.is_none_or(|held| found.leaf().not_after() > held.leaf().not_after())
}

/// When to order the next certificate: a third of the lifetime before the end, thirty days at
/// most, less some of a tenth of that and an hour at most (`jitter` is from 0 to 1), so that many
/// servers do not ask at once.
fn renewal(not_before: SystemTime, not_after: SystemTime, jitter: f64) -> SystemTime {
    let lifetime = not_after.duration_since(not_before).unwrap_or_default();
    let ahead = (lifetime / 3).min(Duration::from_secs(30 * 24 * 3600));
    let jitter = (ahead / 10).min(Duration::from_secs(3600)).mul_f64(jitter);
    not_after - (ahead - jitter)
}

async fn sleep_until(at: SystemTime) {
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(MAX_SLEEP)).await;
    }
}

struct Resolver(Arc<Manager>);

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resolver").field(&self.0.options).finish()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?.to_ascii_lowercase();
        let slot = self.0.certificates.get(&name)?;
        let mut protocols = hello.alpn().into_iter().flatten();
        if protocols.next() == Some(ALPN) && protocols.next().is_none() {
            let tokens = self.0.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            let token = tokens.get(&name).cloned();
            drop(tokens);
            return token.or_else(|| self.0.cache.token(&name, SystemTime::now()));
        }
        slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

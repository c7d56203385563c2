//! A Workload API on a socket, over a cache that the test fills.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use steeple_agent_core::attest::{AttestLimits, WorkloadAttestation};
use steeple_agent_core::bundle::{Bundles, CachedBundle};
use steeple_agent_core::cache::{IdentityCache, SignedSvid};
use steeple_agent_core::entry::Entry;
use steeple_agent_core::jwt::{JwtSource, JwtSvid, JwtSvids};
use steeple_agent_core::sync::EntryDelta;
use steeple_agent_core::wit::{SignedWit, WitRequest, WitSource, WitSvids};
use steeple_net::channel::Channel;
use steeple_net::unix::bind;
use steeple_pki::x509::{
    DistinguishedName, Issuer, KeyUsage, SerialNumber, Template, issue, self_sign,
};
use steeple_pki::{Bundle, Certificate, JwtAuthority, KeyType, PrivateKey, Signer};
use steeple_plugin::{Code, PluginError, WorkloadAttestor};
use steeple_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use steeple_runtime::{Drain, SystemClock, drain};
use steeple_spiffe::{Selector, SpiffeId, TrustDomain};

use super::super::WorkloadApi;
use crate::caller::Callers;
use crate::endpoint::Endpoint;
use crate::rate_limit::RateLimits;
use crate::sds::{SdsApi, SdsNames};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// An authority of a trust domain, for certificates and tokens.
pub(crate) struct Authority {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) certificate: Certificate,
    key: Arc<PrivateKey>,
}

impl Authority {
    pub(crate) async fn new(name: &str) -> Self {
        let trust_domain = TrustDomain::parse(name).unwrap();
        let key = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
        let mut template = template(&key, &trust_domain.id_string(), HOUR);
        template.ca = true;
        template.key_usage = KeyUsage::CA;
        let signer: Arc<dyn Signer> = key.clone();
        let certificate = self_sign(&template, signer).await.unwrap();
        Self { trust_domain, certificate, key }
    }

    pub(crate) fn bundle(&self) -> Bundle {
        let certificates = vec![self.certificate.clone()];
        let mut bundle = Bundle::from_certificates(self.trust_domain.clone(), certificates);
        bundle.set_jwt_authority(JwtAuthority {
            key_id: "kid".into(),
            public_key: self.key.public_key().clone(),
            expires_at: None,
            tainted: false,
        });
        bundle.set_wit_authority(JwtAuthority {
            key_id: "wit-kid".into(),
            public_key: self.key.public_key().clone(),
            expires_at: None,
            tainted: false,
        });
        bundle
    }

    async fn svid(&self, spiffe_id: &SpiffeId) -> SignedSvid {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let issuer = Issuer::new(&self.certificate, self.key.clone());
        let leaf = issue(&template(&key, spiffe_id.as_str(), HOUR), &issuer).await.unwrap();
        SignedSvid {
            chain: vec![leaf],
            key_pkcs8: key.to_pkcs8_der(),
            due: SystemTime::now() + HOUR / 2,
        }
    }

    pub(crate) async fn token(&self, subject: &str, audience: serde_json::Value) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let claims = serde_json::json!({
            "sub": subject, "aud": audience, "iat": now, "exp": now + 60, "scope": "all",
        });
        let claims = claims.as_object().unwrap();
        steeple_pki::jwt::sign(claims, "kid", self.key.as_ref()).await.unwrap()
    }
}

fn template(key: &PrivateKey, uri: &str, lifetime: Duration) -> Template {
    let now = SystemTime::now();
    Template {
        subject: DistinguishedName { country: vec!["US".into()], ..Default::default() },
        public_key: key.public_key().clone(),
        serial: SerialNumber::random(),
        not_before: now - Duration::from_secs(10),
        not_after: now + lifetime,
        ca: false,
        key_usage: KeyUsage::SVID,
        ext_key_usage: Vec::new(),
        uri_sans: vec![uri.into()],
        dns_names: Vec::new(),
        policies: vec![],
        extra_extensions: vec![],
    }
}

/// Gives every caller the selector `test:caller`, or fails.
struct Attestor {
    fails: bool,
    takes: Duration,
}

#[async_trait]
impl WorkloadAttestor for Attestor {
    fn name(&self) -> &str {
        "test"
    }

    async fn attest(&self, _: i32) -> Result<Vec<Selector>, PluginError> {
        tokio::time::sleep(self.takes).await;
        if self.fails {
            return Err(PluginError { code: Code::Internal, message: "no".into() });
        }
        Ok(vec![Selector::new("test", "caller"), Selector::new("test", "other")])
    }
}

struct Tokens(Arc<Authority>);

#[async_trait]
impl JwtSource for Tokens {
    async fn sign(&self, entry: &Entry, audience: &[String], _: bool) -> Result<JwtSvid, String> {
        let token = self.0.token(entry.spiffe_id.as_str(), serde_json::json!(audience)).await;
        let now = SystemTime::now();
        Ok(JwtSvid {
            token: token.into(),
            key_id: "kid".into(),
            issued_at: now,
            expires_at: now + Duration::from_secs(60),
        })
    }
}

struct Wits(Arc<Authority>);

#[async_trait]
impl WitSource for Wits {
    async fn sign(
        &self,
        requests: Vec<WitRequest>,
    ) -> Result<Vec<Result<SignedWit, String>>, String> {
        let now = SystemTime::now();
        let mut signed = Vec::new();
        for request in requests {
            let token = self.0.token(&format!("wit/{}", request.entry_id), "any".into()).await;
            signed.push(Ok(SignedWit { token, issued_at: now, expires_at: now + HOUR }));
        }
        Ok(signed)
    }
}

/// What a test may want otherwise.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) attestation_fails: bool,
    pub(crate) attestation_takes: Duration,
    pub(crate) open_to_verifiers: bool,
    pub(crate) plain_roots: bool,
    pub(crate) http: bool,
    pub(crate) wit: bool,
    pub(crate) foreign_claims: Vec<&'static str>,
}

pub(crate) struct Fixture {
    pub(crate) authority: Arc<Authority>,
    pub(crate) cache: Arc<IdentityCache>,
    pub(crate) drain: Option<Drain>,
    pub(crate) socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let authority = Arc::new(Authority::new("example.org").await);
        let own = Arc::new(CachedBundle::new(authority.bundle()));
        let cache = IdentityCache::new(own, 1000);
        let attestor =
            Attestor { fails: options.attestation_fails, takes: options.attestation_takes };
        let limits = AttestLimits::default();
        let (drain, watcher) = drain::channel();
        let api = WorkloadApi {
            cache: cache.clone(),
            wit: options.wit.then(|| {
                Arc::new(WitSvids::new(Arc::new(Wits(authority.clone())), KeyType::EcP256, 10))
            }),
            http: options.http,
            jwt: Arc::new(JwtSvids::new(Arc::new(Tokens(authority.clone())), 10)),
            callers: Arc::new(Callers {
                attestation: Arc::new(WorkloadAttestation::new(
                    vec![Arc::new(attestor)],
                    limits,
                    -1,
                )),
                rate_limits: RateLimits::default(),
                log_selectors: Vec::new(),
                clock: Arc::new(SystemClock),
            }),
            trust_domain: authority.trust_domain.clone(),
            allow_unauthenticated_verifiers: options.open_to_verifiers,
            allowed_foreign_jwt_claims: options
                .foreign_claims
                .iter()
                .map(|s| (*s).into())
                .collect(),
            clock: Arc::new(SystemClock),
            drain: watcher.clone(),
        };
        let sds = SdsApi {
            cache: cache.clone(),
            callers: api.callers.clone(),
            names: SdsNames {
                svid: "default".into(),
                bundle: "ROOTCA".into(),
                all_bundles: "ALL".into(),
                disable_spiffe_cert_validation: options.plain_roots,
            },
            clock: Arc::new(SystemClock),
            drain: watcher.clone(),
        };
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        let incoming = bind(&socket, 0o777, 0o755).unwrap();
        let endpoint = Endpoint::workload(incoming, Some(Arc::new(api)), Some(Arc::new(sds)));
        tokio::spawn(endpoint.serve(watcher));
        Self { authority, cache, drain: Some(drain), socket, _directory: directory }
    }

    pub(crate) fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(steeple_net::channel::unix(&self.socket))
    }

    /// Adds an entry for the caller, and its SVID.
    pub(crate) async fn register(&self, entry: Entry) {
        self.apply(vec![entry], &[]);
        self.sign().await;
    }

    pub(crate) fn apply(&self, upserted: Vec<Entry>, removed: &[&str]) {
        let removed = removed.iter().map(|id| (*id).into()).collect();
        self.cache.apply(EntryDelta { upserted, removed }, self.cache.bundles(), SystemTime::now());
    }

    pub(crate) fn federate(&self, bundle: Bundle) {
        let mut bundles: Bundles = self.cache.bundles();
        bundles.insert(bundle.trust_domain.clone(), Arc::new(CachedBundle::new(bundle)));
        self.cache.apply(EntryDelta::default(), bundles, SystemTime::now());
    }

    pub(crate) async fn sign(&self) {
        let mut signed = Vec::new();
        for request in self.cache.wanted(500, SystemTime::now()) {
            let svid = self.authority.svid(&request.entry.spiffe_id).await;
            signed.push((request.entry, svid));
        }
        self.cache.install(signed);
    }

    /// Has every SVID replaced.
    pub(crate) async fn rotate(&self) {
        self.cache.discard(&self.cache.signed_entries(), |_| true);
        self.sign().await;
    }
}

pub(crate) fn entry(id: &str) -> Entry {
    Entry {
        id: id.into(),
        spiffe_id: SpiffeId::parse(&format!("spiffe://example.org/{id}")).unwrap(),
        selectors: [Selector::new("test", "caller")].into_iter().collect(),
        federates_with: Vec::new(),
        hint: String::new(),
        revision: 0,
        created_at: 1,
        admin: false,
        downstream: false,
        store_svid: false,
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    }
}

/// A request with the header that every call must carry.
pub(crate) fn call<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

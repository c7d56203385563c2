//! A plugin of every kind in one program, for the tests of this crate: the first argument says
//! which, the configuration how it behaves.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use steeple_pki::{
    Bundle, Certificate, JwtAuthority, KeyType, PrivateKey, PublicKey, SignatureAlgorithm,
    X509Authority,
};
use steeple_plugin::{
    AgentAttributes, BundlePublisher, Challenger, Code, CredentialComposer, LocalBundle,
    MintedX509Ca, NodeAttestor, NodeEvidence, Notifier, PluginError, PublishedJwtKeys,
    StoredX509Svid, SvidStore, Updates, UpstreamAuthority, WorkloadAttestor, WorkloadReference,
    X509SvidAttributes,
};
use steeple_plugin_sdk::{Configure, DigestKeyManager, HostClient, Service, serve};
use steeple_spiffe::{Selector, SpiffeId};

fn main() -> ExitCode {
    let kind = std::env::args().nth(1).unwrap_or_default();
    let plugin = Arc::new(Every::default());
    let service = match kind.as_str() {
        "server-keymanager" => Service::server_key_manager(plugin.clone()),
        "agent-keymanager" => Service::agent_key_manager(plugin.clone()),
        "node-attestor" => Service::node_attestor(plugin.clone()),
        "node-evidence" => Service::node_evidence(plugin.clone()),
        "upstream-authority" => Service::upstream_authority(plugin.clone()),
        "credential-composer" => Service::credential_composer(plugin.clone()),
        "notifier" => Service::notifier(plugin.clone()),
        "bundle-publisher" => Service::bundle_publisher(plugin.clone()),
        "workload-attestor" => Service::workload_attestor(plugin.clone()),
        "svid-store" => Service::svid_store(plugin.clone()),
        "bare-notifier" => return serve(Service::notifier(plugin)),
        _ => return ExitCode::from(3),
    };
    *plugin.host.lock().unwrap_or_else(PoisonError::into_inner) = Some(service.host());
    serve(service.with_config(plugin))
}

#[derive(Default)]
struct Every {
    keys: Mutex<BTreeMap<String, Arc<PrivateKey>>>,
    settings: Mutex<BTreeMap<String, String>>,
    host: Mutex<Option<HostClient>>,
}

impl Every {
    fn setting(&self, name: &str) -> String {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        settings.get(name).cloned().unwrap_or_default()
    }

    fn host(&self) -> HostClient {
        let host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        host.clone().expect("set before it is served")
    }

    fn write(&self, line: &str) -> Result<(), PluginError> {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(self.setting("file"));
        let failed = |error: std::io::Error| internal(&error.to_string());
        let mut file = file.map_err(failed)?;
        writeln!(file, "{line}").map_err(failed)
    }

    async fn misbehave(&self) -> Result<(), PluginError> {
        match self.setting("mode").as_str() {
            "hang" => std::future::pending().await,
            "fail" => Err(PluginError {
                code: Code::FailedPrecondition,
                message: "told to fail".to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

fn internal(message: &str) -> PluginError {
    PluginError { code: Code::Internal, message: message.to_owned() }
}

#[async_trait]
impl Configure for Every {
    async fn configure(&self, trust_domain: &str, hcl: &str) -> Result<(), PluginError> {
        let mut read = BTreeMap::from([("trust_domain".to_owned(), trust_domain.to_owned())]);
        for line in hcl.lines().filter(|line| !line.trim().is_empty()) {
            let (key, value) = line.split_once('=').ok_or_else(|| PluginError {
                code: Code::InvalidArgument,
                message: "that is no setting".to_owned(),
            })?;
            read.insert(key.trim().to_owned(), value.trim().trim_matches('"').to_owned());
        }
        tracing::info!(settings = read.len(), "Configured");
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    async fn validate(&self, _: &str, hcl: &str) -> Result<Vec<String>, PluginError> {
        Ok(hcl.contains("odd").then(|| "that is odd".to_owned()).into_iter().collect())
    }
}

#[async_trait]
impl DigestKeyManager for Every {
    async fn generate_key(&self, id: &str, kind: KeyType) -> Result<PublicKey, PluginError> {
        self.misbehave().await?;
        let kind = if self.setting("mode") == "other kind" { KeyType::EcP384 } else { kind };
        let key = PrivateKey::generate(kind).map_err(|error| internal(&error.to_string()))?;
        let public = key.public_key().clone();
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(id.to_owned(), Arc::new(key));
        Ok(public)
    }

    async fn key(&self, id: &str) -> Result<Option<PublicKey>, PluginError> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.get(id).map(|key| key.public_key().clone()))
    }

    async fn keys(&self) -> Result<Vec<(String, PublicKey)>, PluginError> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        // Backwards: a host must not rely on an order.
        Ok(keys.iter().rev().map(|(id, key)| (id.clone(), key.public_key().clone())).collect())
    }

    async fn sign_digest(
        &self,
        id: &str,
        algorithm: SignatureAlgorithm,
        digest: &[u8],
    ) -> Result<Vec<u8>, PluginError> {
        self.misbehave().await?;
        let key = self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        let key = key.ok_or_else(|| internal("no such key"))?;
        let mut digest = digest.to_vec();
        if self.setting("mode") == "other signature" {
            digest[0] ^= 1;
        }
        key.sign_digest(algorithm, &digest).map_err(|error| internal(&error.to_string()))
    }
}

#[async_trait]
impl NodeAttestor for Every {
    fn name(&self) -> &str {
        "every"
    }

    async fn attest(
        &self,
        payload: &[u8],
        challenger: &mut dyn Challenger,
    ) -> Result<AgentAttributes, PluginError> {
        let caller = challenger.caller();
        let mut answers = Vec::new();
        for challenge in [b"one".as_slice(), b"two"] {
            answers.push(challenger.challenge(challenge).await?);
        }
        if answers != [b"eno".as_slice(), b"owt"] {
            return Err(PluginError {
                code: Code::PermissionDenied,
                message: "that is not backwards".to_owned(),
            });
        }
        let name = String::from_utf8_lossy(payload).into_owned();
        let id = format!("spiffe://{}/spire/agent/every/{name}", self.setting("trust_domain"));
        let known = self.host().is_attested(&id).await?;
        let mut selector_values =
            vec![format!("known:{known}"), format!("host:{}", caller.host), String::new()];
        match self.setting("mode").as_str() {
            "many" => selector_values.extend((0..5000).map(|n| format!("n:{n}"))),
            "long" => selector_values.push("x".repeat(100_000)),
            _ => {}
        }
        let agent_id = SpiffeId::parse(&id).map_err(|error| internal(&error.to_string()))?;
        Ok(AgentAttributes { agent_id, selector_values, can_reattest: true })
    }
}

#[async_trait]
impl NodeEvidence for Every {
    fn name(&self) -> &str {
        "every"
    }

    async fn payload(&self) -> Result<Vec<u8>, PluginError> {
        Ok(self.setting("payload").into_bytes())
    }

    async fn respond(&self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        if !challenge.is_ascii() || challenge.contains(&0) {
            return Err(PluginError {
                code: Code::InvalidArgument,
                message: "that is no challenge".to_owned(),
            });
        }
        Ok(challenge.iter().rev().copied().collect())
    }
}

#[async_trait]
impl UpstreamAuthority for Every {
    fn name(&self) -> &str {
        "every"
    }

    async fn mint_x509_ca(&self, csr: &[u8], ttl: Duration) -> Result<MintedX509Ca, PluginError> {
        self.write(&format!("mint {} {}", csr.len(), ttl.as_secs()))?;
        let root = self.root()?;
        let update = vec![X509Authority { certificate: root.clone(), tainted: true }];
        Ok(MintedX509Ca {
            chain: vec![root.clone()],
            roots: vec![X509Authority::new(root)],
            root_updates: Box::pin(futures_util::stream::iter([Ok(update)])),
        })
    }

    async fn publish_jwt_key(&self, key: &JwtAuthority) -> Result<PublishedJwtKeys, PluginError> {
        if self.setting("mode") == "no keys" {
            return Err(PluginError {
                code: Code::Unimplemented,
                message: "publishing upstream is unsupported".to_owned(),
            });
        }
        Ok(PublishedJwtKeys {
            keys: vec![key.clone()],
            updates: Box::pin(futures_util::stream::iter([Err(internal("that was it"))])),
        })
    }

    async fn subscribe_to_local_bundle(&self) -> Result<Updates<LocalBundle>, PluginError> {
        let x509_roots = vec![X509Authority::new(self.root()?)];
        let bundle = LocalBundle { x509_roots, jwt_keys: Vec::new() };
        Ok(Box::pin(futures_util::stream::iter([Ok(bundle)])))
    }
}

impl Every {
    fn root(&self) -> Result<Certificate, PluginError> {
        let pem = std::fs::read_to_string(self.setting("root"));
        let pem = pem.map_err(|error| internal(&error.to_string()))?;
        Certificate::from_pem(&pem).map_err(|error| internal(&error.to_string()))
    }
}

/// Only one hook: the others are the trait's own, which change nothing.
#[async_trait]
impl CredentialComposer for Every {
    fn name(&self) -> &str {
        "every"
    }

    async fn compose_workload_x509_svid(
        &self,
        id: &SpiffeId,
        _: &PublicKey,
        mut attributes: X509SvidAttributes,
    ) -> Result<X509SvidAttributes, PluginError> {
        self.misbehave().await?;
        attributes.dns_names.push(format!("for{}.test", id.path().replace('/', "-")));
        Ok(attributes)
    }

    async fn compose_workload_jwt_svid(
        &self,
        _: &SpiffeId,
        mut claims: Map<String, Value>,
    ) -> Result<Map<String, Value>, PluginError> {
        claims.insert("composed".to_owned(), Value::Bool(true));
        Ok(claims)
    }
}

#[async_trait]
impl Notifier for Every {
    fn name(&self) -> &str {
        "every"
    }

    async fn bundle_updated(&self, bundle: &Bundle) -> Result<(), PluginError> {
        self.misbehave().await?;
        self.write(&format!("updated {}", bundle.sequence_number))
    }

    async fn bundle_loaded(&self, bundle: &Bundle) -> Result<(), PluginError> {
        let identity = match self.host().x509_identity().await {
            Ok(identity) => {
                format!("{} certificates", identity.identity.unwrap_or_default().cert_chain.len())
            }
            Err(error) => error.message,
        };
        self.host().count(&["every", "loaded"], 1.0, &[("a", "b")]).await?;
        self.write(&format!("loaded {} {identity}", bundle.trust_domain.as_str()))
    }
}

#[async_trait]
impl BundlePublisher for Every {
    fn name(&self) -> &str {
        "every"
    }

    async fn publish_bundle(&self, bundle: &Bundle) -> Result<(), PluginError> {
        self.write(&format!("published {}", bundle.sequence_number))
    }
}

#[async_trait]
impl WorkloadAttestor for Every {
    fn name(&self) -> &str {
        "every"
    }

    async fn attest(&self, pid: i32) -> Result<Vec<Selector>, PluginError> {
        self.misbehave().await?;
        if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
            return Err(internal("no such process"));
        }
        Ok(vec![Selector::new("another type", &format!("pid:{pid}"))])
    }

    async fn attest_reference(
        &self,
        reference: &WorkloadReference,
        caller: Option<&SpiffeId>,
    ) -> Result<Vec<Selector>, PluginError> {
        if reference.type_url != "type.googleapis.com/steeple.test.Reference" {
            let message = "not this type".to_owned();
            return Err(PluginError { code: Code::Unimplemented, message });
        }
        let caller = caller.map_or("nobody", |caller| caller.as_str());
        let value = String::from_utf8_lossy(&reference.value);
        Ok(vec![Selector::new("every", &format!("{value}:for:{caller}"))])
    }
}

#[async_trait]
impl SvidStore for Every {
    fn name(&self) -> &str {
        "every"
    }

    async fn put_x509_svid(&self, svid: &StoredX509Svid) -> Result<(), PluginError> {
        self.write(&format!("put {} {:?}", svid.spiffe_id, svid.metadata))
    }

    async fn delete_x509_svid(&self, metadata: &[String]) -> Result<(), PluginError> {
        self.write(&format!("delete {metadata:?}"))
    }
}

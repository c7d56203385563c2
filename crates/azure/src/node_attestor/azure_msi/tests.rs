use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde_json::{Value, json};
use steeple_pki::bundle::public_jwk;
use steeple_pki::{KeyType, PrivateKey, jwt};
use steeple_plugin::{AgentLookup, Challenger, HostServices, contract};
use steeple_runtime::ManualClock;
use steeple_spiffe::TrustDomain;

use super::*;
use crate::web::recorded::Recorded;

mod lookups;
mod tokens;

const NOW: u64 = 1_800_000_000;
const LIST: &str = "GET https://management.azure.com/subscriptions/SUBSCRIPTIONID/resources\
                    ?%24filter=resourceType%20eq%20%27Microsoft.Compute%2FvirtualMachines%27\
                    %20and%20identity%2FprincipalId%20eq%20%27PRINCIPALID%27\
                    &api-version=2025-04-01";
const MACHINE: &str = "GET https://management.azure.com/subscriptions/SUBSCRIPTIONID\
                       /resourceGroups/RESOURCEGROUP/providers/Microsoft.Compute\
                       /virtualMachines/VIRTUALMACHINE?api-version=2025-04-01";
const INTERFACE: &str = "GET https://management.azure.com/subscriptions/SUBSCRIPTIONID\
                         /resourceGroups/RESOURCEGROUP/providers/Microsoft.Network\
                         /networkInterfaces/NETWORKINTERFACE?api-version=2025-05-01";
const DISCOVERY: &str =
    "GET https://login.microsoftonline.com/common/.well-known/openid-configuration";
const KEYS_URI: &str = "https://login.microsoftonline.com/common/discovery/keys";
const TOKEN: &str = "POST https://login.microsoftonline.com/TENANTID/oauth2/v2.0/token";
const SELECTORS: [&str; 2] =
    ["subscription-id:SUBSCRIPTIONID", "vm-name:RESOURCEGROUP:VIRTUALMACHINE"];
const SETTINGS: &str = r#"
    tenants = {
        "TENANTID" = {
            resource_id = "https://example.org/app/"
            subscription_id = "SUBSCRIPTIONID"
            app_id = "APPID"
            app_secret = "APPSECRET"
        }
    }
"#;

struct Attested(Vec<String>);

#[async_trait]
impl AgentLookup for Attested {
    async fn is_attested(&self, id: &str) -> Result<bool, PluginError> {
        Ok(self.0.iter().any(|it| it == id))
    }
}

struct Silent;

#[async_trait]
impl Challenger for Silent {
    async fn challenge(&mut self, _challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        panic!("there is no challenge")
    }
}

/// A small cloud with one tenant, one machine, and one key.
struct Cloud {
    key: PrivateKey,
    recorded: Recorded,
    clock: ManualClock,
    attested: Vec<String>,
    settings: String,
}

impl Cloud {
    fn new() -> Self {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let recorded = Recorded::default();
        recorded.on(DISCOVERY, 200, json!({ "jwks_uri": KEYS_URI }).to_string());
        let token = r#"{"access_token":"t","expires_in":3600}"#;
        recorded.on(TOKEN, 200, token);
        let group = "/subscriptions/S/resourceGroups/RESOURCEGROUP/providers";
        let id = format!("{group}/Microsoft.Compute/virtualMachines/VIRTUALMACHINE");
        recorded.on(LIST, 200, json!({ "value": [{ "id": id }] }).to_string());
        let cloud = Self {
            key,
            recorded,
            clock: ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)),
            attested: Vec::new(),
            settings: SETTINGS.to_owned(),
        };
        cloud.publish(&json!({ "kid": "KEYID" }));
        cloud.machine(&json!({ "properties": {} }));
        cloud
    }

    /// The identity provider's only key has these members.
    fn publish(&self, members: &Value) {
        let mut jwk = public_jwk(self.key.public_key(), "ES256");
        jwk.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let keys = json!({ "keys": [jwk] }).to_string();
        self.recorded.on(&format!("GET {KEYS_URI}"), 200, keys);
    }

    fn machine(&self, machine: &Value) {
        self.recorded.on(MACHINE, 200, machine.to_string());
    }

    fn server(&self) -> server::Server {
        let data = Block::parse(&self.settings).unwrap();
        let config = config::Config::read(Some(&data), &|_| None).unwrap();
        let services = HostServices::new();
        services.provide_agents(Arc::new(Attested(self.attested.clone())));
        let host = HostContext::new(TrustDomain::parse("example.org").unwrap())
            .with_services(services)
            .with_clock(Arc::new(self.clock.clone()));
        server::Server::new(config, &host, self.recorded.web())
    }

    /// An honest token's claims.
    fn claims(&self) -> Value {
        json!({
            "aud": "https://example.org/app/", "iss": "https://sts.windows.net/TENANTID/",
            "iat": NOW - 60, "nbf": NOW - 60, "exp": NOW + 60,
            "tid": "TENANTID", "sub": "PRINCIPALID", "oid": "PRINCIPALID", "ver": "1.0",
        })
    }

    /// A token with an honest one's claims and these.
    async fn token(&self, change: Value) -> String {
        let mut claims = self.claims();
        let members = claims.as_object_mut().unwrap();
        members.extend(change.as_object().unwrap().clone());
        members.retain(|_, value| !value.is_null());
        jwt::sign(members, "KEYID", &self.key).await.unwrap()
    }

    async fn attest_with(&self, change: Value) -> Result<(String, Vec<String>), (Code, String)> {
        let payload = payload::write(&self.token(change).await);
        attest(&self.server(), &payload).await
    }

    async fn attest(&self) -> Result<(String, Vec<String>), (Code, String)> {
        self.attest_with(json!({})).await
    }
}

async fn attest(
    server: &dyn NodeAttestor,
    payload: &[u8],
) -> Result<(String, Vec<String>), (Code, String)> {
    let result = server.attest(payload, &mut Silent).await;
    result
        .map(|it| {
            assert!(!it.can_reattest);
            (it.agent_id.as_str().to_owned(), it.selector_values)
        })
        .map_err(|error| {
            let text = error.message.replacen("nodeattestor(azure_msi): ", "", 1);
            (error.code, text)
        })
}

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde_json::{Value, json};
use steeple_plugin::{AgentLookup, Challenger, HostServices, contract};
use steeple_runtime::ManualClock;
use steeple_spiffe::TrustDomain;

use super::payload::{AttestedDocument, Metadata, Payload};
use super::*;
use crate::web::recorded::Recorded;

mod conversation;
mod documents;
mod lookups;
pub(super) mod pki;

use pki::{AIA, Azure, Holder, NOW, document};

const VM: &str = "550e8400-e29b-41d4-a716-446655440000";
const SUBSCRIPTION: &str = "SUBSCRIPTIONID";
const GRAPH: &str = "POST https://management.azure.com/providers/Microsoft.ResourceGraph/resources\
                     ?api-version=2024-04-01";
const OPENID: &str =
    "GET https://login.microsoftonline.com/example.com/.well-known/openid-configuration";
const IMDS_TOKEN: &str = "GET http://169.254.169.254/metadata/identity/oauth2/token\
                          ?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com";
const TENANTS: &str = r#"tenants = { "example.com" = {} }"#;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.try_into().unwrap())
}

struct Attested(Vec<String>);

#[async_trait]
impl AgentLookup for Attested {
    async fn is_attested(&self, id: &str) -> Result<bool, PluginError> {
        Ok(self.0.iter().any(|it| it == id))
    }
}

/// Answers the server's challenge with what `respond` makes of it.
struct Agent<F>(F);

#[async_trait]
impl<F: Fn(&str) -> Vec<u8> + Send + Sync> Challenger for Agent<F> {
    async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        Ok((self.0)(std::str::from_utf8(challenge).unwrap()))
    }
}

/// A small cloud, and a server that trusts it.
struct Cloud {
    azure: Azure,
    recorded: Recorded,
    clock: ManualClock,
    attested: Vec<String>,
    settings: String,
}

impl Cloud {
    /// With one machine that has no interface worth a selector.
    fn new() -> Self {
        let azure = Azure::new();
        let recorded = Recorded::default();
        let issuing = azure.issuing.certificate.der().to_vec();
        recorded.on(&format!("GET {AIA}"), 200, issuing);
        recorded.on(OPENID, 200, r#"{"issuer":"https://sts.windows.net/TENANTID/"}"#);
        recorded.on(IMDS_TOKEN, 200, r#"{"access_token":"t","expires_in":"3600"}"#);
        let cloud = Self {
            azure,
            recorded,
            clock: ManualClock::new(now()),
            attested: Vec::new(),
            settings: TENANTS.to_owned(),
        };
        cloud.has(&machine());
        cloud
    }

    /// The resource graph answers everything with this one record.
    fn has(&self, record: &Value) {
        let answer = json!({ "totalRecords": 1, "data": [record] });
        self.recorded.on(GRAPH, 200, answer.to_string());
    }

    fn server(&self) -> server::Server {
        let data = Block::parse(&self.settings).unwrap();
        let mut config = config::Config::read(Some(&data), &|_| None).unwrap();
        config.roots.push(self.azure.root.certificate.clone());
        let services = HostServices::new();
        services.provide_agents(Arc::new(Attested(self.attested.clone())));
        let host = HostContext::new(TrustDomain::parse("example.org").unwrap())
            .with_services(services)
            .with_clock(Arc::new(self.clock.clone()));
        server::Server::new(config, &host, self.recorded.web())
    }

    /// What an honest agent answers.
    fn respond(&self, nonce: &str) -> Payload {
        let content = content(nonce);
        self.payload(&document(content.as_bytes(), &self.azure.service, &[&self.azure.service]))
    }

    fn payload(&self, signature: &str) -> Payload {
        Payload {
            document: AttestedDocument {
                encoding: "pkcs7".to_owned(),
                signature: signature.to_owned(),
            },
            metadata: Metadata { agent_domain: "example.com".to_owned(), scale_set: None },
        }
    }

    /// Attests with the answer that `change` makes of an honest one.
    async fn attest_with(
        &self,
        change: impl Fn(&str, Payload) -> Payload + Send + Sync,
    ) -> Result<(String, Vec<String>), (Code, String)> {
        let respond = |nonce: &str| change(nonce, self.respond(nonce)).to_json();
        attest(&self.server(), respond).await
    }

    async fn attest(&self) -> Result<(String, Vec<String>), (Code, String)> {
        self.attest_with(|_, payload| payload).await
    }

    /// What a server says of a document by `signer`, with `bag` in it.
    async fn refusal(&self, signer: &Holder, bag: &[&Holder]) -> String {
        let of = |nonce: &str, _| self.payload(&document(content(nonce).as_bytes(), signer, bag));
        let (code, text) = self.attest_with(of).await.unwrap_err();
        assert_eq!(code, Code::InvalidArgument, "{text}");
        let text = text.strip_prefix("failed to validate attested document: ");
        text.unwrap().to_owned()
    }
}

async fn attest(
    server: &dyn NodeAttestor,
    respond: impl Fn(&str) -> Vec<u8> + Send + Sync,
) -> Result<(String, Vec<String>), (Code, String)> {
    let result = server.attest(b"non_empty_payload", &mut Agent(respond)).await;
    result
        .map(|it| {
            assert!(!it.can_reattest);
            (it.agent_id.as_str().to_owned(), it.selector_values)
        })
        .map_err(|error| {
            let text = error.message.replacen("nodeattestor(azure_imds): ", "", 1);
            (error.code, text)
        })
}

fn content(nonce: &str) -> String {
    content_of(VM, SUBSCRIPTION, nonce)
}

fn content_of(vm: &str, subscription: &str, nonce: &str) -> String {
    json!({
        "licenseType": "", "nonce": nonce, "plan": { "name": "" }, "sku": "x",
        "subscriptionId": subscription, "vmId": vm,
        "timeStamp": { "createdOn": "11/28/26 00:16:17 -0000", "expiresOn": "11/28/26 06:16:17" },
    })
    .to_string()
}

fn machine() -> Value {
    json!({
        "id": "/subscriptions/S/resourceGroups/G/providers/Microsoft.Compute/virtualMachines/V",
        "name": "VIRTUALMACHINE", "location": "westus", "resourceGroup": "RESOURCEGROUP",
        "vmId": VM, "tags": null,
    })
}

const SELECTORS: [&str; 4] = [
    "resource-group:RESOURCEGROUP",
    "subscription-id:SUBSCRIPTIONID",
    "vm-location:westus",
    "vm-name:VIRTUALMACHINE",
];

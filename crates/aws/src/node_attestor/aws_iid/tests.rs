//! Both halves against stand-ins; the cases of the document and of the look-ups.

mod attest;
mod bad_documents;
mod bad_servers;
mod settings;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::{Value, json};
use steeple_hcl::Block;
use steeple_net::https::Trust;
use steeple_plugin::{
    AgentAttributes, AgentLookup, Challenger, HostContext, NodeAttestor, PluginError,
};
use steeple_runtime::{Clock, ManualClock};
use steeple_spiffe::TrustDomain;

use super::certificates::Certificates;
use super::server::Server;
use super::{NAME, config};
use crate::environment::Environment;
use crate::session::World;
use crate::testing::{Answer, Asked, DocumentSigner, StandIn, json, xml};

const REGION: &str = "xx-test-1";
const ACCOUNT: &str = "123456789012";
const INSTANCE: &str = "i-0123456789abcdef0";

/// What EC2 says of an instance by default.
const INSTANCE_XML: &str = "<instanceId>i-0123456789abcdef0</instanceId>\
    <rootDeviceType>instance-store</rootDeviceType>\
    <networkInterfaceSet><item><attachment><deviceIndex>0</deviceIndex></attachment></item>\
    </networkInterfaceSet>";

const DOCUMENT_SELECTORS: [&str; 5] = [
    "account_id:123456789012",
    "az:xx-test-1a",
    "image:id:ami-1",
    "instance:id:i-0123456789abcdef0",
    "region:xx-test-1",
];

fn described(instance: &str) -> Answer {
    xml(format!(
        "<DescribeInstancesResponse><reservationSet><item><instancesSet><item>{instance}</item>\
         </instancesSet></item></reservationSet></DescribeInstancesResponse>"
    ))
}

fn document() -> Value {
    json!({
        "accountId": ACCOUNT, "architecture": "x86_64", "availabilityZone": "xx-test-1a",
        "billingProducts": null, "imageId": "ami-1", "instanceId": INSTANCE,
        "instanceType": "t3.micro", "pendingTime": "2026-01-01T00:00:00Z",
        "privateIp": "10.0.0.1", "region": REGION, "version": "2017-09-30",
    })
}

fn payload(document: &str, rsa2048: &str) -> Vec<u8> {
    json!({ "document": document, "signature": "old", "rsa2048": rsa2048 }).to_string().into_bytes()
}

/// Who has attested.
#[derive(Default)]
struct Attested(Mutex<Vec<String>>);

#[async_trait]
impl AgentLookup for Attested {
    async fn is_attested(&self, id: &str) -> Result<bool, PluginError> {
        Ok(self.0.lock().unwrap().iter().any(|it| it == id))
    }
}

struct NoChallenges;

#[async_trait]
impl Challenger for NoChallenges {
    async fn challenge(&mut self, _challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        panic!("nothing is asked back");
    }
}

/// A server's half that trusts a signer of its own in [`REGION`], and asks a stand-in.
struct Fixture {
    signer: DocumentSigner,
    cloud: StandIn,
    clock: ManualClock,
    attested: Arc<Attested>,
    server: Server,
}

impl Fixture {
    async fn new(
        settings: &str,
        answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::with(DocumentSigner::new(), settings, answer).await
    }

    /// One that asks whoever is at this URL.
    async fn asking(url: &str) -> Self {
        let url = url.to_owned();
        let mut fixture = Self::new("", |_| described(INSTANCE_XML)).await;
        let environment = Environment::of([
            ("AWS_ENDPOINT_URL", url.as_str()),
            ("AWS_ACCESS_KEY_ID", "AKID"),
            ("AWS_SECRET_ACCESS_KEY", "s3cret"),
        ]);
        fixture.server = fixture.server_in(environment, "");
        fixture
    }

    async fn with(
        signer: DocumentSigner,
        settings: &str,
        answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let cloud = StandIn::start(answer).await;
        let environment = Environment::of([
            ("AWS_ENDPOINT_URL", cloud.url.as_str()),
            ("AWS_ACCESS_KEY_ID", "AKID"),
            ("AWS_SECRET_ACCESS_KEY", "s3cret"),
        ]);
        let clock = ManualClock::default();
        let attested = Arc::new(Attested::default());
        let server = make(environment, settings, &signer, &clock, &attested);
        Self { signer, cloud, clock, attested, server }
    }

    fn server_in(&self, environment: Environment, settings: &str) -> Server {
        make(environment, settings, &self.signer, &self.clock, &self.attested)
    }

    /// What a real agent would show.
    fn evidence(&self) -> Vec<u8> {
        self.evidence_of(&document())
    }

    fn evidence_of(&self, document: &Value) -> Vec<u8> {
        let text = document.to_string();
        payload(&text, &self.signer.sign(text.as_bytes()))
    }

    async fn attest(&self, payload: &[u8]) -> Result<AgentAttributes, PluginError> {
        self.server.attest(payload, &mut NoChallenges).await
    }

    /// The refusal of what a real agent would show: code and text, without the plugin's name.
    async fn refusal(&self) -> (steeple_plugin::Code, String) {
        refused(self.attest(&self.evidence()).await)
    }
}

fn make(
    environment: Environment,
    settings: &str,
    signer: &DocumentSigner,
    clock: &ManualClock,
    attested: &Arc<Attested>,
) -> Server {
    let block = Block::parse(settings).unwrap();
    let mut settings = config::server(Some(&block), &environment).unwrap();
    let mut certificates = Certificates::published();
    assert!(certificates.add(REGION.into(), signer.certificate.clone()));
    settings.certificates = certificates;
    let host = HostContext::new(TrustDomain::parse("example.org").unwrap());
    host.services.provide_agents(Arc::clone(attested) as _);
    let clock = Arc::new(clock.clone()) as Arc<dyn Clock>;
    Server::new(settings, World { environment, clock, trust: Trust::System }, &host)
}

fn refused(result: Result<AgentAttributes, PluginError>) -> (steeple_plugin::Code, String) {
    let error = result.unwrap_err();
    let text = error.message.strip_prefix(&format!("nodeattestor({NAME}): ")).unwrap();
    (error.code, text.to_owned())
}

//! The server's half: sends a nonce, verifies the document that has it, and looks the machine up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use steeple_pki::{Certificate, envelope};
use steeple_plugin::{
    AgentAttributes, Challenger, Code, HostContext, HostServices, NodeAttestor, PluginError,
};
use steeple_runtime::Clock;
use steeple_spiffe::{SpiffeId, TrustDomain};
use steeple_template::{AgentPathTemplate, Value};

use super::config::{self, Config};
use super::document::{Content, DocumentError, Named};
use super::intermediates::Intermediates;
use super::payload::{AttestedDocument, Payload};
use super::{NAME, error, resolve};
use crate::arm::Arm;
use crate::cached::{Cached, Fetched};
use crate::credential::Credential;
use crate::web::{Web, quoted};
use crate::{login, uuid};

/// The length of a nonce, in characters; Azure puts no longer one into a document.
const NONCE_LEN: usize = 32;
/// How long the ID of a tenant stays known: it does not change.
const TENANT_LIFE: Duration = Duration::from_hours(24);

pub(super) struct Server {
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
    services: HostServices,
    web: Arc<dyn Web>,
    template: AgentPathTemplate,
    domains: Vec<String>,
    roots: Vec<Certificate>,
    intermediates: Intermediates,
    tenants: HashMap<String, Tenant>,
}

struct Tenant {
    settings: config::Tenant,
    id: Cached<Arc<str>>,
    arm: Arm,
}

impl Server {
    pub(super) fn new(config: Config, host: &HostContext, web: Arc<dyn Web>) -> Self {
        let tenant = |settings: config::Tenant| {
            let credential = Credential::new(settings.credential.clone(), host.clock.clone());
            Tenant { settings, id: Cached::default(), arm: Arm::new(web.clone(), credential) }
        };
        let tenants = config.tenants.into_iter().map(|(domain, raw)| (domain, tenant(raw)));
        Self {
            trust_domain: host.trust_domain.clone(),
            clock: host.clock.clone(),
            services: host.services.clone(),
            template: config.template,
            domains: config.domains,
            roots: config.roots,
            tenants: tenants.collect(),
            intermediates: Intermediates::new(web.clone()),
            web,
        }
    }

    /// What a document says, if Azure signed it.
    async fn verify(
        &self,
        document: &AttestedDocument,
        now: SystemTime,
    ) -> Result<Content, DocumentError> {
        let document = Named::open(document, &self.domains)?;
        // An operator may have given the issuer itself among the roots.
        if document.check_path(None, &self.roots, now).is_ok() {
            return document.trusted(None, &self.roots, now);
        }
        let url = document.issuer().clone();
        if let Some(kept) = self.intermediates.kept(&url, now)
            && document.check_path(Some(&kept), &self.roots, now).is_ok()
        {
            return document.trusted(Some(&kept), &self.roots, now);
        }
        let fetched = self.intermediates.fetch(&url, now).await;
        let fetched = fetched.map_err(DocumentError::Intermediate)?;
        let good = document.check_path(Some(&fetched), &self.roots, now).is_ok();
        let content = document.trusted(Some(&fetched), &self.roots, now);
        if good {
            self.intermediates.keep(&url, fetched, now);
        }
        content
    }

    async fn tenant_id(&self, domain: &str, tenant: &Tenant) -> Result<Arc<str>, PluginError> {
        let fetch = async || {
            let value = Arc::from(login::tenant_id(&*self.web, domain).await?);
            Ok(Fetched { value, fresh: TENANT_LIFE, usable: Duration::MAX })
        };
        tenant
            .id
            .get(self.clock.now(), fetch)
            .await
            .map_err(|why| error(Code::Internal, format!("unable to lookup tenant ID: {why}")))
    }

    fn agent_id(&self, tenant: &str, content: &Content) -> Result<SpiffeId, PluginError> {
        let data = Value::record(
            "azure.imdsAgentPathTemplateData",
            [
                ("SubscriptionID", Value::from(&content.subscription_id)),
                ("VMID", Value::from(&content.vm_id)),
                ("Nonce", Value::from(&content.nonce)),
                ("TenantID", Value::from(tenant)),
                ("PluginName", Value::from(NAME)),
            ],
        );
        self.template
            .render(&self.trust_domain, &data)
            .map_err(|why| error(Code::Internal, format!("unable to make agent ID: {why}")))
    }
}

#[async_trait]
impl NodeAttestor for Server {
    fn name(&self) -> &str {
        NAME
    }

    async fn attest(
        &self,
        _payload: &[u8],
        challenger: &mut dyn Challenger,
    ) -> Result<AgentAttributes, PluginError> {
        let invalid = |text: &str| Err(error(Code::InvalidArgument, text));
        let nonce = nonce();
        let response = challenger.challenge(nonce.as_bytes()).await?;
        if response.is_empty() {
            return invalid("missing attestation payload");
        }
        let Payload { document, metadata } = Payload::parse(&response)
            .map_err(|why| error(Code::InvalidArgument, why.to_string()))?;
        let content = self.verify(&document, self.clock.now()).await.map_err(|why| {
            error(Code::InvalidArgument, format!("failed to validate attested document: {why}"))
        })?;
        if content.vm_id.is_empty() {
            return invalid("missing VM ID in attested document");
        }
        if content.subscription_id.is_empty() {
            return invalid("missing subscription ID in attested document");
        }
        if content.nonce != nonce {
            return invalid("nonce mismatch");
        }
        if let Err(why) = uuid::check(&content.vm_id) {
            let id = quoted(&content.vm_id);
            return invalid(&format!("invalid VM ID: invalid UUID format: {id}: {why}"));
        }
        let denied = |what: &str, which: &str| {
            let text = format!("{what} {} is not authorized", quoted(which));
            error(Code::PermissionDenied, text)
        };
        let domain = &metadata.agent_domain;
        let tenant = self.tenants.get(domain).ok_or_else(|| denied("tenant", domain))?;
        let subscription = &content.subscription_id;
        if !tenant.settings.allows(subscription) {
            return Err(denied("subscription", subscription));
        }
        let tenant_id = self.tenant_id(domain, tenant).await?;
        let agent_id = self.agent_id(&tenant_id, &content)?;
        self.services.refuse_attested(NAME, &agent_id).await?;
        let tags = &tenant.settings.tags;
        let set = metadata.scale_set.as_deref();
        let selector_values =
            resolve::selectors(&tenant.arm, tags, subscription, &content.vm_id, set).await?;
        Ok(AgentAttributes { agent_id, selector_values, can_reattest: false })
    }
}

/// Letters and digits at random.
fn nonce() -> String {
    const ALPHABET: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let mut nonce = String::with_capacity(NONCE_LEN);
    while nonce.len() < NONCE_LEN {
        let mut bytes = [0; NONCE_LEN];
        envelope::random(&mut bytes);
        // What does not divide evenly is thrown away, so that all characters are as likely.
        let fair = bytes.iter().filter(|byte| **byte < 248).map(|byte| usize::from(*byte) % 62);
        nonce.extend(fair.take(NONCE_LEN - nonce.len()).map(|at| char::from(ALPHABET[at])));
    }
    nonce
}

//! The server's half: what Google says of the instance, and, if it is asked, what the Compute
//! Engine API says besides.

use std::sync::Arc;

use async_trait::async_trait;
use steeple_plugin::{
    AgentAttributes, Challenger, Code, HostContext, HostServices, NodeAttestor, PluginError,
};
use steeple_runtime::Clock;
use steeple_spiffe::TrustDomain;
use steeple_template::AgentPathTemplate;

use super::config::ServerConfig;
use super::keys::Keys;
use super::token::{self, Identity, Refusal};
use super::{NAME, error};
use crate::compute::{Compute, Instance};
use crate::web::cut;

/// How large all selectors may be together.
const MAX_SELECTORS: usize = 64 * 1024;

pub(super) struct Server {
    config: ServerConfig,
    template: AgentPathTemplate,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
    services: HostServices,
    keys: Keys,
    compute: Box<dyn Compute>,
}

impl Server {
    pub(super) fn new(
        config: ServerConfig,
        template: AgentPathTemplate,
        host: &HostContext,
        keys: Keys,
        compute: Box<dyn Compute>,
    ) -> Self {
        Self {
            config,
            template,
            trust_domain: host.trust_domain.clone(),
            clock: Arc::clone(&host.clock),
            services: host.services.clone(),
            keys,
            compute,
        }
    }

    /// What Google vouches for.
    async fn identity(&self, payload: &[u8]) -> Result<Identity, PluginError> {
        let token = token::shape(payload)?;
        let now = self.clock.now();
        let keys = self.keys.get(now).await.map_err(|reason| error(Code::Unknown, reason))?;
        match token::verify(token, &keys, now) {
            // Google may have begun to use a new one.
            Err(Refusal::UnknownKey) => match self.keys.newer(&keys, now).await {
                Some(newer) => token::verify(token, &newer, now),
                None => Err(Refusal::UnknownKey),
            },
            other => other,
        }
        .map_err(Refusal::into_error)
    }

    /// What the API says of the instance.
    async fn instance(&self, identity: &Identity) -> Result<Instance, PluginError> {
        let machine = identity.machine();
        let failed = |reason: &dyn std::fmt::Display| {
            error(Code::Internal, format!("failed to fetch instance metadata: {reason}"))
        };
        let found = self
            .compute
            .instance(&machine.project_id, &machine.zone, &machine.instance_name)
            .await
            .map_err(|reason| failed(&reason))?;
        // The name may be another instance's by now.
        if !found.id.is_empty() && found.id != machine.instance_id {
            return Err(failed(&"the instance of this name is another one"));
        }
        Ok(found)
    }

    fn of_instance(&self, instance: Instance) -> Result<Vec<String>, PluginError> {
        let mut values: Vec<String> =
            instance.tags.items.iter().map(|tag| format!("tag:{tag}")).collect();
        for (key, value) in instance.labels {
            if self.config.allowed_label_keys.contains(&key) {
                values.push(format!("label:{key}:{value}"));
            }
        }
        let limit = self.config.max_metadata_value_size;
        for item in instance.metadata.items {
            if !self.config.allowed_metadata_keys.contains(&item.key) {
                continue;
            }
            let (key, value) = (item.key, item.value.unwrap_or_default());
            let size = i64::try_from(value.len()).unwrap_or(i64::MAX);
            if size > limit {
                let text = format!("metadata {key:?} exceeded value limit ({size} > {limit})");
                return Err(error(Code::Internal, text));
            }
            values.push(format!("metadata:{key}:{value}"));
        }
        Ok(values)
    }
}

#[async_trait]
impl NodeAttestor for Server {
    fn name(&self) -> &str {
        NAME
    }

    async fn attest(
        &self,
        payload: &[u8],
        _challenger: &mut dyn Challenger,
    ) -> Result<AgentAttributes, PluginError> {
        let identity = self.identity(payload).await?;
        let machine = identity.machine();
        let project = &machine.project_id;
        if !self.config.projectid_allow_list.contains(project) {
            let shown = cut(project);
            let text = format!("identity token project ID {shown:?} is not in the allow list");
            return Err(error(Code::PermissionDenied, text));
        }
        let data = identity.template_data();
        let agent_id = self.template.render(&self.trust_domain, &data).map_err(|reason| {
            error(Code::Internal, format!("failed to create agent ID: {reason}"))
        })?;
        self.services.refuse_attested(NAME, &agent_id).await?;
        let mut values = vec![
            format!("project-id:{project}"),
            format!("zone:{}", machine.zone),
            format!("instance-name:{}", machine.instance_name),
            format!("sa:{}", identity.email),
        ];
        if self.config.use_instance_metadata {
            let instance = self.instance(&identity).await?;
            values.extend(self.of_instance(instance)?);
        }
        if values.iter().map(String::len).sum::<usize>() > MAX_SELECTORS {
            let text = format!("the instance's selectors have more than {MAX_SELECTORS} bytes");
            return Err(error(Code::Internal, text));
        }
        Ok(AgentAttributes { agent_id, selector_values: values, can_reattest: false })
    }
}

//! Workload attestors.

use std::time::Duration;

use async_trait::async_trait;
use prost::Message;
use steeple_plugin::{Code, PluginError, WorkloadAttestor, WorkloadReference};
use steeple_proto::spiffe::broker::WorkloadPidReference;
use steeple_proto::spire::plugin::agent::workloadattestor::v1 as api;
use steeple_spiffe::{Selector, SpiffeId};

use crate::plugin::{MAX_MESSAGE, Plugin};

const DEADLINE: Duration = Duration::from_secs(60);

/// The most selectors that one answer may have.
const MAX_SELECTORS: usize = 2_000;

/// The longest value of a selector, in bytes.
const MAX_VALUE: usize = 4 * 1024;

const PID_REFERENCE: &str = "type.googleapis.com/spiffe.broker.WorkloadPIDReference";

/// The metadata that names the broker.
const CALLER: &str = "spire-agent-broker-caller-id";

pub(super) struct External(pub(super) Plugin);

impl External {
    fn client(
        &self,
    ) -> api::workload_attestor_client::WorkloadAttestorClient<tonic::transport::Channel> {
        api::workload_attestor_client::WorkloadAttestorClient::new(self.0.channel())
            .max_decoding_message_size(MAX_MESSAGE)
    }

    async fn by_pid(&self, pid: i32) -> Result<Vec<String>, PluginError> {
        let call = self.0.call(DEADLINE, self.client().attest(api::AttestRequest { pid })).await;
        call.map(|answer| answer.selector_values)
    }

    /// The broker that asks goes along as the metadata that SPIRE's own plugins read.
    async fn by_reference(
        &self,
        type_url: String,
        value: Vec<u8>,
        caller: Option<&SpiffeId>,
    ) -> Result<Vec<String>, PluginError> {
        let reference = Some(prost_types::Any { type_url, value });
        let mut request = tonic::Request::new(api::AttestReferenceRequest { reference });
        if let Some(caller) = caller
            && let Ok(caller) = caller.as_str().parse()
        {
            request.metadata_mut().insert(CALLER, caller);
        }
        let call = self.0.call(DEADLINE, self.client().attest_reference(request)).await;
        call.map(|answer| answer.selector_values)
    }

    fn selectors(&self, values: Vec<String>) -> Result<Vec<Selector>, PluginError> {
        let values = checked_values(&self.0, values)?;
        Ok(values.iter().map(|value| Selector::new(self.0.name(), value)).collect())
    }
}

#[async_trait]
impl WorkloadAttestor for External {
    fn name(&self) -> &str {
        self.0.name()
    }

    /// Newer plugins may know references only.
    async fn attest(&self, pid: i32) -> Result<Vec<Selector>, PluginError> {
        let values = match self.by_pid(pid).await {
            Err(error) if error.code == Code::Unimplemented => {
                let value = WorkloadPidReference { pid }.encode_to_vec();
                self.by_reference(PID_REFERENCE.to_owned(), value, None).await?
            }
            other => other?,
        };
        self.selectors(values)
    }

    async fn attest_reference(
        &self,
        reference: &WorkloadReference,
        caller: Option<&SpiffeId>,
    ) -> Result<Vec<Selector>, PluginError> {
        let (type_url, value) = (reference.type_url.clone(), reference.value.clone());
        self.selectors(self.by_reference(type_url, value, caller).await?)
    }
}

/// The values of selectors that a plugin found: bounded in number and size, none of them empty.
pub(super) fn checked_values(
    plugin: &Plugin,
    mut values: Vec<String>,
) -> Result<Vec<String>, PluginError> {
    values.retain(|value| !value.is_empty());
    if values.len() > MAX_SELECTORS {
        let message = format!(
            "plugin response has {} selectors; at most {MAX_SELECTORS} are taken",
            values.len()
        );
        return Err(plugin.error(Code::Internal, message));
    }
    if let Some(long) = values.iter().find(|value| value.len() > MAX_VALUE) {
        let message = format!(
            "plugin response has a selector of {} bytes; at most {MAX_VALUE} are taken",
            long.len()
        );
        return Err(plugin.error(Code::Internal, message));
    }
    Ok(values)
}

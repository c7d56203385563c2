//! Workload attestors.

use std::time::Duration;

use async_trait::async_trait;
use prost::Message;
use steeple_plugin::{Code, PluginError, WorkloadAttestor};
use steeple_proto::spiffe::broker::WorkloadPidReference;
use steeple_proto::spire::plugin::agent::workloadattestor::v1 as api;
use steeple_spiffe::Selector;

use crate::plugin::{MAX_MESSAGE, Plugin};

const DEADLINE: Duration = Duration::from_secs(60);

/// The most selectors that one answer may have.
const MAX_SELECTORS: usize = 2_000;

/// The longest value of a selector, in bytes.
const MAX_VALUE: usize = 4 * 1024;

const PID_REFERENCE: &str = "type.googleapis.com/spiffe.broker.WorkloadPIDReference";

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

    async fn by_reference(&self, pid: i32) -> Result<Vec<String>, PluginError> {
        let reference = prost_types::Any {
            type_url: PID_REFERENCE.to_owned(),
            value: WorkloadPidReference { pid }.encode_to_vec(),
        };
        let request = api::AttestReferenceRequest { reference: Some(reference) };
        let call = self.0.call(DEADLINE, self.client().attest_reference(request)).await;
        call.map(|answer| answer.selector_values)
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
            Err(error) if error.code == Code::Unimplemented => self.by_reference(pid).await?,
            other => other?,
        };
        let values = checked_values(&self.0, values)?;
        Ok(values.iter().map(|value| Selector::new(self.0.name(), value)).collect())
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

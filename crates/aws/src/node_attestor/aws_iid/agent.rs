//! The agent's half.

use async_trait::async_trait;
use steeple_plugin::{Code, NodeEvidence, PluginError};

use super::payload::Payload;
use super::{NAME, error};
use crate::environment::Environment;
use crate::imds::Imds;

const DOCUMENT: &str = "/dynamic/instance-identity/document";
const SIGNATURE: &str = "/dynamic/instance-identity/signature";
const RSA2048: &str = "/dynamic/instance-identity/rsa2048";

/// Evidence that the metadata service gives.
pub(super) struct Agent {
    endpoint: Option<String>,
    environment: Environment,
}

impl Agent {
    pub(super) fn new(endpoint: Option<String>, environment: Environment) -> Self {
        Self { endpoint, environment }
    }
}

#[async_trait]
impl NodeEvidence for Agent {
    fn name(&self) -> &str {
        NAME
    }

    async fn payload(&self) -> Result<Vec<u8>, PluginError> {
        let failed = |why| error(Code::Unknown, why);
        let imds = Imds::new(self.endpoint.as_deref(), &self.environment).map_err(failed)?;
        let mut open = imds.open("GetDynamicData");
        let payload = Payload {
            document: open.get(DOCUMENT).await.map_err(failed)?,
            // For servers older than the longer key.
            signature: open.get(SIGNATURE).await.map_err(failed)?,
            rsa2048: open.get(RSA2048).await.map_err(failed)?,
        };
        payload.encode().map_err(|why| {
            error(Code::Internal, format!("unable to marshal attestation data: {why}"))
        })
    }

    async fn respond(&self, _challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        Err(error(Code::Internal, "server issued unexpected challenge"))
    }
}

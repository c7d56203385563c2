//! The agent's half.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use steeple_plugin::{Code, NodeEvidence, PluginError};
use steeple_tpm::Access;

use super::config::AgentConfig;
use super::conversation::{Attestor, DevId, PATIENCE};
use super::payload::{Blob, Challenge};
use super::{NAME, error};

/// Evidence from a TPM.
pub(super) struct Agent {
    config: AgentConfig,
    access: Arc<Access>,
    /// With the TPM, each time.
    pub(super) patience: Duration,
    /// The attestation that the last payload began.
    begun: Mutex<Option<(DevId, Attestor)>>,
}

impl Agent {
    pub(super) fn new(config: AgentConfig) -> Self {
        let access = Access::to(&config.device);
        Self { config, access, patience: PATIENCE, begun: Mutex::new(None) }
    }

    fn begun(&self) -> std::sync::MutexGuard<'_, Option<(DevId, Attestor)>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl NodeEvidence for Agent {
    fn name(&self) -> &str {
        NAME
    }

    async fn payload(&self) -> Result<Vec<u8>, PluginError> {
        self.begun().take();
        let devid = DevId::new(&self.config, self.patience).map_err(|reason| {
            let session = "unable to start a new TPM session: cannot load DevID key on TPM";
            error(Code::Internal, format!("{session}: {reason}"))
        })?;
        let gathered = devid.gather(&self.access).await;
        let (mut request, attestor) =
            gathered.map_err(|failure| error(Code::Internal, failure.text(&self.access)))?;
        let certificates = self.config.certificates.iter().map(|it| Blob(it.der().to_vec()));
        request.devid_cert = Some(certificates.collect());
        *self.begun() = Some((devid, attestor));
        Ok(request.encode())
    }

    async fn respond(&self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        let challenge = Challenge::parse(challenge).map_err(|reason| {
            error(Code::InvalidArgument, format!("unable to unmarshall challenges: {reason}"))
        })?;
        // An attestation key answers once.
        let begun = self.begun().take();
        let (devid, attestor) =
            begun.ok_or_else(|| error(Code::Internal, "server issued unexpected challenge"))?;
        let answered = devid.answer(&self.access, attestor, challenge).await;
        let response =
            answered.map_err(|failure| error(Code::Internal, failure.text(&self.access)))?;
        Ok(response.encode())
    }
}

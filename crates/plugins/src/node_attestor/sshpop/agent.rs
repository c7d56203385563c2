//! The agent's half.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use steeple_pki::PrivateKey;
use steeple_pki::ssh::{self, Blob};
use steeple_plugin::{Code, NodeEvidence, PluginError};
use steeple_runtime::Secret;

use super::config::AgentConfig;
use super::{NAME, error, payload};
use crate::node_attestor::files;

/// Shows a host certificate, and proves possession of its key.
pub(super) struct Agent {
    config: AgentConfig,
    /// The key of the certificate that was shown last.
    shown: Mutex<Option<PrivateKey>>,
}

/// A host key and its certificate.
pub(super) struct Credentials {
    certificate: Vec<u8>,
    key: PrivateKey,
}

impl Credentials {
    pub(super) fn read(config: &AgentConfig) -> Result<Self, PluginError> {
        let invalid = |what: &str, reason: String| {
            error(Code::InvalidArgument, format!("failed to {what}: {reason}"))
        };
        let key = files::read(&config.host_key_path)
            .map_err(|reason| invalid("read host key file", reason))?;
        let key = Secret::new(key);
        let certificate = files::read(&config.host_cert_path)
            .map_err(|reason| invalid("read host cert file", reason))?;
        Self::parse(key.expose(), &certificate)
            .map_err(|reason| invalid("get cert and signer from pem", reason))
    }

    fn parse(key: &str, certificate: &str) -> Result<Self, String> {
        let key = ssh::private_key(key).map_err(|error| error.to_string())?;
        match Blob::parse_text(certificate).map_err(|error| error.to_string())? {
            Blob::Key(_) => Err("pubkey isn't a certificate".to_owned()),
            Blob::Certificate(it) if it.key().key() != key.public_key() => {
                Err("the certificate is not of the host key".to_owned())
            }
            Blob::Certificate(it) => Ok(Self { certificate: it.blob().to_vec(), key }),
        }
    }
}

impl Agent {
    /// The files must hold a certificate and its key now, and are read again whenever the agent
    /// attests, since certificates are renewed.
    pub(super) fn new(config: AgentConfig) -> Result<Self, PluginError> {
        Credentials::read(&config)?;
        Ok(Self { config, shown: Mutex::default() })
    }
}

#[async_trait]
impl NodeEvidence for Agent {
    fn name(&self) -> &str {
        NAME
    }

    async fn payload(&self) -> Result<Vec<u8>, PluginError> {
        let Credentials { certificate, key } = Credentials::read(&self.config)?;
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
        Ok(payload::attestation_data(&certificate))
    }

    /// Once for each time that the certificate was shown.
    async fn respond(&self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        let key = self.shown.lock().unwrap_or_else(PoisonError::into_inner).take();
        let key = key.ok_or_else(|| {
            let text = "client must provide attestation data to respond to challenge";
            error(Code::FailedPrecondition, text)
        })?;
        payload::respond(&key, challenge)
            .map_err(|reason| error(Code::Internal, reason.to_string()))
    }
}

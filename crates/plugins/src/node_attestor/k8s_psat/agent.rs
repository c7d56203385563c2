//! The agent's half: reads the token that the kubelet keeps fresh in a file.

use std::path::Path;

use async_trait::async_trait;
use steeple_plugin::{Code, NodeEvidence, PluginError};
use steeple_runtime::{fsx, gotext};
use zeroize::Zeroizing;

use super::config::AgentConfig;
use super::payload::{MAX_PAYLOAD, Payload};
use super::{NAME, error};

/// How large the file may be, so that the payload is none that a server refuses.
const MAX_TOKEN: u64 = MAX_PAYLOAD as u64 / 2;

pub(super) struct Agent {
    config: AgentConfig,
}

impl Agent {
    pub(super) fn new(config: AgentConfig) -> Self {
        Self { config }
    }
}

#[async_trait]
impl NodeEvidence for Agent {
    fn name(&self) -> &str {
        NAME
    }

    async fn payload(&self) -> Result<Vec<u8>, PluginError> {
        let path = self.config.token_path.clone();
        let read = tokio::task::spawn_blocking(move || token(&path)).await;
        let token =
            read.unwrap_or_else(|_| Err("reading stopped".to_owned())).map_err(|reason| {
                let path = self.config.token_path.display();
                error(Code::InvalidArgument, format!("unable to load token from {path}: {reason}"))
            })?;
        Payload { cluster: self.config.cluster.clone(), token }.to_bytes().map_err(|reason| {
            error(Code::Internal, format!("unable to marshal PSAT token data: {reason}"))
        })
    }

    async fn respond(&self, _challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        Err(error(Code::Internal, "plugin closed stream before handling the challenge"))
    }
}

fn token(path: &Path) -> Result<String, String> {
    let failed = |reason: String| format!("open {}: {reason}", path.display());
    match fsx::read_limited(path, MAX_TOKEN) {
        Ok(None) => Err(failed("no such file or directory".to_owned())),
        Ok(Some(bytes)) if bytes.is_empty() => Err(format!("{path:?} is empty")),
        Ok(Some(bytes)) => {
            let bytes = Zeroizing::new(bytes);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        Err(error) => Err(failed(gotext::system(&error))),
    }
}

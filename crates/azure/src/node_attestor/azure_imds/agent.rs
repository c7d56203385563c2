//! The agent's half: the statement that Azure signs, with the server's nonce.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use steeple_hcl::Block;
use steeple_plugin::{Code, NodeEvidence, PluginError};

use super::payload::{Metadata, Payload};
use super::{NAME, error};
use crate::metadata;
use crate::web::Web;

/// The longest nonce that is passed on, in bytes; Azure takes no longer one.
const MAX_NONCE_LEN: usize = 32;

#[derive(Deserialize, Default)]
pub(super) struct Settings {
    #[serde(default)]
    tenant_domain: String,
}

impl Settings {
    pub(super) fn read(data: Option<&Block>) -> Result<Self, PluginError> {
        let settings: Self = super::settings(data)?;
        match settings.tenant_domain.as_str() {
            "" => Err(error(Code::InvalidArgument, "tenant_domain is required")),
            _ => Ok(settings),
        }
    }
}

pub(super) struct Agent {
    settings: Settings,
    web: Arc<dyn Web>,
}

impl Agent {
    pub(super) fn new(settings: Settings, web: Arc<dyn Web>) -> Self {
        Self { settings, web }
    }
}

#[async_trait]
impl NodeEvidence for Agent {
    fn name(&self) -> &str {
        NAME
    }

    /// There is nothing to say before the server's nonce is known.
    async fn payload(&self) -> Result<Vec<u8>, PluginError> {
        Ok(b"non_empty_payload".to_vec())
    }

    async fn respond(&self, challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        let nonce = std::str::from_utf8(challenge).ok().filter(|it| it.len() <= MAX_NONCE_LEN);
        let nonce = nonce.ok_or_else(|| error(Code::Internal, "server sent no valid nonce"))?;
        let document = metadata::attested_document(&*self.web, nonce).await.map_err(|why| {
            error(Code::Internal, format!("unable to fetch attested document: {why}"))
        })?;
        let compute = metadata::compute(&*self.web).await.map_err(|why| {
            error(Code::Internal, format!("unable to fetch compute metadata: {why}"))
        })?;
        let metadata = Metadata {
            agent_domain: self.settings.tenant_domain.clone(),
            scale_set: compute.scale_set().map(str::to_owned),
        };
        Ok(Payload { document, metadata }.to_json())
    }
}

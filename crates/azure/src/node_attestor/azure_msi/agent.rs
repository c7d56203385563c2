//! The agent's half: a token of the machine's managed identity.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use steeple_hcl::Block;
use steeple_plugin::{Code, NodeEvidence, PluginError};

use super::{DEFAULT_RESOURCE_ID, NAME, error, payload};
use crate::metadata;
use crate::web::Web;

#[derive(Deserialize, Default)]
pub(super) struct Settings {
    #[serde(default)]
    resource_id: String,
}

impl Settings {
    pub(super) fn read(data: Option<&Block>) -> Result<Self, PluginError> {
        let mut settings: Self = super::settings(data)?;
        if settings.resource_id.is_empty() {
            DEFAULT_RESOURCE_ID.clone_into(&mut settings.resource_id);
        }
        Ok(settings)
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

    async fn payload(&self) -> Result<Vec<u8>, PluginError> {
        let (token, _) = metadata::token(&*self.web, &self.settings.resource_id, None)
            .await
            .map_err(|why| error(Code::Internal, format!("unable to fetch token: {why}")))?;
        Ok(payload::write(token.expose()))
    }

    async fn respond(&self, _challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        Err(error(Code::Internal, "server issued unexpected challenge"))
    }
}

//! The agent's half: asks the metadata server for a token.

use async_trait::async_trait;
use http::StatusCode;
use steeple_net::https::Request;
use steeple_pki::jwt::issuer::MAX_TOKEN_LEN;
use steeple_plugin::{Code, NodeEvidence, PluginError};

use super::config::AgentConfig;
use super::{AUDIENCE, NAME, error};
use crate::web::{FLAVOR, Web, metadata_url};

pub(super) struct Agent {
    config: AgentConfig,
    web: Web,
}

impl Agent {
    pub(super) fn new(config: AgentConfig, web: Web) -> Self {
        Self { config, web }
    }

    async fn token(&self) -> Result<Vec<u8>, String> {
        let account = &self.config.service_account;
        let path = format!("/computeMetadata/v1/instance/service-accounts/{account}/identity");
        let mut url = metadata_url(&self.config.identity_token_host, &path)
            .map_err(|_| "identity_token_host cannot be one".to_owned())?;
        url.query_pairs_mut().append_pair("audience", AUDIENCE).append_pair("format", "full");
        let mut request = Request::get(url);
        request.headers.insert(FLAVOR.0, FLAVOR.1);
        let reply =
            self.web.call(request, MAX_TOKEN_LEN).await.map_err(|error| error.to_string())?;
        match reply.status {
            StatusCode::OK if reply.body.is_empty() => Err("the answer is empty".to_owned()),
            StatusCode::OK => Ok(reply.body.to_vec()),
            status => Err(format!("unexpected status code: {}", status.as_u16())),
        }
    }
}

#[async_trait]
impl NodeEvidence for Agent {
    fn name(&self) -> &str {
        NAME
    }

    async fn payload(&self) -> Result<Vec<u8>, PluginError> {
        self.token().await.map_err(|reason| {
            error(Code::Internal, format!("unable to retrieve valid identity token: {reason}"))
        })
    }

    async fn respond(&self, _challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        Err(error(Code::Internal, "plugin closed stream before handling the challenge"))
    }
}

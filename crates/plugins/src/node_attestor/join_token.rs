//! `join_token`, the agent's half: the token is the evidence.

use std::sync::Arc;

use async_trait::async_trait;
use steeple_hcl::Block;
use steeple_plugin::{Code, HostContext, Kind, NodeEvidence, PluginError};
use steeple_runtime::Secret;

use crate::config::refuse_any;

/// The plugin's name in configuration.
pub const NAME: &str = "join_token";

/// Evidence that consists of a token that the server made.
pub struct JoinToken {
    token: Option<Secret<String>>,
}

impl JoinToken {
    /// Evidence with the token that the operator gave the agent.
    pub fn new(token: impl Into<String>) -> Self {
        let token = token.into();
        Self { token: Some(Secret::new(token)).filter(|token| !token.expose().is_empty()) }
    }

    /// What the plugin is when no token was given: it fails, and says why.
    pub const fn without_token() -> Self {
        Self { token: None }
    }
}

#[async_trait]
impl NodeEvidence for JoinToken {
    fn name(&self) -> &str {
        NAME
    }

    async fn payload(&self) -> Result<Vec<u8>, PluginError> {
        match &self.token {
            Some(token) => Ok(token.expose().clone().into_bytes()),
            None => Err(error(Code::InvalidArgument, "join token was not provided")),
        }
    }

    async fn respond(&self, _challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        Err(error(Code::Internal, "server issued unexpected challenge"))
    }
}

/// The plugin as configured, without a token: the token is no part of its own configuration.
///
/// # Errors
/// When it is given settings, since it has none.
pub fn from_config(
    data: Option<&Block>,
    _host: &HostContext,
) -> Result<Arc<dyn NodeEvidence>, PluginError> {
    check_agent(data)?;
    Ok(Arc::new(JoinToken::without_token()))
}

pub(crate) fn check_agent(data: Option<&Block>) -> Result<(), PluginError> {
    refuse_any(Kind::NodeAttestor, NAME, data)
}

/// What `validate` has to say of the server's settings, of which there are none.
pub(crate) fn server_notes(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    #[derive(serde::Deserialize)]
    struct Nothing {}
    let Some(data) = data else { return Ok(Vec::new()) };
    let decoded = data
        .decode::<Nothing>()
        .map_err(|_| error(Code::InvalidArgument, "plugin configuration is malformed"))?;
    let note = |key: &str| {
        let shown: String = key.chars().take(64).collect();
        format!("unknown setting \"{shown}\" encountered")
    };
    Ok(decoded.unknown.iter().map(|unknown| note(&unknown.key)).collect())
}

fn error(code: Code, message: &str) -> PluginError {
    PluginError::new(Kind::NodeAttestor, NAME, code, message)
}

#[cfg(test)]
mod tests {
    use steeple_plugin::contract;

    use super::*;

    #[tokio::test]
    async fn keeps_the_contract_and_shows_the_token_as_it_is() {
        let evidence = JoinToken::new("a-token");
        contract::node_evidence(&evidence).await;
        assert_eq!(evidence.payload().await.unwrap(), b"a-token");
    }

    #[tokio::test]
    async fn without_a_token_it_says_so() {
        for evidence in [JoinToken::without_token(), JoinToken::new("")] {
            let error = evidence.payload().await.unwrap_err().to_string();
            assert_eq!(error, "nodeattestor(join_token): join token was not provided");
        }
    }

    #[test]
    fn the_servers_half_notes_settings_that_mean_nothing() {
        let data = Block::parse("ttl = 1").unwrap();
        assert_eq!(server_notes(Some(&data)).unwrap(), ["unknown setting \"ttl\" encountered"]);
        assert!(server_notes(None).unwrap().is_empty());
    }
}

//! `join_token`, the agent's half: the token is the evidence.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use steeple_hcl::Block;
use steeple_pki::envelope;
use steeple_plugin::settings::refuse_any;
use steeple_plugin::{Code, HostContext, Kind, NodeEvidence, PluginError};
use steeple_runtime::{Secret, fsx};

/// The plugin's name in configuration.
pub const NAME: &str = "join_token";

/// What tokens begin with that may be used more than once; they are ours.
const REUSABLE: &str = "sjt_";

/// What a node is known by when it comes back with such a token, in the agent's data directory.
const NODE_FILE: &str = "join-token-node";

/// The longest that such a file is.
const MAX_NODE: u64 = 128;

/// The letters of what a node is known by.
const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Evidence that consists of a token that the server made.
pub struct JoinToken {
    token: Option<Secret<String>>,
    /// Where to keep what the node is known by.
    node_file: Option<PathBuf>,
}

impl JoinToken {
    /// Evidence with the token that the operator gave the agent.
    pub fn new(token: impl Into<String>) -> Self {
        let token = token.into();
        let token = Some(Secret::new(token)).filter(|token| !token.expose().is_empty());
        Self { token, node_file: None }
    }

    /// Lets the node be known when it comes back with a token that may be used more than once:
    /// by a random name, which is made at the first use and kept in `data_dir`. An operator who
    /// wants another one writes it behind the token, after a dot.
    #[must_use]
    pub fn remembered_in(mut self, data_dir: &Path) -> Self {
        let names_no_node = |token: &str| token.starts_with(REUSABLE) && !token.contains('.');
        if self.token.as_ref().is_some_and(|token| names_no_node(token.expose())) {
            self.node_file = Some(data_dir.join(NODE_FILE));
        }
        self
    }

    /// What the plugin is when no token was given: it fails, and says why.
    pub const fn without_token() -> Self {
        Self { token: None, node_file: None }
    }
}

#[async_trait]
impl NodeEvidence for JoinToken {
    fn name(&self) -> &str {
        NAME
    }

    async fn payload(&self) -> Result<Vec<u8>, PluginError> {
        let Some(token) = &self.token else {
            return Err(error(Code::InvalidArgument, "join token was not provided"));
        };
        let token = token.expose();
        let Some(path) = self.node_file.clone() else { return Ok(token.clone().into_bytes()) };
        let found = tokio::task::spawn_blocking(move || node(&path)).await;
        let node = found.unwrap_or_else(|_| Err("reading stopped".to_owned()));
        let node = node.map_err(|reason| {
            let text = format!("unable to keep what this node is known by: {reason}");
            error(Code::Internal, &text)
        })?;
        Ok(format!("{token}.{}", node.expose()).into_bytes())
    }

    async fn respond(&self, _challenge: &[u8]) -> Result<Vec<u8>, PluginError> {
        Err(error(Code::Internal, "server issued unexpected challenge"))
    }
}

/// What the node is known by; made at the first time.
fn node(path: &Path) -> Result<Secret<String>, String> {
    let told = |error: std::io::Error| error.to_string();
    if let Some(bytes) = fsx::read_limited(path, MAX_NODE).map_err(told)? {
        let text = String::from_utf8(bytes).unwrap_or_default();
        let right = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let text = text.trim_end();
        if text.len() < 16 || !text.bytes().all(right) {
            return Err(format!("{} is damaged; remove it to join anew", path.display()));
        }
        return Ok(Secret::new(text.to_owned()));
    }
    let mut bytes = [0; 52];
    envelope::random(&mut bytes);
    let text: String = bytes.iter().map(|it| char::from(LETTERS[usize::from(it % 32)])).collect();
    fsx::write_atomic(path, text.as_bytes(), 0o600).map_err(told)?;
    Ok(Secret::new(text))
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

    #[tokio::test]
    async fn a_token_that_may_be_used_again_brings_what_the_node_is_known_by() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let payload = async |token: &str| {
            let evidence = JoinToken::new(token).remembered_in(dir.path());
            String::from_utf8(evidence.payload().await.unwrap()).unwrap()
        };
        assert_eq!(payload("a-token").await, "a-token");
        assert_eq!(payload("sjt_1_x.mine").await, "sjt_1_x.mine");
        let file = dir.path().join(NODE_FILE);
        assert!(!file.exists());
        let first = payload("sjt_1_x").await;
        let node = first.strip_prefix("sjt_1_x.").unwrap();
        assert_eq!(node.len(), 52);
        assert_eq!(payload("sjt_1_x").await, first, "it is the same at every time");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        let elsewhere = JoinToken::new("sjt_1_x").remembered_in(other.path());
        assert_ne!(elsewhere.payload().await.unwrap(), first.as_bytes());
        for damaged in [&b"short"[..], &[0xff; 20], b"0123456789/0123456789", &[b'a'; 200]] {
            std::fs::write(&file, damaged).unwrap();
            let evidence = JoinToken::new("sjt_1_x").remembered_in(dir.path());
            let error = evidence.payload().await.unwrap_err().to_string();
            assert!(error.contains("unable to keep what this node is known by: "), "{error}");
        }
    }

    #[test]
    fn the_servers_half_notes_settings_that_mean_nothing() {
        let data = Block::parse("ttl = 1").unwrap();
        assert_eq!(server_notes(Some(&data)).unwrap(), ["unknown setting \"ttl\" encountered"]);
        assert!(server_notes(None).unwrap().is_empty());
    }
}

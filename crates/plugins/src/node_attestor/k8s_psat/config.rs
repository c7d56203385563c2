//! The settings of both halves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;
use steeple_hcl::Block;
use steeple_plugin::settings::decode_leniently;
use steeple_plugin::{Code, Kind, PluginError};

use super::{NAME, error};

const DEFAULT_TOKEN_PATH: &str = "/var/run/secrets/tokens/spire-agent";
const DEFAULT_AUDIENCE: &str = "spire-server";

/// The agent's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AgentConfig {
    /// The cluster's name, as the server's settings have it.
    pub(super) cluster: String,
    pub(super) token_path: PathBuf,
}

pub(super) fn agent(data: Option<&Block>) -> Result<AgentConfig, PluginError> {
    let refusal = "unable to decode configuration";
    let mut config: AgentConfig = decode_leniently(Kind::NodeAttestor, NAME, data, refusal)?;
    if config.cluster.is_empty() {
        return Err(error(Code::InvalidArgument, "missing required cluster block"));
    }
    if config.token_path.as_os_str().is_empty() {
        config.token_path = DEFAULT_TOKEN_PATH.into();
    }
    Ok(config)
}

/// The server's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServerConfig {
    pub(super) clusters: BTreeMap<String, ClusterConfig>,
}

/// A cluster as agents name it; several of them may be on one API server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ClusterConfig {
    /// `<namespace>:<name>` each.
    pub(super) service_account_allow_list: BTreeSet<String>,
    /// Whom tokens must be meant for; an empty list is the API server itself.
    audience: Option<Vec<String>>,
    /// Empty is the cluster that the server is in.
    kube_config_file: PathBuf,
    pub(super) allowed_node_label_keys: BTreeSet<String>,
    pub(super) allowed_pod_label_keys: BTreeSet<String>,
    pub(super) use_pod_uid_for_agent_id: bool,
}

impl ClusterConfig {
    pub(super) fn audience(&self) -> Vec<String> {
        self.audience.clone().unwrap_or_else(|| vec![DEFAULT_AUDIENCE.to_owned()])
    }

    pub(super) fn kubeconfig(&self) -> Option<PathBuf> {
        Some(self.kube_config_file.clone()).filter(|path| !path.as_os_str().is_empty())
    }
}

impl ServerConfig {
    /// What is allowed and yet hardly meant.
    pub(super) fn notes(&self) -> Vec<String> {
        let note = "No clusters configured, PSAT attestation is effectively disabled";
        if self.clusters.is_empty() { vec![note.to_owned()] } else { Vec::new() }
    }
}

pub(super) fn server(data: Option<&Block>) -> Result<ServerConfig, PluginError> {
    let refusal = "plugin configuration is malformed";
    let config: ServerConfig = decode_leniently(Kind::NodeAttestor, NAME, data, refusal)?;
    for (name, cluster) in &config.clusters {
        if cluster.service_account_allow_list.is_empty() {
            let text = format!(
                "cluster {name:?} configuration must have at least one service account allowed"
            );
            return Err(error(Code::InvalidArgument, text));
        }
    }
    Ok(config)
}

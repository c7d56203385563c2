//! The settings of both halves.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;
use steeple_hcl::Block;
use steeple_plugin::settings::decode_leniently;
use steeple_plugin::{Code, Kind, PluginError};
use steeple_template::{AgentPathTemplate, TemplateError};

use super::{NAME, error};
use crate::web::cut;

const DEFAULT_HOST: &str = "metadata.google.internal";
const DEFAULT_ACCOUNT: &str = "default";
const DEFAULT_TEMPLATE: &str = "/{{ .PluginName }}/{{ .ProjectID }}/{{ .InstanceID }}";
const DEFAULT_VALUE_SIZE: i64 = 128;

const MALFORMED: &str = "unable to decode configuration";

/// The agent's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AgentConfig {
    /// With a port, if need be.
    pub(super) identity_token_host: String,
    pub(super) service_account: String,
}

pub(super) fn agent(data: Option<&Block>) -> Result<AgentConfig, PluginError> {
    let mut config: AgentConfig = decode_leniently(Kind::NodeAttestor, NAME, data, MALFORMED)?;
    if config.identity_token_host.is_empty() {
        DEFAULT_HOST.clone_into(&mut config.identity_token_host);
    }
    if config.service_account.is_empty() {
        DEFAULT_ACCOUNT.clone_into(&mut config.service_account);
    }
    Ok(config)
}

/// What an agent's path is if nobody says otherwise.
pub(super) fn default_template() -> Result<AgentPathTemplate, TemplateError> {
    AgentPathTemplate::parse(DEFAULT_TEMPLATE)
}

/// The server's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServerConfig {
    pub(super) projectid_allow_list: BTreeSet<String>,
    agent_path_template: String,
    pub(super) use_instance_metadata: bool,
    pub(super) allowed_label_keys: BTreeSet<String>,
    pub(super) allowed_metadata_keys: BTreeSet<String>,
    /// In bytes.
    pub(super) max_metadata_value_size: i64,
    pub(super) service_account_file: PathBuf,
}

pub(super) fn server(
    data: Option<&Block>,
) -> Result<(ServerConfig, AgentPathTemplate), PluginError> {
    let mut config: ServerConfig = decode_leniently(Kind::NodeAttestor, NAME, data, MALFORMED)?;
    if config.projectid_allow_list.is_empty() {
        return Err(error(Code::InvalidArgument, "projectid_allow_list is required"));
    }
    if config.max_metadata_value_size == 0 {
        config.max_metadata_value_size = DEFAULT_VALUE_SIZE;
    }
    let template = match config.agent_path_template.as_str() {
        "" => default_template(),
        given => AgentPathTemplate::parse(given),
    };
    let template = template.map_err(|reason| {
        let text = cut(&config.agent_path_template);
        let text = format!("failed to parse agent path template: {text:?}: {reason}");
        error(Code::InvalidArgument, text)
    })?;
    Ok((config, template))
}

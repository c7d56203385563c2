//! Node attestors.

pub mod azure_imds;
pub mod azure_msi;
mod network;

use steeple_template::AgentPathTemplate;

/// Reads the template of agents' paths; an empty one is `default`.
fn path_template(text: &str, default: &str) -> Result<AgentPathTemplate, String> {
    let text = if text.is_empty() { default } else { text };
    AgentPathTemplate::parse(text)
        .map_err(|_| format!("failed to parse agent path template: {text:?}"))
}

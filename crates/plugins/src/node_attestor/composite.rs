//! `composite`: several attestors, all of whose evidence one agent must bring. Ours.
//!
//! The parts are ordinary plugins, configured beside it; this one asks each of them in its order,
//! in one conversation, about one key. The agent's ID is the first part's.

mod agent;
mod config;
mod payload;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use steeple_hcl::Block;
use steeple_plugin::{Code, HostContext, Kind, NodeAttestor, NodeEvidence, PluginError};

pub use config::Settings;
pub use payload::{Challenge, Payload};

/// The plugin's name in configuration.
pub const NAME: &str = "composite";

/// Examines the settings of the agent's half.
///
/// # Errors
/// When they are wrong.
pub fn check_agent(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    config::agent(data).map(|_| Vec::new())
}

/// Examines the settings of the server's half.
///
/// # Errors
/// When they are wrong.
pub fn check_server(data: Option<&Block>) -> Result<Vec<String>, PluginError> {
    config::server(data).map(|_| Vec::new())
}

/// The settings of the agent's half; [`Settings::bind_agent`] makes the plugin of them.
///
/// # Errors
/// When they are wrong.
pub fn agent(data: Option<&Block>) -> Result<Arc<Settings>, PluginError> {
    config::agent(data).map(Arc::new)
}

/// The settings of the server's half; [`Settings::bind_server`] makes the plugin of them.
///
/// # Errors
/// When they are wrong.
pub fn server(data: Option<&Block>) -> Result<Arc<Settings>, PluginError> {
    config::server(data).map(Arc::new)
}

impl Settings {
    /// The agent's half, of the plugins that were loaded: its parts and no others.
    ///
    /// # Errors
    /// When a part is not among them, or another than its parts is.
    pub fn bind_agent(
        &self,
        loaded: &[Arc<dyn NodeEvidence>],
    ) -> Result<Arc<dyn NodeEvidence>, PluginError> {
        let names: Vec<&str> = loaded.iter().map(|it| it.name()).collect();
        if let Some(text) = self.complaints(&names, true).first() {
            return Err(error(Code::InvalidArgument, text));
        }
        let parts = self.in_order(loaded, |it| it.name())?;
        Ok(Arc::new(agent::Composite::new(parts)))
    }

    /// The server's half, of the plugins that were loaded.
    ///
    /// # Errors
    /// When a part is not among them.
    pub fn bind_server(
        &self,
        loaded: &[Arc<dyn NodeAttestor>],
        host: &HostContext,
    ) -> Result<Arc<dyn NodeAttestor>, PluginError> {
        let parts = self.in_order(loaded, |it| it.name())?;
        Ok(Arc::new(server::Composite::new(parts, host.trust_domain.clone())))
    }

    /// What is wrong with the node attestors that stand beside it; on an agent, there is none but
    /// its parts.
    #[must_use]
    pub fn complaints(&self, configured: &[&str], on_agent: bool) -> Vec<String> {
        let missing = self.attestors.iter().filter(|name| !configured.contains(&name.as_str()));
        let mut complaints: Vec<String> = missing.map(|name| is_missing(name)).collect();
        let others = configured.iter().filter(|name| !self.attestors.iter().any(|it| it == *name));
        for other in others.filter(|_| on_agent) {
            complaints.push(format!("node attestor {other:?} is configured, and is not a part"));
        }
        complaints
    }

    fn in_order<T: ?Sized>(
        &self,
        loaded: &[Arc<T>],
        name: impl Fn(&T) -> &str,
    ) -> Result<Vec<Arc<T>>, PluginError> {
        let find = |wanted: &String| {
            let found = loaded.iter().find(|it| name(it) == wanted).cloned();
            found.ok_or_else(|| error(Code::InvalidArgument, &is_missing(wanted)))
        };
        self.attestors.iter().map(find).collect()
    }
}

fn is_missing(name: &str) -> String {
    format!("node attestor {name:?} is a part, and is not configured")
}

fn error(code: Code, message: &str) -> PluginError {
    PluginError::new(Kind::NodeAttestor, NAME, code, message)
}

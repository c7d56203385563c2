//! Which program a plugin is, and as what it runs.

use std::path::PathBuf;

use steeple_plugin::{Code, Kind, PluginError};

/// Which of the two programs a plugin serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `spire-agent`.
    Agent,
    /// `spire-server`.
    Server,
}

/// An external plugin as configuration describes it.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Whom it serves.
    pub side: Side,
    /// What kind of plugin it is to be.
    pub kind: Kind,
    /// Its name in configuration.
    pub name: String,
    /// Its program (`plugin_cmd`); relative to the working directory, never looked up in `PATH`.
    pub command: PathBuf,
    /// Its arguments (`plugin_args`).
    pub args: Vec<String>,
    /// The SHA-256 of the program in hexadecimal (`plugin_checksum`); none when empty.
    pub checksum: String,
}

impl Spec {
    /// The gRPC service that a plugin of this kind must have.
    pub(crate) fn service(&self) -> String {
        let side = match self.side {
            Side::Agent => "agent",
            Side::Server => "server",
        };
        format!("spire.plugin.{side}.{}.v1.{}", self.kind.prefix(), self.kind.name())
    }

    /// The failure of this plugin.
    pub(crate) fn error(&self, code: Code, message: impl AsRef<str>) -> PluginError {
        PluginError::new(self.kind, &self.name, code, message)
    }

    /// The last part of the command, which the plugin's log lines carry.
    pub(crate) fn base(&self) -> String {
        self.command.file_name().map_or_else(String::new, |name| name.to_string_lossy().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_the_names_of_the_plugin_sdk() {
        let spec = |side, kind| Spec {
            side,
            kind,
            name: "x".into(),
            command: "/bin/x".into(),
            args: Vec::new(),
            checksum: String::new(),
        };
        let service = spec(Side::Server, Kind::KeyManager).service();
        assert_eq!(service, "spire.plugin.server.keymanager.v1.KeyManager");
        let service = spec(Side::Agent, Kind::SvidStore).service();
        assert_eq!(service, "spire.plugin.agent.svidstore.v1.SVIDStore");
        let service = spec(Side::Server, Kind::CredentialComposer).service();
        assert_eq!(service, "spire.plugin.server.credentialcomposer.v1.CredentialComposer");
    }
}

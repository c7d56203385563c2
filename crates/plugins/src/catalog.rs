//! The table of built-in plugins: which there are, and how one is made of its settings.

use std::sync::Arc;

use steeple_hcl::Block;
use steeple_plugin::{
    BundlePublisher, Code, CredentialComposer, HostContext, KeyManager, Kind, NodeAttestor,
    NodeEvidence, Notifier, PluginError, SvidStore, UpstreamAuthority, WorkloadAttestor,
};

use crate::credential_composer::uniqueid;
use crate::key_manager::{disk, memory, pkcs11, tpm as tpm_keys};
use crate::node_attestor::{self, composite, join_token};
use crate::svid_store::disk as svid_disk;
use crate::upstream_authority::{disk as upstream_disk, spire};
use crate::workload_attestor::{docker, k8s, slurm, systemd, unix};

/// How much of a wrong name an error repeats.
const MAX_ECHO: usize = 64;

/// Which of the two programs a plugin runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// `spire-agent`.
    Agent,
    /// `spire-server`.
    Server,
}

/// A row of the table.
#[derive(Clone, Copy)]
pub struct Builtin {
    /// Where it runs.
    pub side: Side,
    /// What kind it is.
    pub kind: Kind,
    /// Its name in configuration.
    pub name: &'static str,
    check: fn(Option<&Block>) -> Result<Vec<String>, PluginError>,
    make: fn(Option<&Block>, &HostContext) -> Result<Made, PluginError>,
}

/// A plugin that was made.
#[expect(missing_docs, reason = "each variant is the trait that it holds")]
pub enum Made {
    BundlePublisher(Arc<dyn BundlePublisher>),
    CredentialComposer(Arc<dyn CredentialComposer>),
    KeyManager(Arc<dyn KeyManager>),
    NodeAttestor(Arc<dyn NodeAttestor>),
    NodeEvidence(Arc<dyn NodeEvidence>),
    Notifier(Arc<dyn Notifier>),
    SvidStore(Arc<dyn SvidStore>),
    UpstreamAuthority(Arc<dyn UpstreamAuthority>),
    WorkloadAttestor(Arc<dyn WorkloadAttestor>),
    /// Is made of plugins that stand beside it, once these were made.
    Composite(Arc<composite::Settings>),
    /// Lives in the server's core; only its settings are known here.
    Core,
}

/// Both halves of node attestors, a line each: the module, which has `NAME`, `check_agent`,
/// `agent`, `check_server` and `server`.
macro_rules! node_attestors {
    ($($($module:ident)::+),* $(,)?) => {
        /// The built-in node attestors with two halves, sorted by name.
        pub static NODE_ATTESTORS: &[[Builtin; 2]] = &[$([
            Builtin {
                side: Side::Agent,
                kind: Kind::NodeAttestor,
                name: $($module)::+::NAME,
                check: $($module)::+::check_agent,
                make: |data, host| $($module)::+::agent(data, host).map(Made::NodeEvidence),
            },
            Builtin {
                side: Side::Server,
                kind: Kind::NodeAttestor,
                name: $($module)::+::NAME,
                check: $($module)::+::check_server,
                make: |data, host| $($module)::+::server(data, host).map(Made::NodeAttestor),
            },
        ]),*];
    };
}

node_attestors! {
    steeple_aws::node_attestor::aws_iid,
    steeple_azure::node_attestor::azure_imds,
    steeple_azure::node_attestor::azure_msi,
    steeple_gcp::node_attestor::gcp_iit,
    node_attestor::http_challenge,
    node_attestor::k8s_psat,
    node_attestor::sshpop,
    node_attestor::tpm,
    node_attestor::tpm_devid,
    node_attestor::x509pop,
}

/// Every built-in plugin.
pub fn builtins() -> impl Iterator<Item = &'static Builtin> {
    BUILTINS.iter().chain(NODE_ATTESTORS.iter().flatten())
}

/// The other built-in plugins, sorted by side, kind and name. What SPIRE has besides,
/// `steeple_config` knows; it refuses such a name with file and line.
static BUILTINS: &[Builtin] = &[
    Builtin {
        side: Side::Agent,
        kind: Kind::KeyManager,
        name: disk::NAME,
        check: |data| disk::check_agent(data).map(no_notes),
        make: |data, host| disk::agent_from_config(data, host).map(Made::KeyManager),
    },
    Builtin {
        side: Side::Agent,
        kind: Kind::KeyManager,
        name: memory::NAME,
        check: |data| memory::check(data).map(no_notes),
        make: |data, host| memory::from_config(data, host).map(Made::KeyManager),
    },
    Builtin {
        side: Side::Agent,
        kind: Kind::KeyManager,
        name: pkcs11::NAME,
        check: |data| pkcs11::check(data).map(no_notes),
        make: |data, host| pkcs11::from_config(data, host).map(Made::KeyManager),
    },
    Builtin {
        side: Side::Agent,
        kind: Kind::KeyManager,
        name: tpm_keys::NAME,
        check: |data| tpm_keys::check(data).map(no_notes),
        make: |data, host| tpm_keys::from_config(data, host).map(Made::KeyManager),
    },
    Builtin {
        side: Side::Agent,
        kind: Kind::NodeAttestor,
        name: composite::NAME,
        check: composite::check_agent,
        make: |data, _| composite::agent(data).map(Made::Composite),
    },
    Builtin {
        side: Side::Agent,
        kind: Kind::NodeAttestor,
        name: join_token::NAME,
        check: |data| join_token::check_agent(data).map(no_notes),
        make: |data, host| join_token::from_config(data, host).map(Made::NodeEvidence),
    },
    Builtin {
        side: Side::Agent,
        kind: Kind::SvidStore,
        name: svid_disk::NAME,
        check: |data| svid_disk::check(data).map(no_notes),
        make: |data, host| svid_disk::from_config(data, host).map(Made::SvidStore),
    },
    Builtin {
        side: Side::Agent,
        kind: Kind::WorkloadAttestor,
        name: docker::NAME,
        check: docker::check,
        make: |data, host| docker::from_config(data, host).map(Made::WorkloadAttestor),
    },
    Builtin {
        side: Side::Agent,
        kind: Kind::WorkloadAttestor,
        name: k8s::NAME,
        check: |data| k8s::check(data).map(no_notes),
        make: |data, host| k8s::from_config(data, host).map(Made::WorkloadAttestor),
    },
    Builtin {
        side: Side::Agent,
        kind: Kind::WorkloadAttestor,
        name: slurm::NAME,
        check: |data| slurm::check(data).map(no_notes),
        make: |data, host| slurm::from_config(data, host).map(Made::WorkloadAttestor),
    },
    Builtin {
        side: Side::Agent,
        kind: Kind::WorkloadAttestor,
        name: systemd::NAME,
        check: |data| systemd::check(data).map(no_notes),
        make: |data, host| systemd::from_config(data, host).map(Made::WorkloadAttestor),
    },
    Builtin {
        side: Side::Agent,
        kind: Kind::WorkloadAttestor,
        name: unix::NAME,
        check: |data| unix::check(data).map(no_notes),
        make: |data, host| unix::from_config(data, host).map(Made::WorkloadAttestor),
    },
    Builtin {
        side: Side::Server,
        kind: Kind::CredentialComposer,
        name: uniqueid::NAME,
        check: |data| uniqueid::check(data).map(no_notes),
        make: |data, host| uniqueid::from_config(data, host).map(Made::CredentialComposer),
    },
    Builtin {
        side: Side::Server,
        kind: Kind::KeyManager,
        name: disk::NAME,
        check: |data| disk::check_server(data).map(no_notes),
        make: |data, host| disk::server_from_config(data, host).map(Made::KeyManager),
    },
    Builtin {
        side: Side::Server,
        kind: Kind::KeyManager,
        name: memory::NAME,
        check: |data| memory::check(data).map(no_notes),
        make: |data, host| memory::from_config(data, host).map(Made::KeyManager),
    },
    Builtin {
        side: Side::Server,
        kind: Kind::KeyManager,
        name: pkcs11::NAME,
        check: |data| pkcs11::check(data).map(no_notes),
        make: |data, host| pkcs11::from_config(data, host).map(Made::KeyManager),
    },
    Builtin {
        side: Side::Server,
        kind: Kind::NodeAttestor,
        name: composite::NAME,
        check: composite::check_server,
        make: |data, _| composite::server(data).map(Made::Composite),
    },
    Builtin {
        side: Side::Server,
        kind: Kind::NodeAttestor,
        name: join_token::NAME,
        check: join_token::server_notes,
        make: |data, _| join_token::server_notes(data).map(|_| Made::Core),
    },
    Builtin {
        side: Side::Server,
        kind: Kind::UpstreamAuthority,
        name: upstream_disk::NAME,
        check: |data| upstream_disk::check(data).map(no_notes),
        make: |data, host| upstream_disk::from_config(data, host).map(Made::UpstreamAuthority),
    },
    Builtin {
        side: Side::Server,
        kind: Kind::UpstreamAuthority,
        name: spire::NAME,
        check: |data| spire::check(data).map(no_notes),
        make: |data, host| spire::from_config(data, host).map(Made::UpstreamAuthority),
    },
];

/// The built-in plugin of this name.
pub fn find(side: Side, kind: Kind, name: &str) -> Option<&'static Builtin> {
    builtins().find(|it| (it.side, it.kind, it.name) == (side, kind, name))
}

/// Makes the plugin that a configuration asks for; no `data` is no `plugin_data`.
///
/// # Errors
/// When there is no such plugin, its settings are wrong, or what it stands on cannot be used.
pub fn make(
    side: Side,
    kind: Kind,
    name: &str,
    data: Option<&Block>,
    host: &HostContext,
) -> Result<Made, PluginError> {
    match find(side, kind, name) {
        Some(builtin) => (builtin.make)(data, host),
        None => Err(missing(kind, name)),
    }
}

/// Makes the key manager that a configuration asks for; no `data` is no `plugin_data`.
///
/// # Errors
/// When there is no such plugin, its settings are wrong, or what it stands on cannot be used.
pub fn key_manager(
    side: Side,
    name: &str,
    data: Option<&Block>,
    host: &HostContext,
) -> Result<Arc<dyn KeyManager>, PluginError> {
    match make(side, Kind::KeyManager, name, data, host)? {
        Made::KeyManager(made) => Ok(made),
        _ => Err(missing(Kind::KeyManager, name)),
    }
}

/// Makes the agent's half of the node attestor that a configuration asks for.
///
/// An agent with a join token does not ask here; it has
/// [`JoinToken`](crate::node_attestor::join_token::JoinToken).
///
/// # Errors
/// As [`key_manager`].
pub fn node_evidence(
    name: &str,
    data: Option<&Block>,
    host: &HostContext,
) -> Result<Arc<dyn NodeEvidence>, PluginError> {
    match make(Side::Agent, Kind::NodeAttestor, name, data, host)? {
        Made::NodeEvidence(made) => Ok(made),
        _ => Err(missing(Kind::NodeAttestor, name)),
    }
}

/// Makes the workload attestor that a configuration asks for.
///
/// # Errors
/// As [`key_manager`].
pub fn workload_attestor(
    name: &str,
    data: Option<&Block>,
    host: &HostContext,
) -> Result<Arc<dyn WorkloadAttestor>, PluginError> {
    match make(Side::Agent, Kind::WorkloadAttestor, name, data, host)? {
        Made::WorkloadAttestor(made) => Ok(made),
        _ => Err(missing(Kind::WorkloadAttestor, name)),
    }
}

/// Examines the settings of a plugin as making it would, and touches nothing; gives what the
/// plugin has to remark, as `validate` prints it.
///
/// # Errors
/// When there is no such plugin, or its settings are wrong.
pub fn validate(
    side: Side,
    kind: Kind,
    name: &str,
    data: Option<&Block>,
) -> Result<Vec<String>, PluginError> {
    match find(side, kind, name) {
        Some(builtin) => (builtin.check)(data),
        None => Err(missing(kind, name)),
    }
}

fn no_notes((): ()) -> Vec<String> {
    Vec::new()
}

fn missing(kind: Kind, name: &str) -> PluginError {
    let shown: String = name.chars().take(MAX_ECHO).collect();
    let message = format!("no built-in plugin {shown:?} for type \"{kind}\"");
    PluginError { code: Code::NotFound, message }
}

#[cfg(test)]
mod tests;

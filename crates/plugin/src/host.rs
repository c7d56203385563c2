//! What the host tells a plugin.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use steeple_runtime::{Clock, SystemClock};
use steeple_spiffe::TrustDomain;

use crate::HostServices;

/// The kinds of plugin, by the names that configuration uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Publishes the bundle elsewhere; server.
    BundlePublisher,
    /// Has a last word on what goes into certificates and tokens; server.
    CredentialComposer,
    /// Makes and keeps private keys; server and agent.
    KeyManager,
    /// Proves what a node is; a half in the server and a half in the agent.
    NodeAttestor,
    /// Is told of events; server.
    Notifier,
    /// Keeps SVIDs elsewhere; agent.
    SvidStore,
    /// Signs our CA; server.
    UpstreamAuthority,
    /// Finds out what a process is; agent.
    WorkloadAttestor,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::BundlePublisher,
        Self::CredentialComposer,
        Self::KeyManager,
        Self::NodeAttestor,
        Self::Notifier,
        Self::SvidStore,
        Self::UpstreamAuthority,
        Self::WorkloadAttestor,
    ];

    /// The name in configuration, such as `KeyManager`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BundlePublisher => "BundlePublisher",
            Self::CredentialComposer => "CredentialComposer",
            Self::KeyManager => "KeyManager",
            Self::NodeAttestor => "NodeAttestor",
            Self::Notifier => "Notifier",
            Self::SvidStore => "SVIDStore",
            Self::UpstreamAuthority => "UpstreamAuthority",
            Self::WorkloadAttestor => "WorkloadAttestor",
        }
    }

    /// The name in messages: the one in configuration, in lower case.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::BundlePublisher => "bundlepublisher",
            Self::CredentialComposer => "credentialcomposer",
            Self::KeyManager => "keymanager",
            Self::NodeAttestor => "nodeattestor",
            Self::Notifier => "notifier",
            Self::SvidStore => "svidstore",
            Self::UpstreamAuthority => "upstreamauthority",
            Self::WorkloadAttestor => "workloadattestor",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or(UnknownKind)
    }
}

/// No kind of plugin has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown plugin type")]
pub struct UnknownKind;

/// What a plugin may know of the world outside its configuration; it has no clock, environment or
/// global of its own.
#[derive(Clone)]
pub struct HostContext {
    /// The trust domain of the server or agent.
    pub trust_domain: TrustDomain,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// The root of the process table: `/proc`, or what `HOST_PROC` says.
    pub proc_root: PathBuf,
    /// What it may ask the server, once the server stands.
    pub services: HostServices,
}

impl HostContext {
    /// The world as it usually is: the system's clock, `/proc`.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            clock: Arc::new(SystemClock),
            proc_root: PathBuf::from("/proc"),
            services: HostServices::new(),
        }
    }

    /// Sets the root of the process table, unless `host_proc` is empty.
    #[must_use]
    pub fn with_proc_root(mut self, host_proc: Option<PathBuf>) -> Self {
        if let Some(root) = host_proc.filter(|root| !root.as_os_str().is_empty()) {
            self.proc_root = root;
        }
        self
    }

    /// Sets what it may ask the server.
    #[must_use]
    pub fn with_services(mut self, services: HostServices) -> Self {
        self.services = services;
        self
    }

    /// Sets the clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

impl fmt::Debug for HostContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostContext")
            .field("trust_domain", &self.trust_domain)
            .field("proc_root", &self.proc_root)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_by_the_names_of_configuration_only() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(kind.name().to_lowercase(), kind.prefix());
        }
        assert_eq!("keymanager".parse::<Kind>(), Err(UnknownKind));
    }

    #[test]
    fn an_empty_host_proc_leaves_proc() {
        let domain = TrustDomain::parse("example.org").unwrap();
        let root = |value: Option<&str>| {
            HostContext::new(domain.clone()).with_proc_root(value.map(PathBuf::from)).proc_root
        };
        assert_eq!(root(None), PathBuf::from("/proc"));
        assert_eq!(root(Some("")), PathBuf::from("/proc"));
        assert_eq!(root(Some("/host/proc")), PathBuf::from("/host/proc"));
    }
}

//! The protocols as Rust types, with tonic clients and servers for every service.
//!
//! Everything below `gen/` is generated from the files in `/proto` by `cargo xtask codegen` and
//! committed; a test in xtask regenerates it and compares. Modules follow the proto packages; the
//! two files without a package are [`workload`] and [`journal`]. Every `bytes` field is a
//! [`bytes::Bytes`], every map a `BTreeMap`, so that one message has one encoding.
//!
//! Not here: any conversion to or from the domain's own types; each API crate does that at its
//! edge. Invariant: messages with private keys, bearer tokens or attestation evidence print none
//! of it (`redact.rs`).

#![expect(missing_docs, reason = "generated code; the .proto files say what the names mean")]
#![allow(
    deprecated,
    rust_2018_idioms,
    unreachable_pub,
    clippy::all,
    clippy::needless_pass_by_value,
    clippy::too_many_lines,
    reason = "generated code"
)]

mod redact;

/// The encoded `FileDescriptorSet` of every file, imports included: for server reflection and for
/// protojson.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");

/// Envoy's protocols, as far as SDS needs them.
pub mod envoy {
    /// Packages below `envoy.config`.
    pub mod config {
        /// Packages below `envoy.config.core`.
        pub mod core {
            /// Package `envoy.config.core.v3`.
            pub mod v3 {
                include!("gen/envoy.config.core.v3.rs");
            }
        }
    }
    /// Packages below `envoy.extensions`.
    pub mod extensions {
        /// Packages below `envoy.extensions.transport_sockets`.
        pub mod transport_sockets {
            /// Packages below `envoy.extensions.transport_sockets.tls`.
            pub mod tls {
                /// Package `envoy.extensions.transport_sockets.tls.v3`.
                pub mod v3 {
                    include!("gen/envoy.extensions.transport_sockets.tls.v3.rs");
                }
            }
        }
    }
    /// Packages below `envoy.service`.
    pub mod service {
        /// Packages below `envoy.service.discovery`.
        pub mod discovery {
            /// Package `envoy.service.discovery.v3`.
            pub mod v3 {
                include!("gen/envoy.service.discovery.v3.rs");
            }
        }
        /// Packages below `envoy.service.secret`.
        pub mod secret {
            /// Package `envoy.service.secret.v3`.
            pub mod v3 {
                include!("gen/envoy.service.secret.v3.rs");
            }
        }
    }
    /// Packages below `envoy.type`.
    pub mod r#type {
        /// Package `envoy.type.v3`.
        pub mod v3 {
            include!("gen/envoy.r#type.v3.rs");
        }
    }
}
/// Google's common types.
pub mod google {
    /// `google.rpc`: the status in `grpc-status-details-bin`.
    pub mod rpc {
        include!("gen/google.rpc.rs");
    }
}
/// The CA journal blob of the datastore; its proto package is empty.
pub mod journal {
    include!("gen/journal.rs");
}
/// go-plugin's own services.
pub mod plugin {
    include!("gen/plugin.rs");
}
/// SPIFFE's protocols.
pub mod spiffe {
    /// The SPIFFE Broker API.
    pub mod broker {
        include!("gen/spiffe.broker.rs");
    }
}
/// SPIRE's protocols.
pub mod spire {
    /// Packages below `spire.agent`.
    pub mod agent {
        /// Packages below `spire.agent.debug`.
        pub mod debug {
            /// Package `spire.agent.debug.v1`.
            pub mod v1 {
                include!("gen/spire.agent.debug.v1.rs");
            }
        }
    }
    /// Packages below `spire.api`.
    pub mod api {
        /// Packages below `spire.api.agent`.
        pub mod agent {
            pub use crate::spire::agent::debug;
            /// Packages below `spire.api.agent.delegatedidentity`.
            pub mod delegatedidentity {
                /// Package `spire.api.agent.delegatedidentity.v1`.
                pub mod v1 {
                    include!("gen/spire.api.agent.delegatedidentity.v1.rs");
                }
            }
            /// Packages below `spire.api.agent.logger`.
            pub mod logger {
                /// Package `spire.api.agent.logger.v1`.
                pub mod v1 {
                    include!("gen/spire.api.agent.logger.v1.rs");
                }
            }
        }
        /// Packages below `spire.api.server`.
        pub mod server {
            /// Packages below `spire.api.server.agent`.
            pub mod agent {
                /// Package `spire.api.server.agent.v1`.
                pub mod v1 {
                    include!("gen/spire.api.server.agent.v1.rs");
                }
            }
            /// Packages below `spire.api.server.bundle`.
            pub mod bundle {
                /// Package `spire.api.server.bundle.v1`.
                pub mod v1 {
                    include!("gen/spire.api.server.bundle.v1.rs");
                }
            }
            /// Packages below `spire.api.server.debug`.
            pub mod debug {
                /// Package `spire.api.server.debug.v1`.
                pub mod v1 {
                    include!("gen/spire.api.server.debug.v1.rs");
                }
            }
            /// Packages below `spire.api.server.entry`.
            pub mod entry {
                /// Package `spire.api.server.entry.v1`.
                pub mod v1 {
                    include!("gen/spire.api.server.entry.v1.rs");
                }
            }
            /// Packages below `spire.api.server.localauthority`.
            pub mod localauthority {
                /// Package `spire.api.server.localauthority.v1`.
                pub mod v1 {
                    include!("gen/spire.api.server.localauthority.v1.rs");
                }
            }
            /// Packages below `spire.api.server.logger`.
            pub mod logger {
                /// Package `spire.api.server.logger.v1`.
                pub mod v1 {
                    include!("gen/spire.api.server.logger.v1.rs");
                }
            }
            /// Packages below `spire.api.server.svid`.
            pub mod svid {
                /// Package `spire.api.server.svid.v1`.
                pub mod v1 {
                    include!("gen/spire.api.server.svid.v1.rs");
                }
            }
            /// Packages below `spire.api.server.trustdomain`.
            pub mod trustdomain {
                /// Package `spire.api.server.trustdomain.v1`.
                pub mod v1 {
                    include!("gen/spire.api.server.trustdomain.v1.rs");
                }
            }
        }
        /// Package `spire.api.types`.
        pub mod types {
            include!("gen/spire.api.types.rs");
        }
    }
    /// `spire.common`: messages stored as blobs in the datastore.
    pub mod common {
        include!("gen/spire.common.rs");
        /// Package `spire.common.plugin`.
        pub mod plugin {
            include!("gen/spire.common.plugin.rs");
        }
    }
    /// Packages below `spire.hostservice`.
    pub mod hostservice {
        /// Packages below `spire.hostservice.common`.
        pub mod common {
            /// Packages below `spire.hostservice.common.metrics`.
            pub mod metrics {
                /// Package `spire.hostservice.common.metrics.v1`.
                pub mod v1 {
                    include!("gen/spire.hostservice.common.metrics.v1.rs");
                }
            }
        }
        /// Packages below `spire.hostservice.server`.
        pub mod server {
            /// Packages below `spire.hostservice.server.agentstore`.
            pub mod agentstore {
                /// Package `spire.hostservice.server.agentstore.v1`.
                pub mod v1 {
                    include!("gen/spire.hostservice.server.agentstore.v1.rs");
                }
            }
            /// Packages below `spire.hostservice.server.identityprovider`.
            pub mod identityprovider {
                /// Package `spire.hostservice.server.identityprovider.v1`.
                pub mod v1 {
                    include!("gen/spire.hostservice.server.identityprovider.v1.rs");
                }
            }
        }
    }
    /// Packages below `spire.plugin`.
    pub mod plugin {
        /// Packages below `spire.plugin.agent`.
        pub mod agent {
            /// Packages below `spire.plugin.agent.keymanager`.
            pub mod keymanager {
                /// Package `spire.plugin.agent.keymanager.v1`.
                pub mod v1 {
                    include!("gen/spire.plugin.agent.keymanager.v1.rs");
                }
            }
            /// Packages below `spire.plugin.agent.nodeattestor`.
            pub mod nodeattestor {
                /// Package `spire.plugin.agent.nodeattestor.v1`.
                pub mod v1 {
                    include!("gen/spire.plugin.agent.nodeattestor.v1.rs");
                }
            }
            /// Packages below `spire.plugin.agent.svidstore`.
            pub mod svidstore {
                /// Package `spire.plugin.agent.svidstore.v1`.
                pub mod v1 {
                    include!("gen/spire.plugin.agent.svidstore.v1.rs");
                }
            }
            /// Packages below `spire.plugin.agent.workloadattestor`.
            pub mod workloadattestor {
                /// Package `spire.plugin.agent.workloadattestor.v1`.
                pub mod v1 {
                    include!("gen/spire.plugin.agent.workloadattestor.v1.rs");
                }
            }
        }
        /// Packages below `spire.plugin.server`.
        pub mod server {
            /// Packages below `spire.plugin.server.bundlepublisher`.
            pub mod bundlepublisher {
                /// Package `spire.plugin.server.bundlepublisher.v1`.
                pub mod v1 {
                    include!("gen/spire.plugin.server.bundlepublisher.v1.rs");
                }
            }
            /// Packages below `spire.plugin.server.credentialcomposer`.
            pub mod credentialcomposer {
                /// Package `spire.plugin.server.credentialcomposer.v1`.
                pub mod v1 {
                    include!("gen/spire.plugin.server.credentialcomposer.v1.rs");
                }
            }
            /// Packages below `spire.plugin.server.keymanager`.
            pub mod keymanager {
                /// Package `spire.plugin.server.keymanager.v1`.
                pub mod v1 {
                    include!("gen/spire.plugin.server.keymanager.v1.rs");
                }
            }
            /// Packages below `spire.plugin.server.nodeattestor`.
            pub mod nodeattestor {
                /// Package `spire.plugin.server.nodeattestor.v1`.
                pub mod v1 {
                    include!("gen/spire.plugin.server.nodeattestor.v1.rs");
                }
            }
            /// Packages below `spire.plugin.server.notifier`.
            pub mod notifier {
                /// Package `spire.plugin.server.notifier.v1`.
                pub mod v1 {
                    include!("gen/spire.plugin.server.notifier.v1.rs");
                }
            }
            /// Packages below `spire.plugin.server.upstreamauthority`.
            pub mod upstreamauthority {
                /// Package `spire.plugin.server.upstreamauthority.v1`.
                pub mod v1 {
                    include!("gen/spire.plugin.server.upstreamauthority.v1.rs");
                }
            }
        }
        /// Package `spire.plugin.types`.
        pub mod types {
            include!("gen/spire.plugin.types.rs");
        }
    }
    /// Packages below `spire.service`.
    pub mod service {
        /// Packages below `spire.service.common`.
        pub mod common {
            /// Packages below `spire.service.common.config`.
            pub mod config {
                /// Package `spire.service.common.config.v1`.
                pub mod v1 {
                    include!("gen/spire.service.common.config.v1.rs");
                }
            }
        }
        /// Packages below `spire.service.private`.
        pub mod private {
            /// Packages below `spire.service.private.init`.
            pub mod init {
                /// Package `spire.service.private.init.v1`.
                pub mod v1 {
                    include!("gen/spire.service.private.init.v1.rs");
                }
            }
        }
    }
}
/// Steeple's own protocols.
pub mod steeple {
    /// Packages below `steeple.agent`.
    pub mod agent {
        /// Packages below `steeple.agent.delegation`.
        pub mod delegation {
            /// Package `steeple.agent.delegation.v1`.
            pub mod v1 {
                include!("gen/steeple.agent.delegation.v1.rs");
            }
        }
        /// Packages below `steeple.agent.explain`.
        pub mod explain {
            /// Package `steeple.agent.explain.v1`.
            pub mod v1 {
                include!("gen/steeple.agent.explain.v1.rs");
            }
        }
    }
    /// Packages below `steeple.server`.
    pub mod server {
        /// Packages below `steeple.server.explain`.
        pub mod explain {
            /// Package `steeple.server.explain.v1`.
            pub mod v1 {
                include!("gen/steeple.server.explain.v1.rs");
            }
        }
        /// Packages below `steeple.server.jointoken`.
        pub mod jointoken {
            /// Package `steeple.server.jointoken.v1`.
            pub mod v1 {
                include!("gen/steeple.server.jointoken.v1.rs");
            }
        }
        /// Packages below `steeple.server.push`.
        pub mod push {
            /// Package `steeple.server.push.v1`.
            pub mod v1 {
                include!("gen/steeple.server.push.v1.rs");
            }
        }
    }
}
/// The SPIFFE Workload API; its proto package is empty.
pub mod workload {
    include!("gen/workload.rs");
}

//! The server's keys.

use std::collections::BTreeMap;

use serde::Deserialize;
use steeple_hcl::{Block, Located};

use super::{HealthChecks, Telemetry};

/// The whole file.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct File {
    pub(crate) server: Located<Server>,
    pub(crate) plugins: Located<Block>,
    pub(crate) telemetry: Located<Telemetry>,
    pub(crate) health_checks: Located<HealthChecks>,
}

/// `server`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Server {
    pub(crate) admin_ids: Located<Vec<String>>,
    pub(crate) agent_ttl: Located<String>,
    pub(crate) attestation_policy: Located<AttestationPolicy>,
    pub(crate) audit_log_enabled: Located<bool>,
    pub(crate) bind_address: Located<String>,
    pub(crate) bind_port: Located<i64>,
    pub(crate) ca_key_type: Located<String>,
    pub(crate) ca_subject: Located<CaSubject>,
    pub(crate) ca_ttl: Located<String>,
    pub(crate) data_dir: Located<String>,
    pub(crate) default_x509_svid_ttl: Located<String>,
    pub(crate) default_jwt_svid_ttl: Located<String>,
    pub(crate) experimental: Located<Experimental>,
    pub(crate) federation: Located<Federation>,
    pub(crate) disable_jwt_svids: Located<bool>,
    pub(crate) jwt_issuer: Located<String>,
    pub(crate) jwt_key_type: Located<String>,
    pub(crate) log_file: Located<String>,
    pub(crate) log_level: Located<String>,
    pub(crate) log_format: Located<String>,
    pub(crate) log_source_location: Located<bool>,
    pub(crate) prune_attested_nodes_expired_for: Located<String>,
    pub(crate) prune_attested_nodes_batch_size: Located<i64>,
    pub(crate) prune_tofu_nodes: Located<bool>,
    pub(crate) proxy_protocol_trusted_cidrs: Located<Vec<String>>,
    pub(crate) ratelimit: Located<RateLimit>,
    pub(crate) socket_path: Located<String>,
    pub(crate) trust_domain: Located<String>,
    pub(crate) max_attested_node_info_staleness: Located<String>,
    pub(crate) profiling_enabled: Located<bool>,
    pub(crate) profiling_port: Located<i64>,
    pub(crate) profiling_freq: Located<i64>,
    pub(crate) profiling_names: Located<Vec<String>>,
}

/// `server.attestation_policy`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct AttestationPolicy {
    pub(crate) default: Located<String>,
    pub(crate) rule: Located<BTreeMap<String, Located<AttestationRule>>>,
}

/// `server.attestation_policy.rule "<name>"`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct AttestationRule {
    pub(crate) attestors: Located<Vec<String>>,
    pub(crate) all: Located<Vec<String>>,
    pub(crate) any: Located<Vec<String>>,
    pub(crate) none: Located<Vec<String>>,
}

/// `server.experimental`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Experimental {
    pub(crate) agent_spiffe_id_as_selector: Located<bool>,
    pub(crate) auth_opa_policy_engine: Located<OpaEngine>,
    pub(crate) cache_reload_interval: Located<String>,
    pub(crate) full_cache_reload_interval: Located<String>,
    pub(crate) events_based_cache: Located<bool>,
    pub(crate) prune_events_older_than: Located<String>,
    pub(crate) datastore_outage_grace: Located<String>,
    pub(crate) event_timeout: Located<String>,
    pub(crate) sql_transaction_timeout: Located<String>,
    pub(crate) require_pq_kem: Located<bool>,
    pub(crate) disable_push: Located<bool>,
    pub(crate) overload: Located<Overload>,
    pub(crate) wit_key_type: Located<String>,
    pub(crate) wit_issuer: Located<String>,
    pub(crate) feature_flags: Located<Vec<String>>,
    pub(crate) named_pipe_name: Located<String>,
}

/// `server.experimental.overload`, ours
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Overload {
    pub(crate) at_once: Located<i64>,
    pub(crate) attest: Located<OverloadClass>,
    pub(crate) renew: Located<OverloadClass>,
    pub(crate) sign: Located<OverloadClass>,
    pub(crate) sync: Located<OverloadClass>,
    pub(crate) admin: Located<OverloadClass>,
    pub(crate) request_memory_mib: Located<i64>,
    pub(crate) request_memory_per_address_mib: Located<i64>,
    pub(crate) connections: Located<i64>,
    pub(crate) connections_per_address: Located<i64>,
    pub(crate) handshakes: Located<i64>,
    pub(crate) handshakes_per_address: Located<i64>,
}

/// `server.experimental.overload.<class>`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct OverloadClass {
    pub(crate) at_once: Located<i64>,
    pub(crate) waiting: Located<i64>,
    pub(crate) longest_wait: Located<String>,
}

/// `server.experimental.auth_opa_policy_engine`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct OpaEngine {
    pub(crate) local: Located<LocalOpa>,
}

/// `server.experimental.auth_opa_policy_engine.local`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct LocalOpa {
    pub(crate) rego_path: Located<String>,
    pub(crate) policy_data_path: Located<String>,
}

/// `server.ca_subject`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct CaSubject {
    pub(crate) country: Located<Vec<String>>,
    pub(crate) organization: Located<Vec<String>>,
    pub(crate) common_name: Located<String>,
}

/// `server.ratelimit`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RateLimit {
    pub(crate) attestation: Located<bool>,
    pub(crate) signing: Located<bool>,
    /// Ours.
    pub(crate) limits: Located<Rates>,
}

/// `server.ratelimit.limits`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Rates {
    pub(crate) attestation: Located<i64>,
    pub(crate) signing: Located<i64>,
    pub(crate) publish: Located<i64>,
    pub(crate) post_status: Located<i64>,
    pub(crate) admin: Located<i64>,
    pub(crate) bundle: Located<i64>,
    pub(crate) sync: Located<i64>,
    pub(crate) by: Located<String>,
}

/// `server.federation`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Federation {
    pub(crate) bundle_endpoint: Located<BundleEndpoint>,
    pub(crate) federates_with: Located<BTreeMap<String, FederatesWith>>,
}

/// `server.federation.bundle_endpoint`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct BundleEndpoint {
    pub(crate) address: Located<String>,
    pub(crate) port: Located<i64>,
    pub(crate) refresh_hint: Located<String>,
    pub(crate) acme: Located<Acme>,
    pub(crate) profile: Located<Block>,
}

/// The one block within `bundle_endpoint.profile`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct EndpointProfile {
    pub(crate) https_spiffe: Located<Nothing>,
    pub(crate) https_web: Located<EndpointHttpsWeb>,
}

/// A block whose keys nobody looks at.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Nothing {}

/// `bundle_endpoint.profile "https_web"`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct EndpointHttpsWeb {
    pub(crate) acme: Located<Acme>,
    pub(crate) serving_cert_file: Located<ServingCertFile>,
}

/// `bundle_endpoint.profile "https_web" { serving_cert_file }`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct ServingCertFile {
    pub(crate) cert_file_path: Located<String>,
    pub(crate) key_file_path: Located<String>,
    pub(crate) file_sync_interval: Located<String>,
}

/// `acme`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Acme {
    pub(crate) directory_url: Located<String>,
    pub(crate) domain_name: Located<String>,
    pub(crate) email: Located<String>,
    pub(crate) tos_accepted: Located<bool>,
}

/// `federates_with "<trust domain>"`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct FederatesWith {
    pub(crate) bundle_endpoint_url: Located<String>,
    pub(crate) bundle_endpoint_profile: Located<Block>,
}

/// The one block within `bundle_endpoint_profile`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct PeerProfile {
    pub(crate) https_spiffe: Located<PeerHttpsSpiffe>,
    pub(crate) https_web: Located<Nothing>,
}

/// `bundle_endpoint_profile "https_spiffe"`
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct PeerHttpsSpiffe {
    pub(crate) endpoint_spiffe_id: Located<String>,
}

//! The keys of the file.

use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct File {
    pub(super) log_format: String,
    pub(super) log_level: String,
    pub(super) log_path: String,
    pub(super) log_requests: bool,
    pub(super) domains: Vec<String>,
    pub(super) set_key_use: bool,
    pub(super) allow_insecure_scheme: bool,
    pub(super) insecure_addr: String,
    pub(super) listen_socket_path: String,
    pub(super) acme: Option<Acme>,
    pub(super) serving_cert_file: Option<ServingCertFile>,
    pub(super) server_api: Option<ServerApi>,
    pub(super) workload_api: Option<WorkloadApi>,
    pub(super) file: Option<FileSource>,
    pub(super) health_checks: Option<HealthChecks>,
    /// Named pipes, which are Windows': accepted, as by SPIRE on other systems, and without use.
    #[allow(dead_code, reason = "known, so that it is no unknown key")]
    pub(super) experimental: Experimental,
    pub(super) jwt_issuer: String,
    pub(super) jwks_uri: String,
    pub(super) server_path_prefix: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Acme {
    pub(super) directory_url: String,
    pub(super) email: String,
    pub(super) tos_accepted: bool,
    pub(super) cache_dir: Option<String>,
    /// Ours: where to listen.
    pub(super) addr: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ServingCertFile {
    pub(super) cert_file_path: String,
    pub(super) key_file_path: String,
    pub(super) addr: String,
    pub(super) file_sync_interval: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ServerApi {
    pub(super) address: String,
    pub(super) poll_interval: String,
    pub(super) experimental: Experimental,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct WorkloadApi {
    pub(super) socket_path: String,
    pub(super) trust_domain: String,
    pub(super) poll_interval: String,
    pub(super) experimental: Experimental,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct FileSource {
    pub(super) path: String,
    pub(super) poll_interval: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct HealthChecks {
    pub(super) bind_port: i64,
    pub(super) live_path: String,
    pub(super) ready_path: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Experimental {
    pub(super) named_pipe_name: String,
    pub(super) listen_named_pipe_name: String,
}

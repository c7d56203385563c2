//! The settings of both halves.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use steeple_hcl::Block;
use steeple_pki::Certificate;
use steeple_plugin::settings::decode_leniently;
use steeple_plugin::{Code, Kind, PluginError};
use steeple_runtime::{Secret, gotext};
use zeroize::Zeroizing;

use super::super::files::certificates;
use super::{NAME, error};

/// The largest public or private area that a TPM writes.
const MAX_AREA: u64 = 8 * 1024;

/// A TPM's password.
pub(super) type Password = Secret<Zeroizing<String>>;

/// The agent's half.
#[derive(Clone, Debug)]
pub(super) struct AgentConfig {
    /// Where the TPM is.
    pub(super) device: PathBuf,
    /// The device identity's certificate, and intermediates.
    pub(super) certificates: Vec<Certificate>,
    /// Its key's public area, as the file has it.
    pub(super) public: Vec<u8>,
    /// Its key's private area, encrypted by its TPM, as the file has it.
    pub(super) private: Vec<u8>,
    pub(super) passwords: Passwords,
}

/// The passwords of hierarchies and of the key; most are empty.
#[derive(Clone, Debug, Default)]
pub(super) struct Passwords {
    pub(super) devid: Password,
    pub(super) owner: Password,
    pub(super) endorsement: Password,
}

/// The server's half.
#[derive(Clone, Debug)]
pub(super) struct ServerConfig {
    /// Whose device identities are taken.
    pub(super) devid_roots: Vec<Certificate>,
    /// Whose TPMs are trusted.
    pub(super) endorsement_roots: Vec<Certificate>,
}

/// The agent's settings as they stand.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct AgentKeys {
    devid_priv_path: String,
    devid_pub_path: String,
    devid_cert_path: String,
    devid_password: String,
    owner_hierarchy_password: String,
    endorsement_hierarchy_password: String,
    tpm_device_path: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ServerKeys {
    devid_ca_path: String,
    endorsement_ca_path: String,
}

pub(super) fn agent_keys(data: Option<&Block>) -> Result<AgentKeys, PluginError> {
    let refusal = "unable to decode configuration";
    let keys: AgentKeys = decode_leniently(Kind::NodeAttestor, NAME, data, refusal)?;
    for (path, key) in [
        (&keys.devid_cert_path, "devid_cert_path"),
        (&keys.devid_priv_path, "devid_priv_path"),
        (&keys.devid_pub_path, "devid_pub_path"),
    ] {
        if path.is_empty() {
            return Err(invalid(format!("invalid configuration: {key} is required")));
        }
    }
    Ok(keys)
}

pub(super) fn agent(data: Option<&Block>) -> Result<AgentConfig, PluginError> {
    let keys = agent_keys(data)?;
    let device = match &*keys.tpm_device_path {
        "" => steeple_tpm::autodetect(Path::new("/dev"))
            .map_err(|err| error(Code::Internal, format!("tpm autodetection failed: {err}")))?,
        path => PathBuf::from(path),
    };
    let files = |what: &str, reason: String| {
        error(Code::Internal, format!("unable to load DevID files: cannot load {what}: {reason}"))
    };
    Ok(AgentConfig {
        device,
        certificates: certificates(&keys.devid_cert_path)
            .map_err(|reason| files("certificate(s)", reason))?,
        private: area(&keys.devid_priv_path).map_err(|reason| files("private key", reason))?,
        public: area(&keys.devid_pub_path).map_err(|reason| files("public key", reason))?,
        passwords: Passwords {
            devid: secret(keys.devid_password),
            owner: secret(keys.owner_hierarchy_password),
            endorsement: secret(keys.endorsement_hierarchy_password),
        },
    })
}

pub(super) fn server(data: Option<&Block>) -> Result<ServerConfig, PluginError> {
    let malformed = "plugin configuration is malformed";
    let keys: ServerKeys = decode_leniently(Kind::NodeAttestor, NAME, data, malformed)?;
    for (path, key) in
        [(&keys.devid_ca_path, "devid_ca_path"), (&keys.endorsement_ca_path, "endorsement_ca_path")]
    {
        if path.is_empty() {
            return Err(invalid(format!("{key} is required")));
        }
    }
    let bundle = |path: &str, what: &str| {
        certificates(path)
            .map_err(|reason| invalid(format!("unable to load {what} trust bundle: {reason}")))
    };
    Ok(ServerConfig {
        devid_roots: bundle(&keys.devid_ca_path, "DevID")?,
        endorsement_roots: bundle(&keys.endorsement_ca_path, "endorsement")?,
    })
}

/// A public or private area: not a text, and short.
fn area(path: &str) -> Result<Vec<u8>, String> {
    let failed = |err: std::io::Error| format!("open {path}: {}", gotext::system(&err));
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(MAX_AREA + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_AREA {
        return Err(format!("read {path}: file is larger than {MAX_AREA} bytes"));
    }
    Ok(bytes)
}

fn secret(text: String) -> Password {
    Secret::new(Zeroizing::new(text))
}

fn invalid(message: String) -> PluginError {
    error(Code::InvalidArgument, message)
}

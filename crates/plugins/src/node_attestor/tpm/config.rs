//! The settings of both halves.

use std::path::PathBuf;

use serde::Deserialize;
use steeple_hcl::Block;
use steeple_plugin::settings::decode_strictly;
use steeple_plugin::{Kind, PluginError};
use steeple_tpm::EkKind;
use zeroize::Zeroizing;

use super::pcrs::{self, Bank};
use super::{NAME, invalid};

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawAgent {
    tpm_device_path: String,
    ek: String,
    ek_certificate_path: String,
    endorsement_hierarchy_password: String,
    owner_hierarchy_password: String,
}

/// The agent's settings.
pub(super) struct AgentConfig {
    pub(super) device: Option<PathBuf>,
    /// Which endorsement key; without, the first that has a certificate.
    pub(super) ek: Option<EkKind>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) endorsement: Zeroizing<Vec<u8>>,
    pub(super) owner: Zeroizing<Vec<u8>>,
}

pub(super) fn agent(data: Option<&Block>) -> Result<AgentConfig, PluginError> {
    let raw: RawAgent = decode_strictly(Kind::NodeAttestor, NAME, data)?;
    let ek = match raw.ek.as_str() {
        "" => None,
        name => {
            let known = EkKind::ALL.into_iter().find(|kind| kind.name() == name);
            Some(known.ok_or_else(|| invalid("ek must be \"rsa-2048\" or \"ec-p256\""))?)
        }
    };
    Ok(AgentConfig {
        device: path(raw.tpm_device_path),
        ek,
        certificate: path(raw.ek_certificate_path),
        endorsement: Zeroizing::new(raw.endorsement_hierarchy_password.into_bytes()),
        owner: Zeroizing::new(raw.owner_hierarchy_password.into_bytes()),
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawServer {
    ca_path: String,
    hash_path: String,
    require_both: bool,
    require_key_in_tpm: bool,
    pcrs: String,
}

/// The server's settings.
pub(super) struct ServerConfig {
    /// Certificates of manufacturers: a file or a folder.
    pub(super) ca: Option<PathBuf>,
    /// Hashes of endorsement keys: a file, or a folder of files that are called so.
    pub(super) hashes: Option<PathBuf>,
    pub(super) require_both: bool,
    pub(super) require_key_in_tpm: bool,
    pub(super) pcrs: Vec<Bank>,
}

pub(super) fn server(data: Option<&Block>) -> Result<ServerConfig, PluginError> {
    let raw: RawServer = decode_strictly(Kind::NodeAttestor, NAME, data)?;
    let (ca, hashes) = (path(raw.ca_path), path(raw.hash_path));
    if ca.is_none() && hashes.is_none() {
        return Err(invalid("one of ca_path and hash_path is required"));
    }
    if raw.require_both && (ca.is_none() || hashes.is_none()) {
        return Err(invalid("require_both needs both of ca_path and hash_path"));
    }
    let pcrs = match raw.pcrs.as_str() {
        "" => Vec::new(),
        text => pcrs::parse(text).map_err(|reason| invalid(format!("pcrs: {reason}")))?,
    };
    let RawServer { require_both, require_key_in_tpm, .. } = raw;
    Ok(ServerConfig { ca, hashes, require_both, require_key_in_tpm, pcrs })
}

fn path(text: String) -> Option<PathBuf> {
    Some(text).filter(|text| !text.is_empty()).map(PathBuf::from)
}

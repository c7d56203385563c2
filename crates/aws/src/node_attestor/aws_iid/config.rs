//! The settings of both halves.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use steeple_hcl::Block;
use steeple_pki::Certificate;
use steeple_plugin::settings::decode_leniently;
use steeple_plugin::{Code, Kind, PluginError};
use steeple_runtime::duration::{ParseDurationError, format_go, parse_go};
use steeple_runtime::fsx::read_limited;
use steeple_template::AgentPathTemplate;

use super::certificates::Certificates;
use super::{NAME, error};
use crate::credentials::{Credentials, environment_keys};
use crate::environment::Environment;
use crate::session::is_region;

const DEFAULT_TEMPLATE: &str = "/{{ .PluginName}}/{{ .AccountID }}/{{ .Region }}/{{ .InstanceID }}";

const PARTITIONS: [&str; 3] = ["aws", "aws-cn", "aws-us-gov"];

/// How long the list of an organization's accounts is used, unless the settings say, and at least.
const ORG_TTL: Duration = Duration::from_secs(180);
const ORG_MIN_TTL: Duration = Duration::from_secs(60);
const ORG_REGION: &str = "us-west-2";

/// The longest list of accounts that is read, in bytes; an organization has some 10 000.
const MAX_ACCOUNT_LIST: u64 = 4 * 1024 * 1024;

/// The longest certificate file that is read, in bytes.
const MAX_CERTIFICATES: u64 = 2 * 1024 * 1024;

/// What the agent's half needs to know.
pub(super) struct AgentSettings {
    pub(super) endpoint: Option<String>,
}

/// What the server's half needs to know.
pub(super) struct Settings {
    /// Keys that the settings or the environment have.
    pub(super) keys: Option<Credentials>,
    pub(super) assume_role: Option<String>,
    pub(super) partition: String,
    pub(super) skip_block_device: bool,
    pub(super) instance_profiles: bool,
    pub(super) local_accounts: Vec<String>,
    pub(super) template: AgentPathTemplate,
    /// Whether the template speaks of tags, for which the instance must be known.
    pub(super) template_has_tags: bool,
    pub(super) organization: Option<Organization>,
    pub(super) clusters: Option<Vec<String>>,
    pub(super) certificates: Certificates,
}

/// Which organization an account must be of.
pub(super) struct Organization {
    pub(super) source: Accounts,
    pub(super) ttl: Duration,
}

/// Where the accounts of an organization are listed.
pub(super) enum Accounts {
    /// By AWS, asked in the role of this account.
    Api { account: String, role: String, region: String },
    /// In a file.
    File(PathBuf),
}

pub(super) fn agent(data: Option<&Block>) -> Result<AgentSettings, PluginError> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Raw {
        ec2_metadata_endpoint: String,
    }
    let raw: Raw = decode(data)?;
    Ok(AgentSettings { endpoint: Some(raw.ec2_metadata_endpoint).filter(|it| !it.is_empty()) })
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw {
    access_key_id: String,
    secret_access_key: String,
    assume_role: String,
    partition: String,
    skip_block_device: bool,
    disable_instance_profile_selectors: bool,
    account_ids_for_local_validation: Vec<String>,
    agent_path_template: String,
    verify_organization: Option<RawOrganization>,
    validate_eks_cluster_membership: Option<RawClusters>,
    /// Ours.
    region_certificates: BTreeMap<String, PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawOrganization {
    management_account_id: String,
    assume_org_role: String,
    management_account_region: String,
    org_account_map_ttl: String,
    account_list_file: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawClusters {
    eks_cluster_names: Vec<String>,
}

fn decode<T: serde::de::DeserializeOwned + Default>(
    data: Option<&Block>,
) -> Result<T, PluginError> {
    decode_leniently(Kind::NodeAttestor, NAME, data, "unable to decode configuration")
}

/// What upstream says in the words of an error inside of an error.
fn nested(message: impl std::fmt::Display) -> PluginError {
    invalid(format!("rpc error: code = InvalidArgument desc = {message}"))
}

fn invalid(message: impl std::fmt::Display) -> PluginError {
    error(Code::InvalidArgument, message)
}

pub(super) fn server(
    data: Option<&Block>,
    environment: &Environment,
) -> Result<Settings, PluginError> {
    let raw: Raw = decode(data)?;
    let keys = keys(&raw, environment)?;
    let text = match raw.agent_path_template.as_str() {
        "" => DEFAULT_TEMPLATE,
        text => text,
    };
    let template = AgentPathTemplate::parse(text)
        .map_err(|_| invalid(format!("failed to parse agent svid template: {text:?}")))?;
    let partition = match raw.partition.as_str() {
        "" => PARTITIONS[0],
        partition => partition,
    };
    if !PARTITIONS.contains(&partition) {
        let known = PARTITIONS.join(" ");
        let text = format!("invalid partition {partition:?}, must be one of: [{known}]");
        return Err(invalid(text));
    }
    let some = |text: String| Some(text).filter(|it| !it.is_empty());
    Ok(Settings {
        keys,
        partition: partition.to_owned(),
        skip_block_device: raw.skip_block_device,
        instance_profiles: !raw.disable_instance_profile_selectors,
        local_accounts: raw.account_ids_for_local_validation,
        template,
        template_has_tags: text.contains(".Tags"),
        organization: raw.verify_organization.map(organization).transpose()?,
        clusters: raw.validate_eks_cluster_membership.map(|it| it.eks_cluster_names),
        certificates: certificates(raw.region_certificates)?,
        assume_role: some(raw.assume_role),
    })
}

/// Keys of the settings; a part that they do not have is the environment's.
fn keys(raw: &Raw, environment: &Environment) -> Result<Option<Credentials>, PluginError> {
    let part = |own: &str, variable: &str| match own {
        "" => environment.get(variable).unwrap_or_default(),
        own => own.to_owned(),
    };
    let key_id = part(&raw.access_key_id, "AWS_ACCESS_KEY_ID");
    let secret = part(&raw.secret_access_key, "AWS_SECRET_ACCESS_KEY");
    match (key_id.is_empty(), secret.is_empty()) {
        (true, true) => Ok(None),
        (false, true) => {
            Err(nested("configuration missing secret access key, but has access key id"))
        }
        (true, false) => {
            Err(nested("configuration missing access key id, but has secret access key"))
        }
        // A session's token goes with the keys that it stands beside.
        (false, false) if raw.access_key_id.is_empty() && raw.secret_access_key.is_empty() => {
            Ok(environment_keys(environment))
        }
        (false, false) => Ok(Some(Credentials::new(key_id, secret))),
    }
}

fn organization(raw: RawOrganization) -> Result<Organization, PluginError> {
    let source = if raw.account_list_file.is_empty() {
        if raw.management_account_id.is_empty() || raw.assume_org_role.is_empty() {
            return Err(nested(
                "please ensure that \"management_account_id\" & \"assume_org_role\" are present \
                 inside block or remove the block: \"verify_organization\" for feature node \
                 attestation using account id verification",
            ));
        }
        let region = match raw.management_account_region.as_str() {
            "" => ORG_REGION.to_owned(),
            region => region.to_owned(),
        };
        Accounts::Api { account: raw.management_account_id, role: raw.assume_org_role, region }
    } else {
        if !raw.management_account_id.is_empty() || !raw.assume_org_role.is_empty() {
            return Err(nested(
                "\"account_list_file\" is mutually exclusive with \"management_account_id\" and \
                 \"assume_org_role\" in the block: \"verify_organization\"",
            ));
        }
        let path = PathBuf::from(raw.account_list_file);
        account_list(&path).map_err(|why| {
            nested(format!(
                "invalid \"account_list_file\" in the block: \"verify_organization\": {why}"
            ))
        })?;
        Accounts::File(path)
    };
    Ok(Organization { source, ttl: organization_ttl(&raw.org_account_map_ttl)? })
}

fn organization_ttl(text: &str) -> Result<Duration, PluginError> {
    let advice = |what: &str, default: &str| {
        format!(
            "please ensure that \"org_account_map_ttl\" if configured, it should be {what} \
             the: \"org_account_map_ttl\", in the block: \"verify_organization\". Default TTL \
             will be: {default:?}"
        )
    };
    if text.is_empty() {
        return Ok(ORG_TTL);
    }
    let ttl = match parse_go(text) {
        Ok(ttl) => ttl,
        // A negative time is one, and too short.
        Err(ParseDurationError::Negative(_)) => Duration::ZERO,
        Err(_) => {
            let what = "in duration and is suffixed with required 'm' for time duration in \
                        minute ex. '5m'. Otherwise, remove";
            return Err(nested(advice(what, "3m")));
        }
    };
    if ttl < ORG_MIN_TTL {
        return Err(nested(advice("greater than or equal to \"1m\". Otherwise remove", "3m")));
    }
    tracing::debug!(ttl = %format_go(ttl), "Organization's accounts are kept");
    Ok(ttl)
}

/// The accounts that a file lists.
pub(super) fn account_list(path: &Path) -> Result<HashSet<String>, String> {
    let unreadable = |why: &str| format!("unable to read account list file: {why}");
    let text = read_limited(path, MAX_ACCOUNT_LIST)
        .map_err(|why| unreadable(&why.to_string()))?
        .ok_or_else(|| {
            unreadable(&format!("open {}: no such file or directory", path.display()))
        })?;
    let path = path.display().to_string();
    let accounts: Vec<String> = serde_json::from_slice(&text).map_err(|why| {
        format!(
            "unable to parse account list file {path:?}, expected a JSON array of account IDs: \
             {why}"
        )
    })?;
    let is_account = |id: &str| id.len() == 12 && id.bytes().all(|b| b.is_ascii_digit());
    if let Some(bad) = accounts.iter().find(|id| !is_account(id)) {
        let shown: String = bad.chars().take(32).collect();
        return Err(format!(
            "invalid account id {shown:?} in account list file {path:?}, expected a 12-digit AWS \
             account id"
        ));
    }
    Ok(accounts.into_iter().collect())
}

/// The published certificates, and those in the files of the settings.
fn certificates(files: BTreeMap<String, PathBuf>) -> Result<Certificates, PluginError> {
    let mut certificates = Certificates::published();
    for (region, path) in files {
        let refused = |why: &dyn std::fmt::Display| {
            let shown: String = region.chars().take(64).collect();
            invalid(format!("invalid \"region_certificates\" for region {shown:?}: {why}"))
        };
        if !is_region(&region) {
            return Err(refused(&"that is no name of a region"));
        }
        let text = read_text(&path).map_err(|why| refused(&why))?;
        let certificate = Certificate::from_pem(&text).map_err(|why| refused(&why))?;
        if !certificates.add(region.clone(), certificate) {
            return Err(refused(&"the certificate of this region is known and cannot be replaced"));
        }
    }
    Ok(certificates)
}

/// The roots that servers of AWS are verified against, where `AWS_CA_BUNDLE` names a file of them.
pub(super) fn ca_bundle(path: &str) -> Result<Vec<CertificateDer<'static>>, PluginError> {
    let refused =
        |why: &dyn std::fmt::Display| invalid(format!("failed to load AWS_CA_BUNDLE: {why}"));
    let text = read_text(Path::new(path)).map_err(|why| refused(&why))?;
    let roots = Certificate::parse_pem_bundle(&text).map_err(|why| refused(&why))?;
    Ok(roots.iter().map(|it| CertificateDer::from(it.der().to_vec())).collect())
}

fn read_text(path: &Path) -> Result<String, String> {
    let read = read_limited(path, MAX_CERTIFICATES)
        .map_err(|why| why.to_string())?
        .ok_or_else(|| format!("open {}: no such file or directory", path.display()))?;
    String::from_utf8(read).map_err(|_| format!("{} is not text", path.display()))
}

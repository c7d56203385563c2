//! The server's settings.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use serde::Deserialize;
use steeple_hcl::Block;
use steeple_pki::Certificate;
use steeple_plugin::{Code, PluginError};
use steeple_runtime::Secret;
use steeple_template::AgentPathTemplate;

use super::error;
use crate::credential::{Environment, Source};
use crate::node_attestor::path_template;

const DEFAULT_TEMPLATE: &str =
    "/{{ .PluginName }}/{{ .TenantID }}/{{ .SubscriptionID }}/{{ .VMID }}";
/// The metadata service of the public cloud.
const DEFAULT_DOMAIN: &str = "metadata.azure.com";
/// The roots that Azure's documents lead to.
const ROOTS: &str = include_str!("roots.pem");
/// The largest trust bundle that is read, in bytes.
const MAX_BUNDLE: u64 = 1024 * 1024;

#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw {
    tenants: BTreeMap<String, RawTenant>,
    agent_path_template: String,
    allowed_metadata_domains: Vec<String>,
    trust_bundle_path: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawTenant {
    /// SPIRE takes it and does nothing with it.
    #[serde(rename = "auth_type")]
    _auth_type: String,
    secret_auth: Option<SecretAuth>,
    token_auth: Option<TokenAuth>,
    allowed_vm_tags: Vec<String>,
    restrict_to_subscriptions: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SecretAuth {
    app_id: String,
    app_secret: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TokenAuth {
    app_id: String,
    token_path: String,
}

/// What the plugin was told.
pub(super) struct Config {
    /// By domain.
    pub(super) tenants: BTreeMap<String, Tenant>,
    pub(super) template: AgentPathTemplate,
    /// Whose names signers have.
    pub(super) domains: Vec<String>,
    /// Where paths from signers lead.
    pub(super) roots: Vec<Certificate>,
}

/// A tenant whose machines may attest.
pub(super) struct Tenant {
    /// Which tags become selectors.
    pub(super) tags: BTreeSet<String>,
    /// The only subscriptions; none to take any.
    pub(super) subscriptions: BTreeSet<String>,
    /// How the server proves itself to Azure's API.
    pub(super) credential: Source,
}

impl Config {
    pub(super) fn read(
        data: Option<&Block>,
        environment: Environment<'_>,
    ) -> Result<Self, PluginError> {
        let refused = |text: String| error(Code::InvalidArgument, text);
        let raw: Raw = super::settings(data)?;
        if raw.tenants.is_empty() {
            return Err(refused("configuration must have at least one tenant".into()));
        }
        let tenants = raw.tenants.into_iter().map(|(domain, raw)| {
            let tenant = raw.build(&domain, environment).map_err(refused)?;
            Ok((domain, tenant))
        });
        let tenants = tenants.collect::<Result<_, PluginError>>()?;
        let template =
            path_template(&raw.agent_path_template, DEFAULT_TEMPLATE).map_err(refused)?;
        let mut domains = raw.allowed_metadata_domains;
        if domains.is_empty() {
            domains.push(DEFAULT_DOMAIN.to_owned());
        }
        // Every name ends with the empty domain.
        if domains.iter().any(|domain| domain.trim_matches('.').is_empty()) {
            return Err(refused("allowed_metadata_domains entries must be non-empty".into()));
        }
        let roots = roots(&raw.trust_bundle_path).map_err(refused)?;
        Ok(Self { tenants, template, domains, roots })
    }
}

impl RawTenant {
    fn build(self, domain: &str, environment: Environment<'_>) -> Result<Tenant, String> {
        let wrong = |why: &str| Err(format!("misconfigured tenant {domain:?}: {why}"));
        let tenant = domain.to_owned();
        let credential = match (self.secret_auth, self.token_auth) {
            (Some(_), Some(_)) => {
                return wrong(
                    "only one of secret_auth or token_auth may be specified in the config",
                );
            }
            (None, Some(auth)) if auth.token_path.is_empty() => {
                return wrong("missing token file path");
            }
            (None, Some(auth)) if auth.app_id.is_empty() => return wrong("missing app id"),
            (None, Some(auth)) => {
                Source::TokenFile { tenant, app: auth.app_id, path: auth.token_path.into() }
            }
            (Some(auth), None) if auth.app_id.is_empty() => return wrong("missing app id"),
            (Some(auth), None) if auth.app_secret.is_empty() => {
                return wrong("missing app secret");
            }
            (Some(auth), None) => {
                Source::Secret { tenant, app: auth.app_id, secret: Secret::new(auth.app_secret) }
            }
            (None, None) => Source::ambient(domain, environment)
                .map_err(|why| format!("unable to fetch client credential: {why}"))?,
        };
        let subscriptions: BTreeSet<String> =
            self.restrict_to_subscriptions.iter().map(|it| it.trim().to_owned()).collect();
        if subscriptions.contains("") {
            return wrong("restrict_to_subscriptions entries must be non-empty");
        }
        let tags = self.allowed_vm_tags.into_iter().collect();
        Ok(Tenant { tags, subscriptions, credential })
    }
}

fn roots(path: &str) -> Result<Vec<Certificate>, String> {
    let mut roots = Certificate::parse_pem_bundle(ROOTS)
        .map_err(|why| format!("unable to load the built-in roots: {why}"))?;
    if path.is_empty() {
        return Ok(roots);
    }
    let unloaded =
        |why: &dyn std::fmt::Display| format!("unable to load trust bundle {path:?}: {why}");
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BUNDLE + 1).read_to_string(&mut text))
        .map_err(|why| unloaded(&why))?;
    if text.len() as u64 > MAX_BUNDLE {
        return Err(unloaded(&"it is too large"));
    }
    let more = Certificate::parse_pem_bundle(&text).map_err(|why| unloaded(&why))?;
    if let Some(leaf) = more.iter().find(|it| !it.is_ca()) {
        let subject = leaf.subject().map(|it| it.common_name).unwrap_or_default();
        return Err(format!(
            "trust bundle {path:?} contains a non-CA certificate (subject \"CN={subject}\")"
        ));
    }
    roots.extend(more);
    Ok(roots)
}

#[cfg(test)]
mod tests;

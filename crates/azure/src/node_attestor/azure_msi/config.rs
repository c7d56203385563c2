//! The server's settings.

use std::collections::BTreeMap;

use serde::Deserialize;
use steeple_hcl::Block;
use steeple_plugin::{Code, PluginError};
use steeple_runtime::Secret;
use steeple_template::AgentPathTemplate;

use super::{DEFAULT_RESOURCE_ID, error};
use crate::credential::{Environment, Source};
use crate::node_attestor::path_template;

const DEFAULT_TEMPLATE: &str = "/{{ .PluginName }}/{{ .TenantID }}/{{ .PrincipalID }}";

#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw {
    tenants: BTreeMap<String, RawTenant>,
    agent_path_template: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawTenant {
    resource_id: String,
    subscription_id: String,
    app_id: String,
    app_secret: Secreted,
}

/// Keeps what is read out of the `Debug` of what holds it.
#[derive(Deserialize, Default)]
#[serde(transparent)]
pub(super) struct Secreted(String);

/// What the plugin was told.
pub(super) struct Config {
    /// By tenant ID.
    pub(super) tenants: BTreeMap<String, Tenant>,
    pub(super) template: AgentPathTemplate,
}

/// A tenant whose machines may attest.
#[derive(Debug)]
pub(super) struct Tenant {
    /// The audience that tokens must have.
    pub(super) resource_id: String,
    /// Where the machines are; else where the server's machine is.
    pub(super) subscription: Option<String>,
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
        let tenants = raw.tenants.into_iter().map(|(id, raw)| {
            let tenant = raw.build(&id, environment).map_err(refused)?;
            Ok((id, tenant))
        });
        let tenants = tenants.collect::<Result<_, PluginError>>()?;
        let template =
            path_template(&raw.agent_path_template, DEFAULT_TEMPLATE).map_err(refused)?;
        Ok(Self { tenants, template })
    }
}

impl RawTenant {
    fn build(self, id: &str, environment: Environment<'_>) -> Result<Tenant, String> {
        let Self { mut resource_id, subscription_id, app_id, app_secret: Secreted(secret) } = self;
        if resource_id.is_empty() {
            DEFAULT_RESOURCE_ID.clone_into(&mut resource_id);
        }
        let given = [&subscription_id, &app_id, &secret].map(|value| !value.is_empty());
        if given == [false; 3] {
            let credential = Source::ambient(id, environment)
                .map_err(|why| format!("unable to fetch client credential: {why}"))?;
            return Ok(Tenant { resource_id, subscription: None, credential });
        }
        for (given, what) in given.iter().zip(["subscription id", "app id", "app secret"]) {
            if !given {
                return Err(format!("misconfigured tenant {id:?}: missing {what}"));
            }
        }
        let secret = Secret::new(secret);
        let credential = Source::Secret { tenant: id.to_owned(), app: app_id, secret };
        Ok(Tenant { resource_id, subscription: Some(subscription_id), credential })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let data = Block::parse(text).unwrap();
        Config::read(Some(&data), &|_| None).map_err(|error| {
            assert_eq!(error.code, Code::InvalidArgument);
            error.message.strip_prefix("nodeattestor(azure_msi): ").unwrap().to_owned()
        })
    }

    #[test]
    fn tenants_have_an_application_or_none() {
        let config = read(
            r#"
            tenants = {
                "ONE" = {
                    resource_id = "https://example.org/app/"
                    subscription_id = "S"
                    app_id = "A"
                    app_secret = "hunter2"
                }
                "TWO" = {}
            }
            "#,
        )
        .unwrap();
        let one = &config.tenants["ONE"];
        assert_eq!(one.resource_id, "https://example.org/app/");
        assert_eq!(one.subscription.as_deref(), Some("S"));
        assert!(matches!(&one.credential, Source::Secret { tenant, .. } if tenant == "ONE"));
        assert!(!format!("{one:?}").contains("hunter2"));
        let two = &config.tenants["TWO"];
        assert_eq!(two.resource_id, DEFAULT_RESOURCE_ID);
        assert!(two.subscription.is_none());
        assert!(matches!(two.credential, Source::ManagedIdentity { .. }));
    }

    #[test]
    fn what_is_wrong_is_said_as_spire_says_it() {
        for (text, why) in [
            ("", "configuration must have at least one tenant"),
            ("tenants = {}", "configuration must have at least one tenant"),
            (
                r#"tenants = { "T" = { app_id = "A" } }"#,
                "misconfigured tenant \"T\": missing subscription id",
            ),
            (
                r#"tenants = { "T" = { subscription_id = "S" } }"#,
                "misconfigured tenant \"T\": missing app id",
            ),
            (
                r#"tenants = { "T" = { subscription_id = "S", app_id = "A" } }"#,
                "misconfigured tenant \"T\": missing app secret",
            ),
            (
                r#"tenants = { "T" = {} }, agent_path_template = "/{{ .PluginName ""#,
                "failed to parse agent path template: \"/{{ .PluginName \"",
            ),
        ] {
            assert_eq!(read(text).err().unwrap(), why, "{text}");
        }
        let refused = read(r#"tenants = "T""#).err().unwrap();
        assert!(refused.starts_with("unable to decode configuration: "), "{refused}");
    }
}

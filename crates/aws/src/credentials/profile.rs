//! Credentials by a profile of `~/.aws/config` and `~/.aws/credentials`.

use std::collections::HashMap;
use std::sync::Arc;

use super::{AssumedRole, Credentials, Provider, Source, chain, environment_keys, read};
use crate::environment::Environment;
use crate::ini::{self, Sections};

/// How many profiles may stand on each other.
const MAX_DEPTH: usize = 8;

/// The provider that the profile in question makes; nothing when it says nothing of credentials.
/// In words why it cannot be.
pub(super) fn provider(environment: &Environment) -> Result<Option<Provider>, String> {
    let named = environment.get("AWS_PROFILE").or_else(|| environment.get("AWS_DEFAULT_PROFILE"));
    let files = Files::read(environment)?;
    let name = named.as_deref().unwrap_or("default");
    match files.profile(name) {
        Some(profile) => resolve(environment, &files, &profile, name, MAX_DEPTH),
        None if named.is_some() => {
            let shown: String = name.chars().take(64).collect();
            Err(format!("failed to get shared config profile, {shown}"))
        }
        None => Ok(None),
    }
}

struct Files {
    config: Sections,
    credentials: Sections,
}

type Profile = HashMap<String, String>;

impl Files {
    fn read(environment: &Environment) -> Result<Self, String> {
        let file = |variable: &str, name: &str| -> Result<Sections, String> {
            match environment.file(variable, name) {
                Some(path) if path.exists() => {
                    Ok(ini::parse(&read(&path).map_err(|error| error.to_string())?))
                }
                _ => Ok(Sections::new()),
            }
        };
        Ok(Self {
            config: file("AWS_CONFIG_FILE", "config")?,
            credentials: file("AWS_SHARED_CREDENTIALS_FILE", "credentials")?,
        })
    }

    /// What both files say of a profile; of what both say, the credentials file's.
    fn profile(&self, name: &str) -> Option<Profile> {
        let config = self.config.iter().find(|(section, _)| {
            let prefixed = section.strip_prefix("profile").map(str::trim_start);
            prefixed == Some(name) || (name == "default" && *section == "default")
        });
        let credentials = self.credentials.get(name);
        if config.is_none() && credentials.is_none() {
            return None;
        }
        let mut profile = config.map(|(_, keys)| keys.clone()).unwrap_or_default();
        profile.extend(credentials.cloned().unwrap_or_default());
        Some(profile)
    }
}

fn resolve(
    environment: &Environment,
    files: &Files,
    profile: &Profile,
    name: &str,
    depth: usize,
) -> Result<Option<Provider>, String> {
    let get = |key: &str| profile.get(key).filter(|it| !it.is_empty()).cloned();
    let depth = depth.checked_sub(1).ok_or("profiles stand on each other in a circle")?;
    let role = get("role_arn");
    let base = if let Some(source) = get("source_profile").filter(|_| role.is_some()) {
        if source == name {
            // A profile that stands on itself has keys of its own.
            keys(profile).ok_or("source profile has no credentials of its own")?
        } else {
            let shown: String = source.chars().take(64).collect();
            let missing = || format!("failed to get shared config profile, {shown}");
            let other = files.profile(&source).ok_or_else(missing)?;
            resolve(environment, files, &other, &source, depth)?.ok_or_else(missing)?
        }
    } else if let Some(keys) = keys(profile) {
        keys
    } else if let Some(source) = get("credential_source") {
        from_source(environment, &source)?
    } else if let (Some(token_file), Some(role)) = (get("web_identity_token_file"), &role) {
        let (role, session) = (role.clone(), get("role_session_name"));
        let source = Source::WebIdentity { token_file: token_file.into(), role, session };
        return Ok(Some(Provider::new(source)));
    } else if ["sso_session", "sso_start_url", "login_session", "credential_process"]
        .iter()
        .any(|key| get(key).is_some())
    {
        return Err("single sign-on and credential_process are not available".to_owned());
    } else if role.is_some() {
        Provider::new(chain::ambient(environment))
    } else {
        return Ok(None);
    };
    let Some(arn) = role else { return Ok(Some(base)) };
    let role = AssumedRole {
        arn,
        session: get("role_session_name"),
        external_id: get("external_id"),
        seconds: get("duration_seconds").and_then(|it| it.parse().ok()),
    };
    Ok(Some(Provider::new(Source::AssumeRole { role, from: Arc::new(base) })))
}

fn keys(profile: &Profile) -> Option<Provider> {
    let get = |key: &str| profile.get(key).filter(|it| !it.is_empty()).cloned();
    let keys = Credentials::new(get("aws_access_key_id")?, get("aws_secret_access_key")?);
    Some(Provider::new(Source::Static(keys.with_token(get("aws_session_token")))))
}

fn from_source(environment: &Environment, source: &str) -> Result<Provider, String> {
    let source = match source {
        "Ec2InstanceMetadata" => Source::Metadata,
        "Environment" => Source::Static(
            environment_keys(environment).ok_or("the environment has no credentials")?,
        ),
        "EcsContainer" => match chain::ambient(environment) {
            Source::Metadata => {
                let text = "EcsContainer was specified as the credential_source, but neither \
                            'AWS_CONTAINER_CREDENTIALS_RELATIVE_URI' or \
                            AWS_CONTAINER_CREDENTIALS_FULL_URI' was set";
                return Err(text.to_owned());
            }
            source => source,
        },
        _ => {
            let text = "credential_source values must be EcsContainer, Ec2InstanceMetadata, or \
                        Environment";
            return Err(text.to_owned());
        }
    };
    Ok(Provider::new(source))
}

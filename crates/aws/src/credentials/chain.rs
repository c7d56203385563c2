//! Which source it is, when the plugin's configuration has no keys.

use super::{Provider, Source, container, environment_keys, profile};
use crate::environment::Environment;

/// Where AWS's SDKs would take credentials from.
pub(crate) fn chain(environment: &Environment) -> Provider {
    if let Some(keys) = environment_keys(environment) {
        return Provider::new(Source::Static(keys));
    }
    if let Some(token_file) = environment.get("AWS_WEB_IDENTITY_TOKEN_FILE") {
        let source = match environment.get("AWS_ROLE_ARN") {
            Some(role) => Source::WebIdentity {
                token_file: token_file.into(),
                role,
                session: environment.get("AWS_ROLE_SESSION_NAME"),
            },
            None => Source::Broken("role ARN is not set".to_owned()),
        };
        return Provider::new(source);
    }
    match profile::provider(environment) {
        Ok(Some(provider)) => provider,
        Ok(None) => Provider::new(ambient(environment)),
        Err(why) => Provider::new(Source::Broken(why)),
    }
}

/// What the platform gives to whoever runs on it.
pub(super) fn ambient(environment: &Environment) -> Source {
    match container::endpoint(environment) {
        Some(Ok(endpoint)) => Source::Container(endpoint),
        Some(Err(why)) => Source::Broken(why),
        None => Source::Metadata,
    }
}

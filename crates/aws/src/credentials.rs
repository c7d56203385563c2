//! What calls are signed with, and where it comes from: the chain of AWS's SDKs without single
//! sign-on and foreign programs.

mod chain;
mod container;
mod metadata;
mod profile;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use steeple_runtime::Secret;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Mutex;

use crate::api::sts;
use crate::environment::Environment;
use crate::error::ApiError;
use crate::imds::ImdsError;
use crate::session::Session;

pub(crate) use chain::chain;

/// Credentials that end sooner than this are replaced before they are used.
const MARGIN: Duration = Duration::from_secs(60);

/// What a request is signed with.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) key_id: String,
    pub(crate) secret: Secret<String>,
    pub(crate) token: Option<Secret<String>>,
    /// When they end; not known of keys that do not.
    pub(crate) expires: Option<SystemTime>,
}

impl Credentials {
    /// Keys that last.
    pub(crate) fn new(key_id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self {
            key_id: key_id.into(),
            secret: Secret::new(secret.into()),
            token: None,
            expires: None,
        }
    }

    pub(crate) fn with_token(mut self, token: Option<String>) -> Self {
        self.token = token.filter(|it| !it.is_empty()).map(Secret::new);
        self
    }

    fn lasts(&self, now: SystemTime) -> bool {
        self.expires.is_none_or(|expires| now + MARGIN < expires)
    }
}

/// Credentials as the metadata service and container agents write them.
#[derive(Deserialize)]
struct Document {
    #[serde(rename = "AccessKeyId")]
    key_id: String,
    #[serde(rename = "SecretAccessKey")]
    secret: String,
    #[serde(rename = "Token")]
    token: Option<String>,
    #[serde(rename = "Expiration")]
    expires: Option<String>,
}

impl Document {
    fn into_credentials(self) -> Result<Credentials, CredentialsError> {
        let expires = self.expires.as_deref().map(time_of).transpose()?;
        Ok(Credentials { expires, ..Credentials::new(self.key_id, self.secret) }
            .with_token(self.token))
    }
}

/// A time in an answer.
pub(crate) fn time_of(text: &str) -> Result<SystemTime, CredentialsError> {
    OffsetDateTime::parse(text, &Rfc3339).map(SystemTime::from).map_err(|_| CredentialsError::Time)
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    #[error("no EC2 IMDS role found, {0}")]
    NoRole(ImdsError),
    #[error("failed to get EC2 IMDS role credentials, {0}")]
    Role(ImdsError),
    #[error("failed to decode {0}")]
    Malformed(&'static str),
    #[error("the time that credentials end at is malformed")]
    Time,
    #[error("{0}")]
    Api(#[from] Box<ApiError>),
    #[error("failed to load credentials, {0}")]
    Container(String),
    #[error("{0}")]
    File(String),
    #[error("{0}")]
    Configuration(String),
}

/// Where credentials come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// Keys that were given.
    Static(Credentials),
    /// A role for a token in a file, which somebody renews (IRSA).
    WebIdentity { token_file: std::path::PathBuf, role: String, session: Option<String> },
    /// A role for other credentials.
    AssumeRole { role: AssumedRole, from: Arc<Provider> },
    /// What the agent of a container platform gives at this URL.
    Container(container::Endpoint),
    /// What the metadata service gives to the instance.
    Metadata,
    /// The configuration asks for what cannot be.
    Broken(String),
}

/// A role to be assumed.
#[derive(Clone, Debug)]
pub(crate) struct AssumedRole {
    pub(crate) arn: String,
    pub(crate) session: Option<String>,
    pub(crate) external_id: Option<String>,
    /// How long it is assumed for; a quarter of an hour unless a profile says otherwise.
    pub(crate) seconds: Option<u32>,
}

/// Credentials from a source, kept while they last.
#[derive(Debug)]
pub(crate) struct Provider {
    source: Source,
    kept: Mutex<Option<Credentials>>,
}

impl Provider {
    pub(crate) fn new(source: Source) -> Self {
        Self { source, kept: Mutex::new(None) }
    }

    /// A role that is assumed with what `from` gives.
    pub(crate) fn assuming(from: Arc<Self>, arn: String) -> Self {
        let role = AssumedRole { arn, session: None, external_id: None, seconds: None };
        Self::new(Source::AssumeRole { role, from })
    }

    /// Credentials that last for a while. One caller fetches, the others wait for it.
    pub(crate) async fn credentials(
        &self,
        session: &Session,
    ) -> Result<Credentials, CredentialsError> {
        if let Source::Static(credentials) = &self.source {
            return Ok(credentials.clone());
        }
        let mut kept = self.kept.lock().await;
        let now = session.world.clock.now();
        if let Some(credentials) = kept.as_ref().filter(|it| it.lasts(now)) {
            return Ok(credentials.clone());
        }
        let fetched = Box::pin(self.fetch(session)).await?;
        *kept = Some(fetched.clone());
        Ok(fetched)
    }

    async fn fetch(&self, session: &Session) -> Result<Credentials, CredentialsError> {
        let now = session.world.clock.now();
        match &self.source {
            Source::Static(credentials) => Ok(credentials.clone()),
            Source::Broken(why) => Err(CredentialsError::Configuration(why.clone())),
            Source::Metadata => metadata::fetch(&session.world.environment).await,
            Source::Container(endpoint) => endpoint.fetch(&session.world.environment).await,
            Source::AssumeRole { role, from } => {
                let base = Provider::new(Source::Static(from.boxed(session).await?));
                let session = Session { credentials: Arc::new(base), ..session.clone() };
                sts::assume_role(&session, role, now).await
            }
            Source::WebIdentity { token_file, role, session: name } => {
                let token = read(token_file)?;
                let token = Secret::new(token.trim().to_owned());
                sts::assume_role_with_web_identity(session, role, name.as_deref(), &token, now)
                    .await
            }
        }
    }

    /// As [`Provider::credentials`], which cannot call itself as it is.
    fn boxed<'a>(
        &'a self,
        session: &'a Session,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Credentials, CredentialsError>> + Send + 'a>>
    {
        Box::pin(self.credentials(session))
    }
}

/// Reads a file of the user's, as text.
fn read(path: &std::path::Path) -> Result<String, CredentialsError> {
    let read = steeple_runtime::fsx::read_limited(path, crate::ini::MAX_FILE)
        .map_err(|error| CredentialsError::File(error.to_string()))?
        .ok_or_else(|| {
            let text = format!("open {}: no such file or directory", path.display());
            CredentialsError::File(text)
        })?;
    String::from_utf8(read)
        .map_err(|_| CredentialsError::File(format!("{} is not text", path.display())))
}

/// What the environment says of keys.
pub(crate) fn environment_keys(environment: &Environment) -> Option<Credentials> {
    let first = |names: [&str; 2]| names.into_iter().find_map(|name| environment.get(name));
    let key_id = first(["AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY"])?;
    let secret = first(["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"])?;
    Some(Credentials::new(key_id, secret).with_token(environment.get("AWS_SESSION_TOKEN")))
}

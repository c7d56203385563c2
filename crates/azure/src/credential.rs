//! Who we are to Azure's API.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use steeple_runtime::{Clock, Secret};
use tokio::io::AsyncReadExt as _;

use crate::cached::{Cached, Fetched};
use crate::login::{self, Proof};
use crate::metadata;
use crate::web::{CloudError, Web};

/// What tokens are for: the API of Azure's resource manager.
const RESOURCE: &str = "https://management.azure.com";
const SCOPE: &str = "https://management.azure.com/.default";

/// Tokens are fetched anew so long before they end.
const MARGIN: Duration = Duration::from_mins(5);
/// How long a token is used that does not say how long it is good.
const DEFAULT_LIFE: Duration = Duration::from_mins(10);
/// No token is used for longer than this.
const MAX_LIFE: Duration = Duration::from_hours(24);
/// The longest assertion that is read from a file, in bytes.
const MAX_ASSERTION: u64 = 16 * 1024;

/// A way to get tokens.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// An application in a tenant, with its secret.
    Secret { tenant: String, app: String, secret: Secret<String> },
    /// An application in a tenant that trusts the issuer of the token in a file.
    TokenFile { tenant: String, app: String, path: PathBuf },
    /// The identity of the machine that we run on; one of several by its client ID.
    ManagedIdentity { client: Option<String> },
}

/// Reads a variable of the environment; an empty one is none.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of the process.
pub(crate) fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Source {
    /// What the environment offers, in the order of Azure's libraries: an application with its
    /// secret, a workload identity, the machine's identity. `AZURE_TOKEN_CREDENTIALS` narrows the
    /// choice.
    ///
    /// # Errors
    /// When it narrows it to what is not known here.
    pub(crate) fn ambient(tenant: &str, environment: Environment<'_>) -> Result<Self, String> {
        let choice = environment("AZURE_TOKEN_CREDENTIALS").unwrap_or_default();
        let allowed =
            |name: &str| choice.is_empty() || choice == "prod" || choice.eq_ignore_ascii_case(name);
        let app = environment("AZURE_CLIENT_ID");
        let from_secret = || {
            Some(Self::Secret {
                tenant: environment("AZURE_TENANT_ID")?,
                app: app.clone()?,
                secret: Secret::new(environment("AZURE_CLIENT_SECRET")?),
            })
        };
        let from_file = || {
            Some(Self::TokenFile {
                tenant: tenant.to_owned(),
                app: app.clone()?,
                path: environment("AZURE_FEDERATED_TOKEN_FILE")?.into(),
            })
        };
        let found = from_secret().filter(|_| allowed("EnvironmentCredential"));
        let found = found.or_else(|| from_file().filter(|_| allowed("WorkloadIdentityCredential")));
        match found {
            Some(found) => Ok(found),
            None if allowed("ManagedIdentityCredential") => {
                Ok(Self::ManagedIdentity { client: app })
            }
            None => {
                let choice: String = choice.chars().take(64).collect();
                Err(format!("AZURE_TOKEN_CREDENTIALS {choice:?} offers no credential here"))
            }
        }
    }
}

/// Tokens of one [`Source`], kept while they are good.
pub(crate) struct Credential {
    source: Source,
    kept: Cached<Arc<Secret<String>>>,
    clock: Arc<dyn Clock>,
}

impl Credential {
    pub(crate) fn new(source: Source, clock: Arc<dyn Clock>) -> Self {
        Self { source, kept: Cached::default(), clock }
    }

    /// A token for the API.
    pub(crate) async fn token(&self, web: &dyn Web) -> Result<Arc<Secret<String>>, CloudError> {
        self.kept.get(self.clock.now(), async || self.fetch(web).await).await
    }

    /// As [`Credential::token`], after the one in hand was refused.
    pub(crate) async fn another_token(
        &self,
        web: &dyn Web,
    ) -> Result<Arc<Secret<String>>, CloudError> {
        // Whoever is refused again and again does not ask again and again.
        let oldest = Duration::from_mins(1);
        self.kept.newer(self.clock.now(), oldest, async || self.fetch(web).await).await
    }

    async fn fetch(&self, web: &dyn Web) -> Result<Fetched<Arc<Secret<String>>>, CloudError> {
        let (token, seconds) = match &self.source {
            Source::Secret { tenant, app, secret } => {
                login::token(web, tenant, app, Proof::Secret(secret.expose()), SCOPE).await?
            }
            Source::TokenFile { tenant, app, path } => {
                let assertion = read_assertion(path).await.map_err(CloudError::Answer)?;
                let proof = Proof::Assertion(assertion.expose());
                login::token(web, tenant, app, proof, SCOPE).await?
            }
            Source::ManagedIdentity { client } => {
                metadata::token(web, RESOURCE, client.as_deref()).await?
            }
        };
        if !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CloudError::answer("response has a malformed access token"));
        }
        let life = seconds.map_or(DEFAULT_LIFE, Duration::from_secs).min(MAX_LIFE);
        // One that is short-lived is used for half of its life.
        let fresh = life.saturating_sub(MARGIN).max(life / 2);
        Ok(Fetched { value: Arc::new(token), fresh, usable: life })
    }
}

/// The token in a file, which must look like one.
async fn read_assertion(path: &Path) -> Result<Secret<String>, String> {
    let shown = path.display().to_string();
    let unread = |error: std::io::Error| format!("unable to read token file {shown:?}: {error}");
    let unparsed =
        |error: &dyn std::fmt::Display| format!("unable to parse token file {shown:?}: {error}");
    let file = tokio::fs::File::open(path).await.map_err(unread)?;
    let mut text = Vec::new();
    file.take(MAX_ASSERTION + 1).read_to_end(&mut text).await.map_err(unread)?;
    if text.len() as u64 > MAX_ASSERTION {
        return Err(unparsed(&"it is too large"));
    }
    let text = String::from_utf8(text).map_err(|_| unparsed(&"it is not UTF-8"))?;
    let token = text.trim().to_owned();
    steeple_pki::jwt::parse_unverified(&token).map_err(|error| unparsed(&error))?;
    Ok(Secret::new(token))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Write as _;

    use steeple_runtime::ManualClock;

    use super::*;
    use crate::web::recorded::Recorded;

    const LOGIN: &str = "POST https://login.microsoftonline.com/T/oauth2/v2.0/token";
    const IMDS: &str = "GET http://169.254.169.254/metadata/identity/oauth2/token\
                        ?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com";

    fn chosen(variables: &[(&str, &str)]) -> Result<Source, String> {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        Source::ambient("T", &|name| variables.get(name).map(|it| (*it).to_owned()))
    }

    #[test]
    fn the_environment_offers_what_azures_libraries_take_from_it() {
        assert!(matches!(chosen(&[]), Ok(Source::ManagedIdentity { client: None })));
        let app = ("AZURE_CLIENT_ID", "A");
        let only = chosen(&[app]);
        assert!(matches!(only, Ok(Source::ManagedIdentity { client: Some(it) }) if it == "A"));
        let file = ("AZURE_FEDERATED_TOKEN_FILE", "/t");
        let found = chosen(&[app, file]).unwrap();
        assert!(matches!(found, Source::TokenFile { tenant, .. } if tenant == "T"));
        let tenant = ("AZURE_TENANT_ID", "own");
        let secret = ("AZURE_CLIENT_SECRET", "s");
        let found = chosen(&[app, file, tenant, secret]).unwrap();
        assert!(matches!(found, Source::Secret { tenant, .. } if tenant == "own"));
        let narrowed = ("AZURE_TOKEN_CREDENTIALS", "workloadidentitycredential");
        let found = chosen(&[app, file, tenant, secret, narrowed]).unwrap();
        assert!(matches!(found, Source::TokenFile { .. }));
        let refused = chosen(&[("AZURE_TOKEN_CREDENTIALS", "dev")]).unwrap_err();
        assert_eq!(refused, "AZURE_TOKEN_CREDENTIALS \"dev\" offers no credential here");
    }

    #[test]
    fn secrets_are_not_printed() {
        let source = Source::Secret {
            tenant: "T".into(),
            app: "A".into(),
            secret: Secret::new("hunter2".into()),
        };
        assert!(!format!("{source:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn an_application_proves_itself_by_its_secret_and_the_token_is_kept() {
        let recorded = Recorded::default();
        let clock = ManualClock::default();
        let secret = Secret::new("s&e".to_owned());
        let source = Source::Secret { tenant: "T".into(), app: "A".into(), secret };
        let credential = Credential::new(source, Arc::new(clock.clone()));
        recorded.on(LOGIN, 200, r#"{"access_token":"one","expires_in":3600}"#);
        for _ in 0..3 {
            assert_eq!(credential.token(&recorded).await.unwrap().expose(), "one");
        }
        let [asked] = &recorded.asked()[..] else { panic!("asked more than once") };
        let expected = "grant_type=client_credentials&client_id=A\
                        &scope=https%3A%2F%2Fmanagement.azure.com%2F.default&client_secret=s%26e";
        assert_eq!(asked.body, expected);
        recorded.on(LOGIN, 200, r#"{"access_token":"two","expires_in":"3600"}"#);
        clock.advance(Duration::from_mins(56));
        assert_eq!(credential.token(&recorded).await.unwrap().expose(), "two");
    }

    #[tokio::test]
    async fn a_refusal_is_told_without_the_secret() {
        let recorded = Recorded::default();
        let secret = Secret::new("hunter2".to_owned());
        let source = Source::Secret { tenant: "T".into(), app: "A".into(), secret };
        let credential = Credential::new(source, Arc::new(ManualClock::default()));
        let body =
            r#"{"error":"invalid_client","error_description":"AADSTS7000215: no.\r\nTrace"}"#;
        recorded.on(LOGIN, 401, body);
        let refused = credential.token(&recorded).await.unwrap_err().to_string();
        let expected = "the identity provider answered 401: invalid_client: AADSTS7000215: no.";
        assert_eq!(refused, expected);
        for body in [r#"{"access_token":"a b"}"#, r#"{"access_token":""}"#, "[]", "{"] {
            let source = Source::ManagedIdentity { client: None };
            let credential = Credential::new(source, Arc::new(ManualClock::default()));
            recorded.on(IMDS, 200, body);
            credential.token(&recorded).await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn a_token_in_a_file_is_read_anew_and_must_be_one() {
        let recorded = Recorded::default();
        recorded.on(LOGIN, 200, r#"{"access_token":"one"}"#);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let ask = async || {
            let (tenant, app) = ("T".to_owned(), "A".to_owned());
            let source = Source::TokenFile { tenant, app, path: path.clone() };
            let credential = Credential::new(source, Arc::new(ManualClock::default()));
            credential.token(&recorded).await.map_err(|error| error.to_string())
        };
        let refused = ask().await.unwrap_err();
        assert!(refused.starts_with("unable to parse token file"), "{refused}");
        // {"alg":"ES256","kid":"k"}.{"sub":"s"}
        let token = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ.eyJzdWIiOiJzIn0.AAAA";
        writeln!(file, "{token}").unwrap();
        ask().await.unwrap();
        let asked = recorded.asked();
        let body = String::from_utf8(asked.last().unwrap().body.to_vec()).unwrap();
        assert!(body.contains(&format!("client_assertion={token}&")), "{body}");
        file.write_all(&vec![b'A'; 20_000]).unwrap();
        assert!(ask().await.unwrap_err().ends_with("it is too large"));
        std::fs::remove_file(&path).unwrap();
        assert!(ask().await.unwrap_err().starts_with("unable to read token file"));
    }
}

//! Who we are to Google's APIs: Application Default Credentials, which become access tokens.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use serde_json::json;
use steeple_net::https::{Reply, Request};
use steeple_pki::{PrivateKey, SignatureAlgorithm};
use steeple_runtime::{Clock, Secret, fsx, gotext};
use zeroize::Zeroizing;

use crate::once::Once;
use crate::web::{FLAVOR, Web, cut, metadata_url};

const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
/// The metadata server's address, so that no name server has a say.
const METADATA_HOST: &str = "169.254.169.254";
/// How large a file, and an answer with a token, may be.
const MAX_FILE: u64 = 256 * 1024;
const MAX_ANSWER: usize = 64 * 1024;
/// How long an assertion is good for.
const ASSERTION: Duration = Duration::from_secs(3600);
/// A token is not used for so long before its end.
const EARLY: Duration = Duration::from_secs(60);
/// No token is kept for longer, whatever it says of itself.
const LONGEST: Duration = Duration::from_secs(3600);

/// An access token.
pub(crate) type Token = Secret<String>;

/// Where the credentials are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// In a file, which must be a service account's.
    ServiceAccount(PathBuf),
    /// In a file of some kind.
    File(PathBuf),
    /// With the metadata server on this host, for the machine that we are on.
    Metadata(String),
}

impl Source {
    /// Finds them as Google's libraries do: the given file, then the one of the environment, then
    /// that of `gcloud`, then the machine's.
    pub(crate) fn find(given: &Path, variable: impl Fn(&str) -> Option<String>) -> Self {
        if !given.as_os_str().is_empty() {
            return Self::ServiceAccount(given.to_owned());
        }
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        if let Some(path) = variable("GOOGLE_APPLICATION_CREDENTIALS") {
            return Self::File(path.into());
        }
        let folder = variable("CLOUDSDK_CONFIG").map(PathBuf::from);
        let home = || variable("HOME").map(|home| Path::new(&home).join(".config/gcloud"));
        let known = folder.or_else(home).map(|it| it.join("application_default_credentials.json"));
        match known.filter(|path| path.exists()) {
            Some(path) => Self::File(path),
            None => Self::Metadata(
                variable("GCE_METADATA_HOST").unwrap_or_else(|| METADATA_HOST.to_owned()),
            ),
        }
    }
}

/// Access tokens for a scope, fetched when the last is over.
pub(crate) struct Tokens {
    source: Source,
    scope: &'static str,
    web: Web,
    clock: Arc<dyn Clock>,
    token: Once<Token>,
}

/// A file of credentials; which fields matter depends on the type.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct File {
    #[serde(rename = "type")]
    kind: String,
    client_email: String,
    private_key_id: String,
    private_key: Zeroize,
    token_uri: String,
    client_id: String,
    client_secret: Zeroize,
    refresh_token: Zeroize,
}

/// A secret of the file.
#[derive(Default, Deserialize)]
#[serde(from = "String")]
struct Zeroize(Zeroizing<String>);

impl From<String> for Zeroize {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    access_token: String,
    expires_in: u64,
    error: String,
    error_description: String,
}

impl Tokens {
    pub(crate) fn new(
        source: Source,
        scope: &'static str,
        web: Web,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { source, scope, web, clock, token: Once::new() }
    }

    /// A token that is good now.
    ///
    /// # Errors
    /// Why there is none, without secrets.
    pub(crate) async fn get(&self) -> Result<Arc<Token>, String> {
        let now = self.clock.now();
        self.token.get(now, self.fetch(now)).await
    }

    /// Forgets a token that somebody refused.
    pub(crate) async fn forget(&self, token: &Arc<Token>) {
        self.token.forget(token).await;
    }

    async fn fetch(&self, now: SystemTime) -> Result<(Token, SystemTime), String> {
        let request = match &self.source {
            Source::Metadata(host) => self.of_machine(host)?,
            Source::File(path) => self.by_file(&read(path).await?, now)?,
            Source::ServiceAccount(path) => {
                let file = read(path).await?;
                if file.kind != "service_account" {
                    return Err(format!(
                        "credentials: expected type \"service_account\", found {:?}",
                        cut(&file.kind)
                    ));
                }
                self.by_file(&file, now)?
            }
        };
        let of_machine = matches!(self.source, Source::Metadata(_));
        let reply = self.web.call(request, MAX_ANSWER).await;
        let reply = reply.map_err(|error| format!("cannot fetch token: {error}"))?;
        if of_machine && reply.status.is_success() && reply.headers.get(FLAVOR.0) != Some(&FLAVOR.1)
        {
            return Err("cannot fetch token: the answer is not a metadata server's".to_owned());
        }
        token(&reply, now)
    }

    fn of_machine(&self, host: &str) -> Result<Request, String> {
        let path = "/computeMetadata/v1/instance/service-accounts/default/token";
        let mut url = metadata_url(host, path)
            .map_err(|_| "the metadata server's host cannot be one".to_owned())?;
        url.query_pairs_mut().append_pair("scopes", self.scope);
        let mut request = Request::get(url);
        request.headers.insert(FLAVOR.0, FLAVOR.1);
        Ok(request)
    }

    fn by_file(&self, file: &File, now: SystemTime) -> Result<Request, String> {
        let url = match file.token_uri.as_str() {
            "" => TOKEN_URL,
            other => other,
        };
        if !self.web.may_have_secrets(url) {
            return Err("credentials: token_uri is not an https URL".to_owned());
        }
        let form = match file.kind.as_str() {
            "service_account" => {
                let assertion = self.assertion(file, url, now)?;
                form(&[
                    ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
                    ("assertion", &assertion),
                ])
            }
            "authorized_user" => form(&[
                ("grant_type", "refresh_token"),
                ("client_id", &file.client_id),
                ("client_secret", &file.client_secret.0),
                ("refresh_token", &file.refresh_token.0),
            ]),
            other => {
                return Err(format!("credentials of type {:?} are not supported", cut(other)));
            }
        };
        let mut request = Request::get(url);
        request.method = Method::POST;
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers.insert(CONTENT_TYPE, kind);
        request.body = Bytes::from(form);
        Ok(request)
    }

    /// A token of our own making, by which the account's key is known (RFC 7523).
    fn assertion(&self, file: &File, url: &str, now: SystemTime) -> Result<String, String> {
        let key = PrivateKey::from_pem(&file.private_key.0)
            .map_err(|_| "credentials: private_key cannot be read".to_owned())?;
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": file.private_key_id});
        let claims = json!({
            "iss": file.client_email,
            "scope": self.scope,
            "aud": url,
            "iat": now,
            "exp": now + ASSERTION.as_secs(),
        });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = key
            .sign(SignatureAlgorithm::RsaPkcs1Sha256, signed.as_bytes())
            .map_err(|_| "credentials: private_key is not an RSA key".to_owned())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

async fn read(path: &Path) -> Result<File, String> {
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || fsx::read_limited(&owned, MAX_FILE)).await;
    let shown = path.display();
    let failed = |reason: String| format!("open {shown}: {reason}");
    let text = match read {
        Ok(Ok(Some(text))) => Zeroizing::new(text),
        Ok(Ok(None)) => return Err(failed("no such file or directory".to_owned())),
        Ok(Err(error)) => return Err(failed(gotext::system(&error))),
        Err(_) => return Err(failed("reading stopped".to_owned())),
    };
    // The parser's own words could have a piece of the key in them.
    serde_json::from_slice(&text).map_err(|_| format!("{shown} is no file of credentials"))
}

fn form(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

fn token(reply: &Reply, now: SystemTime) -> Result<(Token, SystemTime), String> {
    let answer: Answer = serde_json::from_slice(&reply.body).unwrap_or_default();
    if !reply.status.is_success() {
        let said = match (answer.error.as_str(), answer.error_description.as_str()) {
            ("", _) => String::new(),
            (error, "") => format!(": {}", cut(error)),
            (error, why) => format!(": {}: {}", cut(error), cut(why)),
        };
        return Err(format!("cannot fetch token: {}{said}", reply.status.as_u16()));
    }
    if answer.access_token.is_empty() {
        return Err("cannot fetch token: the answer has none".to_owned());
    }
    let life = Duration::from_secs(answer.expires_in).min(LONGEST).saturating_sub(EARLY);
    Ok((Secret::new(answer.access_token), now + life))
}

#[cfg(test)]
mod tests;

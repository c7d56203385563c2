//! Azure's identity provider: what tenants it has, the keys it signs with, and tokens for us.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Method};
use serde::Deserialize;
use steeple_net::https::{Reply, Request};
use steeple_pki::jwt::JwtAlg;
use steeple_pki::jwt::issuer::{self, IssuerKeys, IssuerTokenError, SignedClaims};
use steeple_runtime::Secret;

use crate::cached::{Cached, Fetched};
use crate::metadata::{nullable, seconds};
use crate::web::{self, CloudError, Web, cut, encode, encode_segment, limits, quoted};

const HOST: &str = "https://login.microsoftonline.com";

/// How often the keys are fetched anew.
const KEYS_FRESH: Duration = Duration::from_hours(1);
/// How long the keys are used though they cannot be fetched anew.
const KEYS_USABLE: Duration = Duration::from_hours(24);
/// How often the keys are fetched because a token names one that is not among them.
const KEYS_UNKNOWN: Duration = Duration::from_mins(5);

/// The algorithms that a token may be signed with, in the order in which SPIRE tells them.
const ALGORITHMS: &[JwtAlg] = &[
    JwtAlg::RS256,
    JwtAlg::RS384,
    JwtAlg::RS512,
    JwtAlg::ES256,
    JwtAlg::ES384,
    JwtAlg::ES512,
    JwtAlg::PS256,
    JwtAlg::PS384,
    JwtAlg::PS512,
];

#[derive(Deserialize)]
struct Discovery {
    #[serde(default, deserialize_with = "nullable")]
    issuer: String,
    #[serde(default, deserialize_with = "nullable")]
    jwks_uri: String,
}

async fn discover(web: &dyn Web, tenant: &str) -> Result<Reply, CloudError> {
    let tenant = encode_segment(tenant).ok_or_else(|| CloudError::answer("empty tenant"))?;
    let url = format!("{HOST}/{tenant}/.well-known/openid-configuration");
    Ok(web.call(Request::get(url), limits(10, 256)).await?)
}

/// The ID of the tenant with the domain `domain`.
pub(crate) async fn tenant_id(web: &dyn Web, domain: &str) -> Result<String, CloudError> {
    let fetch =
        |error: CloudError| CloudError::answer(format!("failed to fetch tenant ID: {error}"));
    let found = discover(web, domain).await.map_err(fetch)?;
    if found.status != 200 {
        let status = found.status.as_u16();
        return Err(CloudError::answer(format!("failed to fetch tenant ID, status: {status}")));
    }
    let found: Discovery = web::decode(&found.body)
        .map_err(|error| CloudError::answer(format!("failed to unmarshal tenant ID: {error}")))?;
    let id = found.issuer.strip_prefix("https://sts.windows.net/");
    let id = id.and_then(|rest| rest.strip_suffix('/'));
    match id.filter(|id| !id.is_empty() && !id.contains('/')) {
        Some(id) => Ok(id.to_owned()),
        None => Err(CloudError::answer(format!("malformed tenant ID: {}", quoted(&found.issuer)))),
    }
}

/// The keys that tokens of all tenants are signed with.
#[derive(Default)]
pub(crate) struct SigningKeys(Cached<Arc<IssuerKeys>>);

/// Why a token was not taken.
pub(crate) enum Refused {
    /// The keys cannot be had.
    Keys(CloudError),
    /// The token is no good.
    Token(IssuerTokenError),
}

impl SigningKeys {
    /// Verifies the signature of `token`. One that names a key that is not known makes the keys
    /// be fetched anew, if that was not done lately.
    pub(crate) async fn open(
        &self,
        web: &dyn Web,
        now: SystemTime,
        token: &str,
    ) -> Result<SignedClaims, Refused> {
        let fetch = async || {
            let value = Arc::new(keys(web).await?);
            Ok(Fetched { value, fresh: KEYS_FRESH, usable: KEYS_USABLE })
        };
        let known = self.0.get(now, fetch).await.map_err(Refused::Keys)?;
        match issuer::open(token, &known, ALGORITHMS) {
            Err(IssuerTokenError::UnknownKey(id)) => {
                let newer = self.0.newer(now, KEYS_UNKNOWN, fetch).await.map_err(Refused::Keys)?;
                if Arc::ptr_eq(&newer, &known) {
                    return Err(Refused::Token(IssuerTokenError::UnknownKey(id)));
                }
                issuer::open(token, &newer, ALGORITHMS).map_err(Refused::Token)
            }
            other => other.map_err(Refused::Token),
        }
    }
}

async fn keys(web: &dyn Web) -> Result<IssuerKeys, CloudError> {
    let found: Discovery = web::json(discover(web, "common").await?)?;
    if found.jwks_uri.is_empty() {
        return Err(CloudError::answer("configuration missing JWKS URI"));
    }
    // Whoever says where the keys are must not be able to send us anywhere.
    if !found.jwks_uri.strip_prefix(HOST).is_some_and(|rest| rest.starts_with('/')) {
        let uri = quoted(&found.jwks_uri);
        return Err(CloudError::answer(format!("JWKS URI {uri} is not of {HOST}")));
    }
    let document = web::ok(web.call(Request::get(found.jwks_uri), limits(10, 512)).await?)?;
    let decode = |error| CloudError::answer(format!("failed to decode key set: {error}"));
    IssuerKeys::from_jwks(&document).map_err(decode)
}

/// How an application of ours proves to be it.
pub(crate) enum Proof<'a> {
    /// By a secret that it shares.
    Secret(&'a str),
    /// By a token of an issuer that it trusts.
    Assertion(&'a str),
}

#[derive(Deserialize)]
struct Token {
    #[serde(default, deserialize_with = "nullable")]
    access_token: String,
    expires_in: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Refusal {
    error: Option<String>,
    error_description: Option<String>,
}

/// A token of the application `app` in `tenant`, and for how many seconds it is good, if that is
/// said.
pub(crate) async fn token(
    web: &dyn Web,
    tenant: &str,
    app: &str,
    proof: Proof<'_>,
    scope: &str,
) -> Result<(Secret<String>, Option<u64>), CloudError> {
    let tenant = encode_segment(tenant).ok_or_else(|| CloudError::answer("empty tenant"))?;
    let mut request = Request::get(format!("{HOST}/{tenant}/oauth2/v2.0/token"));
    request.method = Method::POST;
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers.insert(http::header::CONTENT_TYPE, form);
    let proof = match proof {
        Proof::Secret(secret) => format!("client_secret={}", encode(secret)),
        Proof::Assertion(assertion) => format!(
            "client_assertion={}&client_assertion_type=\
             urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer",
            encode(assertion)
        ),
    };
    let (app, scope) = (encode(app), encode(scope));
    let body = format!("grant_type=client_credentials&client_id={app}&scope={scope}&{proof}");
    request.body = Bytes::from(body);
    let reply = web.call(request, limits(15, 64)).await?;
    if reply.status != 200 {
        let status = reply.status.as_u16();
        let refusal: Option<Refusal> = web::decode(&reply.body).ok();
        let (code, text) = refusal.map_or((None, None), |it| (it.error, it.error_description));
        // The first line says what is wrong; the others are for Azure's support.
        let text = text.unwrap_or_default();
        let text = text.lines().next().unwrap_or_default();
        let code = code.unwrap_or_default();
        let (code, text) = (cut(&code, 64), cut(text, 200));
        let text = format!("the identity provider answered {status}: {code}: {text}");
        return Err(CloudError::answer(text));
    }
    let answer: Token = web::decode(&reply.body)?;
    if answer.access_token.is_empty() {
        return Err(CloudError::answer("response missing access token"));
    }
    let seconds = answer.expires_in.as_ref().and_then(seconds);
    Ok((Secret::new(answer.access_token), seconds))
}

#[cfg(test)]
mod tests;

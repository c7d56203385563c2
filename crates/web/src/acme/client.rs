//! The protocol of RFC 8555: an account, and orders for one name each.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http::header::{HeaderName, LOCATION, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use steeple_pki::digest::Sha256;
use steeple_pki::{KeyKind, Signer, jws};
use tokio::time::{Instant, sleep};

use super::AcmeError;
use super::http::{Answer, Http};

const REPLAY_NONCE: HeaderName = HeaderName::from_static("replay-nonce");
/// How often a request is sent again with a newer nonce.
const NONCE_TRIES: usize = 8;
/// Nonces that are kept for later.
const MAX_NONCES: usize = 16;
/// How long an authority may take for a check or a certificate.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two questions whether it is done, unless the authority names a time.
const POLL: Duration = Duration::from_secs(1);
const MAX_POLL: Duration = Duration::from_secs(15);

/// What an authority offers, and where.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    new_nonce: String,
    new_account: String,
    new_order: String,
    #[serde(default)]
    meta: Meta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    terms_of_service: String,
}

/// RFC 7807, as RFC 8555 section 6.7 uses it.
#[derive(Default, Deserialize)]
struct Problem {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    detail: String,
}

impl Problem {
    fn text(&self) -> String {
        let cap = |text: &str| text.chars().take(300).collect::<String>();
        let kind = self.kind.rsplit(':').next().unwrap_or_default();
        match (self.detail.is_empty(), kind.is_empty()) {
            (false, false) => format!("{} ({})", cap(&self.detail), cap(kind)),
            (false, true) => cap(&self.detail),
            (true, _) => cap(kind),
        }
    }
}

#[derive(Deserialize)]
struct OrderBody {
    status: String,
    #[serde(default)]
    authorizations: Vec<String>,
    #[serde(default)]
    finalize: String,
    #[serde(default)]
    certificate: String,
    #[serde(default)]
    error: Option<Problem>,
}

#[derive(Deserialize)]
struct AuthorizationBody {
    status: String,
    #[serde(default)]
    challenges: Vec<ChallengeBody>,
}

#[derive(Deserialize)]
struct ChallengeBody {
    #[serde(rename = "type")]
    kind: String,
    url: String,
    #[serde(default)]
    token: String,
    #[serde(default)]
    error: Option<Problem>,
}

/// An account with an authority.
pub(super) struct Client {
    http: Http,
    directory: Directory,
    key: Arc<dyn Signer>,
    jwk: Value,
    account: String,
    nonces: Mutex<Vec<String>>,
}

/// Who shows the authority that a name is ours.
pub(super) trait Prover: Sync {
    /// From when this returns, handshakes for `domain` show `digest`.
    fn prove(
        &self,
        domain: &str,
        digest: [u8; 32],
    ) -> impl Future<Output = Result<(), AcmeError>> + Send;

    /// They do no longer.
    fn done(&self, domain: &str);
}

impl Client {
    /// Finds the authority's directory and makes an account for `key`, or finds the one that it
    /// has. `accept` is told the address of the terms of service, if there are any, and says
    /// whether they are accepted.
    pub(super) async fn new(
        http: Http,
        directory_url: &str,
        key: Arc<dyn Signer>,
        email: &str,
        accept: impl FnOnce(&str) -> bool + Send,
    ) -> Result<Self, AcmeError> {
        let answer = http.send(Method::GET, directory_url, String::new()).await?;
        let directory: Directory = parse(checked(&answer)?)?;
        let jwk = jwk(&*key)?;
        let nonces = Mutex::default();
        let mut this = Self { http, directory, key, jwk, account: String::new(), nonces };
        let terms = this.directory.meta.terms_of_service.clone();
        let mut account = json!({});
        if !terms.is_empty() {
            if !accept(&terms) {
                return Err(AcmeError::Terms);
            }
            account["termsOfServiceAgreed"] = true.into();
        }
        if !email.is_empty() {
            account["contact"] = json!([format!("mailto:{email}")]);
        }
        let url = this.directory.new_account.clone();
        let answer = this.post(&url, Some(&account)).await?;
        this.account = location(&answer.headers)?;
        Ok(this)
    }

    /// Has a certificate made for `domain` from the request `csr` in DER; answers with its chain
    /// in PEM.
    pub(super) async fn certificate(
        &self,
        domain: &str,
        csr: &[u8],
        prover: &impl Prover,
    ) -> Result<String, AcmeError> {
        let order = json!({ "identifiers": [{ "type": "dns", "value": domain }] });
        let answer = self.post(&self.directory.new_order, Some(&order)).await?;
        let url = location(&answer.headers)?;
        let mut order: OrderBody = parse(&answer)?;
        if order.status == "pending" {
            for authorization in &order.authorizations {
                self.authorize(domain, authorization, prover).await?;
            }
            order = self.poll(&url, |it: &OrderBody| it.status == "pending").await?;
        }
        if order.status == "ready" {
            let finalize = json!({ "csr": BASE64.encode(csr) });
            self.post(&order.finalize, Some(&finalize)).await?;
            let unfinished = |it: &OrderBody| matches!(it.status.as_str(), "ready" | "processing");
            order = self.poll(&url, unfinished).await?;
        }
        if order.status != "valid" || order.certificate.is_empty() {
            let reason = order.error.unwrap_or_default().text();
            return Err(AcmeError::Order { status: short(&order.status), reason });
        }
        let chain = self.post(&order.certificate, None).await?;
        String::from_utf8(chain.body.to_vec())
            .map_err(|_| AcmeError::Protocol("the certificate is not PEM"))
    }

    async fn authorize(
        &self,
        domain: &str,
        url: &str,
        prover: &impl Prover,
    ) -> Result<(), AcmeError> {
        let answer = self.post(url, None).await?;
        let authorization: AuthorizationBody = parse(&answer)?;
        if authorization.status != "pending" {
            // Valid from an earlier order, or the order will say what is wrong.
            return Ok(());
        }
        let challenge = authorization.challenges.iter().find(|it| it.kind == "tls-alpn-01");
        let challenge = challenge.ok_or(AcmeError::Challenge)?;
        let authorized = format!("{}.{}", challenge.token, thumbprint(&self.jwk));
        prover.prove(domain, Sha256::of(authorized.as_bytes())).await?;
        let result = self.respond(url, &challenge.url).await;
        prover.done(domain);
        if result.is_err() {
            // Otherwise it stays with the authority as pending, and those are limited.
            let _ = self.post(url, Some(&json!({ "status": "deactivated" }))).await;
        }
        result
    }

    async fn respond(&self, url: &str, challenge: &str) -> Result<(), AcmeError> {
        self.post(challenge, Some(&json!({}))).await?;
        let pending = |it: &AuthorizationBody| it.status == "pending";
        let authorization: AuthorizationBody = self.poll(url, pending).await?;
        if authorization.status == "valid" {
            return Ok(());
        }
        let mut errors = authorization.challenges.into_iter().filter_map(|it| it.error);
        let reason = errors.next().unwrap_or_default().text();
        Err(AcmeError::Authorization { status: short(&authorization.status), reason })
    }

    /// Asks until the answer is final, or patience ends.
    async fn poll<T: DeserializeOwned>(
        &self,
        url: &str,
        unfinished: impl Fn(&T) -> bool,
    ) -> Result<T, AcmeError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.post(url, None).await?;
            let found: T = parse(&answer)?;
            if !unfinished(&found) {
                return Ok(found);
            }
            let pause = retry_after(&answer.headers).unwrap_or(POLL).clamp(POLL / 4, MAX_POLL);
            if Instant::now() + pause > end {
                return Err(AcmeError::Patience(PATIENCE));
            }
            sleep(pause).await;
        }
    }

    /// Sends a signed request; without a payload it asks for what is at `url`.
    async fn post(&self, url: &str, payload: Option<&Value>) -> Result<Answer, AcmeError> {
        let payload = payload.map_or(String::new(), Value::to_string);
        let mut tries = NONCE_TRIES;
        loop {
            let nonce = self.nonce().await?;
            let body = self.sign(url, &nonce, &payload).await?;
            let answer = self.http.send(Method::POST, url, body).await?;
            self.keep_nonce(&answer.headers);
            match checked(&answer) {
                Ok(_) => return Ok(answer),
                Err(AcmeError::Problem { kind, .. }) if kind == "badNonce" && tries > 1 => {
                    tries -= 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A JWS in its flattened form (RFC 7515 section 7.2.2).
    async fn sign(&self, url: &str, nonce: &str, payload: &str) -> Result<String, AcmeError> {
        let mut header = json!({ "alg": "ES256", "nonce": nonce, "url": url });
        if self.account.is_empty() {
            header["jwk"] = self.jwk.clone();
        } else {
            header["kid"] = self.account.as_str().into();
        }
        let protected = BASE64.encode(header.to_string());
        let payload = BASE64.encode(payload);
        let signature = jws::sign(&*self.key, format!("{protected}.{payload}").as_bytes())
            .await
            .map_err(AcmeError::Sign)?;
        let jws = json!({
            "protected": protected,
            "payload": payload,
            "signature": BASE64.encode(signature),
        });
        Ok(jws.to_string())
    }

    async fn nonce(&self) -> Result<String, AcmeError> {
        let kept = self.nonces.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(nonce) = kept {
            return Ok(nonce);
        }
        let url = &self.directory.new_nonce;
        let answer = self.http.send(Method::HEAD, url, String::new()).await?;
        nonce_of(&answer.headers).ok_or(AcmeError::Protocol("the authority gave no nonce"))
    }

    fn keep_nonce(&self, headers: &HeaderMap) {
        let Some(nonce) = nonce_of(headers) else { return };
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest are the ones that the authority remembers longest.
        if nonces.len() >= MAX_NONCES {
            nonces.remove(0);
        }
        nonces.push(nonce);
    }
}

fn nonce_of(headers: &HeaderMap) -> Option<String> {
    let nonce = headers.get(REPLAY_NONCE)?.to_str().ok()?;
    (!nonce.is_empty() && nonce.len() <= 512).then(|| nonce.to_owned())
}

fn location(headers: &HeaderMap) -> Result<String, AcmeError> {
    let location = headers.get(LOCATION).and_then(|it| it.to_str().ok());
    location
        .filter(|it| it.len() <= 2048)
        .map(str::to_owned)
        .ok_or(AcmeError::Protocol("the authority's answer has no location"))
}

/// In seconds; authorities that name a date are asked at the usual pace.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u32 = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds.into()))
}

fn checked(answer: &Answer) -> Result<&Answer, AcmeError> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    let problem: Problem = serde_json::from_slice(&answer.body).unwrap_or_default();
    let retry_after = match answer.status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            retry_after(&answer.headers)
        }
        _ => None,
    };
    Err(AcmeError::Problem {
        status: answer.status,
        kind: short(problem.kind.rsplit(':').next().unwrap_or_default()),
        text: problem.text(),
        retry_after,
    })
}

fn parse<T: DeserializeOwned>(answer: &Answer) -> Result<T, AcmeError> {
    serde_json::from_slice(&answer.body)
        .map_err(|_| AcmeError::Protocol("the authority's answer is not the JSON it should be"))
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

/// The public key as a JWK, its members in the order that the thumbprint needs.
fn jwk(key: &dyn Signer) -> Result<Value, AcmeError> {
    let spki = key.public_key();
    if spki.kind() != KeyKind::P256 {
        return Err(AcmeError::AccountKey);
    }
    // It ends with the point, its two coordinates.
    let coordinates = spki.spki_der().last_chunk::<64>().ok_or(AcmeError::AccountKey)?;
    let (x, y) = coordinates.split_at(32);
    Ok(json!({ "crv": "P-256", "kty": "EC", "x": BASE64.encode(x), "y": BASE64.encode(y) }))
}

/// RFC 7638.
fn thumbprint(jwk: &Value) -> String {
    BASE64.encode(Sha256::of(jwk.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use steeple_pki::PrivateKey;

    use super::*;

    #[test]
    fn a_problem_is_told_by_its_detail_and_kind() {
        let problem: Problem = serde_json::from_value(json!({
            "type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many"
        }))
        .unwrap();
        assert_eq!(problem.text(), "too many (rateLimited)");
        assert_eq!(Problem::default().text(), "");
    }

    #[test]
    fn an_account_key_is_a_p256_one() {
        let key = PrivateKey::generate(steeple_pki::KeyType::EcP384).unwrap();
        assert!(matches!(jwk(&key), Err(AcmeError::AccountKey)));
    }
}

//! What the provider answers.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, EXPIRES, HeaderName, PRAGMA,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use serde::Serialize;
use steeple_web::{Response, reply, request_host};

use crate::config::Config;
use crate::domains::{DomainError, Domains};
use crate::go::{self, clean_path, decode_path, escape_path};
use crate::source::Source;
use crate::{content, mux};

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-scheme");
const FORWARDED: HeaderName = http::header::FORWARDED;
const JSON: &str = "application/json";

/// The two documents, and the rules for handing them out.
pub(crate) struct Provider {
    source: Arc<Source>,
    domains: Domains,
    allow_insecure_scheme: bool,
    /// What is said whoever asks.
    jwt_issuer: Option<String>,
    jwks_uri: Option<String>,
    /// What follows the host in the issuer; empty without a prefix.
    issuer_path: String,
    discovery_path: String,
    keys_path: String,
}

/// OpenID Connect Discovery 1.0 section 3, its required members.
#[derive(Serialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
    authorization_endpoint: &'static str,
    response_types_supported: [&'static str; 1],
    subject_types_supported: [&'static str; 1],
    id_token_signing_alg_values_supported: [&'static str; 3],
}

impl Provider {
    pub(crate) fn new(config: &Config, source: Arc<Source>) -> Result<Self, DomainError> {
        let prefix = config.path_prefix.as_str();
        let join = |path: &str| clean_path(&format!("{prefix}/{path}"));
        let issuer_path = if prefix == "/" { String::new() } else { escape_path(prefix) };
        let from_issuer = config.jwt_issuer.as_ref().map(|(_, url)| {
            let path = clean_path(&format!("{}/keys", url.path));
            format!("{}://{}{}", url.scheme, url.host, escape_path(&path))
        });
        Ok(Self {
            source,
            domains: Domains::new(&config.domains)?,
            allow_insecure_scheme: config.allow_insecure_scheme,
            jwt_issuer: config.jwt_issuer.as_ref().map(|(text, _)| text.clone()),
            jwks_uri: config.jwks_uri.clone().or(from_issuer),
            issuer_path,
            discovery_path: join(".well-known/openid-configuration"),
            keys_path: join("keys"),
        })
    }

    /// Answers a request that came over TLS if `encrypted`.
    pub(crate) fn answer<B>(&self, request: &Request<B>, encrypted: bool) -> Response {
        if let Some(response) = mux::intercept(request) {
            return response;
        }
        let Some(path) = decode_path(request.uri().path()) else {
            return reply::error(StatusCode::BAD_REQUEST, "400 Bad Request");
        };
        let is_discovery = path == self.discovery_path;
        if !is_discovery && path != self.keys_path {
            return reply::not_found();
        }
        if *request.method() != Method::GET {
            return reply::error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
        }
        if is_discovery { self.discovery(request, encrypted) } else { self.keys(request) }
    }

    fn discovery<B>(&self, request: &Request<B>, encrypted: bool) -> Response {
        let headers = request.headers();
        let forwarded = text(headers, FORWARDED_HOST);
        let host = forwarded.or_else(|| request_host(request)).unwrap_or_default();
        if let Err(error) = self.domains.verify(host) {
            return reply::error(StatusCode::BAD_REQUEST, &error.to_string());
        }
        if !has_plain_port(host) {
            return reply::error(StatusCode::BAD_REQUEST, "the host has an invalid port");
        }
        let behind_tls = forwarded_scheme(headers).is_some_and(|it| it == "https")
            || request.uri().scheme_str() == Some("https");
        let insecure = self.allow_insecure_scheme && !encrypted && !behind_tls;
        let scheme = if insecure { "http" } else { "https" };
        let issuer = match &self.jwt_issuer {
            Some(issuer) => issuer.clone(),
            None => format!("{scheme}://{host}{}", self.issuer_path),
        };
        let jwks_uri = match &self.jwks_uri {
            Some(uri) => uri.clone(),
            None => format!("{scheme}://{host}{}", escape_path(&self.keys_path)),
        };
        let document = Discovery {
            issuer,
            jwks_uri,
            authorization_endpoint: "",
            response_types_supported: ["id_token"],
            subject_types_supported: ["public"],
            id_token_signing_alg_values_supported: ["RS256", "ES256", "ES384"],
        };
        let mut response = reply::content(JSON, go::json(&document));
        response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        response
    }

    fn keys<B>(&self, request: &Request<B>) -> Response {
        let Some(document) = self.source.document() else {
            return reply::error(StatusCode::INTERNAL_SERVER_ERROR, "document not available");
        };
        if document.keys.is_empty() {
            let text = "jwt not supported/enabled in this service";
            return reply::error(StatusCode::NOT_IMPLEMENTED, text);
        }
        let headers = [
            (CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
            (PRAGMA, "no-cache"),
            (EXPIRES, "0"),
            (CONTENT_TYPE, JSON),
            (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        ];
        let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let headers = HeaderMap::from_iter(headers);
        content::serve(request.headers(), headers, &document.body, document.modified)
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().filter(|it| !it.is_empty())
}

/// What a proxy says the client used.
fn forwarded_scheme(headers: &HeaderMap) -> Option<String> {
    for name in [FORWARDED_PROTO, FORWARDED_SCHEME] {
        if let Some(scheme) = text(headers, name) {
            return Some(scheme.to_ascii_lowercase());
        }
    }
    let forwarded = text(headers, FORWARDED)?.to_ascii_lowercase();
    let protocol = forwarded.split_once("proto=")?.1;
    let https = protocol.starts_with("https");
    (https || protocol.starts_with("http"))
        .then(|| if https { "https".to_owned() } else { "http".to_owned() })
}

/// Whether nothing but digits follows the name: a document must not carry what a client made up.
fn has_plain_port(host: &str) -> bool {
    match host.rsplit_once(':') {
        Some((name, port))
            if !name.ends_with(':') && (!name.contains(':') || name.ends_with(']')) =>
        {
            port.len() <= 5 && port.bytes().all(|it| it.is_ascii_digit())
        }
        _ => !host.contains(':'),
    }
}

//! What a request says: where it comes from, its parameters, whether it waits.

use std::collections::BTreeMap;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, HOST, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use serde_json::Value;
use tonic::body::Body;

use super::super::SECURITY_HEADER;
use super::say::Refusal;
use crate::caller;

/// Refuses what a workload on this machine would not send by itself.
pub(super) fn check_origin(request: &Request<Body>) -> Result<(), Refusal> {
    let headers = request.headers();
    caller::require_header(headers, SECURITY_HEADER)?;
    if let Some(name) = FOREIGN.iter().find(|name| headers.contains_key(**name)) {
        let text = format!("requests of browsers and through proxies are refused ({name})");
        return Err(Refusal::new(StatusCode::FORBIDDEN, text));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().is_ok_and(is_local),
        _ => false,
    };
    // With a proxy's form of request line, that one counts.
    let asked = request.uri().authority().is_none_or(|authority| is_local(authority.as_str()));
    if named && asked {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::FORBIDDEN, "the Host header must name localhost"))
}

fn is_local(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|local| host.eq_ignore_ascii_case(local))
}

/// A form in a browser can send other types, and no JSON.
pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let is_json = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or_default();
        text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
    };
    if headers.get(CONTENT_TYPE).is_some_and(is_json) {
        return Ok(());
    }
    let text = "the body must be application/json";
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text))
}

/// Named values, each of which must be asked for.
pub(super) struct Parameters(BTreeMap<String, Vec<String>>);

impl Parameters {
    /// Of `name=value&…`.
    pub(super) fn of_query(query: &str) -> Result<Self, Refusal> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()).take(MAX_VALUES + 1) {
            values.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        Self(values).checked()
    }

    /// Of a JSON object whose members are texts or lists of texts.
    pub(super) fn of_json(body: &[u8]) -> Result<Self, Refusal> {
        let bad = |text: &str| Refusal::new(StatusCode::BAD_REQUEST, text);
        let Ok(Value::Object(members)) = serde_json::from_slice(body) else {
            return Err(bad("the body must be a JSON object"));
        };
        let mut values = BTreeMap::new();
        for (name, member) in members {
            let texts = match member {
                Value::String(text) => vec![text],
                Value::Array(items) => items
                    .into_iter()
                    .map(|item| match item {
                        Value::String(text) => Ok(text),
                        _ => Err(bad("members must be texts or lists of texts")),
                    })
                    .collect::<Result<_, _>>()?,
                _ => return Err(bad("members must be texts or lists of texts")),
            };
            values.insert(name, texts);
        }
        Self(values).checked()
    }

    fn checked(self) -> Result<Self, Refusal> {
        if self.0.values().map(Vec::len).sum::<usize>() > MAX_VALUES {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "too many parameters"));
        }
        Ok(self)
    }

    pub(super) fn take_all(&mut self, name: &str) -> Vec<String> {
        self.0.remove(name).unwrap_or_default()
    }

    pub(super) fn take_one(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        let mut values = self.take_all(name);
        if values.len() > 1 {
            let text = format!("{name} must be given once");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
        }
        Ok(values.pop())
    }

    /// Refuses what nobody asked for: a mistyped name must not be passed over.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        let Some(name) = self.0.into_keys().next() else { return Ok(()) };
        let name: String = name.escape_debug().take(64).collect();
        Err(Refusal::new(StatusCode::BAD_REQUEST, format!("unknown parameter {name:?}")))
    }
}

/// How a caller follows what changes.
pub(super) struct Watch {
    /// As a stream of events.
    pub(super) events: bool,
    /// What the caller has, by the ETag of an answer before.
    pub(super) has: Option<String>,
    /// How long to wait for something else.
    pub(super) wait: Option<Duration>,
}

impl Watch {
    pub(super) fn of(headers: &HeaderMap, mut query: Parameters) -> Result<Self, Refusal> {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let wait = query.take_one("wait")?;
        query.finish()?;
        let wait = wait.map(|seconds| {
            let seconds = seconds.parse().ok().filter(|wait| (1..=MAX_WAIT).contains(wait));
            seconds.map(Duration::from_secs).ok_or_else(|| {
                let text = format!("wait must be 1 to {MAX_WAIT} seconds");
                Refusal::new(StatusCode::BAD_REQUEST, text)
            })
        });
        Ok(Self {
            events: text(ACCEPT).is_some_and(|it| it.contains("text/event-stream")),
            has: text(IF_NONE_MATCH).map(|tag| tag.trim_start_matches("W/").to_owned()),
            wait: wait.transpose()?,
        })
    }
}

/// Headers that a browser or a proxy adds.
const FOREIGN: [&str; 7] = [
    "origin",
    "sec-fetch-site",
    "sec-fetch-mode",
    "x-forwarded-for",
    "x-forwarded-host",
    "forwarded",
    "via",
];
const MAX_VALUES: usize = 128;
const MAX_WAIT: u64 = 300;

//! Answers: messages of the Workload API as JSON, once or as they change.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::unfold;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame as BodyFrame;
use http_body_util::StreamBody;
use prost_types::Value as PbValue;
use prost_types::value::Kind;
use serde::Serialize;
use serde_json::{Map, Value};
use steeple_agent_core::wire::Frame;
use steeple_pki::{Certificate, PrivateKey};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonic::body::Body;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::ask::Watch;
use super::{Frames, proto};

/// How a message is shown: as one line of JSON.
pub(super) type Render = fn(&Frame) -> Result<Zeroizing<Vec<u8>>, Status>;

/// An answer that is not what was asked for.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    allow: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let code = match status {
            StatusCode::FORBIDDEN => "PermissionDenied",
            StatusCode::NOT_FOUND => "NotFound",
            StatusCode::METHOD_NOT_ALLOWED => "Unimplemented",
            _ => "InvalidArgument",
        };
        Self { status, code, message: message.into(), allow: None }
    }

    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is nothing at this path")
    }

    pub(super) fn method(allow: &'static str) -> Self {
        let text = format!("this path is for {allow}");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, text) }
    }

    pub(super) fn response(self) -> Response<Body> {
        let mut response = json(self.status, line(&self.told()).unwrap_or_default());
        let headers = response.headers_mut();
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    fn told(&self) -> Told<'_> {
        Told { code: self.code, message: &self.message }
    }
}

#[derive(Serialize)]
struct Told<'a> {
    code: &'a str,
    message: &'a str,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let (http, code) = match status.code() {
            Code::InvalidArgument => (StatusCode::BAD_REQUEST, "InvalidArgument"),
            Code::PermissionDenied => (StatusCode::FORBIDDEN, "PermissionDenied"),
            Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Unavailable"),
            Code::Unimplemented => (StatusCode::NOT_IMPLEMENTED, "Unimplemented"),
            Code::ResourceExhausted => (StatusCode::TOO_MANY_REQUESTS, "ResourceExhausted"),
            Code::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "DeadlineExceeded"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "Internal"),
        };
        Self { status: http, code, message: status.message().to_owned(), allow: None }
    }
}

/// The first message; or, for who has it already, the next one, or none.
pub(super) async fn watched(
    watch: Watch,
    mut source: impl Frames,
    first: Frame,
    render: Render,
) -> Result<Response<Body>, Refusal> {
    if watch.events {
        return Ok(events(source, first, render)?);
    }
    if watch.has.as_deref() != Some(tag(&first).as_str()) {
        return Ok(tagged(&first, render)?);
    }
    let next = match watch.wait {
        None => None,
        Some(wait) => tokio::time::timeout(wait, source.next(&first)).await.ok(),
    };
    match next {
        Some(next) => Ok(tagged(&next?, render)?),
        None => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            set_tag(&mut response, &first);
            Ok(response)
        }
    }
}

fn tagged(frame: &Frame, render: Render) -> Result<Response<Body>, Status> {
    let mut response = json(StatusCode::OK, render(frame)?);
    set_tag(&mut response, frame);
    Ok(response)
}

fn set_tag(response: &mut Response<Body>, frame: &Frame) {
    if let Ok(tag) = HeaderValue::from_str(&tag(frame)) {
        response.headers_mut().insert(ETAG, tag);
    }
}

/// Differs for messages that do.
fn tag(frame: &Frame) -> String {
    let digest = steeple_pki::digest::sha512(&frame.message());
    let hex: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

type Next<F> = BoxFuture<'static, (F, Result<Frame, Status>)>;

enum State<F> {
    /// A message that was not told yet.
    Told(F, Frame),
    /// The next one, on its way.
    Waiting(Next<F>),
    Closed,
}

/// Server-Sent Events: `update` with each message, `error` at the end.
fn events(source: impl Frames, first: Frame, render: Render) -> Result<Response<Body>, Status> {
    render(&first)?;
    let frames = unfold(State::Told(source, first), move |state| async move {
        let (text, next) = match state {
            State::Closed => return None,
            State::Told(mut source, frame) => {
                let text = match render(&frame) {
                    Ok(line) => event("update", Some(&tag(&frame)), &line),
                    Err(status) => return Some((failure(status), State::Closed)),
                };
                let next: Next<_> = Box::pin(async move {
                    let next = source.next(&frame).await;
                    (source, next)
                });
                (text, State::Waiting(next))
            }
            State::Waiting(mut next) => tokio::select! {
                (source, next) = &mut next => match next {
                    // Told in the next step; an empty chunk ends nothing here.
                    Ok(frame) => (comment(), State::Told(source, frame)),
                    Err(status) => return Some((failure(status), State::Closed)),
                },
                () = tokio::time::sleep(HEARTBEAT) => (comment(), State::Waiting(next)),
            },
        };
        Some((Ok(BodyFrame::data(text)), next))
    });
    let mut response = Response::new(Body::new(StreamBody::new(Box::pin(frames))));
    protect(&mut response);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    Ok(response)
}

fn failure(status: Status) -> Result<BodyFrame<Bytes>, Status> {
    let refusal = Refusal::from(status);
    let line = line(&refusal.told()).unwrap_or_default();
    Ok(BodyFrame::data(event("error", None, &line)))
}

fn event(name: &str, id: Option<&str>, line: &[u8]) -> Bytes {
    let id = id.map(|id| format!("id: {}\n", id.trim_matches('"'))).unwrap_or_default();
    let head = format!("event: {name}\n{id}data: ");
    let mut out = Zeroizing::new(Vec::with_capacity(head.len() + line.len() + 2));
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(line.trim_ascii_end());
    out.extend_from_slice(b"\n\n");
    Bytes::from_owner(Wiped(out))
}

fn comment() -> Bytes {
    Bytes::from_static(b":\n\n")
}

fn json(status: StatusCode, line: Zeroizing<Vec<u8>>) -> Response<Body> {
    let body = http_body_util::Full::new(Bytes::from_owner(Wiped(line)));
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = status;
    protect(&mut response);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Nobody between is to keep it, or to take it for something else.
fn protect(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
}

struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[derive(Serialize)]
struct X509Svids<'m> {
    svids: Vec<X509Svid<'m>>,
    federated_bundles: BTreeMap<&'m str, String>,
}

#[derive(Serialize)]
struct X509Svid<'m> {
    spiffe_id: &'m str,
    #[serde(skip_serializing_if = "str::is_empty")]
    hint: &'m str,
    expires_at: String,
    x509_svid: String,
    x509_svid_key: &'m str,
    bundle: String,
}

pub(super) fn x509_svids(frame: &Frame) -> Result<Zeroizing<Vec<u8>>, Status> {
    let message: proto::X509svidResponse = decoded(frame)?;
    let mut keys = Vec::with_capacity(message.svids.len());
    for svid in &message.svids {
        let key = PrivateKey::from_pkcs8_der(&svid.x509_svid_key).map_err(broken)?;
        keys.push(key.to_pkcs8_pem());
    }
    let svids = message.svids.iter().zip(&keys).map(|(svid, key)| {
        let chain = Certificate::parse_concatenated_der(&svid.x509_svid).map_err(broken)?;
        let ends = chain.first().map_or(SystemTime::UNIX_EPOCH, Certificate::not_after);
        Ok(X509Svid {
            spiffe_id: &svid.spiffe_id,
            hint: &svid.hint,
            expires_at: OffsetDateTime::from(ends).format(&Rfc3339).unwrap_or_default(),
            x509_svid: chain.iter().map(Certificate::pem).collect(),
            x509_svid_key: key,
            bundle: pem(&svid.bundle)?,
        })
    });
    let svids = svids.collect::<Result<_, Status>>()?;
    line(&X509Svids { svids, federated_bundles: pems(&message.federated_bundles)? })
}

pub(super) fn x509_bundles(frame: &Frame) -> Result<Zeroizing<Vec<u8>>, Status> {
    let message: proto::X509BundlesResponse = decoded(frame)?;
    line(&BTreeMap::from([("bundles", pems(&message.bundles)?)]))
}

pub(super) fn jwt_bundles(frame: &Frame) -> Result<Zeroizing<Vec<u8>>, Status> {
    let message: proto::JwtBundlesResponse = decoded(frame)?;
    let mut bundles = BTreeMap::new();
    for (id, jwks) in &message.bundles {
        bundles.insert(id, serde_json::from_slice::<Value>(jwks).map_err(broken)?);
    }
    line(&BTreeMap::from([("bundles", bundles)]))
}

pub(super) fn wit_bundles(frame: &Frame) -> Result<Zeroizing<Vec<u8>>, Status> {
    let message: proto::WitBundlesResponse = decoded(frame)?;
    let mut bundles = BTreeMap::new();
    for (id, jwks) in &message.bundles {
        bundles.insert(id, serde_json::from_str::<Value>(jwks).map_err(broken)?);
    }
    line(&BTreeMap::from([("bundles", bundles)]))
}

/// A token, and of a WIT-SVID its key.
#[derive(Serialize)]
struct Token<'m> {
    spiffe_id: &'m str,
    #[serde(skip_serializing_if = "str::is_empty")]
    hint: &'m str,
    svid: &'m str,
    #[serde(skip_serializing_if = "Option::is_none")]
    wit_svid_key: Option<&'m str>,
}

pub(super) fn wit_svids(frame: &Frame) -> Result<Zeroizing<Vec<u8>>, Status> {
    let message: proto::WitsvidResponse = decoded(frame)?;
    let svids: Vec<Token<'_>> = message
        .svids
        .iter()
        .map(|svid| Token {
            spiffe_id: &svid.spiffe_id,
            hint: &svid.hint,
            svid: &svid.wit_svid,
            wit_svid_key: Some(&svid.wit_svid_key),
        })
        .collect();
    line(&BTreeMap::from([("svids", svids)]))
}

pub(super) fn jwt_svids(message: &proto::JwtsvidResponse) -> Response<Body> {
    let svids: Vec<Token<'_>> = message
        .svids
        .iter()
        .map(|svid| Token {
            spiffe_id: &svid.spiffe_id,
            hint: &svid.hint,
            svid: &svid.svid,
            wit_svid_key: None,
        })
        .collect();
    json(StatusCode::OK, line(&BTreeMap::from([("svids", svids)])).unwrap_or_default())
}

pub(super) fn validated(message: proto::ValidateJwtsvidResponse) -> Response<Body> {
    let claims = message.claims.unwrap_or_default().fields;
    let claims = claims.into_iter().map(|(name, value)| (name, plain(value))).collect();
    let mut told = Map::new();
    told.insert("spiffe_id".to_owned(), Value::String(message.spiffe_id));
    told.insert("claims".to_owned(), Value::Object(claims));
    json(StatusCode::OK, line(&told).unwrap_or_default())
}

/// Numbers that are whole are shown so: times above all.
fn plain(value: PbValue) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(yes)) => Value::Bool(yes),
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < 9e15 => {
            Value::from(number as i64)
        }
        Some(Kind::NumberValue(number)) => Value::from(number),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(plain).collect(),
        Some(Kind::StructValue(fields)) => {
            fields.fields.into_iter().map(|(name, value)| (name, plain(value))).collect()
        }
    }
}

fn decoded<M: prost::Message + Default>(frame: &Frame) -> Result<M, Status> {
    M::decode(frame.message()).map_err(broken)
}

fn pems(bundles: &BTreeMap<String, Bytes>) -> Result<BTreeMap<&str, String>, Status> {
    bundles.iter().map(|(id, der)| Ok((id.as_str(), pem(der)?))).collect()
}

fn pem(der: &Bytes) -> Result<String, Status> {
    let certificates = Certificate::parse_concatenated_der(der).map_err(broken)?;
    Ok(certificates.iter().map(Certificate::pem).collect())
}

fn line(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, Status> {
    // What is measured first need not grow, which would leave copies of keys behind.
    let mut length = Length(1);
    serde_json::to_writer(&mut length, value).map_err(broken)?;
    let mut out = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *out, value).map_err(broken)?;
    out.push(b'\n');
    Ok(out)
}

struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn broken<E>(_: E) -> Status {
    Status::internal("the answer cannot be shown as JSON")
}

/// How often a stream that has nothing to say shows that it is there.
const HEARTBEAT: Duration = Duration::from_secs(15);

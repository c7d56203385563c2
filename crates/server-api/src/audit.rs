//! The audit record: a line per call at its end, or a line per item of a batch (facts SA-24..SA-26,
//! TX-14).
//!
//! This is the one place that sees every call's messages and outcome; handlers add what only they
//! know by [`Call::note`]. Calls that were not let in have their line elsewhere, as in SPIRE.

mod bundles;
mod fields;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, request};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use pin_project_lite::pin_project;
use steeple_net::tls::TlsPeer;
use steeple_peer::Peer;
use steeple_proto::spire::api::types;
use steeple_runtime::log::Extra;
use steeple_spiffe::TrustDomain;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::call::{Call, log_call};

/// Writes audit records, if it is to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Audit {
    enabled: bool,
}

/// Who is behind a call, as far as the connection tells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subject {
    uid: Option<u32>,
    gid: Option<u32>,
    /// The caller's program.
    pub(crate) path: Option<String>,
    /// The address, of a remote caller.
    pub(crate) addr: Option<String>,
}

/// One line of a batch.
struct Item {
    fields: Extra,
    status: types::Status,
}

/// A call that is let in and is to be recorded.
pub(crate) struct Open {
    call: Call,
    subject: Subject,
    fields: Extra,
    /// The request's message, if the call is a batch.
    batch: Option<Bytes>,
}

impl Audit {
    pub(crate) fn new(enabled: bool) -> Self {
        Self { enabled }
    }

    pub(crate) fn is_enabled(self) -> bool {
        self.enabled
    }

    /// Looks at the caller's process before the call, while it surely lives.
    pub(crate) fn subject(self, head: &request::Parts) -> Subject {
        let mut subject = Subject::default();
        if !self.enabled {
            return subject;
        }
        if let Some(peer) = head.extensions.get::<Peer>() {
            subject.uid = Some(peer.uid());
            subject.gid = Some(peer.gid());
            subject.path = peer.exe().ok().map(|path| path.to_string_lossy().into_owned());
        }
        if let Some(peer) = head.extensions.get::<TlsPeer>() {
            subject.addr = Some(peer.remote_addr().to_string());
        }
        subject
    }
}

impl Open {
    /// Begins the record of a call with its message, if it has just one.
    pub(crate) fn new(
        call: Call,
        subject: Subject,
        home: &TrustDomain,
        message: Option<Bytes>,
    ) -> Self {
        let row = call.facts().row;
        let (batch, fields) = match message {
            Some(message) if fields::is_batch(row.method()) => (Some(message), Extra::new()),
            Some(message) => (None, fields::of_request(home, row.path, &message)),
            None => (None, Extra::new()),
        };
        Self { call, subject, fields, batch }
    }

    /// Records a call that failed before its handler.
    pub(crate) fn failed(&self, status: &Status) {
        self.line(&Extra::new(), status.code() as i32, status.message());
    }

    /// Records a call when its answer is known.
    pub(crate) async fn follow(self, response: Response<Body>) -> Response<Body> {
        // A call that fails at once has its status among the headers, and no body.
        if let Some(status) = Status::from_header_map(response.headers()) {
            self.ended(&status);
            return response;
        }
        if self.batch.is_some() {
            return self.items(response).await;
        }
        if self.call.facts().row.is_stream() {
            return response.map(|inner| Body::new(Followed { inner, open: Some(self) }));
        }
        self.ended(&Status::ok(""));
        response
    }

    fn ended(&self, status: &Status) {
        // Of these, SPIRE records failures alone.
        let path = self.call.facts().row.path;
        let quiet = path.starts_with("/grpc.health.") || path.ends_with(".Debug/GetInfo");
        if status.code() != Code::Ok || !quiet {
            self.line(&Extra::new(), status.code() as i32, status.message());
        }
    }

    /// A line per item. The answer is in memory, of which its encoded form is a part.
    async fn items(self, response: Response<Body>) -> Response<Body> {
        let (head, body) = response.into_parts();
        let collected = match body.collect().await {
            Ok(collected) => collected,
            Err(status) => {
                self.ended(&status);
                return status.into_http();
            }
        };
        let trailers = collected.trailers().cloned();
        let answer = collected.to_bytes();
        // After the five bytes that precede a message.
        if let (Some(request), Some(answer)) = (&self.batch, answer.get(5..)) {
            let items = fields::of_items(self.call.facts().row.path, request, answer);
            for item in &items {
                self.line(&item.fields, item.status.code, &item.status.message);
            }
        }
        if let Some(status) = trailers.as_ref().and_then(Status::from_header_map)
            && status.code() != Code::Ok
        {
            self.ended(&status);
        }
        let body = Full::new(answer).with_trailers(ready(trailers.map(Ok::<_, Infallible>)));
        Response::from_parts(head, Body::new(body.map_err(|never| match never {})))
    }

    fn line(&self, more: &Extra, code: i32, message: &str) {
        let failed = code != Code::Ok as i32;
        let mut fields = self.fields.clone();
        fields.extend(&self.call.noted());
        fields.extend(more);
        log_call!(
            info,
            self.call,
            {
                r#type = "audit",
                status = if failed { "error" } else { "success" },
                status_code = failed.then(|| steeple_plugin::Code::from_number(code).name()),
                status_message = failed.then_some(message),
                caller_uid = self.subject.uid,
                caller_gid = self.subject.gid,
                caller_path = self.subject.path.as_deref(),
                log.extra = ?fields,
            },
            "API accessed"
        );
    }
}

pin_project! {
    /// A response body that records its call when it ends, or is given up.
    struct Followed {
        #[pin]
        inner: Body,
        open: Option<Open>,
    }

    impl PinnedDrop for Followed {
        fn drop(this: Pin<&mut Self>) {
            if let Some(open) = this.project().open.take() {
                open.ended(&Status::cancelled("the client went away"));
            }
        }
    }
}

impl HttpBody for Followed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let polled = this.inner.poll_frame(context);
        let status = match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.trailers_ref().and_then(Status::from_header_map),
            Poll::Ready(Some(Err(status))) => Some(status.clone()),
            Poll::Ready(None) => Some(Status::ok("")),
            Poll::Pending => None,
        };
        if let Some(status) = status
            && let Some(open) = this.open.take()
        {
            open.ended(&status);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

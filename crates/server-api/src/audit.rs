//! The audit record: one line per call, at its end (facts SA-24..SA-26, TX-14).
//!
//! This is the one place that sees every call's outcome. Fields of single
//! methods and lines per batch item are to be added by the handlers' hands.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, request};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use steeple_net::tls::TlsPeer;
use steeple_peer::Peer;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::call::{Call, log_call};
use crate::table::Row;

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
    path: Option<String>,
    /// The address, of a remote caller.
    addr: Option<String>,
}

impl Audit {
    pub(crate) fn new(enabled: bool) -> Self {
        Self { enabled }
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

    /// Records a call that was not let in.
    pub(crate) fn refused(self, row: &Row, subject: &Subject, status: &Status) {
        if self.enabled {
            tracing::info!(
                subsystem_name = "api",
                r#type = "audit",
                method = row.method(),
                service = row.service(),
                status = "error",
                status_code = code_name(status.code()),
                status_message = status.message(),
                caller_uid = subject.uid,
                caller_gid = subject.gid,
                caller_path = subject.path.as_deref(),
                caller_addr = subject.addr.as_deref(),
                "API accessed"
            );
        }
    }

    /// Records a call when its answer has ended.
    pub(crate) fn follow(
        self,
        call: Call,
        subject: Subject,
        response: Response<Body>,
    ) -> Response<Body> {
        if !self.enabled {
            return response;
        }
        // A call that fails at once has its status among the headers, and no body.
        if let Some(status) = Status::from_header_map(response.headers()) {
            record(&call, &subject, &status);
            return response;
        }
        response.map(|inner| Body::new(Followed { inner, open: Some((call, subject)) }))
    }
}

fn record(call: &Call, subject: &Subject, status: &Status) {
    let failed = status.code() != Code::Ok;
    log_call!(
        info,
        call,
        {
            r#type = "audit",
            status = if failed { "error" } else { "success" },
            status_code = failed.then(|| code_name(status.code())),
            status_message = failed.then(|| status.message()),
            caller_uid = subject.uid,
            caller_gid = subject.gid,
            caller_path = subject.path.as_deref(),
        },
        "API accessed"
    );
}

/// The names that grpc-go prints.
fn code_name(code: Code) -> &'static str {
    steeple_plugin::Code::from_number(code as i32).name()
}

pin_project! {
    /// A response body that records its call when it ends, or is given up.
    struct Followed {
        #[pin]
        inner: Body,
        open: Option<(Call, Subject)>,
    }

    impl PinnedDrop for Followed {
        fn drop(this: Pin<&mut Self>) {
            if let Some((call, subject)) = this.project().open.take() {
                record(&call, &subject, &Status::cancelled("the client went away"));
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
            && let Some((call, subject)) = this.open.take()
        {
            record(&call, &subject, &status);
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

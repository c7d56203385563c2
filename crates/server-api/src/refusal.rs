//! Refusals at the door. Under overload there are many of them for each answer, so that what they
//! cost is what is missing there (ADR 18): all that is the same in those of one class is made once.

use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use prost::Message as _;
use steeple_net::status::retry_info;
use steeple_proto::google::rpc;
use tonic::body::Body;
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::{Code, Status};

use crate::limit::whole_seconds;
use crate::load::{Class, Overloaded};
use crate::status::Answer as _;

/// A call that goes no further than to the door.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// There is no place for it.
    Overloaded(Overloaded),
    /// Anything else.
    Status(Status),
}

impl From<Overloaded> for Refusal {
    fn from(overloaded: Overloaded) -> Self {
        Self::Overloaded(overloaded)
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl Refusal {
    /// As whoever writes a record of it wants it.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Overloaded(overloaded) => overloaded.status(),
            Self::Status(status) => status.clone(),
        }
    }

    /// The answer.
    pub(crate) fn into_http(self) -> Response<Body> {
        match self {
            Self::Overloaded(Overloaded { class, wait }) => overloaded(class, wait),
            Self::Status(status) => status.into_http(),
        }
    }
}

/// What all refusals of one class say.
struct Words {
    /// The text, as a header has it.
    text: HeaderValue,
    /// A `google.rpc.Status` without its details, which come last in it.
    begin: Vec<u8>,
}

impl Words {
    fn of(class: Class) -> &'static Self {
        static WORDS: [OnceLock<Words>; Class::ALL.len()] =
            [const { OnceLock::new() }; Class::ALL.len()];
        WORDS[class as usize].get_or_init(|| {
            let text = Overloaded { class, wait: Duration::ZERO }.text();
            let status = rpc::Status {
                code: Code::ResourceExhausted as i32,
                message: text.clone(),
                details: Vec::new(),
            };
            let headers = Status::resource_exhausted(text).into_http::<()>().into_parts().0.headers;
            let text = headers.get(Status::GRPC_MESSAGE).cloned();
            Self { text: text.expect("a status has its text"), begin: status.encode_to_vec() }
        })
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// What [`Overloaded::status`] is as an answer.
fn overloaded(class: Class, wait: Duration) -> Response<Body> {
    let words = Words::of(class);
    let hint = rpc::Status { details: vec![retry_info(wait)], ..rpc::Status::default() };
    let mut details = Vec::with_capacity(words.begin.len() + hint.encoded_len());
    details.extend_from_slice(&words.begin);
    hint.encode_raw(&mut details);
    let details = STANDARD_NO_PAD.encode(details);
    let details = HeaderValue::try_from(details).expect("base64 fits a header");
    let mut headers = HeaderMap::with_capacity(5);
    headers.insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
    headers.insert(GRPC_STATUS, const { HeaderValue::from_static("8") });
    headers.insert(GRPC_MESSAGE, words.text.clone());
    headers.insert(GRPC_DETAILS, details);
    let mut response = Response::new(Body::empty());
    *response.headers_mut() = headers;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_headers_of_its_status_in_their_order() {
        let waits = [0, 1, 500_000_000, 999_999_999, 1_000_000_000, 59_900_000_001, 90_000_000_000];
        for class in Class::ALL {
            for wait in waits.map(Duration::from_nanos) {
                let overloaded = Overloaded { class, wait };
                let slow = Refusal::from(overloaded.status()).into_http();
                let fast = Refusal::from(overloaded).into_http();
                assert_eq!(fast.status(), slow.status());
                let listed = |response: Response<Body>| {
                    let headers = response.into_parts().0.headers;
                    let each = headers.iter().map(|(name, value)| (name.clone(), value.clone()));
                    each.collect::<Vec<_>>()
                };
                assert_eq!(listed(fast), listed(slow), "{class:?} {wait:?}");
            }
        }
    }
}

//! `grpc-status-details-bin`: machine-readable details of a status, which agents branch on.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use prost_types::Any;
use steeple_proto::google::rpc;
use tonic::{Code, Status};

/// A status that carries `details` (a `google.rpc.Status`) beside its code and message.
pub fn with_details(code: Code, message: impl Into<String>, details: Vec<Any>) -> Status {
    let message = message.into();
    let status = rpc::Status { code: code as i32, message: message.clone(), details };
    Status::with_details(code, message, Bytes::from(status.encode_to_vec()))
}

/// A message packed as gRPC details are.
pub fn pack<M: Message>(full_name: &str, message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{full_name}"), value: message.encode_to_vec() }
}

/// The details of a status; none if it has none or they are no `google.rpc.Status`.
pub fn details(status: &Status) -> Vec<Any> {
    rpc::Status::decode(status.details()).map(|status| status.details).unwrap_or_default()
}

/// The first detail that is an `M`, whose full proto name is `full_name`.
pub fn detail<M: Message + Default>(status: &Status, full_name: &str) -> Option<M> {
    details(status)
        .into_iter()
        .find(|any| any.type_url.rsplit('/').next() == Some(full_name))
        .and_then(|any| M::decode(any.value.as_slice()).ok())
}

/// `google.rpc.RetryInfo`
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

const RETRY_INFO: &str = "google.rpc.RetryInfo";

/// The detail that says after how long to come again.
pub fn retry_info(wait: Duration) -> Any {
    let retry_delay = prost_types::Duration::try_from(wait).ok();
    pack(RETRY_INFO, &RetryInfo { retry_delay })
}

/// After how long the server wants its caller to come again, if it says so.
pub fn retry_delay(status: &Status) -> Option<Duration> {
    let info: RetryInfo = detail(status, RETRY_INFO)?;
    info.retry_delay?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use steeple_proto::spire::api::types::PermissionDeniedDetails;

    use super::*;

    const NAME: &str = "spire.api.types.PermissionDeniedDetails";

    #[test]
    fn a_detail_survives_the_wire() {
        let sent = PermissionDeniedDetails { reason: 3 };
        let status =
            with_details(Code::PermissionDenied, "agent is banned", vec![pack(NAME, &sent)]);
        let headers = status.into_http::<()>().into_parts().0.headers;
        let received = Status::from_header_map(&headers).unwrap();
        assert_eq!(received.code(), Code::PermissionDenied);
        assert_eq!(received.message(), "agent is banned");
        assert_eq!(detail::<PermissionDeniedDetails>(&received, NAME), Some(sent));
        assert_eq!(detail::<PermissionDeniedDetails>(&received, "another.Name"), None);
    }

    #[test]
    fn a_hint_when_to_come_again_is_found() {
        let wait = Duration::from_millis(1_500);
        let status = with_details(Code::ResourceExhausted, "", vec![retry_info(wait)]);
        assert_eq!(retry_delay(&status), Some(wait));
        assert_eq!(retry_delay(&Status::resource_exhausted("")), None);
        let seconds = -1;
        let past = RetryInfo { retry_delay: Some(prost_types::Duration { seconds, nanos: 0 }) };
        let lie = with_details(Code::Ok, "", vec![pack(RETRY_INFO, &past)]);
        assert_eq!(retry_delay(&lie), None);
    }

    #[test]
    fn broken_details_are_no_details() {
        let status = Status::with_details(Code::Internal, "", Bytes::from_static(b"\xff\xff"));
        assert_eq!(details(&status), []);
        assert_eq!(details(&Status::internal("none")), []);
    }
}

//! Calls without hope: refused by their headers.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use steeple_net::status::retry_delay;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::stack::{sqlite, world};

/// A request that nobody may look into.
pub(crate) fn unread() -> Body {
    let body = Full::new(Bytes::from_static(b"a message")).map_frame(|frame| {
        assert!(!frame.is_data(), "it was refused by its headers");
        frame
    });
    Body::new(body.map_err(|never| match never {}))
}

#[tokio::test]
async fn a_call_that_would_come_too_late_is_refused_unread_and_told_when_to_come_again() {
    let (store, _directory) = sqlite().await;
    let world = world(store, 1, Duration::from_secs(3600)).await;
    for (path, class) in [
        ("/spire.api.server.svid.v1.SVID/BatchNewX509SVID", "sign"),
        ("/spire.api.server.svid.v1.SVID/BatchNewWITSVID", "sign"),
        ("/spire.api.server.svid.v1.SVID/NewJWTSVID", "sign"),
        ("/spire.api.server.agent.v1.Agent/RenewAgent", "renew"),
        ("/spire.api.server.agent.v1.Agent/PostStatus", "sync"),
        ("/spire.api.server.bundle.v1.Bundle/GetBundle", "sync"),
        ("/spire.api.server.entry.v1.Entry/GetAuthorizedEntries", "sync"),
        ("/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries", "sync"),
    ] {
        let headers = world.call_too_late(&world.agents[0], path, unread()).await;
        assert_eq!(headers["content-type"], "application/grpc", "{path}");
        let status = Status::from_header_map(&headers).unwrap();
        let text = format!("the server is overloaded: too many calls of this kind ({class})");
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, &*text), "{path}");
        let wait = retry_delay(&status).unwrap();
        assert!(wait >= Duration::from_millis(500), "{path}: {wait:?}");
        let seconds: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert_eq!(seconds, wait.as_secs_f64().ceil() as u64, "{path}");
    }
    world.stop().await;
}

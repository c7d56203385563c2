//! Over a real socket, with the generated client.

pub(crate) mod fixture;

use std::time::Duration;

use prost::Message as _;
use serde_json::json;
use steeple_proto::workload as proto;
use steeple_spiffe::TrustDomain;
use tonic::{Code, Response, Status, Streaming};

use self::fixture::{Authority, Fixture, HOUR, Options, call, entry};
use super::*;

async fn x509(api: &Fixture) -> Result<Streaming<proto::X509svidResponse>, Status> {
    Ok(api.client().fetch_x509svid(call(proto::X509svidRequest {})).await?.into_inner())
}

fn told(status: &Status) -> (Code, &str) {
    (status.code(), status.message())
}

fn ids(response: &proto::X509svidResponse) -> Vec<&str> {
    response.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect()
}

#[tokio::test]
async fn the_shared_bytes_are_the_messages_of_the_proto() {
    let api = Fixture::new().await;
    let other = Authority::new("other.org").await;
    api.federate(other.bundle());
    let mut federated = entry("a");
    federated.federates_with = vec![other.trust_domain.clone()];
    federated.hint = "internal".into();
    api.register(federated).await;
    api.register(entry("b")).await;

    let response = x509(&api).await.unwrap().message().await.unwrap().unwrap();
    assert_eq!(ids(&response), ["spiffe://example.org/a", "spiffe://example.org/b"]);
    let svid = &response.svids[0];
    let chain = steeple_pki::Certificate::parse_concatenated_der(&svid.x509_svid).unwrap();
    assert_eq!(chain[0].uri_sans(), ["spiffe://example.org/a"]);
    let key = steeple_pki::PrivateKey::from_pkcs8_der(&svid.x509_svid_key).unwrap();
    assert_eq!(key.public_key(), chain[0].public_key());
    assert_eq!(&svid.bundle[..], api.authority.certificate.der());
    assert_eq!((svid.hint.as_str(), response.svids[1].hint.as_str()), ("internal", ""));
    assert!(response.crl.is_empty());
    let federated = response.federated_bundles.get("spiffe://other.org").unwrap();
    assert_eq!(&federated[..], other.certificate.der());

    let update = api
        .cache
        .snapshot(&[steeple_spiffe::Selector::new("test", "caller")].into_iter().collect());
    let reencoded = response.encode_to_vec();
    assert_eq!(update.x509_svids().message(), reencoded, "prost writes the same bytes");
    let bundles = proto::X509BundlesResponse::decode(update.x509_bundles().message()).unwrap();
    assert_eq!(bundles.encode_to_vec(), update.x509_bundles().message());
    assert_eq!(
        bundles.bundles.keys().collect::<Vec<_>>(),
        ["spiffe://example.org", "spiffe://other.org"]
    );
    let keys = proto::JwtBundlesResponse::decode(update.jwt_bundles().message()).unwrap();
    assert_eq!(keys.encode_to_vec(), update.jwt_bundles().message());
    let document: serde_json::Value =
        serde_json::from_slice(&keys.bundles["spiffe://example.org"]).unwrap();
    assert_eq!(document["keys"][0]["kid"], "kid");
    assert_eq!(document["keys"][0].get("use"), None);
    assert!(keys.bundles["spiffe://example.org"].starts_with(b"{\n    \"keys\": ["));
}

#[tokio::test]
async fn no_call_is_answered_without_the_security_header() {
    let api = Fixture::new().await;
    api.register(entry("a")).await;
    let refused = (Code::InvalidArgument, "security header missing from request");
    let without = tonic::Request::new(proto::X509svidRequest {});
    assert_eq!(told(&api.client().fetch_x509svid(without).await.unwrap_err()), refused);
    let mut wrong = tonic::Request::new(proto::JwtsvidRequest::default());
    wrong.metadata_mut().insert("workload.spiffe.io", "false".parse().unwrap());
    assert_eq!(told(&api.client().fetch_jwtsvid(wrong).await.unwrap_err()), refused);
    let mut twice = call(proto::X509BundlesRequest {});
    twice.metadata_mut().append("workload.spiffe.io", "true".parse().unwrap());
    assert_eq!(told(&api.client().fetch_x509_bundles(twice).await.unwrap_err()), refused);
}

#[tokio::test]
async fn a_caller_without_entries_is_told_so() {
    let api = Fixture::new().await;
    let denied = (Code::PermissionDenied, "no identity issued");
    assert_eq!(told(&x509(&api).await.unwrap_err()), denied);
    let bundles = api.client().fetch_x509_bundles(call(proto::X509BundlesRequest {})).await;
    assert_eq!(told(&bundles.unwrap_err()), denied);
    let keys = api.client().fetch_jwt_bundles(call(proto::JwtBundlesRequest {})).await;
    assert_eq!(told(&keys.unwrap_err()), denied);
    let request = proto::JwtsvidRequest { audience: vec!["x".into()], spiffe_id: String::new() };
    assert_eq!(told(&api.client().fetch_jwtsvid(call(request)).await.unwrap_err()), denied);
}

#[tokio::test]
async fn verifiers_without_entries_get_the_own_bundles_where_that_is_allowed() {
    let api = Fixture::with(Options { open_to_verifiers: true, ..Default::default() }).await;
    api.federate(Authority::new("other.org").await.bundle());
    let bundles = api.client().fetch_x509_bundles(call(proto::X509BundlesRequest {})).await;
    let bundles = bundles.unwrap().into_inner().message().await.unwrap().unwrap().bundles;
    assert_eq!(bundles.keys().collect::<Vec<_>>(), ["spiffe://example.org"]);
    assert_eq!(x509(&api).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_stream_hears_of_renewals_and_only_of_them_until_its_entry_goes() {
    let api = Fixture::new().await;
    api.register(entry("a")).await;
    let mut stream = x509(&api).await.unwrap();
    let first = stream.message().await.unwrap().unwrap();
    // A change that says nothing new to this caller.
    let mut unrelated = entry("z");
    unrelated.selectors = [steeple_spiffe::Selector::new("test", "somebody")].into_iter().collect();
    api.register(unrelated).await;
    let mut bundle = api.authority.bundle();
    bundle.sequence_number += 1;
    api.federate(bundle);
    api.rotate().await;
    let second = stream.message().await.unwrap().unwrap();
    assert_ne!(first.svids[0].x509_svid, second.svids[0].x509_svid);
    api.register(entry("b")).await;
    let both = stream.message().await.unwrap().unwrap();
    assert_eq!(ids(&both), ["spiffe://example.org/a", "spiffe://example.org/b"]);
    api.apply(Vec::new(), &["a"]);
    assert_eq!(ids(&stream.message().await.unwrap().unwrap()), ["spiffe://example.org/b"]);
    api.apply(Vec::new(), &["b"]);
    let ended = stream.message().await.unwrap_err();
    assert_eq!(told(&ended), (Code::PermissionDenied, "no identity issued"));
}

#[tokio::test]
async fn a_thousand_streams_hear_of_one_renewal() {
    let api = Fixture::new().await;
    api.register(entry("a")).await;
    let mut client = api.client();
    let mut streams = Vec::new();
    for _ in 0..1000 {
        let stream = client.fetch_x509svid(call(proto::X509svidRequest {})).await.unwrap();
        streams.push(stream.into_inner());
    }
    let mut before = None;
    for stream in &mut streams {
        before = stream.message().await.unwrap();
    }
    api.rotate().await;
    for stream in &mut streams {
        let after = stream.message().await.unwrap().unwrap();
        assert_ne!(Some(&after.svids[0].x509_svid), before.as_ref().map(|b| &b.svids[0].x509_svid));
    }
}

#[tokio::test]
async fn bundle_streams_are_silent_about_renewals() {
    let api = Fixture::new().await;
    api.register(entry("a")).await;
    let stream = api.client().fetch_x509_bundles(call(proto::X509BundlesRequest {})).await;
    let mut stream = stream.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    api.rotate().await;
    let mut bundle = Authority::new("example.org").await.bundle();
    bundle.sequence_number = 9;
    let expected = bundle.x509_ders();
    api.federate(bundle);
    let next = stream.message().await.unwrap().unwrap();
    assert_eq!(next.bundles["spiffe://example.org"], expected, "the renewal was not sent");
}

#[tokio::test]
async fn tokens_are_issued_for_every_identity_or_the_one_asked_for() {
    let api = Fixture::new().await;
    api.register(entry("a")).await;
    api.register(entry("b")).await;
    let fetch = |spiffe_id: &str, audience: &[&str]| {
        let audience = audience.iter().map(ToString::to_string).collect();
        let request = proto::JwtsvidRequest { audience, spiffe_id: spiffe_id.into() };
        let mut client = api.client();
        async move { client.fetch_jwtsvid(call(request)).await.map(Response::into_inner) }
    };
    assert_eq!(fetch("", &["x"]).await.unwrap().svids.len(), 2);
    let one = fetch("spiffe://example.org/b", &["x"]).await.unwrap();
    assert_eq!(one.svids[0].spiffe_id, "spiffe://example.org/b");
    let none = fetch("spiffe://example.org/c", &["x"]).await.unwrap_err();
    assert_eq!(told(&none), (Code::PermissionDenied, "no identity issued"));
    let silent = fetch("", &[]).await.unwrap_err();
    assert_eq!(told(&silent), (Code::InvalidArgument, "audience must be specified"));
    let wrong = fetch("nonsense", &["x"]).await.unwrap_err();
    assert_eq!(
        told(&wrong),
        (Code::InvalidArgument, "invalid requested SPIFFE ID: scheme is missing or invalid")
    );
}

#[tokio::test]
async fn tokens_are_validated_with_the_keys_that_the_caller_may_see() {
    let api = Fixture::with(Options { foreign_claims: vec!["scope"], ..Default::default() }).await;
    let other = Authority::new("other.org").await;
    api.federate(other.bundle());
    let validate = |svid: String, audience: &str| {
        let request = proto::ValidateJwtsvidRequest { audience: audience.into(), svid };
        let mut client = api.client();
        async move { client.validate_jwtsvid(call(request)).await.map(Response::into_inner) }
    };
    let own = api.authority.token("spiffe://example.org/a", json!("x")).await;
    let valid = validate(own.clone(), "x").await.unwrap();
    assert_eq!(valid.spiffe_id, "spiffe://example.org/a");
    let names: Vec<_> = valid.claims.unwrap().fields.into_keys().collect();
    assert_eq!(names, ["aud", "exp", "iat", "scope", "sub"]);
    let wrong = validate(own, "y").await.unwrap_err();
    assert_eq!(
        told(&wrong),
        (Code::InvalidArgument, r#"expected audience in ["y"] (audience=["x"])"#)
    );

    let foreign = other.token("spiffe://other.org/a", json!(["x"])).await;
    let unknown = validate(foreign.clone(), "x").await.unwrap_err();
    assert_eq!(
        told(&unknown),
        (Code::InvalidArgument, r#"no keys found for trust domain "other.org""#)
    );
    let mut federated = entry("a");
    federated.federates_with = vec![TrustDomain::parse("other.org").unwrap()];
    api.register(federated).await;
    let valid = validate(foreign, "x").await.unwrap();
    let names: Vec<_> = valid.claims.unwrap().fields.into_keys().collect();
    assert_eq!(names, ["aud", "exp", "scope", "sub"], "foreign tokens show what is allowed");

    for (svid, audience, missing) in [("", "x", "svid"), ("t", "", "audience")] {
        let status = validate(svid.into(), audience).await.unwrap_err();
        assert_eq!(
            told(&status),
            (Code::InvalidArgument, &*format!("{missing} must be specified"))
        );
    }
}

#[tokio::test]
async fn a_failed_attestation_says_nothing_of_why() {
    let api = Fixture::with(Options { attestation_fails: true, ..Default::default() }).await;
    api.register(entry("a")).await;
    let status = x509(&api).await.unwrap_err();
    assert_eq!(told(&status), (Code::Unavailable, "workload attestation failed"));
}

#[tokio::test]
async fn what_is_not_there_is_said_to_be_missing() {
    let api = Fixture::new().await;
    let svids = api.client().fetch_witsvid(call(proto::WitsvidRequest::default())).await;
    assert_eq!(svids.unwrap_err().code(), Code::Unimplemented);
    let bundles = api.client().fetch_wit_bundles(call(proto::WitBundlesRequest {})).await;
    assert_eq!(bundles.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn an_oversized_request_is_refused_and_the_next_one_served() {
    let api = Fixture::new().await;
    api.register(entry("a")).await;
    let mut client = api.client();
    let request =
        proto::JwtsvidRequest { audience: vec!["x".repeat(MAX_REQUEST)], spiffe_id: String::new() };
    let status = client.fetch_jwtsvid(call(request)).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
    let request = proto::JwtsvidRequest { audience: vec!["x".into()], spiffe_id: String::new() };
    assert_eq!(client.fetch_jwtsvid(call(request)).await.unwrap().into_inner().svids.len(), 1);
}

#[tokio::test]
async fn a_caller_who_hangs_up_leaves_no_group_behind() {
    let api = Fixture::with(Options {
        attestation_takes: Duration::from_millis(50),
        ..Default::default()
    })
    .await;
    api.register(entry("a")).await;
    let early = tokio::time::timeout(Duration::from_millis(10), x509(&api)).await;
    assert!(early.is_err());
    let stream = x509(&api).await.unwrap();
    drop(stream);
    tokio::time::timeout(Duration::from_secs(5), async {
        while api.cache.count_groups() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn streams_end_when_the_agent_stops() {
    let mut api = Fixture::new().await;
    api.register(entry("a")).await;
    let mut stream = x509(&api).await.unwrap();
    stream.message().await.unwrap();
    let drain = api.drain.take().unwrap();
    tokio::spawn(drain.drain(HOUR));
    assert_eq!(stream.message().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn health_asks_over_the_socket_and_knows_no_services() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

    let ask = async |api: &Fixture, service: &str| {
        let mut client = HealthClient::new(steeple_net::channel::unix(&api.socket));
        client.check(HealthCheckRequest { service: service.into() }).await
    };
    let serving = Fixture::new().await;
    let healthy = ask(&serving, "").await.unwrap().into_inner();
    assert_eq!(healthy.status(), ServingStatus::Serving, "no identity is no illness");
    let status = ask(&serving, "SpiffeWorkloadAPI").await.unwrap_err();
    assert_eq!(told(&status), (Code::InvalidArgument, "per-service health is not supported"));
    let broken = Fixture::with(Options { attestation_fails: true, ..Default::default() }).await;
    let ill = ask(&broken, "").await.unwrap().into_inner();
    assert_eq!(ill.status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn a_crowd_of_calls_is_served_in_turn() {
    let api = Fixture::with(Options {
        attestation_takes: Duration::from_millis(5),
        ..Default::default()
    })
    .await;
    api.register(entry("a")).await;
    let calls = (0..200).map(|_| x509(&api));
    let outcomes = futures_util::future::join_all(calls).await;
    assert!(outcomes.iter().all(Result::is_ok));
}

#[tokio::test]
async fn wit_svids_are_streamed_behind_their_flag() {
    let api = Fixture::with(Options { wit: true, ..Options::default() }).await;
    let request = |id: &str| call(proto::WitsvidRequest { spiffe_id: id.into() });
    let refused = api.client().fetch_witsvid(request("")).await.unwrap_err();
    assert_eq!(told(&refused), (Code::PermissionDenied, "no identity issued"));
    let bad = api.client().fetch_witsvid(request("x")).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    let mut elder = entry("a");
    elder.hint = "db".into();
    api.register(elder).await;
    let mut stream = api.client().fetch_witsvid(request("")).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.svids.len(), 1);
    assert_eq!(
        (first.svids[0].spiffe_id.as_str(), first.svids[0].hint.as_str()),
        ("spiffe://example.org/a", "db")
    );
    assert!(first.svids[0].wit_svid_key.contains("\"d\""));

    api.register(entry("b")).await;
    let second = stream.message().await.unwrap().unwrap();
    assert_eq!(second.svids.len(), 2);
    assert_eq!(second.svids[0].wit_svid, first.svids[0].wit_svid, "it is kept");
    let mut one = api.client().fetch_witsvid(request("spiffe://example.org/b")).await.unwrap();
    let one = one.get_mut().message().await.unwrap().unwrap();
    assert_eq!(one.svids, second.svids[1..]);

    let bundles = api.client().fetch_wit_bundles(call(proto::WitBundlesRequest {})).await.unwrap();
    let bundles = bundles.into_inner().message().await.unwrap().unwrap().bundles;
    assert!(bundles["spiffe://example.org"].contains("\"kid\": \"wit-kid\""), "{bundles:?}");
    api.apply(vec![], &["a", "b"]);
    assert_eq!(stream.message().await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn without_the_flag_there_are_no_wit_svids() {
    let api = Fixture::new().await;
    let none =
        api.client().fetch_witsvid(call(proto::WitsvidRequest::default())).await.unwrap_err();
    assert_eq!(told(&none), (Code::Unimplemented, "fetching WIT-SVIDs is not implemented"));
    let none = api.client().fetch_wit_bundles(call(proto::WitBundlesRequest {})).await.unwrap_err();
    assert_eq!(told(&none), (Code::Unimplemented, "fetching WIT bundles is not implemented"));
}

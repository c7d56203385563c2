//! Metadata services and APIs that fail or are hostile.

use steeple_plugin::{Code, NodeEvidence as _, contract};

use super::super::agent::Agent;
use super::*;
use crate::imds::Imds;

#[tokio::test]
async fn what_an_api_refuses_is_repeated_in_the_sdks_words() {
    let refused = |_: &Asked| {
        let body = "<Response><Errors><Error><Code>InvalidInstanceID.NotFound</Code><Message>The \
                    instance ID 'i-0' does not exist</Message></Error></Errors></Response>";
        (400, "text/xml", body.to_owned())
    };
    let fixture = Fixture::new("", refused).await;
    let (code, text) = fixture.refusal().await;
    assert_eq!(code, Code::Internal);
    let expected = "failed to describe instance: operation error EC2: DescribeInstances, https \
                    response error StatusCode: 400, RequestID: req, api error \
                    InvalidInstanceID.NotFound: The instance ID 'i-0' does not exist";
    assert_eq!(text, expected);
    assert_eq!(fixture.cloud.asked().len(), 1, "that is not tried again");
}

#[tokio::test]
async fn what_may_pass_is_tried_three_times() {
    let fixture = Fixture::new("", |_| (503, "text/xml", String::new())).await;
    let (_, text) = fixture.refusal().await;
    let expected = "failed to describe instance: operation error EC2: DescribeInstances, exceeded \
                    maximum number of attempts, 3, https response error StatusCode: 503, \
                    RequestID: req, api error UnknownError: UnknownError";
    assert_eq!(text, expected);
    assert_eq!(fixture.cloud.asked().len(), 3);
}

#[tokio::test]
async fn redirects_are_not_followed_and_nonsense_is_refused() {
    for (status, body, expected) in [
        (307, String::new(), "StatusCode: 307"),
        (200, "<html>".to_owned(), "deserialization failed, invalid DescribeInstances response"),
        (200, "x".repeat(9 * 1024 * 1024), "the answer is larger than 8388608 bytes"),
    ] {
        let answer = move |_: &Asked| (status, "text/xml", body.clone());
        let fixture = Fixture::new("", answer).await;
        let (code, text) = fixture.refusal().await;
        assert_eq!(code, Code::Internal);
        assert!(text.contains(expected), "{text}");
        assert_eq!(fixture.cloud.asked().len(), 1);
    }
}

#[tokio::test]
async fn lists_that_fail_admit_nobody() {
    let organization = r#"verify_organization = {
        management_account_id = "999999999999" assume_org_role = "lister" }"#;
    let denied = |_: &Asked| {
        let body = "<E><Error><Code>AccessDenied</Code><Message>no</Message></Error></E>";
        (403, "text/xml", body.to_owned())
    };
    let (code, text) = Fixture::new(organization, denied).await.refusal().await;
    assert_eq!(code, Code::Internal);
    let expected = format!(
        "failed aws ec2 attestation, issue while verifying if nodes account id: {ACCOUNT} belong \
         to org: issue while getting list of accounts: operation error Organizations: \
         ListAccounts, get identity: get credentials: failed to refresh cached credentials, \
         operation error STS: AssumeRole, https response error StatusCode: 403, RequestID: req, \
         api error AccessDenied: no"
    );
    assert_eq!(text, expected);

    let clusters = r#"validate_eks_cluster_membership = { eks_cluster_names = ["a"] }"#;
    let (code, text) = Fixture::new(clusters, denied).await.refusal().await;
    assert_eq!(code, Code::Internal);
    let expected = format!(
        "failed aws eks attestation, issue while verifying if nodes id: {INSTANCE} belong to \
         cluster: issue while getting list of EKS Nodegroups: operation error EKS: ListNodegroups"
    );
    assert!(text.starts_with(&expected), "{text}");
}

fn metadata(asked: &Asked) -> Answer {
    let token = asked.header("x-aws-ec2-metadata-token");
    let text = |body: &str| (200, "text/plain", body.to_owned());
    match (asked.method.as_str(), asked.target.as_str()) {
        ("PUT", "/latest/api/token") => {
            assert_eq!(asked.header("x-aws-ec2-metadata-token-ttl-seconds"), Some("300"));
            text("a-token\n")
        }
        ("GET", _) if token != Some("a-token") => (401, "text/plain", String::new()),
        ("GET", "/latest/dynamic/instance-identity/document") => text("the <document>"),
        ("GET", "/latest/dynamic/instance-identity/signature") => text("short"),
        ("GET", "/latest/dynamic/instance-identity/rsa2048") => text("long\nline"),
        _ => (404, "text/plain", String::new()),
    }
}

fn agent(endpoint: &str) -> Agent {
    Agent::new(Some(endpoint.to_owned()), Environment::of([]))
}

#[tokio::test]
async fn the_agent_shows_what_the_metadata_service_says() {
    let imds = StandIn::start(metadata).await;
    // A path in the endpoint has no say, as in AWS's SDK.
    for endpoint in [imds.url.clone(), format!("{}/latest", imds.url)] {
        let shown = agent(&endpoint).payload().await.unwrap();
        let expected =
            br#"{"document":"the <document>","signature":"short","rsa2048":"long\nline"}"#;
        assert_eq!(shown, expected);
    }
    let puts = imds.asked().iter().filter(|it| it.method == "PUT").count();
    assert_eq!(puts, 2, "one token for all three");
    contract::node_evidence(&agent(&imds.url)).await;
}

#[tokio::test]
async fn a_service_that_knows_no_tokens_is_asked_without_and_one_may_forbid_that() {
    let first = |asked: &Asked| match asked.method.as_str() {
        "PUT" => (404, "text/plain", String::new()),
        _ => (200, "text/plain", "x".to_owned()),
    };
    let imds = StandIn::start(first).await;
    assert!(agent(&imds.url).payload().await.is_ok());
    assert!(imds.asked().iter().all(|it| it.header("x-aws-ec2-metadata-token").is_none()));
    let forbids = Environment::of([("AWS_EC2_METADATA_V1_DISABLED", "true")]);
    let error = Agent::new(Some(imds.url.clone()), forbids).payload().await.unwrap_err();
    assert!(error.message.contains("StatusCode: 404"), "{error}");
    let off = Environment::of([("AWS_EC2_METADATA_DISABLED", "true")]);
    let error = Agent::new(Some(imds.url.clone()), off).payload().await.unwrap_err();
    assert!(error.message.contains("access disabled to EC2 IMDS"), "{error}");
}

#[tokio::test]
async fn a_hostile_metadata_service_is_refused_within_limits() {
    let failing = StandIn::start(|_| (502, "text/plain", String::new())).await;
    let error = agent(&failing.url).payload().await.unwrap_err();
    assert_eq!(error.code, Code::Unknown);
    let expected = "nodeattestor(aws_iid): operation error ec2imds: GetDynamicData, exceeded \
                    maximum number of attempts, 3, http response error StatusCode: 502, request \
                    to EC2 IMDS failed";
    assert_eq!(error.message, expected);

    let redirecting = StandIn::start(|_| (302, "text/plain", String::new())).await;
    let error = agent(&redirecting.url).payload().await.unwrap_err();
    assert!(error.message.contains("StatusCode: 302"), "{error}");

    let endless = StandIn::start(|_| (200, "text/plain", "x".repeat(1_000_000))).await;
    let error = agent(&endless.url).payload().await.unwrap_err();
    assert!(error.message.contains("larger than 65536 bytes"), "{error}");

    let terminal = StandIn::start(|_| (400, "text/plain", String::new())).await;
    let error = agent(&terminal.url).payload().await.unwrap_err();
    assert!(error.message.contains("failed to get API token"), "{error}");
}

#[tokio::test]
async fn a_silent_metadata_service_is_not_waited_for_longer_than_its_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut imds = Imds::new(Some(&url), &Environment::of([])).unwrap();
    imds.set_deadline(std::time::Duration::from_millis(100));
    let error = imds.open("GetDynamicData").get("/x").await.unwrap_err().to_string();
    let expected = format!(
        "operation error ec2imds: GetDynamicData, exceeded maximum number of attempts, 3, request \
         send failed, Get \"{url}/latest/x\": no complete answer within 100ms"
    );
    assert_eq!(error, expected);
    drop(listener);
}

#[tokio::test]
async fn a_silent_api_is_not_waited_for_longer_than_its_time() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut fixture = Fixture::asking(&url).await;
    fixture.server.set_timeout(std::time::Duration::from_millis(100));
    let (code, text) = fixture.refusal().await;
    assert_eq!(code, Code::Internal);
    assert_eq!(text, "failed to describe instance: context deadline exceeded");
    drop(silent);
}

#[tokio::test]
async fn an_api_that_nobody_serves_is_named() {
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    let (_, text) = Fixture::asking(&url).await.refusal().await;
    let expected = format!(
        "failed to describe instance: operation error EC2: DescribeInstances, exceeded maximum \
         number of attempts, 3, request send failed, Post \"{url}/\": dial tcp {}: connect: \
         connection refused",
        &url[7..]
    );
    assert_eq!(text, expected);
}

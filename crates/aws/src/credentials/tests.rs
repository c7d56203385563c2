//! Every source of credentials, against stand-ins.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use steeple_net::https::Trust;
use steeple_runtime::ManualClock;

use super::*;
use crate::session::World;
use crate::testing::{Answer, Asked, StandIn, xml};

fn session(environment: Environment, clock: &ManualClock) -> Session {
    let world = World { environment, clock: Arc::new(clock.clone()), trust: Trust::System };
    let provider = chain(&world.environment);
    Session { region: "us-east-2".into(), credentials: Arc::new(provider), world }
}

async fn found(environment: Environment) -> Result<Credentials, CredentialsError> {
    let session = session(environment, &ManualClock::default());
    session.credentials.credentials(&session).await
}

async fn refusal(environment: Environment) -> String {
    found(environment).await.unwrap_err().to_string()
}

fn assumed(asked: &Asked) -> Answer {
    xml(format!(
        "<R><{0}Result><Credentials><AccessKeyId>ASIA-{0}</AccessKeyId><SecretAccessKey>x\
         </SecretAccessKey><SessionToken>t</SessionToken><Expiration>2026-01-01T01:00:00Z\
         </Expiration></Credentials></{0}Result></R>",
        asked.operation()
    ))
}

fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn keys_of_the_environment_come_first() {
    let keys = [
        ("AWS_ACCESS_KEY", "A"),
        ("AWS_SECRET_KEY", "B"),
        ("AWS_SESSION_TOKEN", "T"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere"),
    ];
    let found = found(Environment::of(keys)).await.unwrap();
    assert_eq!((found.key_id.as_str(), found.secret.expose().as_str()), ("A", "B"));
    assert_eq!(found.token.unwrap().expose(), "T");
}

#[tokio::test]
async fn a_token_in_a_file_is_exchanged_for_a_role_unsigned_and_read_again_when_that_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let file = write(&path, "jwt-1\n");
    let sts = StandIn::start(assumed).await;
    let environment = Environment::of([
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.as_str()),
        ("AWS_ROLE_ARN", "arn:role"),
        ("AWS_ROLE_SESSION_NAME", "steeple"),
        ("AWS_ENDPOINT_URL_STS", sts.url.as_str()),
    ]);
    let clock = ManualClock::default();
    let session = session(environment, &clock);
    for _ in 0..2 {
        let found = session.credentials.credentials(&session).await.unwrap();
        assert_eq!(found.key_id, "ASIA-AssumeRoleWithWebIdentity");
    }
    write(&path, "jwt-2");
    clock.advance(Duration::from_secs(3541));
    session.credentials.credentials(&session).await.unwrap();
    let asked = sts.asked();
    assert_eq!(asked.len(), 2, "kept while it lasts");
    assert!(asked.iter().all(|it| it.header("authorization").is_none()));
    let token = |at: usize| asked[at].parameter("WebIdentityToken").unwrap();
    assert_eq!((token(0), token(1)), ("jwt-1".into(), "jwt-2".into()));
    assert_eq!(asked[0].parameter("RoleArn").as_deref(), Some("arn:role"));
    assert_eq!(asked[0].parameter("RoleSessionName").as_deref(), Some("steeple"));
}

#[tokio::test]
async fn profiles_have_keys_or_stand_on_others() {
    let folder = tempfile::tempdir().unwrap();
    let sts = StandIn::start(assumed).await;
    let config = write(
        &folder.path().join("config"),
        "[default]\nregion = x\n[profile role]\nrole_arn = arn:r\nsource_profile = keys\n\
         external_id = ext\nduration_seconds = 1800\n[profile loop]\nrole_arn = a\n\
         source_profile = pool\n[profile pool]\nrole_arn = a\nsource_profile = loop\n\
         [profile sso]\nsso_session = s\n[profile env]\nrole_arn = arn:e\n\
         credential_source = Environment\n[profile odd]\ncredential_source = Else\n",
    );
    let credentials = write(
        &folder.path().join("credentials"),
        "[keys]\naws_access_key_id = K\naws_secret_access_key = S\n[default]\n\
         aws_access_key_id = D\naws_secret_access_key = S\n",
    );
    let with = |profile: &'static str| {
        Environment::of([
            ("AWS_CONFIG_FILE", config.as_str()),
            ("AWS_SHARED_CREDENTIALS_FILE", credentials.as_str()),
            ("AWS_PROFILE", profile),
            ("AWS_ENDPOINT_URL_STS", sts.url.as_str()),
        ])
    };
    assert_eq!(found(with("")).await.unwrap().key_id, "D");
    assert_eq!(found(with("keys")).await.unwrap().key_id, "K");
    assert_eq!(found(with("role")).await.unwrap().key_id, "ASIA-AssumeRole");
    let asked = &sts.asked()[0];
    assert!(asked.header("authorization").unwrap().contains("Credential=K/"));
    assert_eq!(asked.parameter("ExternalId").as_deref(), Some("ext"));
    assert_eq!(asked.parameter("DurationSeconds").as_deref(), Some("1800"));
    for (profile, expected) in [
        ("loop", "profiles stand on each other in a circle"),
        ("sso", "single sign-on and credential_process are not available"),
        ("none", "failed to get shared config profile, none"),
        ("env", "the environment has no credentials"),
        (
            "odd",
            "credential_source values must be EcsContainer, Ec2InstanceMetadata, or Environment",
        ),
    ] {
        assert_eq!(refusal(with(profile)).await, expected);
    }
}

const GIVEN: &str = r#"{"Code":"Success","AccessKeyId":"C","SecretAccessKey":"x","Token":"t",
    "Expiration":"2026-01-01T01:00:00Z"}"#;

#[tokio::test]
async fn containers_are_given_theirs_for_the_token_that_they_have() {
    let folder = tempfile::tempdir().unwrap();
    let token = write(&folder.path().join("token"), "pod-token\n");
    let agent = StandIn::start(|asked| match asked.header("authorization") {
        Some("pod-token") => (200, "application/json", GIVEN.to_owned()),
        _ => (403, "application/json", String::new()),
    })
    .await;
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.url.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.as_str()),
    ];
    assert_eq!(found(Environment::of(variables)).await.unwrap().key_id, "C");
    let refused = refusal(Environment::of(variables[..1].to_vec())).await;
    assert_eq!(refused, "failed to load credentials, http response error StatusCode: 403");
    let elsewhere = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://10.0.0.1/")];
    let refused = refusal(Environment::of(elsewhere)).await;
    assert!(refused.contains("only loopback/ecs/eks hosts are allowed"), "{refused}");
}

#[tokio::test]
async fn an_instance_is_given_its_roles() {
    let imds = StandIn::start(|asked| match asked.target.as_str() {
        "/latest/api/token" => (200, "text/plain", "token".to_owned()),
        _ if asked.header("x-aws-ec2-metadata-token") != Some("token") => {
            (401, "text/plain", String::new())
        }
        "/latest/meta-data/iam/security-credentials/" => (200, "text/plain", "my-role".to_owned()),
        "/latest/meta-data/iam/security-credentials/my-role" => {
            (200, "text/plain", GIVEN.to_owned())
        }
        _ => (404, "text/plain", String::new()),
    })
    .await;
    let variables = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.url.as_str())];
    assert_eq!(found(Environment::of(variables)).await.unwrap().key_id, "C");

    let climbing = StandIn::start(|_| (200, "text/plain", "../../user-data".to_owned())).await;
    let variables = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", climbing.url.as_str())];
    assert_eq!(refusal(Environment::of(variables)).await, "failed to decode EC2 IMDS role");
    let none = StandIn::start(|_| (404, "text/plain", String::new())).await;
    let variables = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", none.url.as_str())];
    let expected = "no EC2 IMDS role found, operation error ec2imds: GetMetadata, http response \
                    error StatusCode: 404, request to EC2 IMDS failed";
    assert_eq!(refusal(Environment::of(variables)).await, expected);
}

#[test]
fn secrets_are_not_printed() {
    let credentials = Credentials::new("AKID", "s3cret").with_token(Some("t0ken".into()));
    let text = format!("{:?}", Provider::new(Source::Static(credentials)));
    assert!(!text.contains("s3cret") && !text.contains("t0ken"), "{text}");
}

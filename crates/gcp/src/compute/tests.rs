use std::sync::Arc;
use std::time::Duration;

use steeple_runtime::SystemClock;

use super::*;
use crate::credentials::Source;
use crate::stand::{Answer, Stand, ok, web};

/// As the API answers, shortened.
const RECORDED: &str = r#"{"kind":"compute#instance","id":"152986662232938449",
"creationTimestamp":"2026-01-10T09:00:00.000-08:00","name":"blog-1",
"tags":{"items":["web","blog"],"fingerprint":"x"},"machineType":"…/e2-small","status":"RUNNING",
"zone":"https://www.googleapis.com/compute/v1/projects/p/zones/us-west1-b",
"metadata":{"fingerprint":"y","items":[{"key":"role","value":"blog"},{"key":"empty"}],
"kind":"compute#metadata"},"labels":{"team":"a"},"labelFingerprint":"z"}"#;

fn api(stand: &Stand) -> Api {
    let web = web(Duration::from_secs(1));
    let source = Source::Metadata(stand.host.clone());
    let tokens = Tokens::new(source, SCOPE, web.clone(), Arc::new(SystemClock));
    Api { base: stand.url("/compute/v1"), tokens, web }
}

fn token() -> Answer {
    ok(r#"{"access_token":"t","expires_in":3000}"#)
}

#[tokio::test]
async fn an_instance_is_asked_for_with_a_token() {
    let stand = Stand::start(|asked| match asked.line.contains("/token?") {
        true => token(),
        false => ok(RECORDED),
    })
    .await;
    let api = api(&stand);
    let found = api.instance("p", "us-west1-b", "blog-1").await.unwrap();
    assert_eq!(found.id, "152986662232938449");
    assert_eq!(found.tags.items, ["web", "blog"]);
    assert_eq!(found.labels["team"], "a");
    assert_eq!(found.metadata.items[0].value.as_deref(), Some("blog"));
    assert_eq!(found.metadata.items[1].value, None);
    api.instance("domain.com:p", "us-west1-b", "blog-1").await.unwrap();
    let asked = stand.asked();
    let line = "GET /compute/v1/projects/p/zones/us-west1-b/instances/blog-1?alt=json&\
                prettyPrint=false";
    assert_eq!(asked[1].line, line);
    assert_eq!(asked[1].header("authorization"), Some("Bearer t"));
    assert_eq!(asked.len(), 3, "the token is kept");
}

#[tokio::test]
async fn names_lead_nowhere_else() {
    let stand = Stand::start(|_| token()).await;
    for name in ["", "..", ".", "a/b", "a?b", "a%2fb", "a#b", "ä", &"x".repeat(300)] {
        for names in [(name, "z", "i"), ("p", name, "i"), ("p", "z", name)] {
            let error = api(&stand).instance(names.0, names.1, names.2).await.unwrap_err();
            assert_eq!(error, ComputeError::Fetch("invalid resource name".to_owned()));
        }
    }
    assert!(stand.asked().is_empty());
}

#[tokio::test]
async fn refusals_are_told_as_googles_library_does_and_bad_answers_end() {
    let stand = Stand::start(|_| token()).await;
    let api = api(&stand);
    let recorded = r#"{"error":{"code":404,"message":"The resource 'projects/p/zones/z/instances/i'
was not found","errors":[{"message":"…","domain":"global","reason":"notFound"}]}}"#;
    for (answer, expected) in [
        (
            Answer::Whole(404, String::new(), recorded.replace('\n', " ")),
            "googleapi: Error 404: The resource 'projects/p/zones/z/instances/i' was not found, \
             notFound",
        ),
        (Answer::Whole(500, String::new(), "oops".into()), "googleapi: got HTTP response code 500"),
        (
            Answer::Whole(307, "Location: http://else/\r\n".into(), String::new()),
            "googleapi: got HTTP response code 307",
        ),
        (Answer::Endless, "the answer is larger than 2097152 bytes"),
        (Answer::Slow, "no complete answer within 1s"),
        (Answer::Hang, "no complete answer within 1s"),
        (ok("nonsense"), "unable to decode the answer: "),
    ] {
        stand.answer(move |asked| match asked.line.contains("/token?") {
            true => token(),
            false => answer.clone(),
        });
        let error = api.instance("p", "z", "i").await.unwrap_err().to_string();
        let reason = error.strip_prefix("failed to fetch instance metadata: ").unwrap();
        assert!(reason.starts_with(expected), "{reason}");
    }
    stand.answer(|asked| match asked.line.contains("/token?") {
        true => token(),
        false => Answer::Whole(401, String::new(), String::new()),
    });
    let tokens = || stand.asked().iter().filter(|it| it.line.contains("/token?")).count();
    assert_eq!(tokens(), 1);
    for _ in 0..2 {
        api.instance("p", "z", "i").await.unwrap_err();
    }
    assert_eq!(tokens(), 2, "a token that was refused is not shown again");
    stand.answer(|_| Answer::Whole(403, String::new(), String::new()));
    let error = api.instance("p", "z", "i").await.unwrap_err().to_string();
    assert_eq!(error, "failed to create compute service client: cannot fetch token: 403");
}

use std::path::Path;

use serde_json::{Value, json};
use steeple_pki::{Certificate, PrivateKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::workload::tests::fixture::{Fixture, Options, entry};

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.trim_start_matches(": "))
    }
}

const LOCAL: &str = "host: localhost\r\nworkload.spiffe.io: true\r\n";

async fn send(socket: &Path, request: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn ask(socket: &Path, line: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let mut stream = send(socket, &request).await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

async fn get(fixture: &Fixture, path: &str) -> Answer {
    ask(&fixture.socket, &format!("GET {path}"), LOCAL, "").await
}

async fn post(fixture: &Fixture, path: &str, body: &Value) -> Answer {
    let headers = format!("{LOCAL}content-type: application/json\r\n");
    ask(&fixture.socket, &format!("POST {path}"), &headers, &body.to_string()).await
}

async fn registered(options: Options) -> Fixture {
    let fixture = Fixture::with(Options { http: true, ..options }).await;
    fixture.register(entry("web")).await;
    fixture
}

#[tokio::test]
async fn x509_svids_are_pem_in_json() {
    let fixture = registered(Options::default()).await;
    let answer = get(&fixture, "/v1/x509/svids").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let svid = &answer.json()["svids"][0];
    assert_eq!(svid["spiffe_id"], "spiffe://example.org/web");
    let leaf = Certificate::from_pem(svid["x509_svid"].as_str().unwrap()).unwrap();
    let key = PrivateKey::from_pem(svid["x509_svid_key"].as_str().unwrap()).unwrap();
    assert_eq!(leaf.public_key(), key.public_key());
    assert!(svid["expires_at"].as_str().unwrap().ends_with('Z'));
    let roots = Certificate::parse_pem_bundle(svid["bundle"].as_str().unwrap()).unwrap();
    assert_eq!(roots, std::slice::from_ref(&fixture.authority.certificate));
    let bundles = get(&fixture, "/v1/x509/bundles").await.json();
    assert_eq!(bundles["bundles"]["spiffe://example.org"], svid["bundle"]);
    let keys = get(&fixture, "/v1/jwt/bundles").await.json();
    assert_eq!(keys["bundles"]["spiffe://example.org"]["keys"][0]["kid"], "kid");
}

#[tokio::test]
async fn tokens_are_fetched_and_validated() {
    let fixture = registered(Options::default()).await;
    let got = get(&fixture, "/v1/jwt/svids?audience=db&audience=a%20b").await;
    let token = got.json()["svids"][0]["svid"].as_str().unwrap().to_owned();
    let posted = post(&fixture, "/v1/jwt/svids", &json!({"audience": ["db"]})).await;
    assert_eq!(posted.json()["svids"][0]["spiffe_id"], "spiffe://example.org/web");
    let valid =
        post(&fixture, "/v1/jwt/validate", &json!({"audience": "a b", "svid": token})).await;
    let told = valid.json();
    assert_eq!(told["spiffe_id"], "spiffe://example.org/web");
    assert_eq!(told["claims"]["aud"], json!(["db", "a b"]));
    assert!(told["claims"]["exp"].is_i64());
    let wrong = post(&fixture, "/v1/jwt/validate", &json!({"audience": "x", "svid": token})).await;
    assert_eq!((wrong.status, wrong.json()["code"].clone()), (400, json!("InvalidArgument")));
    let none = get(&fixture, "/v1/jwt/svids").await;
    assert_eq!(
        (none.status, none.json()["message"].clone()),
        (400, json!("audience must be specified"))
    );
}

#[tokio::test]
async fn requests_of_browsers_and_proxies_are_refused() {
    let fixture = registered(Options::default()).await;
    let ask = async |headers: &str| {
        let answer = ask(&fixture.socket, "GET /v1/x509/svids", headers, "").await;
        assert_eq!(answer.body.contains("PRIVATE"), answer.status == 200, "{headers}");
        answer.status
    };
    let header = "workload.spiffe.io: true\r\n";
    assert_eq!(ask("host: localhost\r\n").await, 400, "no security header");
    assert_eq!(ask("host: localhost\r\nworkload.spiffe.io: yes\r\n").await, 400);
    assert_eq!(ask(&format!("host: localhost\r\n{header}{header}")).await, 400);
    for host in
        ["evil.example", "localhost.evil.example", "localhost:80@evil", "", "169.254.169.254"]
    {
        assert_eq!(ask(&format!("host: {host}\r\n{header}")).await, 403, "{host:?}");
    }
    for host in ["localhost", "LOCALHOST:8080", "127.0.0.1", "[::1]:1"] {
        assert_eq!(ask(&format!("host: {host}\r\n{header}")).await, 200, "{host:?}");
    }
    for other in ["origin: http://localhost", "via: 1.1 proxy", "x-forwarded-for: 10.0.0.1"] {
        assert_eq!(ask(&format!("{LOCAL}{other}\r\n")).await, 403, "{other}");
    }
    let absolute =
        super::tests::ask(&fixture.socket, "GET http://evil.example/v1/x509/svids", LOCAL, "");
    assert_eq!(absolute.await.status, 403);
}

#[tokio::test]
async fn what_is_asked_wrongly_is_told_precisely() {
    let fixture = registered(Options::default()).await;
    assert_eq!(get(&fixture, "/v1/nothing").await.status, 404);
    let put = ask(&fixture.socket, "PUT /v1/x509/svids", LOCAL, "").await;
    assert_eq!((put.status, put.header("allow")), (405, Some("GET")));
    assert_eq!(get(&fixture, "/v1/jwt/validate?svid=x").await.status, 405);
    let unknown = get(&fixture, "/v1/x509/svids?wiat=3").await;
    assert_eq!(
        (unknown.status, unknown.json()["message"].clone()),
        (400, json!("unknown parameter \"wiat\""))
    );
    assert_eq!(get(&fixture, "/v1/x509/svids?wait=301").await.status, 400);
    let form = ask(&fixture.socket, "POST /v1/jwt/svids", LOCAL, "audience=x").await;
    assert_eq!(form.status, 415);
    for bad in [
        json!([]),
        json!({"audience": 5}),
        json!({"audience": ["a"], "x": "y"}),
        json!({"spiffe_id": ["a", "b"]}),
    ] {
        assert_eq!(post(&fixture, "/v1/jwt/svids", &bad).await.status, 400, "{bad}");
    }
    let large = json!({"audience": "x".repeat(70_000)});
    assert_eq!(post(&fixture, "/v1/jwt/svids", &large).await.status, 413);
    assert_eq!(get(&fixture, "/v1/wit/svids").await.status, 501, "the flag is off");
    assert_eq!(get(&fixture, "/v1/wit/bundles").await.status, 501);
}

#[tokio::test]
async fn callers_without_identity_are_refused_as_over_grpc() {
    let fixture = Fixture::with(Options { http: true, ..Options::default() }).await;
    let answer = get(&fixture, "/v1/x509/svids").await;
    assert_eq!(
        (answer.status, answer.json()),
        (403, json!({"code": "PermissionDenied", "message": "no identity issued"}))
    );
    let failing = Options { http: true, attestation_fails: true, ..Options::default() };
    let answer = get(&Fixture::with(failing).await, "/v1/x509/svids").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    let off = Fixture::new().await;
    let mut stream =
        send(&off.socket, &format!("GET /v1/x509/svids HTTP/1.1\r\n{LOCAL}\r\n")).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1"), "it is off unless it is asked for");
}

#[tokio::test]
async fn a_caller_waits_for_what_it_does_not_have() {
    let fixture = registered(Options::default()).await;
    let first = get(&fixture, "/v1/x509/svids").await;
    let tag = first.header("etag").unwrap();
    let headers = format!("{LOCAL}if-none-match: {tag}\r\n");
    let again = ask(&fixture.socket, "GET /v1/x509/svids", &headers, "").await;
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    let waiting = ask(&fixture.socket, "GET /v1/x509/svids?wait=60", &headers, "");
    let changing = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        fixture.register(entry("zeta")).await;
    };
    let (answer, ()) = tokio::join!(waiting, changing);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["svids"].as_array().unwrap().len(), 2);
    assert_ne!(answer.header("etag"), Some(tag));
}

#[tokio::test]
async fn changes_come_as_events_until_the_identity_ends() {
    let fixture = registered(Options::default()).await;
    let headers = format!("{LOCAL}accept: text/event-stream\r\n");
    let request = format!("GET /v1/x509/svids HTTP/1.1\r\n{headers}\r\n");
    let mut stream = send(&fixture.socket, &request).await;
    let mut seen = String::new();
    let mut until = async |text: &str| {
        let mut buffer = [0; 4096];
        while !seen.contains(text) {
            let read = stream.read(&mut buffer).await.unwrap();
            assert_ne!(read, 0, "ended before {text:?}: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        std::mem::take(&mut seen)
    };
    let head = until("event: update").await;
    assert!(head.contains("text/event-stream"), "{head}");
    fixture.register(entry("zeta")).await;
    until("spiffe://example.org/zeta").await;
    fixture.apply(vec![], &["web", "zeta"]);
    let end = until("no identity issued").await;
    assert!(end.contains("event: error"), "{end}");
}

#[tokio::test]
async fn wit_svids_come_with_their_keys() {
    let fixture = registered(Options { wit: true, ..Options::default() }).await;
    let svid = &get(&fixture, "/v1/wit/svids").await.json()["svids"][0];
    assert_eq!(svid["spiffe_id"], "spiffe://example.org/web");
    let key: Value = serde_json::from_str(svid["wit_svid_key"].as_str().unwrap()).unwrap();
    assert!(key["d"].is_string());
    let none = get(&fixture, "/v1/wit/svids?spiffe_id=spiffe://example.org/other").await;
    assert_eq!(none.status, 403);
    let bundles = get(&fixture, "/v1/wit/bundles").await.json();
    assert_eq!(bundles["bundles"]["spiffe://example.org"]["keys"][0]["kid"], "wit-kid");
}

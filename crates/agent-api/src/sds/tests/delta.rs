//! Of DeltaSecrets.

use steeple_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::*;

struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
}

impl Stream {
    async fn open(api: &Fixture) -> Self {
        let (requests, mut queue) = mpsc::channel(16);
        let queue = futures_util::stream::poll_fn(move |context| queue.poll_recv(context));
        let answers = client(api).delta_secrets(queue).await.unwrap().into_inner();
        Self { requests, answers }
    }

    async fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    async fn answer(&mut self) -> DeltaDiscoveryResponse {
        self.answers.message().await.unwrap().unwrap()
    }
}

fn subscribe(asked: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_subscribe: names(asked),
        type_url: secrets::SECRET.into(),
        ..Default::default()
    }
}

fn unsubscribe(asked: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { resource_names_unsubscribe: names(asked), ..Default::default() }
}

fn given(answer: &DeltaDiscoveryResponse) -> Vec<&str> {
    for resource in &answer.resources {
        assert_eq!(secret(resource.resource.as_ref().unwrap()).name, resource.name);
    }
    answer.resources.iter().map(|resource| resource.name.as_str()).collect()
}

fn removed(answer: &DeltaDiscoveryResponse) -> Vec<&str> {
    answer.removed_resources.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn only_what_is_new_is_sent() {
    let (api, _other) = registered().await;
    let mut stream = Stream::open(&api).await;
    stream.send(subscribe(&["default", "ROOTCA", "ALL", OWN])).await;
    let first = stream.answer().await;
    assert_eq!(given(&first), ["ALL", "ROOTCA", "default", OWN]);
    assert_eq!((first.type_url.as_str(), first.nonce.len()), (secrets::SECRET, 8));
    api.rotate().await;
    let second = stream.answer().await;
    assert_eq!(given(&second), ["default"]);
    let versions = |answer: &DeltaDiscoveryResponse| {
        let default = answer.resources.iter().find(|it| it.name == "default").unwrap();
        default.version.clone()
    };
    assert_ne!(versions(&first), versions(&second));
}

#[tokio::test]
async fn what_is_not_there_is_removed_and_comes_when_it_is() {
    let api = Fixture::new().await;
    let mut stream = Stream::open(&api).await;
    stream.send(subscribe(&["default", A])).await;
    let nothing = stream.answer().await;
    assert_eq!((given(&nothing), removed(&nothing)), (vec![], vec!["default", A]));
    api.register(entry("a")).await;
    assert_eq!(given(&stream.answer().await), ["default", A]);
    api.apply(Vec::new(), &["a"]);
    let gone = stream.answer().await;
    assert_eq!((given(&gone), removed(&gone)), (vec![], vec!["default", A]));
}

#[tokio::test]
async fn a_wildcard_is_everything_that_has_a_name_of_its_own() {
    let (api, _other) = registered().await;
    for first in [subscribe(&[]), subscribe(&["*"])] {
        let mut stream = Stream::open(&api).await;
        stream.send(first).await;
        assert_eq!(given(&stream.answer().await), [OWN, A, B, "spiffe://other.org"]);
        api.apply(Vec::new(), &["b"]);
        let gone = stream.answer().await;
        assert_eq!((given(&gone), removed(&gone)), (vec![], vec![B]));
        // Only the first request may mean everything by naming nothing.
        stream.send(unsubscribe(&["*"])).await;
        stream.send(subscribe(&[])).await;
        stream.send(subscribe(&["default"])).await;
        assert_eq!(given(&stream.answer().await), ["default"]);
        api.register(entry("b")).await;
        api.rotate().await;
        assert_eq!(given(&stream.answer().await), ["default"]);
    }
}

#[tokio::test]
async fn what_a_caller_brings_along_is_not_sent_again() {
    let (api, _other) = registered().await;
    let mut stream = Stream::open(&api).await;
    stream.send(subscribe(&["default", "ROOTCA"])).await;
    let first = stream.answer().await;
    let versions = first.resources.iter().map(|it| (it.name.clone(), it.version.clone()));
    let mut again = subscribe(&["default", "ROOTCA", A]);
    again.initial_resource_versions = versions.collect();
    again.initial_resource_versions.insert("ROOTCA".into(), "older".into());
    again.initial_resource_versions.insert("unasked".into(), "v".into());
    let mut next = Stream::open(&api).await;
    next.send(again).await;
    let answer = next.answer().await;
    assert_eq!((given(&answer), removed(&answer)), (vec!["ROOTCA", A], vec![]));
}

#[tokio::test]
async fn who_subscribes_again_is_sent_it_again_and_who_unsubscribes_is_left_alone() {
    let (api, _other) = registered().await;
    let mut stream = Stream::open(&api).await;
    stream.send(subscribe(&["default", B])).await;
    let first = stream.answer().await;
    let mut rejected = subscribe(&[B]);
    rejected.response_nonce = first.nonce;
    rejected.error_detail = Some(rpc::Status { message: "no".into(), ..Default::default() });
    stream.send(rejected).await;
    assert_eq!(given(&stream.answer().await), [B]);
    stream.send(unsubscribe(&["default", "unknown"])).await;
    // An answer to this shows that the one before had none.
    stream.send(subscribe(&["ROOTCA"])).await;
    assert_eq!(given(&stream.answer().await), ["ROOTCA"]);
    api.rotate().await;
    assert_eq!(given(&stream.answer().await), [B]);
}

#[tokio::test]
async fn there_are_limits_to_what_a_stream_remembers() {
    let (api, _other) = registered().await;
    let mut stream = Stream::open(&api).await;
    let name = |n: usize| format!("{n:0>60}");
    let mut sent = 0;
    let ended = loop {
        let asked: Vec<String> = (sent..sent + 100).map(name).collect();
        let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
        if stream.requests.send(subscribe(&asked)).await.is_err() {
            break stream.answers.message().await.unwrap_err();
        }
        sent += 100;
        match stream.answers.message().await {
            Ok(answer) => assert_eq!(answer.unwrap().removed_resources.len(), 100),
            Err(status) => break status,
        }
        assert!(sent <= MAX_NAMES);
    };
    assert_eq!(ended.code(), Code::InvalidArgument);
    let mut stream = Stream::open(&api).await;
    stream.send(DeltaDiscoveryRequest { type_url: "cluster".into(), ..Default::default() }).await;
    assert_eq!(stream.answers.message().await.unwrap_err().code(), Code::InvalidArgument);
}

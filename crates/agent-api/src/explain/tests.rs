use async_trait::async_trait;
use steeple_agent_core::attest::AttestLimits;
use steeple_pki::Certificate;
use steeple_plugin::{Code, PluginError, WorkloadAttestor};
use steeple_runtime::SystemClock;
use tonic::Code as RpcCode;

use super::pb::explain_server::Explain as _;
use super::*;
use crate::workload::tests::fixture::{Fixture, entry};

/// Gives the selectors of a process, or fails.
struct Attestor(&'static str, Result<Vec<Selector>, &'static str>);

#[async_trait]
impl WorkloadAttestor for Attestor {
    fn name(&self) -> &str {
        self.0
    }

    async fn attest(&self, _: i32) -> Result<Vec<Selector>, PluginError> {
        let fail = |text: &str| PluginError { code: Code::Internal, message: text.into() };
        self.1.clone().map_err(fail)
    }
}

struct NoStatus;

impl AgentStatus for NoStatus {
    fn svid(&self) -> Vec<Certificate> {
        Vec::new()
    }

    fn last_sync(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}

fn selectors(texts: &[&str]) -> Vec<Selector> {
    texts.iter().map(|text| Selector::parse(text).unwrap()).collect()
}

fn service(fixture: &Fixture, attestors: Vec<Attestor>, shown: &[&str]) -> ExplainService {
    let attestors =
        attestors.into_iter().map(|it| Arc::new(it) as Arc<dyn WorkloadAttestor>).collect();
    ExplainService {
        attestation: Arc::new(WorkloadAttestation::new(attestors, AttestLimits::default(), -1)),
        cache: fixture.cache.clone(),
        status: Arc::new(NoStatus),
        book: Arc::default(),
        sync_interval: Duration::from_secs(5),
        log_selectors: shown.iter().map(ToString::to_string).collect(),
        clock: Arc::new(SystemClock),
    }
}

async fn explain(
    service: &ExplainService,
    request: pb::ExplainWorkloadRequest,
) -> Result<pb::ExplainWorkloadResponse, Status> {
    let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
    let mut request = Request::new(request);
    request.extensions_mut().insert(steeple_peer::Peer::of(&ours).unwrap());
    service.explain_workload(request).await.map(Response::into_inner)
}

fn this_process() -> pb::ExplainWorkloadRequest {
    pb::ExplainWorkloadRequest {
        pid: i32::try_from(std::process::id()).unwrap(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_process_is_attested_and_what_it_lacks_is_told() {
    let fixture = Fixture::new().await;
    let mut near = entry("near");
    near.selectors = SelectorSet::new(selectors(&["unix:uid:1", "unix:user:alice"]));
    fixture.apply(vec![near], &[]);
    let attestors = || {
        let found = selectors(&["unix:uid:1", "unix:user:bob"]);
        vec![Attestor("unix", Ok(found)), Attestor("docker", Err("no daemon"))]
    };
    let hiding = service(&fixture, attestors(), &["unix:uid"]);
    let told = explain(&hiding, this_process()).await.unwrap();
    assert_eq!(
        told.verdict,
        "No identity: no entry matches. The nearest one, of spiffe://example.org/near, also wants \
         unix:user:…."
    );
    assert_eq!(told.selectors, ["unix:uid:1", "unix:user:…"]);
    assert_eq!(told.near_misses[0].missing, ["unix:user:…"]);
    assert_eq!(told.attestors.len(), 2);
    assert_eq!(told.attestors[1].error, "no daemon");
    assert!(told.findings[0].starts_with("workload attestor \"docker\" failed"), "{told:?}");

    let all = pb::ExplainWorkloadRequest { show_selectors: true, ..this_process() };
    let told = explain(&hiding, all).await.unwrap();
    assert_eq!(told.near_misses[0].missing, ["unix:user:alice"]);
    assert_eq!(told.near_misses[0].instead, ["unix:user:bob"]);
}

#[tokio::test]
async fn what_is_served_is_told_with_its_times_and_what_is_hidden_with_its_reason() {
    let fixture = Fixture::new().await;
    let mut elder = entry("elder");
    elder.hint = "db".to_owned();
    let mut younger = entry("younger");
    (younger.hint, younger.created_at) = ("db".to_owned(), elder.created_at + 1);
    fixture.register(elder).await;
    fixture.register(younger).await;
    let attestors = vec![Attestor("test", Ok(selectors(&["test:caller"])))];
    let told = explain(&service(&fixture, attestors, &[]), this_process()).await.unwrap();
    assert_eq!(told.verdict, "One identity: spiffe://example.org/elder.");
    let states: Vec<_> = told.entries.iter().map(|it| it.state.as_str()).collect();
    assert_eq!(states, ["served", "hidden"]);
    assert!(told.entries[0].x509_svid_expires_at > told.entries[0].x509_svid_renews_at);
    assert!(told.findings.iter().any(|it| it.contains("entry younger is left out")), "{told:?}");
}

#[tokio::test]
async fn selectors_alone_can_be_asked_about() {
    let fixture = Fixture::new().await;
    let ask = |text: &str| {
        let (kind, value) = text.split_once(':').unwrap();
        pb::ExplainWorkloadRequest {
            selectors: vec![steeple_proto::spire::api::types::Selector {
                r#type: kind.into(),
                value: value.into(),
            }],
            ..Default::default()
        }
    };
    let service = service(&fixture, Vec::new(), &[]);
    let told = explain(&service, ask("test:caller")).await.unwrap();
    assert!(told.verdict.contains("is authorized for no entry at all"), "{told:?}");
    let mut unsigned = entry("unsigned");
    unsigned.disable_x509_svid_prefetch = true;
    fixture.apply(vec![unsigned], &[]);
    let told = explain(&service, ask("test:caller")).await.unwrap();
    assert_eq!(told.entries[0].state, "waiting");
    assert_eq!(told.selectors, ["test:caller"], "the operator said it, so it is shown");
}

#[tokio::test]
async fn the_last_contact_to_the_server_is_told() {
    let fixture = Fixture::new().await;
    let service = service(&fixture, vec![Attestor("test", Err("broken"))], &[]);
    service.book.ended(Err("connection refused"), SystemTime::now());
    let told = explain(&service, this_process()).await.unwrap();
    assert!(told.verdict.contains("every workload attestor failed"), "{told:?}");
    let text = "no sync has succeeded since the agent started: connection refused";
    assert_eq!(told.findings[0], text);
}

#[tokio::test]
async fn a_question_names_one_of_the_three() {
    let fixture = Fixture::new().await;
    let service = service(&fixture, Vec::new(), &[]);
    let both = pb::ExplainWorkloadRequest { container_id: "x".into(), ..this_process() };
    for bad in [pb::ExplainWorkloadRequest::default(), both] {
        assert_eq!(explain(&service, bad).await.unwrap_err().code(), RpcCode::InvalidArgument);
    }
    let gone = pb::ExplainWorkloadRequest { pid: i32::MAX, ..Default::default() };
    assert_eq!(explain(&service, gone).await.unwrap_err().code(), RpcCode::NotFound);
}

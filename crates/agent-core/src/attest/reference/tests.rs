use std::sync::Arc;

use std::process::Command;
use std::time::Duration;

use async_trait::async_trait;
use steeple_plugin::Code;
use steeple_plugin::WorkloadAttestor;

use super::*;
use crate::attest::AttestLimits;

/// Knows processes, and references of one type.
struct Fake {
    name: &'static str,
    knows: Option<&'static str>,
    process: Result<&'static str, Code>,
}

fn failure(code: Code) -> PluginError {
    PluginError { code, message: "workloadattestor(fake): no".into() }
}

#[async_trait]
impl WorkloadAttestor for Fake {
    fn name(&self) -> &str {
        self.name
    }

    async fn attest(&self, _: i32) -> Result<Vec<Selector>, PluginError> {
        self.process.map(|value| vec![Selector::new(self.name, value)]).map_err(failure)
    }

    async fn attest_reference(
        &self,
        reference: &WorkloadReference,
        caller: Option<&SpiffeId>,
    ) -> Result<Vec<Selector>, PluginError> {
        match self.knows {
            Some(known) if known == reference.type_url => {
                Ok(vec![Selector::new(self.name, &format!("asked-by:{}", caller.unwrap()))])
            }
            Some("fails") => Err(failure(Code::NotFound)),
            _ => Err(failure(Code::Unimplemented)),
        }
    }
}

fn attestation(fakes: Vec<Fake>) -> WorkloadAttestation {
    let attestors = fakes.into_iter().map(|it| Arc::new(it) as Arc<dyn WorkloadAttestor>).collect();
    WorkloadAttestation::new(attestors, AttestLimits::default(), -1)
}

fn broker() -> SpiffeId {
    SpiffeId::parse("spiffe://example.org/broker").unwrap()
}

fn reference(type_url: &str) -> WorkloadReference {
    WorkloadReference { type_url: type_url.into(), value: Vec::new() }
}

fn fake(name: &'static str, knows: Option<&'static str>) -> Fake {
    Fake { name, knows, process: Ok("uid:1") }
}

#[tokio::test]
async fn a_reference_is_for_whoever_knows_its_type() {
    let attestation = attestation(vec![fake("unix", None), fake("k8s", Some("pod"))]);
    let found = attestation.attest_reference(&reference("pod"), None, &broker()).await.unwrap();
    assert_eq!(found.to_string(), "k8s:asked-by:spiffe://example.org/broker");
}

#[tokio::test]
async fn a_reference_that_nobody_knows_is_said_to_be_one() {
    let attestation = attestation(vec![fake("unix", None)]);
    let error = attestation.attest_reference(&reference("pod"), None, &broker()).await.unwrap_err();
    assert!(matches!(error, ReferenceError::Unhandled), "{error}");
    assert_eq!(error.to_string(), "no workload attestor handled reference");
}

#[tokio::test]
async fn a_process_is_attested_by_plugins_that_know_no_references() {
    let attestation = attestation(vec![fake("unix", None)]);
    let own = i32::try_from(std::process::id()).unwrap();
    let found = attestation.attest_reference(&reference("pid"), Some(own), &broker()).await;
    assert_eq!(found.unwrap().to_string(), "unix:uid:1");
}

#[tokio::test]
async fn failures_are_told_in_spires_words_with_the_first_code() {
    let failing = Fake { name: "k8s", knows: Some("fails"), process: Err(Code::Internal) };
    let attestation = attestation(vec![fake("unix", None), failing]);
    let error = attestation.attest_reference(&reference("pod"), None, &broker()).await.unwrap_err();
    let ReferenceError::Failed { code, message } = error else { panic!("{error}") };
    assert_eq!(code, Code::NotFound);
    assert_eq!(
        message,
        "workload attestor \"k8s\" failed: rpc error: code = NotFound desc = \
         workloadattestor(fake): no"
    );
}

#[tokio::test]
async fn a_dead_process_has_no_selectors_whatever_a_plugin_says() {
    let attestation = attestation(vec![fake("unix", None)]);
    let mut child = Command::new("true").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    child.wait().unwrap();
    for pid in [pid, 0, -1] {
        let named = attestation.attest_named(pid, 0).await;
        assert!(named.is_err(), "{pid}");
        let found = attestation.attest_reference(&reference("pid"), Some(pid), &broker()).await;
        assert!(matches!(found, Err(ReferenceError::Gone(_))), "{pid}");
    }
}

#[tokio::test]
async fn a_named_process_stays_the_one_that_was_named() {
    let attestation = attestation(vec![fake("unix", None)]);
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let named = attestation.attest_named(i32::try_from(child.id()).unwrap(), 0).await.unwrap();
    assert_eq!(named.selectors.to_string(), "unix:uid:1");
    let exit = named.process.exit().unwrap().expect("the kernel has pidfds");
    child.kill().unwrap();
    child.wait().unwrap();
    tokio::time::timeout(Duration::from_secs(30), exit.ended()).await.expect("its end is told");
}

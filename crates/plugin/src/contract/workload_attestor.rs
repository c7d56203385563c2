//! The suite of workload attestors.

use crate::WorkloadAttestor;

/// Runs the suite on `attestor`; `known` is a process that it has selectors for, and `missing` an
/// id that no process has.
///
/// # Panics
/// When the contract is broken.
pub async fn workload_attestor(attestor: &dyn WorkloadAttestor, known: i32, missing: i32) {
    let selectors = attestor.attest(known).await.expect("the process is examined");
    assert!(!selectors.is_empty(), "a process that is known has selectors");
    for selector in &selectors {
        assert_eq!(&*selector.kind, attestor.name(), "selectors are of the plugin's type");
        assert!(!selector.value.is_empty(), "a selector has a value");
    }
    let again = attestor.attest(known).await.expect("the process is examined");
    assert!(again == selectors, "the same process has the same selectors in the same order");
    if let Err(error) = attestor.attest(missing).await {
        let prefix = format!("workloadattestor({}): ", attestor.name());
        assert!(error.message.starts_with(&prefix), "{error} does not begin with {prefix:?}");
    }
}

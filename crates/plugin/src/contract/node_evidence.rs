//! The suite of the agent's halves of node attestors.

use crate::NodeEvidence;

/// Runs the suite on `evidence` that has something to show.
///
/// # Panics
/// When the contract is broken.
pub async fn node_evidence(evidence: &dyn NodeEvidence) {
    assert!(!evidence.name().is_empty(), "a plugin has a name");
    let payload = evidence.payload().await.expect("there is evidence");
    assert!(!payload.is_empty(), "servers refuse an empty payload");
    let error = evidence.respond(b"\0 no challenge of this attestor").await;
    let error = error.expect_err("a challenge that makes no sense is refused");
    let prefix = format!("nodeattestor({}): ", evidence.name());
    assert!(error.message.starts_with(&prefix), "{error} does not begin with {prefix:?}");
}

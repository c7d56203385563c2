//! What every plugin of a kind must do, as suites that run on each of them: built-in, external or
//! fake. A suite panics with what was broken.

mod credential_composer;
mod key_manager;
mod node_evidence;
mod notifier;
mod workload_attestor;

pub use credential_composer::credential_composer;
pub use key_manager::{key_manager, key_manager_of, key_manager_persists, key_manager_persists_of};
pub use node_evidence::node_evidence;
pub use notifier::{bundle_publisher, failing_bundle_publisher, failing_notifier, notifier};
pub use workload_attestor::workload_attestor;

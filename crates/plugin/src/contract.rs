//! What every plugin of a kind must do, as suites that run on each of them: built-in, external or
//! fake. A suite panics with what was broken.

mod key_manager;
mod node_evidence;
mod workload_attestor;

pub use key_manager::{key_manager, key_manager_persists};
pub use node_evidence::node_evidence;
pub use workload_attestor::workload_attestor;

//! Who is let in of those whose evidence holds, and who was not.
//!
//! Ours: without a policy and without composites, everybody whose evidence holds is let in.

mod policy;
pub(crate) mod refusals;

use std::collections::BTreeSet;

pub use policy::{AdmissionPolicy, AdmissionRule, SelectorPattern, Violation};
pub use refusals::{Refusal, RefusalFilter, Refusals};

/// What decides of nodes, and remembers.
#[derive(Debug, Default)]
pub struct Admission {
    /// The rules.
    pub policy: AdmissionPolicy,
    /// Attestors whose evidence counts only as a part of a composite's.
    pub only_as_part: BTreeSet<String>,
    /// Those who were not let in.
    pub refusals: Refusals,
}

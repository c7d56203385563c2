//! Certificates of which somebody made a second form (see `in_other_form`), shown at one moment:
//! each look at who has attested finds nobody yet.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use steeple_spiffe::SpiffeId;

/// Longer than what was taken takes to be on record.
const LIFE: Duration = Duration::from_secs(300);
/// How many are kept before those that are over are looked for.
const MANY: usize = 1024;

/// The other IDs of those that were taken lately.
#[derive(Default)]
pub(super) struct Forms {
    refused: Mutex<HashMap<SpiffeId, Instant>>,
}

impl Forms {
    /// Takes `id`, and so for a while not `other`; false when it was the other way round. Asked
    /// only about proven certificates, so that strangers cannot fill it.
    pub(super) fn take(&self, id: &SpiffeId, other: SpiffeId) -> bool {
        let now = Instant::now();
        let lately = |at: &Instant| now.saturating_duration_since(*at) < LIFE;
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.get(id).is_some_and(lately) {
            return false;
        }
        if refused.len() >= MANY {
            refused.retain(|_, at| lately(at));
        }
        refused.insert(other, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_forms_at_one_moment_the_first_is_taken_and_may_come_again() {
        let forms = Forms::default();
        let id = |name: &str| SpiffeId::parse(&format!("spiffe://td/spire/agent/{name}")).unwrap();
        assert!(forms.take(&id("a"), id("b")));
        assert!(!forms.take(&id("b"), id("a")));
        assert!(forms.take(&id("a"), id("b")));
        assert!(forms.take(&id("c"), id("d")));
    }
}

//! Calls per second for callers that look alike.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::SystemTime;

use steeple_agent_core::selectors::SelectorSet;

/// Token buckets per method and selector set; callers without selectors share
/// one. A method without a limit passes.
#[derive(Default)]
pub struct RateLimits {
    per_second: HashMap<&'static str, u32>,
    buckets: Mutex<HashMap<(&'static str, SelectorSet), Bucket>>,
}

struct Bucket {
    tokens: f64,
    filled_at: SystemTime,
}

impl RateLimits {
    /// Limits by method name (`FetchX509SVID`…); 0 means none.
    pub fn new(limits: impl IntoIterator<Item = (&'static str, u32)>) -> Self {
        let per_second = limits.into_iter().filter(|(_, limit)| *limit > 0).collect();
        Self { per_second, buckets: Mutex::default() }
    }

    /// Whether such a caller may make one more call now.
    pub fn allow(&self, method: &str, caller: &SelectorSet, now: SystemTime) -> bool {
        let Some((method, limit)) = self.per_second.get_key_value(method) else { return true };
        let limit = f64::from(*limit);
        let mut buckets = self.buckets.lock().expect("no code panics while it holds the buckets");
        if buckets.len() >= MANY {
            buckets.retain(|(method, _), bucket| {
                !bucket.is_full(f64::from(self.per_second[method]), now)
            });
        }
        let bucket = buckets
            .entry((method, caller.clone()))
            .or_insert(Bucket { tokens: limit, filled_at: now });
        bucket.take(limit, now)
    }
}

impl Bucket {
    fn level(&self, limit: f64, now: SystemTime) -> f64 {
        let elapsed = now.duration_since(self.filled_at).unwrap_or_default().as_secs_f64();
        (self.tokens + elapsed * limit).min(limit)
    }

    fn is_full(&self, limit: f64, now: SystemTime) -> bool {
        self.level(limit, now) >= limit
    }

    fn take(&mut self, limit: f64, now: SystemTime) -> bool {
        let level = self.level(limit, now);
        self.filled_at = now;
        let allowed = level >= 1.0;
        self.tokens = if allowed { level - 1.0 } else { level };
        allowed
    }
}

/// From here on, buckets that are full again are swept out. A bucket is full a
/// second after its last call, so that there are never more than the callers of
/// the last second.
const MANY: usize = 4096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steeple_spiffe::Selector;

    use super::*;

    fn caller(uid: u32) -> SelectorSet {
        [Selector::new("unix", &format!("uid:{uid}"))].into_iter().collect()
    }

    #[test]
    fn a_second_holds_the_limit_and_each_selector_set_has_its_own() {
        let limits = RateLimits::new([("FetchX509SVID", 2), ("FetchJWTSVID", 0)]);
        let now = SystemTime::UNIX_EPOCH;
        let calls =
            |uid, at| (0..5).filter(|_| limits.allow("FetchX509SVID", &caller(uid), at)).count();
        assert_eq!(calls(1, now), 2);
        assert_eq!(calls(2, now), 2);
        assert_eq!(calls(1, now + Duration::from_millis(500)), 1);
        assert!((0..9).all(|_| limits.allow("FetchJWTSVID", &caller(1), now)));
    }
}

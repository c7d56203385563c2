//! Lines of log that a hostile peer can cause are said once in a while, not once per attempt.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Lets one line pass per period and counts the others.
#[derive(Debug)]
pub struct Throttle {
    period: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    said: Option<Instant>,
    unsaid: u64,
}

impl Throttle {
    /// One line per `period`.
    pub const fn new(period: Duration) -> Self {
        Self { period, state: Mutex::new(State { said: None, unsaid: 0 }) }
    }

    /// `Some` when the line is to be said now, with the number of those that were not said since
    /// the last one.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().expect("no code panics while it holds the state");
        if state.said.is_some_and(|said| now.saturating_duration_since(said) < self.period) {
            state.unsaid += 1;
            return None;
        }
        state.said = Some(now);
        Some(std::mem::take(&mut state.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_period_and_the_rest_counted() {
        let throttle = Throttle::new(Duration::from_secs(1));
        let start = Instant::now();
        let at = |millis| throttle.admit(start + Duration::from_millis(millis));
        assert_eq!(at(0), Some(0));
        assert_eq!((at(1), at(999)), (None, None));
        assert_eq!(at(1000), Some(2));
        assert_eq!(at(5000), Some(0));
    }
}

//! Clocks that jump: wall-clock time against time that only ever passes.
//!
//! Pauses are measured by a clock that stands still while the machine sleeps, certificates by one
//! that people set. When the two go apart, whatever was planned is looked at anew.

use std::time::{Duration, SystemTime};

/// The wall clock went another way than time did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jump {
    /// The machine slept, or the clock was set forward.
    Forward(Duration),
    /// The clock was set back.
    Back(Duration),
}

/// Compares the clocks at every look.
#[derive(Default)]
pub struct ClockWatch {
    last: Option<(SystemTime, Duration)>,
}

impl ClockWatch {
    /// What happened since the last look; `passed` is a monotonic clock's reading. Less than
    /// [`Self::STEP`] is a clock being kept right.
    pub fn look(&mut self, wall: SystemTime, passed: Duration) -> Option<Jump> {
        let (then, before) = self.last.replace((wall, passed))?;
        let expected = then + passed.saturating_sub(before);
        match wall.duration_since(expected) {
            Ok(ahead) if ahead >= Self::STEP => Some(Jump::Forward(ahead)),
            Err(behind) if behind.duration() >= Self::STEP => Some(Jump::Back(behind.duration())),
            _ => None,
        }
    }

    /// What counts as a jump.
    pub const STEP: Duration = Duration::from_secs(10);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_leaves_time_behind_or_falls_behind_it_jumps() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut watch = ClockWatch::default();
        let mut look = |wall, passed| watch.look(at(wall), Duration::from_secs(passed));
        assert_eq!(look(1000, 0), None);
        assert_eq!(look(1100, 100), None, "a slow look is no jump");
        assert_eq!(look(1106, 101), None, "nor is a clock that is kept right");
        assert_eq!(look(1107 + 3600, 102), Some(Jump::Forward(Duration::from_secs(3600))));
        assert_eq!(look(1108 + 3600, 103), None, "told once");
        assert_eq!(look(500, 104), Some(Jump::Back(Duration::from_secs(4209))));
        assert_eq!(look(501, 105), None);
    }
}

//! When to open the stream of hints again after it ended (ADR 12 of the repository).

use std::time::Duration;

use steeple_runtime::Backoff;

/// How a stream of hints ended, or why there was none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamEnd {
    /// The server has no such service, or does not open it to this agent.
    NotOffered,
    /// The server ended it in good order after this time.
    Over(Duration),
    /// Another stream of the same agent took its place.
    Replaced,
    /// The connection or the server failed, or fell silent.
    Lost,
}

/// What is done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reopening {
    /// Wait for so long before the next attempt.
    pub pause: Duration,
    /// The first time in a row that it ended so: worth a line in the log.
    pub news: bool,
}

/// The pauses between streams.
pub struct StreamRetry {
    backoff: Backoff,
    last: Option<StreamEnd>,
}

impl StreamRetry {
    /// For an agent that has not opened a stream yet.
    pub fn new() -> Self {
        Self { backoff: Backoff::new(FIRST_PAUSE, LAST_PAUSE), last: None }
    }

    /// A hint came: what failed before is over.
    pub fn works(&mut self) {
        self.backoff.reset();
        self.last = None;
    }

    /// The stream ended.
    pub fn ended(&mut self, end: StreamEnd) -> Reopening {
        let pause = match end {
            StreamEnd::NotOffered => NOT_OFFERED_PAUSE,
            StreamEnd::Replaced => REPLACED_PAUSE,
            StreamEnd::Over(life) if life >= LEAST_LIFE => Duration::ZERO,
            // A server that ends what it has just begun must not be asked in a tight loop.
            StreamEnd::Over(_) | StreamEnd::Lost => self.backoff.next(),
        };
        let news = self.last != Some(end);
        self.last = Some(end);
        Reopening { pause, news }
    }
}

impl Default for StreamRetry {
    fn default() -> Self {
        Self::new()
    }
}

/// The pause after a sync that took `took`, before a hint may begin the next: many changes in a
/// row are then few syncs, and at most half of the time goes into them.
pub fn breather(took: Duration) -> Duration {
    took.clamp(Duration::from_millis(5), Duration::from_secs(1))
}

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(30);
const NOT_OFFERED_PAUSE: Duration = Duration::from_secs(10 * 60);
const REPLACED_PAUSE: Duration = Duration::from_secs(60);
const LEAST_LIFE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_had_its_time_is_followed_by_the_next_at_once() {
        let mut retry = StreamRetry::new();
        let over = StreamEnd::Over(Duration::from_secs(150));
        assert_eq!(retry.ended(over).pause, Duration::ZERO);
        assert_eq!(retry.ended(over).pause, Duration::ZERO);
    }

    #[test]
    fn a_server_that_ends_streams_at_once_is_asked_less_and_less() {
        let mut retry = StreamRetry::new();
        let over = StreamEnd::Over(Duration::from_millis(3));
        let pauses: Vec<_> = (0..20).map(|_| retry.ended(over).pause).collect();
        assert!(pauses[0] >= Duration::from_millis(400), "{pauses:?}");
        assert!(pauses[19] >= Duration::from_secs(20), "{pauses:?}");
        retry.works();
        assert!(retry.ended(over).pause <= Duration::from_secs(1));
    }

    #[test]
    fn a_server_that_does_not_know_it_is_left_alone_and_mentioned_once() {
        let mut retry = StreamRetry::new();
        let first = retry.ended(StreamEnd::NotOffered);
        let second = retry.ended(StreamEnd::NotOffered);
        assert_eq!((first.pause, first.news), (NOT_OFFERED_PAUSE, true));
        assert_eq!((second.pause, second.news), (NOT_OFFERED_PAUSE, false));
    }

    #[test]
    fn hints_do_not_make_an_agent_sync_without_pause() {
        assert_eq!(breather(Duration::from_micros(10)), Duration::from_millis(5));
        assert_eq!(breather(Duration::from_millis(70)), Duration::from_millis(70));
        assert_eq!(breather(Duration::from_secs(29)), Duration::from_secs(1));
    }
}

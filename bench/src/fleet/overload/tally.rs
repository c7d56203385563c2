//! What became of calls, some of which are refused or come to nothing.

use std::future::Future;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use steeple_net::status::retry_delay;
use tonic::{Code, Status};

use crate::error::{Error, Result};

/// What became of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome<T> {
    /// It was answered.
    Answered(T),
    /// It was refused for now, perhaps with a hint when to come again.
    Refused(Option<Duration>),
    /// There was no answer in time.
    Late,
    /// Its connection broke, or could not be made.
    Lost,
}

impl<T> Outcome<T> {
    /// The same of a call that was not answered.
    ///
    /// # Panics
    /// When it was.
    pub fn without_answer<U>(self) -> Outcome<U> {
        match self {
            Self::Answered(_) => unreachable!("it was not answered"),
            Self::Refused(hint) => Outcome::Refused(hint),
            Self::Late => Outcome::Late,
            Self::Lost => Outcome::Lost,
        }
    }
}

/// Makes a call that nobody waits for beyond `patience`, which is to be in its headers, too.
///
/// # Errors
/// When it fails in a way that no overload excuses.
pub async fn attempt<T>(
    call: &'static str,
    patience: Duration,
    pending: impl Future<Output = std::result::Result<T, Status>>,
) -> Result<Outcome<T>> {
    let Ok(answer) = tokio::time::timeout(patience, pending).await else {
        return Ok(Outcome::Late);
    };
    let status = match answer {
        Ok(answer) => return Ok(Outcome::Answered(answer)),
        Err(status) => status,
    };
    match status.code() {
        // Go's servers reset the stream of a call whose deadline is over.
        Code::DeadlineExceeded | Code::Cancelled => Ok(Outcome::Late),
        Code::Unavailable if status.message().starts_with("connection: ") => Ok(Outcome::Lost),
        Code::ResourceExhausted | Code::Unavailable => Ok(Outcome::Refused(retry_delay(&status))),
        _ => Err(Error::call(call)(status)),
    }
}

/// Counts what became of calls, from many tasks.
#[derive(Default)]
pub struct Tally(Mutex<Counts>);

/// What became of the calls of a while.
#[derive(Default)]
pub struct Counts {
    /// How long those took that were answered, in ms.
    pub took: Vec<f64>,
    /// Of these, those that were answered before the while was over.
    pub within: usize,
    pub refused: usize,
    /// Of those refused, those that were told when to come again.
    pub hinted: usize,
    pub late: usize,
    pub lost: usize,
    /// Callers that were refused twice in a row, in percent of all.
    pub twice: f64,
    /// How long the while was.
    pub wall: Duration,
    /// The first wrong answer.
    pub error: Option<Error>,
}

impl Tally {
    /// Adds a call that began at `begun`, in a while that ends at `end`.
    pub fn add<T>(&self, outcome: Result<Outcome<T>>, begun: Instant, end: Instant) {
        let now = Instant::now();
        let mut counts = self.0.lock().expect("nobody panics while holding it");
        match outcome {
            Ok(Outcome::Answered(_)) => {
                counts.took.push((now - begun).as_secs_f64() * 1e3);
                counts.within += usize::from(now <= end);
            }
            Ok(Outcome::Refused(hint)) => {
                counts.refused += 1;
                counts.hinted += usize::from(hint.is_some());
            }
            Ok(Outcome::Late) => counts.late += 1,
            Ok(Outcome::Lost) => counts.lost += 1,
            Err(error) => counts.error = counts.error.take().or(Some(error)),
        }
    }

    /// Whether some answer was wrong.
    pub fn is_wrong(&self) -> bool {
        self.0.lock().expect("nobody panics while holding it").error.is_some()
    }

    /// What there was in a while of `wall`.
    ///
    /// # Errors
    /// When an answer was wrong: the first such error.
    pub fn counts(&self, wall: Duration) -> Result<Counts> {
        let counts = std::mem::take(&mut *self.0.lock().expect("nobody panics while holding it"));
        match counts.error {
            Some(error) => Err(error),
            None => Ok(Counts { wall, ..counts }),
        }
    }
}

impl Counts {
    /// Calls answered a second, while it lasted.
    pub fn per_second(&self) -> f64 {
        self.within as f64 / self.wall.as_secs_f64()
    }

    /// Calls made a second.
    pub fn offered(&self) -> f64 {
        self.all() as f64 / self.wall.as_secs_f64()
    }

    /// In percent of all calls.
    pub fn share(&self, part: usize) -> f64 {
        part as f64 / self.all().max(1) as f64 * 100.0
    }

    fn all(&self) -> usize {
        self.took.len() + self.refused + self.late + self.lost
    }
}

#[cfg(test)]
mod tests {
    use steeple_net::status::{retry_info, with_details};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    async fn of(status: Status) -> Option<Outcome<()>> {
        attempt("X", LONG, async { Err(status) }).await.ok()
    }

    #[tokio::test]
    async fn only_overload_is_an_excuse() {
        let wait = Duration::from_secs(3);
        let hint = with_details(Code::ResourceExhausted, "", vec![retry_info(wait)]);
        assert_eq!(of(hint).await, Some(Outcome::Refused(Some(wait))));
        assert_eq!(of(Status::unavailable("busy")).await, Some(Outcome::Refused(None)));
        assert_eq!(of(Status::unavailable("connection: x")).await, Some(Outcome::Lost));
        assert_eq!(of(Status::deadline_exceeded("")).await, Some(Outcome::Late));
        for wrong in [Status::internal(""), Status::permission_denied(""), Status::unknown("")] {
            assert_eq!(of(wrong).await, None);
        }
        let never = std::future::pending::<std::result::Result<(), Status>>();
        assert_eq!(attempt("X", Duration::ZERO, never).await.ok(), Some(Outcome::Late));
    }

    #[test]
    fn what_was_answered_after_the_end_is_none_of_its_rate() {
        let (tally, now) = (Tally::default(), Instant::now());
        tally.add(Ok(Outcome::Answered(())), now, now + LONG);
        tally.add(Ok(Outcome::Answered(())), now, now - Duration::from_millis(1));
        tally.add::<()>(Ok(Outcome::Refused(None)), now, now);
        tally.add::<()>(Ok(Outcome::Late), now, now);
        let counts = tally.counts(Duration::from_secs(2)).unwrap_or_default();
        assert_eq!((counts.per_second(), counts.offered()), (0.5, 2.0));
        assert_eq!((counts.share(counts.refused), counts.share(counts.took.len())), (25.0, 50.0));
    }
}

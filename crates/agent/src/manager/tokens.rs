//! New JWT-SVIDs for those that are asked for again and again, before anybody has to wait.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};

use super::Manager;

/// How many are asked for at once.
const AT_ONCE: usize = 4;
const SHORTEST_SLEEP: Duration = Duration::from_secs(1);
const LONGEST_SLEEP: Duration = Duration::from_secs(60 * 60);

impl Manager {
    /// Renews what is due soon and asked for.
    pub(super) async fn token_loop(&self) -> Infallible {
        let mut jolts = self.jolts.subscribe();
        loop {
            let now = self.clock.now();
            let hot = self.jwt.hot(now).into_iter().filter(|hot| self.cache.has(&hot.entry));
            let renewing = stream::iter(hot.collect::<Vec<_>>());
            renewing
                .for_each_concurrent(AT_ONCE, |hot| async move {
                    self.jwt.refresh(&hot, now).await;
                })
                .await;
            let now = self.clock.now();
            let next = self.jwt.next_hot(now);
            let pause = next.map_or(LONGEST_SLEEP, |at| at.duration_since(now).unwrap_or_default());
            tokio::select! {
                _ = Self::nap(&mut jolts, pause.clamp(SHORTEST_SLEEP, LONGEST_SLEEP)) => {}
                () = self.jwt.changed() => {}
            }
        }
    }
}

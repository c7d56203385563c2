//! PostgreSQL's LISTEN: a commit of another server wakes the readers of this one at once.
//!
//! Only a wake-up. What happened is read from the event tables, which are asked every second in
//! any case: a notification may be lost, and SPIRE sends none.

use std::time::Duration;

use sea_orm::sqlx::postgres::{PgListener, PgPoolOptions};
use steeple_runtime::{Backoff, Watcher};
use tokio::sync::watch;

use super::link::Link;
use crate::config::Now;

/// What servers call when they wrote an event.
pub(super) const EVENTS: &str = "steeple_events";
/// What servers call when they wrote a bundle.
pub(super) const BUNDLES: &str = "steeple_bundles";

const FIRST_WAIT: Duration = Duration::from_millis(500);
const LAST_WAIT: Duration = Duration::from_secs(30);

/// Listens until the store is closed.
pub(super) async fn run(mut ear: Ear, mut drain: Watcher) {
    let mut backoff = Backoff::new(FIRST_WAIT, LAST_WAIT);
    loop {
        let listening = ear.listen(&mut backoff);
        let error = tokio::select! {
            () = drain.signalled() => return,
            error = listening => error,
        };
        tracing::debug!(subsystem_name = "sql", %error, "Listening for events was interrupted");
        tokio::select! {
            () = drain.signalled() => return,
            () = tokio::time::sleep(backoff.next()) => {}
        }
    }
}

/// What listening takes.
pub(super) struct Ear {
    pub(super) link: Link,
    pub(super) now: Now,
    pub(super) wake: watch::Sender<u64>,
    pub(super) wake_bundles: watch::Sender<u64>,
    /// What our own calls say, which wake nobody twice.
    pub(super) own: String,
    /// It was interrupted, so that calls may have been missed.
    pub(super) interrupted: bool,
}

impl Ear {
    async fn listen(&mut self, backoff: &mut Backoff) -> sea_orm::sqlx::Error {
        match self.follow(backoff).await {
            Ok(()) => sea_orm::sqlx::Error::PoolClosed,
            Err(error) => error,
        }
    }

    async fn follow(&mut self, backoff: &mut Backoff) -> Result<(), sea_orm::sqlx::Error> {
        // Without a fresh token it would fail, and say so.
        let _old_token = self.link.renew_login(&self.now);
        let Some(options) = self.link.postgres_options() else { return Ok(()) };
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(10))
            .connect_lazy_with((*options).clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen_all([EVENTS, BUNDLES]).await?;
        backoff.reset();
        if std::mem::replace(&mut self.interrupted, true) {
            count_up(&self.wake);
            count_up(&self.wake_bundles);
        }
        while let Some(call) = listener.try_recv().await? {
            if call.payload() != self.own {
                let bundles = call.channel() == BUNDLES;
                count_up(if bundles { &self.wake_bundles } else { &self.wake });
            }
        }
        Ok(())
    }
}

/// Wakes who watches.
pub(super) fn count_up(wake: &watch::Sender<u64>) {
    wake.send_modify(|count| *count = count.wrapping_add(1));
}

//! How many statements a path sends to its database, counted where the driver logs them (the
//! store's `log_sql` has to be on). BEGIN, and COMMIT where it comes by itself, are not among them.

use std::fmt::Debug;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

static STATEMENTS: AtomicUsize = AtomicUsize::new(0);

/// The right to count. One at a time: all stores of a process are counted together.
pub struct StatementCounter {
    _one: MutexGuard<'static, ()>,
}

impl StatementCounter {
    /// Waits until nobody else in this process counts. The first makes what counts the process's
    /// subscriber of logs.
    ///
    /// # Panics
    /// When the process has a subscriber already.
    pub async fn alone() -> Self {
        static ONE: LazyLock<Mutex<()>> = LazyLock::new(|| {
            tracing::subscriber::set_global_default(Counting)
                .expect("no other subscriber in a test that counts statements");
            Mutex::new(())
        });
        Self { _one: ONE.lock().await }
    }

    /// What an operation answers, and how many statements it took. (All of them are logged before
    /// a transaction's end is answered: it comes behind them in the same queue.)
    pub async fn count<T>(&self, work: impl Future<Output = T>) -> (T, usize) {
        let before = STATEMENTS.load(Ordering::SeqCst);
        let done = work.await;
        (done, STATEMENTS.load(Ordering::SeqCst) - before)
    }

    /// Waits until nothing is counted any more: a statement outside a transaction may be told of a
    /// little after its answer.
    pub async fn quiet(&self) {
        let mut seen = usize::MAX;
        while seen != STATEMENTS.load(Ordering::SeqCst) {
            seen = STATEMENTS.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Counts what the driver logs, and does nothing with it.
struct Counting;

impl Subscriber for Counting {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut sets_up = SetsUp(false);
        event.record(&mut sets_up);
        if !sets_up.0 {
            STATEMENTS.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Whether a statement is of those that begin each connection, whenever the pool makes one, or that
/// begin and end each transaction and nothing else.
struct SetsUp(bool);

impl Visit for SetsUp {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "summary" {
            let summary = format!("{value:?}");
            let summary = summary.trim_start_matches('"');
            let sets_up = ["PRAGMA", "SET ", "BEGIN", "COMMIT", "ROLLBACK"];
            self.0 |= sets_up.iter().any(|it| summary.starts_with(it));
        }
    }
}

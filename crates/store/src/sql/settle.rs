//! The moment at which no transaction that wrote an event is open: it lets a reader of the change
//! feed forget what lies behind it.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use sea_orm::sqlx::mysql::MySqlRow;
use sea_orm::sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _};
use sea_orm::{ConnectionTrait, TransactionOptions};

use super::SqlStore;
use super::feed::unordered::{ids_above, settle};
use super::feed::{ENTRY, Events, NODE};
use super::link::Link;
use super::tx::Tx;
use crate::error::StoreError;
use crate::feed::{Cursor, Revision};

/// So many events are remembered one by one before the trouble is taken.
const REMEMBERED: usize = 512;

/// Between two attempts: each may make writers wait for a moment.
const INTERVAL: Duration = Duration::from_secs(30);

impl SqlStore {
    /// Makes a revision short again, if it has grown and it is time.
    pub(super) async fn shorten(&self, revision: &mut Revision) {
        let long = |cursor: &Cursor| cursor.seen.len() > REMEMBERED;
        if !long(&revision.entries) && !long(&revision.nodes) {
            return;
        }
        {
            let mut at = self.settled_at.lock().unwrap_or_else(PoisonError::into_inner);
            if at.is_some_and(|at| at.elapsed() < INTERVAL) {
                return;
            }
            *at = Some(Instant::now());
        }
        for (cursor, events) in [(&mut revision.entries, ENTRY), (&mut revision.nodes, NODE)] {
            if cursor.seen.len() <= REMEMBERED {
                continue;
            }
            match self.settled_ids(events, cursor.floor).await {
                Ok(ids) => settle(cursor, &ids),
                // Somebody writes right now, or we may not lock; the revision is good as it is.
                Err(error) => tracing::debug!(
                    subsystem_name = "sql",
                    table = events.table,
                    %error,
                    "The event table is in use"
                ),
            }
        }
    }

    /// The ids above a floor at a moment at which nobody has an uncommitted event.
    ///
    /// Whoever inserts holds a lock of the table from before an id is handed out until the end of
    /// the transaction, and the lock taken here is not given beside that one.
    pub(super) async fn settled_ids(
        &self,
        events: Events,
        floor: i64,
    ) -> Result<BTreeSet<i64>, StoreError> {
        match &self.writer.link {
            Link::Sqlite => Ok(BTreeSet::new()),
            Link::Postgres { .. } => {
                let options = TransactionOptions {
                    isolation_level: Some(sea_orm::IsolationLevel::ReadCommitted),
                    ..TransactionOptions::default()
                };
                let inner = self.begin(&self.writer, options).await?;
                // Does not wait, so that nobody has to queue behind it.
                let lock = format!("LOCK TABLE {} IN SHARE MODE NOWAIT", events.table);
                let locked = inner.execute_unprepared(&lock).await;
                let tx = Tx::reading(inner, self.dialect);
                let done = match locked {
                    Ok(_) => ids_above(&tx, events, floor).await,
                    Err(error) => Err(tx.error(&error)),
                };
                tx.rollback().await?;
                done
            }
            Link::MySql { pool, .. } => {
                let failed = |error: sea_orm::sqlx::Error| self.dialect.driver_error(&error);
                // A connection of its own: the lock ends with it, come what may.
                let mut connection = pool.acquire().await.map_err(failed)?.detach();
                let lock =
                    format!("SET SESSION lock_wait_timeout = 1; LOCK TABLES {} READ", events.table);
                let work = async {
                    for statement in lock.split("; ") {
                        let statement = AssertSqlSafe(statement.to_owned());
                        connection.execute(sea_orm::sqlx::raw_sql(statement)).await?;
                    }
                    let select = format!("SELECT id FROM {} WHERE id > {floor}", events.table);
                    let rows = connection.fetch_all(AssertSqlSafe(select)).await?;
                    let id = |row: &MySqlRow| row.try_get::<u64, _>(0).map(u64::cast_signed);
                    rows.iter().map(id).collect::<Result<BTreeSet<i64>, _>>()
                };
                let done = work.await.map_err(failed);
                connection.close().await.map_err(failed)?;
                done
            }
        }
    }
}

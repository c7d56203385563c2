//! Join tokens that may be used more than once, in two tables of ours, which SPIRE does not see.
//!
//! They are made with the first token, so that a database without one is as SPIRE made it. What
//! is kept of a token is a digest; nothing here is a secret.

use std::time::SystemTime;

use sea_orm::ConnectionTrait;
use sea_orm::sea_query::{Expr, ExprTrait, Query, SelectStatement};
use steeple_spiffe::Selector;

use super::admit::{Admission, By, admit_one};
use super::dialect::Dialect;
use super::hex::{hex, unhex};
use super::tx::{Row, Tx};
use super::{node_rows, pages, schema, timestamp};
use crate::error::{JoinTokenError, StoreError};
use crate::model::{AttestedNode, Page, ReusableToken, TokenBearer};

const TOKENS: &str = "steeple_join_tokens";
const NODES: &str = "steeple_join_token_nodes";

/// What servers that make the tables at the same time wait for each other by.
const LOCK: &str = "steeple_join_tokens";

/// As much as the lists of a token may take each, so that every database's texts hold them.
const MAX_LIST: usize = 16 * 1024;

/// The longest text in a column that is not a list.
const MAX_TEXT: usize = 255;

const SQLITE: [&str; 4] = [
    r#"CREATE TABLE IF NOT EXISTS "steeple_join_tokens" ("id" integer primary key autoincrement,"created_at" datetime,"updated_at" datetime,"token_id" varchar(255) NOT NULL,"digest" varchar(255) NOT NULL,"description" varchar(255) NOT NULL,"expiry" bigint NOT NULL,"join_expiry" bigint NOT NULL,"max_uses" bigint NOT NULL,"uses" bigint NOT NULL,"cidrs" text NOT NULL,"selectors" text NOT NULL)"#,
    r#"CREATE UNIQUE INDEX IF NOT EXISTS uix_steeple_join_tokens_token_id ON "steeple_join_tokens"("token_id")"#,
    r#"CREATE TABLE IF NOT EXISTS "steeple_join_token_nodes" ("id" integer primary key autoincrement,"created_at" datetime,"updated_at" datetime,"token_id" varchar(255) NOT NULL,"node" varchar(255) NOT NULL)"#,
    r#"CREATE UNIQUE INDEX IF NOT EXISTS uix_steeple_join_token_nodes ON "steeple_join_token_nodes"("token_id","node")"#,
];

const POSTGRES: [&str; 4] = [
    r#"CREATE TABLE IF NOT EXISTS "steeple_join_tokens" ("id" serial PRIMARY KEY,"created_at" timestamp with time zone,"updated_at" timestamp with time zone,"token_id" text NOT NULL,"digest" text NOT NULL,"description" text NOT NULL,"expiry" bigint NOT NULL,"join_expiry" bigint NOT NULL,"max_uses" bigint NOT NULL,"uses" bigint NOT NULL,"cidrs" text NOT NULL,"selectors" text NOT NULL)"#,
    r#"CREATE UNIQUE INDEX IF NOT EXISTS uix_steeple_join_tokens_token_id ON "steeple_join_tokens"("token_id")"#,
    r#"CREATE TABLE IF NOT EXISTS "steeple_join_token_nodes" ("id" serial PRIMARY KEY,"created_at" timestamp with time zone,"updated_at" timestamp with time zone,"token_id" text NOT NULL,"node" text NOT NULL)"#,
    r#"CREATE UNIQUE INDEX IF NOT EXISTS uix_steeple_join_token_nodes ON "steeple_join_token_nodes"("token_id","node")"#,
];

/// Its indices are part of the tables: it has no `CREATE INDEX IF NOT EXISTS`.
const MYSQL: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS `steeple_join_tokens` (`id` int unsigned AUTO_INCREMENT PRIMARY KEY,`created_at` DATETIME NULL,`updated_at` DATETIME NULL,`token_id` varchar(255) NOT NULL,`digest` varchar(255) NOT NULL,`description` varchar(255) NOT NULL,`expiry` bigint NOT NULL,`join_expiry` bigint NOT NULL,`max_uses` bigint NOT NULL,`uses` bigint NOT NULL,`cidrs` text NOT NULL,`selectors` text NOT NULL, UNIQUE KEY uix_steeple_join_tokens_token_id (`token_id`))",
    "CREATE TABLE IF NOT EXISTS `steeple_join_token_nodes` (`id` int unsigned AUTO_INCREMENT PRIMARY KEY,`created_at` DATETIME NULL,`updated_at` DATETIME NULL,`token_id` varchar(100) NOT NULL,`node` varchar(100) NOT NULL, UNIQUE KEY uix_steeple_join_token_nodes (`token_id`,`node`))",
];

pub(super) async fn make_tables(tx: &Tx) -> Result<(), StoreError> {
    if have_tables(tx).await? {
        return Ok(());
    }
    let (statements, options): (&[&str], _) = match tx.dialect {
        Dialect::Sqlite { .. } => (&SQLITE, ""),
        Dialect::Postgres => {
            // It lets two make the same table at once, and then fails one of them.
            tx.exclude(&[LOCK]).await?;
            (&POSTGRES, "")
        }
        Dialect::MySql { .. } => (&MYSQL, schema::mysql::TABLE_OPTIONS),
    };
    for statement in statements {
        let done = tx.inner.execute_unprepared(&format!("{statement}{options}")).await;
        done.map_err(|error| tx.error(&error))?;
    }
    Ok(())
}

async fn have_tables(tx: &Tx) -> Result<bool, StoreError> {
    // The one that is made last.
    Ok(tx.one(&tx.dialect.find_column(NODES, None)).await?.is_some())
}

pub(super) async fn create(tx: &Tx, token: &ReusableToken) -> Result<(), StoreError> {
    let cidrs = list(token.cidrs.iter().cloned())?;
    let texts = token.selectors.iter().map(|it| format!("{}:{}", it.kind, it.value));
    let selectors = list(texts)?;
    let usable = token.max_uses > 0 && token.expires_at > 0 && token.joins_until > 0;
    let fits = |text: &str| !text.is_empty() && text.len() <= MAX_TEXT;
    if !usable || !fits(&token.id) || token.description.len() > MAX_TEXT {
        return Err(StoreError::Invalid("token, expiry and uses are required".into()));
    }
    let columns = [
        ("token_id", token.id.as_str().into()),
        ("digest", hex(&token.digest).into()),
        ("description", token.description.as_str().into()),
        ("expiry", token.expires_at.into()),
        ("join_expiry", token.joins_until.into()),
        ("max_uses", i64::from(token.max_uses).into()),
        ("uses", 0_i64.into()),
        ("cidrs", cidrs.into()),
        ("selectors", selectors.into()),
    ];
    tx.insert(TOKENS, &columns).await.map(drop)
}

/// Lines, of which none is empty.
fn list(items: impl Iterator<Item = String>) -> Result<String, StoreError> {
    let mut lines = String::new();
    for item in items {
        if item.is_empty() || item.contains('\n') || lines.len() + item.len() > MAX_LIST {
            return Err(StoreError::Invalid("a list is too long, or of more than lines".into()));
        }
        lines.push_str(&item);
        lines.push('\n');
    }
    Ok(lines)
}

fn select(tx: &Tx) -> SelectStatement {
    let mut select = Query::select();
    select
        .columns(["id", "token_id", "digest", "description"])
        .expr(tx.dialect.select_timestamp("created_at"))
        .columns(["expiry", "join_expiry", "max_uses", "uses", "cidrs", "selectors"])
        .from(TOKENS);
    select
}

fn read(row: &Row) -> Result<(i64, ReusableToken), StoreError> {
    let damaged = || StoreError::sql("a reusable join token is damaged");
    let digest: String = row.get(2)?;
    let lines = |column| -> Result<Vec<String>, StoreError> {
        let text: String = row.get_or_default(column)?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    let selectors = lines(10)?.iter().map(|text| Selector::parse(text)).collect::<Result<_, _>>();
    let count = |column| -> Result<u32, StoreError> {
        u32::try_from(row.get::<i64>(column)?).map_err(|_| damaged())
    };
    let token = ReusableToken {
        id: row.get(1)?,
        digest: unhex(&digest).and_then(|it| it.try_into().ok()).ok_or_else(damaged)?,
        description: row.get_or_default(3)?,
        created_at: row.timestamp(4)?.map_or(0, timestamp::Nanos::seconds),
        expires_at: row.get(5)?,
        joins_until: row.get(6)?,
        max_uses: count(7)?,
        uses: count(8)?,
        cidrs: lines(9)?,
        selectors: selectors.map_err(|_| damaged())?,
    };
    Ok((row.get(0)?, token))
}

pub(super) async fn fetch(tx: &Tx, id: &str) -> Result<Option<ReusableToken>, StoreError> {
    if !have_tables(tx).await? {
        return Ok(None);
    }
    let mut select = select(tx);
    select.and_where(tx.dialect.is("token_id", id));
    tx.lock_rows(&mut select);
    tx.one(&select).await?.map(|row| read(&row).map(|(_, token)| token)).transpose()
}

pub(super) async fn list_all(
    tx: &Tx,
    page: Option<&Page>,
) -> Result<(Vec<ReusableToken>, Option<String>), StoreError> {
    let mut select = select(tx);
    pages::apply(tx.dialect, &mut select, page)?;
    if !have_tables(tx).await? {
        return Ok((Vec::new(), None));
    }
    let read: Vec<_> = tx.all(&select).await?.iter().map(read).collect::<Result<_, _>>()?;
    let next = pages::next_token(page, read.last().map(|(id, _)| *id));
    Ok((read.into_iter().map(|(_, token)| token).collect(), next))
}

pub(super) async fn delete(tx: &Tx, id: &str) -> Result<(), StoreError> {
    if !have_tables(tx).await? {
        return Err(StoreError::not_found());
    }
    // Locked in the order in which attesting does.
    fetch(tx, id).await?.ok_or_else(StoreError::not_found)?;
    for table in [NODES, TOKENS] {
        let mut delete = Query::delete();
        delete.from_table(table).and_where(tx.dialect.is("token_id", id));
        tx.execute(&delete).await?;
    }
    Ok(())
}

/// Records the attestation of a node that has joined or may, or refuses. The inner error is for
/// the caller; nothing was changed then.
pub(super) async fn attest(
    tx: &Tx,
    node: AttestedNode,
    bearer: TokenBearer<'_>,
    now: SystemTime,
) -> Result<Result<AttestedNode, JoinTokenError>, StoreError> {
    // The row is locked from here on, so that nobody else counts meanwhile.
    let found = fetch(tx, bearer.token_id).await?.filter(|token| token.digest == *bearer.digest);
    let Some(token) = found else { return Ok(Err(JoinTokenError::Unknown)) };
    let now = timestamp::Nanos::from(now);
    let over = |seconds: i64| timestamp::Nanos::from_seconds(seconds) < now;
    if over(token.expires_at) {
        return Ok(Err(JoinTokenError::Expired));
    }
    let agent = node_rows::find_by_id(tx, &node.spiffe_id).await?;
    if agent.is_some_and(|agent| agent.node.is_banned()) {
        return Ok(Err(JoinTokenError::Banned));
    }
    if !has_joined(tx, bearer).await? {
        if over(token.joins_until) {
            return Ok(Err(JoinTokenError::Expired));
        }
        if !count_one(tx, bearer).await? {
            return Ok(Err(JoinTokenError::UsedUp));
        }
    }
    let admitted = admit_one(tx, Admission { node, by: By::Evidence }).await?;
    Ok(admitted.map_err(|_banned| JoinTokenError::Banned))
}

async fn has_joined(tx: &Tx, bearer: TokenBearer<'_>) -> Result<bool, StoreError> {
    let Some(node) = bearer.node else { return Ok(false) };
    let mut select = Query::select();
    select
        .column("id")
        .from(NODES)
        .and_where(tx.dialect.is("token_id", bearer.token_id))
        .and_where(tx.dialect.is("node", node));
    Ok(tx.one(&select).await?.is_some())
}

/// Counts a node, if one more may join.
async fn count_one(tx: &Tx, bearer: TokenBearer<'_>) -> Result<bool, StoreError> {
    let mut update = Query::update();
    update
        .table(TOKENS)
        .value("uses", Expr::col("uses").add(1))
        .value("updated_at", tx.dialect.timestamp(tx.now))
        .and_where(tx.dialect.is("token_id", bearer.token_id))
        .and_where(Expr::col("uses").lt(Expr::col("max_uses")));
    if tx.execute(&update).await? == 0 {
        return Ok(false);
    }
    if let Some(node) = bearer.node {
        let columns = [("token_id", bearer.token_id.into()), ("node", node.into())];
        tx.insert(NODES, &columns).await?;
    }
    Ok(true)
}

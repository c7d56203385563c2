//! Join tokens. Nothing here logs one or puts one into an error.

use std::time::SystemTime;

use sea_orm::sea_query::{Expr, ExprTrait, Query};
use steeple_spiffe::SpiffeId;

use super::tx::Tx;
use super::{JOIN_TOKENS, NODES, SqlStore, create, timestamp};
use crate::error::StoreError;
use crate::model::{JoinAttempt, JoinToken, NewEntry};

pub(super) async fn create(
    tx: &Tx,
    token: JoinToken,
    alias: Option<NewEntry>,
) -> Result<(), StoreError> {
    if token.token.is_empty() || token.expires_at == 0 {
        return Err(StoreError::Invalid("token and expiry are required".into()));
    }
    let columns = [("token", token.token.into()), ("expiry", token.expires_at.into())];
    tx.insert(JOIN_TOKENS, &columns).await?;
    if let Some(alias) = alias {
        // A similar entry serves as well as a new one, as in SPIRE.
        create::create_or_return_similar(tx, alias).await?;
    }
    Ok(())
}

pub(super) async fn fetch(tx: &Tx, token: &str) -> Result<Option<JoinToken>, StoreError> {
    let mut select = Query::select();
    select.column("expiry").from(JOIN_TOKENS).and_where(tx.dialect.is("token", token));
    tx.lock_rows(&mut select);
    match tx.one(&select).await? {
        Some(row) => {
            Ok(Some(JoinToken { token: token.into(), expires_at: row.get_or_default(0)? }))
        }
        None => Ok(None),
    }
}

pub(super) async fn delete(tx: &Tx, token: &str) -> Result<(), StoreError> {
    let mut delete = Query::delete();
    delete.from_table(JOIN_TOKENS).and_where(tx.dialect.is("token", token));
    match tx.execute(&delete).await? {
        0 => Err(StoreError::not_found()),
        _ => Ok(()),
    }
}

pub(super) async fn prune(tx: &Tx, expired_before: SystemTime) -> Result<u64, StoreError> {
    let before = timestamp::Nanos::from(expired_before).seconds();
    let mut delete = Query::delete();
    delete.from_table(JOIN_TOKENS).and_where(Expr::col("expiry").lt(before));
    tx.execute(&delete).await
}

/// A join token and what stands in the way of the agent that it would make.
pub(super) async fn look_with_agent(
    store: &SqlStore,
    token: &str,
    agent: &SpiffeId,
) -> Result<Option<JoinAttempt>, StoreError> {
    let is = |column, text: &str| store.dialect.is_one_of(column, std::iter::once(text));
    let mut select = Query::select();
    select
        .column("expiry")
        .columns([(NODES, "id"), (NODES, "serial_number")])
        .from(JOIN_TOKENS)
        .left_join(NODES, is((NODES, "spiffe_id"), agent.as_str()))
        .and_where(is((JOIN_TOKENS, "token"), token));
    let rows = store.look(&select).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let has_agent = row.get_or_default::<i64>(1)? != 0;
    Ok(Some(JoinAttempt {
        token: JoinToken { token: token.into(), expires_at: row.get_or_default(0)? },
        is_banned: has_agent && row.get_or_default::<String>(2)?.is_empty(),
    }))
}

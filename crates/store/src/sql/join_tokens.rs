//! Join tokens. Nothing here logs one or puts one into an error.

use std::time::SystemTime;

use sea_orm::sea_query::{Expr, ExprTrait, Query};

use super::tx::Tx;
use super::{JOIN_TOKENS, create, nodes, timestamp};
use crate::error::{JoinTokenError, StoreError};
use crate::model::{AttestedNode, JoinToken, NewEntry};

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

/// Takes the token and records the attestation, or refuses and takes the token all the same
/// (NL-04). The inner error is for the caller; the transaction is to be committed with it.
pub(super) async fn attest(
    tx: &Tx,
    node: AttestedNode,
    token: &str,
    now: SystemTime,
) -> Result<Result<AttestedNode, JoinTokenError>, StoreError> {
    let Some(found) = fetch(tx, token).await? else {
        return Ok(Err(JoinTokenError::Unknown));
    };
    match delete(tx, token).await {
        Ok(()) => {}
        // On a database where reading does not lock, somebody was faster.
        Err(StoreError::NotFound(_)) => return Ok(Err(JoinTokenError::Unknown)),
        Err(error) => return Err(error),
    }
    // The expiry is a whole second, and SPIRE compares it with the exact time.
    if timestamp::Nanos::from_seconds(found.expires_at) < timestamp::Nanos::from(now) {
        return Ok(Err(JoinTokenError::Expired));
    }
    Ok(nodes::upsert(tx, node).await?.ok_or(JoinTokenError::Banned))
}

//! CA journals: one row per server (CA-06 to CA-08, TD-20).

use prost::Message as _;
use sea_orm::sea_query::{Expr, ExprTrait, Order, Query, SelectStatement};
use steeple_proto::journal;

use super::CA_JOURNALS;
use super::tx::{Row, Tx};
use crate::error::StoreError;
use crate::model::CaJournal;

/// Saves the journal and answers it with the id of its row.
pub(super) async fn set(tx: &Tx, mut journal: CaJournal) -> Result<CaJournal, StoreError> {
    if journal.id == 0 {
        let columns = [
            ("data", journal.data.clone().into()),
            ("active_x509_authority_id", journal.active_x509_authority_id.as_str().into()),
            ("active_jwt_authority_id", journal.active_jwt_authority_id.as_str().into()),
        ];
        journal.id = tx.insert(CA_JOURNALS, &columns).await?.cast_unsigned();
        return Ok(journal);
    }
    let mut update = Query::update();
    update
        .table(CA_JOURNALS)
        .and_where(Expr::col("id").eq(journal.id.cast_signed()))
        .value("updated_at", tx.dialect.timestamp(tx.now))
        .value("data", journal.data.clone())
        .value("active_x509_authority_id", journal.active_x509_authority_id.as_str())
        .value("active_jwt_authority_id", journal.active_jwt_authority_id.as_str());
    match tx.execute(&update).await? {
        0 => Err(StoreError::not_found()),
        _ => Ok(journal),
    }
}

pub(super) async fn fetch(tx: &Tx, authority_id: &str) -> Result<Option<CaJournal>, StoreError> {
    if authority_id.is_empty() {
        return Err(StoreError::Invalid("active X509 authority ID is required".into()));
    }
    let mut select = select_journals();
    select.and_where(Expr::col("active_x509_authority_id").eq(authority_id)).limit(1);
    tx.one(&select).await?.map(|row| read(&row)).transpose()
}

pub(super) async fn list(tx: &Tx) -> Result<Vec<CaJournal>, StoreError> {
    let mut select = select_journals();
    tx.lock_rows(&mut select);
    tx.all(&select).await?.iter().map(read).collect()
}

/// Deletes the journals in which nothing ends after a time in seconds since the epoch.
pub(super) async fn prune(tx: &Tx, expired_before: i64) -> Result<u64, StoreError> {
    let mut pruned = 0;
    for row in list(tx).await? {
        let entries = journal::Entries::decode(row.data.as_slice()).map_err(|error| {
            StoreError::Internal(format!(
                "unable to unmarshal entries from CA journal record: {error}"
            ))
        })?;
        let ends = (entries.x509_c_as.iter().map(|authority| authority.not_after))
            .chain(entries.jwt_keys.iter().map(|key| key.not_after))
            .chain(entries.wit_keys.iter().map(|key| key.not_after));
        if ends.max().is_some_and(|last| last > expired_before) {
            continue;
        }
        let mut delete = Query::delete();
        delete.from_table(CA_JOURNALS).and_where(Expr::col("id").eq(row.id.cast_signed()));
        pruned += tx.execute(&delete).await?;
        tracing::info!(
            subsystem_name = "sql",
            ca_journal_id = row.id,
            "Pruned stale CA journal record"
        );
    }
    Ok(pruned)
}

fn select_journals() -> SelectStatement {
    let mut select = Query::select();
    select
        .columns(["id", "data", "active_x509_authority_id", "active_jwt_authority_id"])
        .from(CA_JOURNALS)
        .order_by("id", Order::Asc);
    select
}

fn read(row: &Row) -> Result<CaJournal, StoreError> {
    Ok(CaJournal {
        id: row.get::<i64>(0)?.cast_unsigned(),
        data: row.get_or_default(1)?,
        active_x509_authority_id: row.get_or_default(2)?,
        active_jwt_authority_id: row.get_or_default(3)?,
    })
}

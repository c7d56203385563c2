//! Registration entries: change, delete, prune, list. (Making them is in `create.rs`.)

use std::collections::{BTreeSet, HashMap};
use std::time::SystemTime;

use sea_orm::sea_query::{Cond, Expr, ExprTrait, Query};
use steeple_spiffe::{Selector, TrustDomain};

use super::entry_rows::{self, StoredEntry};
use super::tx::Tx;
use super::{
    DNS_NAMES, ENTRIES, FEDERATED_ENTRIES, IN_LIST, SELECTORS, create, entry_rules, filters, pages,
    timestamp,
};
use crate::error::StoreError;
use crate::model::{Entry, EntryFilter, EntryUpdate, Page};

async fn insert_selectors(tx: &Tx, row_id: i64, selectors: &[Selector]) -> Result<(), StoreError> {
    let rows: Vec<_> = selectors.iter().map(|selector| (row_id, selector)).collect();
    tx.insert_together(create::selector_rows(tx, &rows)).await
}

async fn insert_dns_names(tx: &Tx, row_id: i64, names: &[String]) -> Result<(), StoreError> {
    let rows: Vec<_> = names.iter().map(|name| (row_id, name.as_str())).collect();
    tx.insert_together(create::name_rows(tx, &rows)).await
}

/// Links an entry to the bundles of its trust domains, all of which must exist (ER-14).
async fn insert_links(
    tx: &Tx,
    row_id: i64,
    trust_domains: &[TrustDomain],
) -> Result<Vec<TrustDomain>, StoreError> {
    let wanted: BTreeSet<&TrustDomain> = trust_domains.iter().collect();
    let wanted: Vec<&TrustDomain> = wanted.into_iter().collect();
    let bundles = create::bundle_ids(tx, &wanted).await?;
    let mut links = Vec::with_capacity(wanted.len());
    for trust_domain in &wanted {
        let id = trust_domain.id_string();
        let bundle = bundles.get(&id).ok_or_else(|| create::no_bundle(&id))?;
        links.push((*bundle, row_id));
    }
    tx.insert_together(create::link_rows(&links, tx.dialect)).await?;
    Ok(wanted.into_iter().cloned().collect())
}

pub(super) async fn update(
    tx: &Tx,
    entry_id: &str,
    update: EntryUpdate,
) -> Result<Entry, StoreError> {
    entry_rules::check_update(&update)?;
    let stored = entry_rows::find_by_entry_id(tx, entry_id).await?;
    write_update(tx, stored.ok_or_else(StoreError::not_found)?, update).await
}

/// Changes entries, as if one after the other.
///
/// # Errors
/// When one of them fails after something was changed: then nothing is to be kept, and nothing is
/// said of any single one.
pub(super) async fn update_many(
    tx: &Tx,
    updates: &[(String, EntryUpdate)],
) -> Result<Vec<Result<Entry, StoreError>>, StoreError> {
    let ids: Vec<&str> = updates.iter().map(|(id, _)| id.as_str()).collect();
    let mut found = find_many(tx, &ids).await?;
    let mut updated = Vec::with_capacity(updates.len());
    for (entry_id, update) in updates {
        let checked = entry_rules::check_update(update);
        updated.push(match (checked, found.get_mut(entry_id)) {
            (Err(error), _) => Err(error),
            (Ok(()), None) => Err(StoreError::not_found()),
            (Ok(()), Some(stored)) => {
                let before = tx.progress();
                match write_update(tx, stored.clone(), update.clone()).await {
                    Err(error) if tx.progress() != before => return Err(error),
                    Err(error) => Err(error),
                    Ok(entry) => {
                        stored.entry = entry.clone();
                        Ok(entry)
                    }
                }
            }
        });
    }
    Ok(updated)
}

/// The entries with these ids that exist, by their ids.
async fn find_many(tx: &Tx, ids: &[&str]) -> Result<HashMap<String, StoredEntry>, StoreError> {
    let mut found = HashMap::with_capacity(ids.len());
    for ids in ids.chunks(IN_LIST) {
        let listed = tx.dialect.is_one_of((ENTRIES, "entry_id"), ids.iter().copied());
        let page = entry_rows::find(tx, Cond::all().add(listed), None).await?;
        if !page.is_whole {
            return Err(StoreError::sql("an entry is malformed"));
        }
        let stored = page.entries.into_iter();
        found.extend(stored.map(|stored| (stored.entry.entry_id.clone(), stored)));
    }
    Ok(found)
}

async fn write_update(
    tx: &Tx,
    stored: StoredEntry,
    update: EntryUpdate,
) -> Result<Entry, StoreError> {
    let StoredEntry { row_id, mut entry } = stored;
    let touches_storing = update.store_svid.is_some() || update.selectors.is_some();

    let mut statement = Query::update();
    statement
        .table(ENTRIES)
        .and_where(Expr::col("id").eq(row_id))
        .value("updated_at", tx.dialect.timestamp(tx.now));
    if update.disable_x509_svid_prefetch.is_some() || update.jwt_svid_include_jti.is_some() {
        set(&mut entry.disable_x509_svid_prefetch, update.disable_x509_svid_prefetch);
        set(&mut entry.jwt_svid_include_jti, update.jwt_svid_include_jti);
        let attributes =
            create::encode_attributes(entry.disable_x509_svid_prefetch, entry.jwt_svid_include_jti);
        statement.value("additional_attributes", attributes);
    }
    if let Some(selectors) = update.selectors {
        delete_children(tx, SELECTORS, row_id).await?;
        insert_selectors(tx, row_id, &selectors).await?;
        entry.selectors = selectors;
        entry.selectors.sort_unstable();
    }
    if let Some(names) = update.dns_names {
        delete_children(tx, DNS_NAMES, row_id).await?;
        insert_dns_names(tx, row_id, &names).await?;
        entry.dns_names = names;
    }
    if let Some(trust_domains) = update.federates_with {
        delete_children(tx, FEDERATED_ENTRIES, row_id).await?;
        entry.federates_with = insert_links(tx, row_id, &trust_domains).await?;
    }
    set(&mut entry.spiffe_id, update.spiffe_id);
    set(&mut entry.parent_id, update.parent_id);
    set(&mut entry.x509_svid_ttl, update.x509_svid_ttl);
    set(&mut entry.jwt_svid_ttl, update.jwt_svid_ttl);
    set(&mut entry.admin, update.admin);
    set(&mut entry.downstream, update.downstream);
    set(&mut entry.expires_at, update.expires_at);
    set(&mut entry.store_svid, update.store_svid);
    set(&mut entry.hint, update.hint);
    if touches_storing {
        entry_rules::check_storable(entry.store_svid, &entry.selectors)?;
    }
    entry.revision_number += 1;
    statement
        .value("spiffe_id", entry.spiffe_id.as_str())
        .value("parent_id", entry.parent_id.as_str())
        .value("ttl", entry.x509_svid_ttl)
        .value("jwt_svid_ttl", entry.jwt_svid_ttl)
        .value("admin", entry.admin)
        .value("downstream", entry.downstream)
        .value("expiry", entry.expires_at)
        .value("store_svid", entry.store_svid)
        .value("hint", entry.hint.as_str())
        .value("revision_number", entry.revision_number);
    tx.execute(&statement).await?;
    tx.entry_event(&entry.entry_id);
    Ok(entry)
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

pub(super) async fn delete(tx: &Tx, entry_id: &str) -> Result<Entry, StoreError> {
    let Some(stored) = entry_rows::find_by_entry_id(tx, entry_id).await? else {
        return Err(StoreError::not_found());
    };
    delete_stored(tx, &stored).await?;
    Ok(stored.entry)
}

/// Deletes entries, as if one after the other.
///
/// # Errors
/// When the database fails, or holds one that is malformed: then nothing is said of any.
pub(super) async fn delete_many(
    tx: &Tx,
    entry_ids: &[String],
) -> Result<Vec<Result<Entry, StoreError>>, StoreError> {
    let ids: Vec<&str> = entry_ids.iter().map(String::as_str).collect();
    let mut found = find_many(tx, &ids).await?;
    let doomed: Vec<Option<StoredEntry>> = ids.iter().map(|id| found.remove(*id)).collect();
    delete_all_stored(tx, doomed.iter().flatten()).await?;
    let deleted = doomed.into_iter().map(|stored| match stored {
        Some(stored) => Ok(stored.entry),
        None => Err(StoreError::not_found()),
    });
    Ok(deleted.collect())
}

/// Deletes an entry with all that belongs to it, and says so.
pub(super) async fn delete_stored(tx: &Tx, stored: &StoredEntry) -> Result<(), StoreError> {
    delete_all_stored(tx, std::iter::once(stored)).await
}

async fn delete_all_stored<'a>(
    tx: &Tx,
    stored: impl Iterator<Item = &'a StoredEntry>,
) -> Result<(), StoreError> {
    let stored: Vec<&StoredEntry> = stored.collect();
    for stored in stored.chunks(IN_LIST) {
        let rows = || stored.iter().map(|stored| stored.row_id);
        let owner = "registered_entry_id";
        let mut deletes = Vec::new();
        for (table, column) in
            [(FEDERATED_ENTRIES, owner), (SELECTORS, owner), (DNS_NAMES, owner), (ENTRIES, "id")]
        {
            let mut delete = Query::delete();
            delete.from_table(table).and_where(Expr::col(column).is_in(rows()));
            deletes.push(delete);
        }
        tx.delete_together(&deletes).await?;
    }
    for stored in stored {
        tx.entry_event(&stored.entry.entry_id);
    }
    Ok(())
}

async fn delete_children(tx: &Tx, table: &'static str, row_id: i64) -> Result<(), StoreError> {
    let mut delete = Query::delete();
    delete.from_table(table).and_where(Expr::col("registered_entry_id").eq(row_id));
    tx.execute(&delete).await?;
    Ok(())
}

pub(super) async fn prune(tx: &Tx, now: SystemTime) -> Result<Vec<Entry>, StoreError> {
    let now = timestamp::Nanos::from(now).seconds();
    let expired = Cond::all().add(Expr::col("expiry").ne(0)).add(Expr::col("expiry").lt(now));
    let expired = entry_rows::find(tx, expired, None).await?.entries;
    delete_all_stored(tx, expired.iter()).await?;
    let mut pruned = Vec::with_capacity(expired.len());
    for stored in expired {
        tracing::info!(
            subsystem_name = "sql",
            spiffe_id = %stored.entry.spiffe_id,
            parent_id = %stored.entry.parent_id,
            entry_id = %stored.entry.entry_id,
            "Pruned an expired registration"
        );
        pruned.push(stored.entry);
    }
    Ok(pruned)
}

pub(super) async fn list(
    tx: &Tx,
    filter: &EntryFilter,
    page: Option<&Page>,
) -> Result<(Vec<Entry>, Option<String>), StoreError> {
    let (entries, last_id) = entry_rows::list(tx, filters::entries(filter, tx.dialect)?, page)
        .await
        .map_err(spires_words)?;
    Ok((entries, pages::next_token(page, last_id)))
}

/// SPIRE wraps this one error once more than for other lists, and callers see it.
fn spires_words(error: StoreError) -> StoreError {
    match error {
        StoreError::Invalid(text) if text.starts_with("could not parse token") => {
            let code = "datastore-sql: rpc error: code = InvalidArgument";
            StoreError::Invalid(format!("{code} desc = {text}"))
        }
        other => other,
    }
}

pub(super) async fn count(tx: &Tx, filter: &EntryFilter) -> Result<u64, StoreError> {
    let mut select = Query::select();
    select
        .expr(Expr::cust("COUNT(*)"))
        .from(ENTRIES)
        .cond_where(filters::entries(filter, tx.dialect)?);
    super::count(tx, &select).await
}

/// The entries with these ids that exist.
pub(super) async fn fetch_many(tx: &Tx, entry_ids: &[String]) -> Result<Vec<Entry>, StoreError> {
    let mut entries = Vec::with_capacity(entry_ids.len());
    for ids in entry_ids.chunks(IN_LIST) {
        let listed = tx.dialect.is_one_of((ENTRIES, "entry_id"), ids.iter().map(String::as_str));
        let found = entry_rows::find(tx, Cond::all().add(listed), None).await?;
        entries.extend(found.entries.into_iter().map(|stored| stored.entry));
    }
    Ok(entries)
}

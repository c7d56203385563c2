//! Registration entries: create, change, delete, prune.

use std::collections::BTreeSet;
use std::time::SystemTime;

use prost::Message as _;
use sea_orm::sea_query::{Cond, Expr, ExprTrait, Query};
use steeple_proto::spire::common::registration_entry::AdditionalAttributes;
use steeple_spiffe::{Selector, TrustDomain};
use uuid::Uuid;

use super::entry_rows::{self, StoredEntry};
use super::tx::Tx;
use super::{
    BUNDLES, DNS_NAMES, ENTRIES, FEDERATED_ENTRIES, IN_LIST, SELECTORS, entry_rules, filters,
    pages, timestamp,
};
use crate::error::StoreError;
use crate::model::{
    Entry, EntryFilter, EntryUpdate, MatchBehavior, NewEntry, Page, SelectorFilter,
};

/// Makes an entry unless a similar one exists, which is then answered with `true` (ER-18).
pub(super) async fn create_or_return_similar(
    tx: &Tx,
    new: NewEntry,
) -> Result<(Entry, bool), StoreError> {
    entry_rules::check_new(&new)?;
    tx.exclude(&format!("{} {}", new.spiffe_id, new.parent_id)).await?;
    if let Some(similar) = find_similar(tx, &new).await? {
        return Ok((similar, true));
    }
    Ok((insert(tx, new).await?, false))
}

/// Makes an entry; a similar one is an error.
pub(super) async fn create(tx: &Tx, new: NewEntry) -> Result<Entry, StoreError> {
    match create_or_return_similar(tx, new).await? {
        (entry, false) => Ok(entry),
        (_, true) => Err(StoreError::AlreadyExists("similar entry already exists".into())),
    }
}

/// An entry with the same ids and the same set of selectors. The database narrows by one of the
/// selectors, so that their number is no matter.
async fn find_similar(tx: &Tx, new: &NewEntry) -> Result<Option<Entry>, StoreError> {
    let wanted: BTreeSet<&Selector> = new.selectors.iter().collect();
    let one = wanted.first().map(|&selector| SelectorFilter {
        selectors: vec![selector.clone()],
        behavior: MatchBehavior::Superset,
    });
    let filter = EntryFilter {
        spiffe_id: Some(new.spiffe_id.clone()),
        parent_id: Some(new.parent_id.clone()),
        selectors: one,
        ..EntryFilter::default()
    };
    let found = entry_rows::find(tx, filters::entries(&filter, tx.dialect)?, None).await?;
    let mut entries = found.entries.into_iter().map(|stored| stored.entry);
    Ok(entries.find(|entry| entry.selectors.iter().eq(wanted.iter().copied())))
}

async fn insert(tx: &Tx, new: NewEntry) -> Result<Entry, StoreError> {
    let entry_id = match new.entry_id {
        Some(id) if !id.is_empty() => id,
        _ => Uuid::new_v4().to_string(),
    };
    let attributes = AdditionalAttributes {
        disable_x509_svid_prefetch: new.disable_x509_svid_prefetch,
        jwt_svid_include_jti: new.jwt_svid_include_jti,
    };
    let columns = [
        ("entry_id", entry_id.as_str().into()),
        ("spiffe_id", new.spiffe_id.as_str().into()),
        ("parent_id", new.parent_id.as_str().into()),
        ("ttl", new.x509_svid_ttl.into()),
        ("admin", new.admin.into()),
        ("downstream", new.downstream.into()),
        ("expiry", new.expires_at.into()),
        ("revision_number", 0_i64.into()),
        ("store_svid", new.store_svid.into()),
        ("hint", new.hint.as_str().into()),
        ("jwt_svid_ttl", new.jwt_svid_ttl.into()),
        ("additional_attributes", encode_attributes(&attributes)),
    ];
    let row_id = tx.insert(ENTRIES, &columns).await?;
    let federates_with = insert_links(tx, row_id, &new.federates_with).await?;
    insert_selectors(tx, row_id, &new.selectors).await?;
    insert_dns_names(tx, row_id, &new.dns_names).await?;
    tx.entry_event(&entry_id).await?;

    let mut selectors = new.selectors;
    selectors.sort_unstable();
    Ok(Entry {
        entry_id,
        spiffe_id: new.spiffe_id,
        parent_id: new.parent_id,
        selectors,
        x509_svid_ttl: new.x509_svid_ttl,
        jwt_svid_ttl: new.jwt_svid_ttl,
        federates_with,
        admin: new.admin,
        downstream: new.downstream,
        expires_at: new.expires_at,
        dns_names: new.dns_names,
        revision_number: 0,
        store_svid: new.store_svid,
        hint: new.hint,
        disable_x509_svid_prefetch: new.disable_x509_svid_prefetch,
        jwt_svid_include_jti: new.jwt_svid_include_jti,
        created_at: timestamp::Nanos::from(tx.now).rounded_seconds(),
    })
}

/// NULL when nothing is set, as in rows from before there were attributes.
fn encode_attributes(attributes: &AdditionalAttributes) -> Expr {
    let bytes = attributes.encode_to_vec();
    Expr::val(if bytes.is_empty() { None } else { Some(bytes) })
}

async fn insert_selectors(tx: &Tx, row_id: i64, selectors: &[Selector]) -> Result<(), StoreError> {
    let rows = selectors
        .iter()
        .map(|selector| vec![row_id.into(), (&*selector.kind).into(), (&*selector.value).into()])
        .collect();
    tx.insert_many(SELECTORS, &["registered_entry_id", "type", "value"], rows).await
}

async fn insert_dns_names(tx: &Tx, row_id: i64, names: &[String]) -> Result<(), StoreError> {
    let rows = names.iter().map(|name| vec![row_id.into(), name.as_str().into()]).collect();
    tx.insert_many(DNS_NAMES, &["registered_entry_id", "value"], rows).await
}

/// Links an entry to the bundles of its trust domains, all of which must exist (ER-14).
async fn insert_links(
    tx: &Tx,
    row_id: i64,
    trust_domains: &[TrustDomain],
) -> Result<Vec<TrustDomain>, StoreError> {
    let wanted: BTreeSet<&TrustDomain> = trust_domains.iter().collect();
    for &trust_domain in &wanted {
        let id = trust_domain.id_string();
        let mut select = Query::select();
        select.column("id").from(BUNDLES).and_where(Expr::col("trust_domain").eq(id.as_str()));
        let Some(bundle) = tx.one(&select).await? else {
            return Err(StoreError::Internal(format!("unable to find federated bundle \"{id}\"")));
        };
        let mut insert = Query::insert();
        insert
            .into_table(FEDERATED_ENTRIES)
            .columns(["bundle_id", "registered_entry_id"])
            .values_panic([Expr::val(bundle.get::<i64>(0)?), Expr::val(row_id)]);
        tx.execute(&insert).await?;
    }
    Ok(wanted.into_iter().cloned().collect())
}

pub(super) async fn update(
    tx: &Tx,
    entry_id: &str,
    update: EntryUpdate,
) -> Result<Entry, StoreError> {
    entry_rules::check_update(&update)?;
    let Some(StoredEntry { row_id, mut entry }) =
        entry_rows::find_by_entry_id(tx, entry_id).await?
    else {
        return Err(StoreError::not_found());
    };
    let touches_storing = update.store_svid.is_some() || update.selectors.is_some();

    let mut statement = Query::update();
    statement
        .table(ENTRIES)
        .and_where(Expr::col("id").eq(row_id))
        .value("updated_at", tx.dialect.timestamp(tx.now));
    if update.disable_x509_svid_prefetch.is_some() || update.jwt_svid_include_jti.is_some() {
        set(&mut entry.disable_x509_svid_prefetch, update.disable_x509_svid_prefetch);
        set(&mut entry.jwt_svid_include_jti, update.jwt_svid_include_jti);
        let attributes = AdditionalAttributes {
            disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
            jwt_svid_include_jti: entry.jwt_svid_include_jti,
        };
        statement.value("additional_attributes", encode_attributes(&attributes));
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
    tx.entry_event(entry_id).await?;
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

/// Deletes an entry with all that belongs to it, and says so.
pub(super) async fn delete_stored(tx: &Tx, stored: &StoredEntry) -> Result<(), StoreError> {
    for table in [FEDERATED_ENTRIES, SELECTORS, DNS_NAMES] {
        delete_children(tx, table, stored.row_id).await?;
    }
    let mut delete = Query::delete();
    delete.from_table(ENTRIES).and_where(Expr::col("id").eq(stored.row_id));
    tx.execute(&delete).await?;
    tx.entry_event(&stored.entry.entry_id).await
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
    let mut pruned = Vec::with_capacity(expired.len());
    for stored in expired {
        delete_stored(tx, &stored).await?;
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
    let found = entry_rows::find(tx, filters::entries(filter, tx.dialect)?, page)
        .await
        .map_err(spires_words)?;
    let next = pages::next_token(page, found.last_id);
    Ok((found.entries.into_iter().map(|stored| stored.entry).collect(), next))
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

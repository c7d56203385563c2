//! Rows to entries. What belongs to many entries is read in a few statements, never per entry.

use std::collections::HashMap;

use prost::Message as _;
use sea_orm::sea_query::{Cond, Condition, Expr, ExprTrait, Order, Query, SelectStatement};
use steeple_proto::spire::common::registration_entry::AdditionalAttributes;
use steeple_spiffe::{Selector, SpiffeId, TrustDomain};

use super::dialect::Dialect;
use super::packed::{self, Reach};
use super::timestamp::Nanos;
use super::tx::{Row, Tx};
use super::{BUNDLES, DNS_NAMES, ENTRIES, FEDERATED_ENTRIES, IN_LIST, SELECTORS, pages};
use crate::batch::EntryView;
use crate::error::{StoreError, excerpt};
use crate::model::{Entry, Page};

/// An entry with the id of its row.
#[derive(Clone)]
pub(super) struct StoredEntry {
    pub(super) row_id: i64,
    pub(super) entry: Entry,
}

/// Entries of one page, and the last row id that was looked at.
pub(super) struct EntryPage {
    pub(super) entries: Vec<StoredEntry>,
    pub(super) last_id: Option<i64>,
    /// No row was malformed.
    pub(super) is_whole: bool,
}

/// The entries that fit a condition on their row.
pub(super) async fn find(
    tx: &Tx,
    fits: Condition,
    page: Option<&Page>,
) -> Result<EntryPage, StoreError> {
    let mut select = select_entries(tx.dialect);
    select.cond_where(fits);
    pages::apply(tx.dialect, &mut select, page)?;
    tx.lock_rows(&mut select);
    let rows = tx.all(&select).await?;
    load(tx, &rows, Reach::Listed).await
}

/// The entry with an id.
pub(super) async fn find_by_entry_id(
    tx: &Tx,
    entry_id: &str,
) -> Result<Option<StoredEntry>, StoreError> {
    let found = find(tx, Cond::all().add(tx.dialect.is("entry_id", entry_id)), None).await?;
    match (found.entries.into_iter().next(), found.last_id) {
        (Some(entry), _) => Ok(Some(entry)),
        (None, None) => Ok(None),
        (None, Some(row)) => Err(StoreError::sql(&format!("the entry in row {row} is malformed"))),
    }
}

/// One page of all entries, in the order of creation.
pub(super) async fn find_between(tx: &Tx, page: &Page) -> Result<EntryPage, StoreError> {
    let rows = tx.all(&select_between(tx.dialect, page)?).await?;
    load(tx, &rows, Reach::Contiguous).await
}

/// The rows of [`find_between`].
pub(super) fn select_between(dialect: Dialect, page: &Page) -> Result<SelectStatement, StoreError> {
    let mut select = select_entries(dialect);
    pages::apply(dialect, &mut select, Some(page))?;
    Ok(select)
}

/// As [`find`], for who changes nothing.
pub(super) async fn list(
    tx: &Tx,
    fits: Condition,
    page: Option<&Page>,
) -> Result<(Vec<Entry>, Option<i64>), StoreError> {
    let reach = if fits.is_empty() { Reach::Contiguous } else { Reach::Listed };
    let mut select = select_entries(tx.dialect);
    select.cond_where(fits.clone());
    pages::apply(tx.dialect, &mut select, page)?;
    if let Some(packed) = packed::fetch(tx, select, reach).await
        && let Some(batch) = packed.unpack()
    {
        return Ok((batch.iter().map(EntryView::to_entry).collect(), packed.last_id));
    }
    let found = find(tx, fits, page).await?;
    Ok((found.entries.into_iter().map(|stored| stored.entry).collect(), found.last_id))
}

fn select_entries(dialect: Dialect) -> SelectStatement {
    let mut select = Query::select();
    select
        .columns([
            "id",
            "entry_id",
            "spiffe_id",
            "parent_id",
            "ttl",
            "jwt_svid_ttl",
            "admin",
            "downstream",
            "expiry",
            "revision_number",
            "store_svid",
            "hint",
            "additional_attributes",
        ])
        .expr(dialect.select_timestamp("created_at"))
        .from(ENTRIES);
    select
}

/// Which rows of a table that belongs to entries are wanted.
enum Wanted {
    Between(i64, i64),
    OneOf(Vec<i64>),
}

impl Wanted {
    fn of(ids: &[i64], reach: Reach) -> Vec<Self> {
        match (reach, ids) {
            (_, []) => Vec::new(),
            (Reach::Contiguous, [first, .., last]) => vec![Self::Between(*first, *last)],
            _ => ids.chunks(IN_LIST).map(|ids| Self::OneOf(ids.to_vec())).collect(),
        }
    }

    fn of_column(&self, column: (&'static str, &'static str)) -> Expr {
        match self {
            Self::Between(first, last) => Expr::col(column).between(*first, *last),
            Self::OneOf(ids) => Expr::col(column).is_in(ids.iter().copied()),
        }
    }
}

async fn load(tx: &Tx, rows: &[Row], reach: Reach) -> Result<EntryPage, StoreError> {
    let mut ids = Vec::with_capacity(rows.len());
    let mut entries = Vec::with_capacity(rows.len());
    let mut places = HashMap::with_capacity(rows.len());
    for row in rows {
        let row_id: i64 = row.get(0)?;
        ids.push(row_id);
        match read_entry(row) {
            Ok(entry) => {
                places.insert(row_id, entries.len());
                entries.push(StoredEntry { row_id, entry });
            }
            // Somebody else's row; it grants nothing, and must not keep the others from
            // granting something.
            Err(error) => tracing::warn!(
                subsystem_name = "sql",
                row = row_id,
                error = %error,
                "Skipping a malformed registration entry"
            ),
        }
    }
    for wanted in Wanted::of(&ids, reach) {
        let selects = [selectors_of(&wanted), dns_names_of(&wanted), trust_domains_of(&wanted)];
        add_children(&tx.all_together(&selects).await?, &places, &mut entries)?;
    }
    for stored in &mut entries {
        stored.entry.selectors.sort_unstable();
        stored.entry.selectors.dedup();
    }
    let is_whole = entries.len() == ids.len();
    Ok(EntryPage { entries, last_id: ids.last().copied(), is_whole })
}

fn read_entry(row: &Row) -> Result<Entry, StoreError> {
    let id = |column: usize| -> Result<SpiffeId, StoreError> {
        let text: String = row.get_or_default(column)?;
        SpiffeId::parse(&text)
            .map_err(|error| StoreError::sql(&format!("\"{}\": {error}", excerpt(&text))))
    };
    let ttl = |column: usize| -> Result<i32, StoreError> {
        let ttl: i64 = row.get_or_default(column)?;
        i32::try_from(ttl).map_err(|_| StoreError::sql(&format!("TTL {ttl} is out of range")))
    };
    let attributes: Vec<u8> = row.get_or_default(12)?;
    let attributes = AdditionalAttributes::decode(attributes.as_slice())
        .map_err(|error| StoreError::sql(&format!("additional attributes: {error}")))?;
    Ok(Entry {
        entry_id: row.get_or_default(1)?,
        spiffe_id: id(2)?,
        parent_id: id(3)?,
        selectors: Vec::new(),
        x509_svid_ttl: ttl(4)?,
        jwt_svid_ttl: ttl(5)?,
        federates_with: Vec::new(),
        admin: row.get_or_default(6)?,
        downstream: row.get_or_default(7)?,
        expires_at: row.get_or_default(8)?,
        dns_names: Vec::new(),
        revision_number: row.get_or_default(9)?,
        store_svid: row.get_or_default(10)?,
        hint: row.get_or_default(11)?,
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
        created_at: row.timestamp(13)?.map(Nanos::rounded_seconds).unwrap_or(0),
    })
}

/// What a row of [`add_children`] is: its first column.
const IS_SELECTOR: &str = "1";
const IS_DNS_NAME: &str = "2";
const IS_TRUST_DOMAIN: &str = "3";

fn selectors_of(wanted: &Wanted) -> SelectStatement {
    let mut select = Query::select();
    select
        .expr(Expr::cust(IS_SELECTOR))
        .columns(["registered_entry_id", "type", "value"])
        .from(SELECTORS)
        .and_where(wanted.of_column((SELECTORS, "registered_entry_id")));
    select
}

fn dns_names_of(wanted: &Wanted) -> SelectStatement {
    let mut select = Query::select();
    select
        .expr(Expr::cust(IS_DNS_NAME))
        .columns(["registered_entry_id", "value", "value"])
        .from(DNS_NAMES)
        .and_where(wanted.of_column((DNS_NAMES, "registered_entry_id")))
        .order_by("id", Order::Asc);
    select
}

fn trust_domains_of(wanted: &Wanted) -> SelectStatement {
    let mut select = Query::select();
    select
        .expr(Expr::cust(IS_TRUST_DOMAIN))
        .column((FEDERATED_ENTRIES, "registered_entry_id"))
        .column((BUNDLES, "trust_domain"))
        .column((BUNDLES, "trust_domain"))
        .from(FEDERATED_ENTRIES)
        .inner_join(BUNDLES, Expr::col((BUNDLES, "id")).equals((FEDERATED_ENTRIES, "bundle_id")))
        .and_where(wanted.of_column((FEDERATED_ENTRIES, "registered_entry_id")))
        .order_by((BUNDLES, "trust_domain"), Order::Asc);
    select
}

/// Gives entries what belongs to them: rows of a kind, an entry's row id and two texts.
fn add_children(
    rows: &[Row],
    places: &HashMap<i64, usize>,
    entries: &mut [StoredEntry],
) -> Result<(), StoreError> {
    for row in rows {
        // Rows of entries that are gone may lie around from old releases.
        let Some(&place) = places.get(&row.get::<i64>(1)?) else { continue };
        let StoredEntry { row_id, entry } = &mut entries[place];
        let text: String = row.get_or_default(2)?;
        match row.get::<i64>(0)? {
            1 => entry.selectors.push(Selector::new(&text, &row.get_or_default::<String>(3)?)),
            2 => entry.dns_names.push(text),
            _ => match TrustDomain::from_name_or_id(&text) {
                Ok(trust_domain) => entry.federates_with.push(trust_domain),
                Err(error) => tracing::warn!(
                    subsystem_name = "sql",
                    row = *row_id,
                    error = %error,
                    "Skipping a malformed federated trust domain"
                ),
            },
        }
    }
    Ok(())
}

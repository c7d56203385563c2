//! Making entries: one, or many in a transaction.
//!
//! Each entry of many has the outcome that it would have had alone, in its place in the order.
//! What can be known beforehand is decided before anything is written. What only a unique index
//! knows fails the whole, and is for the caller to try one by one.

use std::collections::HashMap;

use prost::Message as _;
use sea_orm::sea_query::{Cond, Condition, Expr, ExprTrait, InsertStatement, Query};
use steeple_proto::spire::common::registration_entry::AdditionalAttributes;
use steeple_spiffe::{Selector, SpiffeId, TrustDomain};
use uuid::Uuid;

use super::dialect::Dialect;
use super::tx::Tx;
use super::{
    BUNDLES, DNS_NAMES, ENTRIES, ENTRY_EVENTS, FEDERATED_ENTRIES, IN_LIST, SELECTORS, entry_rows,
    entry_rules, timestamp,
};
use crate::error::StoreError;
use crate::model::{Entry, NewEntry};

/// What became of an entry to be made: it, and whether it (a similar one) was there before.
pub(super) type Made = Result<(Entry, bool), StoreError>;

/// Similar entries are looked for so many at a time: each makes the condition longer, and SQLite
/// goes 1000 deep.
const SIMILAR_PER_STATEMENT: usize = 64;

/// Rows of one statement where a statement is a round trip.
const ROWS_PER_STATEMENT: usize = 200;

/// Rows of one statement where preparing it anew is what costs: few sizes, so that all of them
/// stay prepared, and none of them large.
const ROWS_PER_PREPARED: usize = 32;

/// Makes an entry unless a similar one exists, which is then answered with `true` (ER-18).
pub(super) async fn create_or_return_similar(
    tx: &Tx,
    new: NewEntry,
) -> Result<(Entry, bool), StoreError> {
    let made = create_many(tx, vec![new]).await?.pop();
    made.unwrap_or_else(|| Err(StoreError::sql("an entry was not made")))
}

/// What two entries have in common that are similar; selectors sorted, each once.
type Likeness<'a> = (&'a SpiffeId, &'a SpiffeId, Vec<&'a Selector>);

fn likeness_of(entry: &Entry) -> Likeness<'_> {
    (&entry.spiffe_id, &entry.parent_id, entry.selectors.iter().collect())
}

fn likeness(new: &NewEntry) -> Likeness<'_> {
    let mut selectors: Vec<&Selector> = new.selectors.iter().collect();
    selectors.sort_unstable();
    selectors.dedup();
    (&new.spiffe_id, &new.parent_id, selectors)
}

/// What is decided of an entry before anything is written.
enum Fate {
    Refused(StoreError),
    There(Entry),
    /// The place, among those to be made, of the one that it is or is similar to.
    Made(usize),
    Again(usize),
}

/// Makes entries, as if one after the other each in a transaction of its own.
///
/// # Errors
/// When the database refuses a row or fails: then nothing is to be kept, and nothing is said of
/// any single one.
pub(super) async fn create_many(tx: &Tx, new: Vec<NewEntry>) -> Result<Vec<Made>, StoreError> {
    let checked: Vec<Result<(), StoreError>> = new.iter().map(entry_rules::check_new).collect();
    let good: Vec<&NewEntry> =
        new.iter().zip(&checked).filter(|(_, checked)| checked.is_ok()).map(|it| it.0).collect();
    let exclusive: Vec<String> =
        good.iter().map(|new| format!("{} {}", new.spiffe_id, new.parent_id)).collect();
    tx.exclude(&exclusive.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let there = find_similar(tx, &good).await?;
    let mut similar: HashMap<Likeness<'_>, &Entry> = HashMap::with_capacity(there.len());
    for entry in &there {
        // The oldest counts.
        similar.entry(likeness_of(entry)).or_insert(entry);
    }
    let bundles = find_bundles(tx, &good).await?;

    let mut fates = Vec::with_capacity(new.len());
    let mut fresh: Vec<Fresh<'_>> = Vec::with_capacity(good.len());
    let mut places: HashMap<Likeness<'_>, usize> = HashMap::with_capacity(good.len());
    for (new, checked) in new.iter().zip(checked) {
        if let Err(refused) = checked {
            fates.push(Fate::Refused(refused));
            continue;
        }
        let like = likeness(new);
        fates.push(if let Some(&similar) = similar.get(&like) {
            Fate::There(similar.clone())
        } else if let Some(&place) = places.get(&like) {
            Fate::Again(place)
        } else {
            match Fresh::new(new, &bundles) {
                Ok(one) => {
                    places.insert(like, fresh.len());
                    fresh.push(one);
                    Fate::Made(fresh.len() - 1)
                }
                Err(refused) => {
                    refuse_taken_id(tx, new, &fresh).await?;
                    Fate::Refused(refused)
                }
            }
        });
    }
    insert_all(tx, &fresh).await?;

    let made: Vec<Entry> = fresh.into_iter().map(|fresh| fresh.into_entry(tx)).collect();
    let outcomes = fates.into_iter().map(|fate| match fate {
        Fate::Refused(error) => Err(error),
        Fate::There(entry) => Ok((entry, true)),
        Fate::Made(place) => Ok((made[place].clone(), false)),
        Fate::Again(place) => Ok((made[place].clone(), true)),
    });
    Ok(outcomes.collect())
}

/// An entry that will be refused for another reason is first refused for an id that is taken, in
/// the words that only the database has.
async fn refuse_taken_id(tx: &Tx, new: &NewEntry, fresh: &[Fresh<'_>]) -> Result<(), StoreError> {
    let Some(entry_id) = new.entry_id.as_deref().filter(|id| !id.is_empty()) else { return Ok(()) };
    if fresh.iter().any(|fresh| fresh.entry_id == entry_id) {
        return Err(StoreError::AlreadyExists("datastore-sql: an entry ID is there twice".into()));
    }
    let mut select = Query::select();
    select.column("id").from(ENTRIES).and_where(tx.dialect.is("entry_id", entry_id));
    if tx.one(&select).await?.is_some() {
        insert_rows(tx, &[Fresh::unlinked(new)]).await?;
    }
    Ok(())
}

/// The entries that may be similar, oldest first. The database narrows by the ids and one of the
/// selectors each, so that the number of selectors is no matter.
async fn find_similar(tx: &Tx, new: &[&NewEntry]) -> Result<Vec<Entry>, StoreError> {
    let mut found = Vec::new();
    for new in new.chunks(SIMILAR_PER_STATEMENT) {
        let mut any = Cond::any();
        for new in new {
            any = any.add(may_be_similar(new, tx.dialect));
        }
        let ids = new.iter().map(|new| new.spiffe_id.as_str());
        // By this index, whatever the rest says: an agent may have more entries than an id has.
        let fits = Cond::all().add(Expr::col("spiffe_id").is_in(ids)).add(any);
        let page = entry_rows::find(tx, fits, None).await?;
        found.extend(page.entries.into_iter().map(|stored| stored.entry));
    }
    Ok(found)
}

fn may_be_similar(new: &NewEntry, dialect: Dialect) -> Condition {
    let fits = Cond::all()
        .add(dialect.is_unindexed("spiffe_id", new.spiffe_id.as_str()))
        .add(dialect.is_unindexed("parent_id", new.parent_id.as_str()));
    let Some(one) = new.selectors.iter().min() else { return fits };
    let mut has = Query::select();
    has.expr(Expr::val(1))
        .from(SELECTORS)
        .and_where(Expr::col((SELECTORS, "registered_entry_id")).equals((ENTRIES, "id")))
        .and_where(dialect.is("type", &one.kind))
        .and_where(dialect.is("value", &one.value));
    fits.add(Expr::exists(has))
}

/// The ids of the bundles that entries are linked to, by the ids of their trust domains.
async fn find_bundles(tx: &Tx, new: &[&NewEntry]) -> Result<HashMap<String, i64>, StoreError> {
    let mut wanted: Vec<&TrustDomain> =
        new.iter().flat_map(|new| new.federates_with.iter()).collect();
    wanted.sort_unstable();
    wanted.dedup();
    bundle_ids(tx, &wanted).await
}

/// The ids of the rows of bundles, by the ids of their trust domains.
pub(super) async fn bundle_ids(
    tx: &Tx,
    trust_domains: &[&TrustDomain],
) -> Result<HashMap<String, i64>, StoreError> {
    let mut found = HashMap::new();
    for some in trust_domains.chunks(IN_LIST) {
        let ids: Vec<String> = some.iter().map(|it| it.id_string()).collect();
        let mut select = Query::select();
        select
            .columns(["trust_domain", "id"])
            .from(BUNDLES)
            .and_where(Expr::col("trust_domain").is_in(ids.iter().map(String::as_str)));
        for row in tx.all(&select).await? {
            found.insert(row.get_or_default::<String>(0)?, row.get(1)?);
        }
    }
    Ok(found)
}

/// An entry of which nothing is known that would keep it from being made.
struct Fresh<'a> {
    new: &'a NewEntry,
    entry_id: String,
    /// Sorted, each once, with their bundles' rows.
    federates_with: Vec<(&'a TrustDomain, i64)>,
}

impl<'a> Fresh<'a> {
    fn unlinked(new: &'a NewEntry) -> Self {
        let entry_id = match &new.entry_id {
            Some(id) if !id.is_empty() => id.clone(),
            _ => Uuid::new_v4().to_string(),
        };
        Self { new, entry_id, federates_with: Vec::new() }
    }

    /// All of the trust domains must have a bundle (ER-14).
    fn new(new: &'a NewEntry, bundles: &HashMap<String, i64>) -> Result<Self, StoreError> {
        let mut wanted: Vec<&TrustDomain> = new.federates_with.iter().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut fresh = Self::unlinked(new);
        for trust_domain in wanted {
            let id = trust_domain.id_string();
            let Some(&bundle) = bundles.get(&id) else { return Err(no_bundle(&id)) };
            fresh.federates_with.push((trust_domain, bundle));
        }
        Ok(fresh)
    }

    fn into_entry(self, tx: &Tx) -> Entry {
        let Self { new, entry_id, federates_with } = self;
        let mut selectors = new.selectors.clone();
        selectors.sort_unstable();
        Entry {
            entry_id,
            spiffe_id: new.spiffe_id.clone(),
            parent_id: new.parent_id.clone(),
            selectors,
            x509_svid_ttl: new.x509_svid_ttl,
            jwt_svid_ttl: new.jwt_svid_ttl,
            federates_with: federates_with.into_iter().map(|(it, _)| it.clone()).collect(),
            admin: new.admin,
            downstream: new.downstream,
            expires_at: new.expires_at,
            dns_names: new.dns_names.clone(),
            revision_number: 0,
            store_svid: new.store_svid,
            hint: new.hint.clone(),
            disable_x509_svid_prefetch: new.disable_x509_svid_prefetch,
            jwt_svid_include_jti: new.jwt_svid_include_jti,
            created_at: timestamp::Nanos::from(tx.now).rounded_seconds(),
        }
    }
}

pub(super) fn no_bundle(id: &str) -> StoreError {
    StoreError::Internal(format!("unable to find federated bundle \"{id}\""))
}

/// The next piece of a list of rows: see the constants.
fn piece(left: usize, dialect: Dialect) -> usize {
    match dialect {
        Dialect::Sqlite { .. } if left < ROWS_PER_PREPARED => 1 << left.max(1).ilog2(),
        Dialect::Sqlite { .. } => ROWS_PER_PREPARED,
        Dialect::Postgres | Dialect::MySql { .. } => left.min(ROWS_PER_STATEMENT),
    }
}

/// Cuts rows into statements.
pub(super) fn pieces<T>(mut rows: &[T], dialect: Dialect) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let (piece, rest) = rows.split_at(piece(rows.len(), dialect).min(rows.len()));
        rows = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

async fn insert_all(tx: &Tx, fresh: &[Fresh<'_>]) -> Result<(), StoreError> {
    if fresh.is_empty() {
        return Ok(());
    }
    let mut next = match tx.dialect {
        Dialect::Sqlite { .. } => tx.newest_id(ENTRIES).await? + 1,
        Dialect::Postgres | Dialect::MySql { .. } => 0,
    };
    for fresh in pieces(fresh, tx.dialect) {
        let mut inserts = Vec::new();
        let ids = match tx.dialect {
            // All in one go, by ids that nobody else can take while the write lock is held.
            Dialect::Sqlite { .. } => {
                let ids: Vec<i64> = (next..).take(fresh.len()).collect();
                next = ids.last().map_or(next, |last| last + 1);
                inserts.push(rows(tx, fresh, Some(&ids)));
                ids
            }
            Dialect::Postgres | Dialect::MySql { .. } => insert_rows(tx, fresh).await?,
        };
        inserts.extend(children(tx, fresh, &ids));
        let touched: Vec<&str> = fresh.iter().map(|fresh| fresh.entry_id.as_str()).collect();
        inserts.extend(event_rows(tx, ENTRY_EVENTS, "entry_id", &touched));
        tx.entries_touched();
        tx.insert_together(inserts).await?;
    }
    Ok(())
}

/// Inserts the rows of entries alone and answers their ids.
async fn insert_rows(tx: &Tx, fresh: &[Fresh<'_>]) -> Result<Vec<i64>, StoreError> {
    let mut insert = rows(tx, fresh, None);
    let rows = match tx.dialect {
        Dialect::Postgres => {
            insert.returning(Query::returning().columns(["entry_id", "id"]));
            tx.insert_returning(&insert).await?
        }
        Dialect::Sqlite { .. } | Dialect::MySql { .. } => {
            tx.execute(&insert).await?;
            let ids = fresh.iter().map(|fresh| fresh.entry_id.as_str());
            let mut select = Query::select();
            select
                .columns(["entry_id", "id"])
                .from(ENTRIES)
                .and_where(tx.dialect.is_one_of((ENTRIES, "entry_id"), ids));
            tx.all(&select).await?
        }
    };
    let mut ids = HashMap::with_capacity(rows.len());
    for row in rows {
        ids.insert(row.get::<String>(0)?, row.get::<i64>(1)?);
    }
    let lost = || StoreError::sql("an entry that was just made is not there");
    fresh.iter().map(|fresh| ids.get(&fresh.entry_id).copied().ok_or_else(lost)).collect()
}

fn rows(tx: &Tx, fresh: &[Fresh<'_>], ids: Option<&[i64]>) -> InsertStatement {
    const COLUMNS: [&str; 12] = [
        "entry_id",
        "spiffe_id",
        "parent_id",
        "ttl",
        "admin",
        "downstream",
        "expiry",
        "revision_number",
        "store_svid",
        "hint",
        "jwt_svid_ttl",
        "additional_attributes",
    ];
    let id = ids.map(|_| "id");
    let mut insert = tx.insert_into(ENTRIES, COLUMNS.into_iter().chain(id));
    for (at, Fresh { new, entry_id, .. }) in fresh.iter().enumerate() {
        let columns = [
            entry_id.as_str().into(),
            new.spiffe_id.as_str().into(),
            new.parent_id.as_str().into(),
            new.x509_svid_ttl.into(),
            new.admin.into(),
            new.downstream.into(),
            new.expires_at.into(),
            0_i64.into(),
            new.store_svid.into(),
            new.hint.as_str().into(),
            new.jwt_svid_ttl.into(),
            encode_attributes(new.disable_x509_svid_prefetch, new.jwt_svid_include_jti),
        ];
        let id = ids.map(|ids| Expr::from(ids[at]));
        tx.add_row(&mut insert, columns.into_iter().chain(id));
    }
    insert
}

/// NULL when nothing is set, as in rows from before there were attributes.
pub(super) fn encode_attributes(disable_x509_svid_prefetch: bool, include_jti: bool) -> Expr {
    let attributes =
        AdditionalAttributes { disable_x509_svid_prefetch, jwt_svid_include_jti: include_jti };
    let bytes = attributes.encode_to_vec();
    Expr::val(if bytes.is_empty() { None } else { Some(bytes) })
}

/// What belongs to entries: links to bundles, selectors, DNS names.
fn children(tx: &Tx, fresh: &[Fresh<'_>], ids: &[i64]) -> Vec<InsertStatement> {
    let mut links = Vec::new();
    let mut selectors = Vec::new();
    let mut names = Vec::new();
    for (fresh, &id) in fresh.iter().zip(ids) {
        links.extend(fresh.federates_with.iter().map(|&(_, bundle)| (bundle, id)));
        selectors.extend(fresh.new.selectors.iter().map(|selector| (id, selector)));
        names.extend(fresh.new.dns_names.iter().map(|name| (id, name.as_str())));
    }
    let mut inserts = link_rows(&links, tx.dialect);
    inserts.extend(selector_rows(tx, &selectors));
    inserts.extend(name_rows(tx, &names));
    inserts
}

/// Links (bundle, entry).
pub(super) fn link_rows(links: &[(i64, i64)], dialect: Dialect) -> Vec<InsertStatement> {
    let inserts = pieces(links, dialect).map(|links| {
        let mut insert = Query::insert();
        insert.into_table(FEDERATED_ENTRIES).columns(["bundle_id", "registered_entry_id"]);
        for &(bundle, entry) in links {
            insert.values_panic([Expr::val(bundle), Expr::val(entry)]);
        }
        insert
    });
    inserts.collect()
}

/// Selectors of entries by the ids of their rows.
pub(super) fn selector_rows(tx: &Tx, selectors: &[(i64, &Selector)]) -> Vec<InsertStatement> {
    let inserts = pieces(selectors, tx.dialect).map(|selectors| {
        let mut insert =
            tx.insert_into(SELECTORS, ["registered_entry_id", "type", "value"].into_iter());
        for &(id, selector) in selectors {
            let row = [id.into(), (&*selector.kind).into(), (&*selector.value).into()];
            tx.add_row(&mut insert, row);
        }
        insert
    });
    inserts.collect()
}

/// DNS names of entries by the ids of their rows.
pub(super) fn name_rows(tx: &Tx, names: &[(i64, &str)]) -> Vec<InsertStatement> {
    let inserts = pieces(names, tx.dialect).map(|names| {
        let mut insert = tx.insert_into(DNS_NAMES, ["registered_entry_id", "value"].into_iter());
        for &(id, name) in names {
            tx.add_row(&mut insert, [id.into(), name.into()]);
        }
        insert
    });
    inserts.collect()
}

/// Events (or other rows of one text) of a table.
pub(super) fn event_rows(
    tx: &Tx,
    table: &'static str,
    column: &'static str,
    subjects: &[&str],
) -> Vec<InsertStatement> {
    let inserts = pieces(subjects, tx.dialect).map(|subjects| {
        let mut insert = tx.insert_into(table, std::iter::once(column));
        for subject in subjects {
            tx.add_row(&mut insert, [(*subject).into()]);
        }
        insert
    });
    inserts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_into_few_sizes_and_none_is_lost() {
        let sqlite = Dialect::Sqlite { utc_offset_seconds: 0 };
        let cut = |rows: usize, dialect| -> Vec<usize> {
            let rows: Vec<usize> = (0..rows).collect();
            let cut: Vec<&[usize]> = pieces(&rows, dialect).collect();
            assert_eq!(cut.concat(), rows);
            cut.into_iter().map(<[usize]>::len).collect()
        };
        assert_eq!(cut(0, sqlite), [] as [usize; 0]);
        assert_eq!(cut(1, sqlite), [1]);
        assert_eq!(cut(50, sqlite), [32, 16, 2]);
        assert_eq!(cut(100, sqlite), [32, 32, 32, 4]);
        assert_eq!(cut(450, Dialect::Postgres), [200, 200, 50]);
    }
}

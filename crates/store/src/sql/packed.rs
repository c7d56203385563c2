//! Many entries as one value: SQLite puts the rows together as JSON where it reads them.
//!
//! Its driver copies each column of each row onto the heap and hands each row to another thread,
//! which takes several times as long as finding it. JSON keeps texts, numbers and NULL apart
//! whatever is in them. Rows that are not as they should be are not judged here: whoever asked
//! reads their page again, row by row, with `entry_rows`, which knows what to say of them.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use prost::Message as _;
use sea_orm::sea_query::{Expr, Query, SelectStatement};
use sea_orm::sqlx::Row as _;
use sea_orm::{ConnectionTrait, DbBackend, QueryResult, Statement};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use steeple_proto::spire::common::registration_entry::AdditionalAttributes;
use steeple_spiffe::{SpiffeIdRef, TrustDomain};

use super::dialect::Dialect;
use super::hex::unhex;
use super::timestamp::{self, Nanos};
use super::tx::Tx;
use crate::batch::{EntryBatch, EntryNumbers, Heads};

/// Whether the rows of a page were picked, or are all there are between the first and the last.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Listed,
    Contiguous,
}

/// A page as it was read.
pub(super) struct Packed {
    rows: QueryResult,
    /// None if there are no rows.
    children: Option<QueryResult>,
    /// The last row's id.
    pub(super) last_id: Option<i64>,
}

/// The columns of [`EntryRow`].
const ENTRY: &str = "json_group_array(json_array(\"id\", \"entry_id\", \"spiffe_id\", \
     \"parent_id\", \"ttl\", \"jwt_svid_ttl\", \"admin\", \"downstream\", \"expiry\", \
     \"revision_number\", \"store_svid\", \"hint\", hex(\"additional_attributes\"), \
     \"created_at\"))";

/// A row of entries: NULL is nothing, empty or 0.
#[derive(serde::Deserialize)]
struct EntryRow<'a>(
    i64,
    #[serde(borrow)] Text<'a>,
    #[serde(borrow)] Text<'a>,
    #[serde(borrow)] Text<'a>,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    #[serde(borrow)] Text<'a>,
    #[serde(borrow)] Text<'a>,
    Timestamp,
);

/// A row that belongs to an entry: the id of that one's row, and a text or two.
#[derive(serde::Deserialize)]
struct Pair<'a>(i64, #[serde(borrow)] Text<'a>, #[serde(borrow)] Text<'a>);

#[derive(serde::Deserialize)]
struct Name<'a>(i64, #[serde(borrow)] Text<'a>);

/// Everything that belongs to some entries, in the order of their rows.
fn children(fits: &str) -> String {
    format!(
        "SELECT (SELECT json_group_array(json_array(\"owner\", \"type\", \"value\")) FROM \
         (SELECT \"registered_entry_id\" AS \"owner\", \"type\", \"value\" FROM \"selectors\" \
         WHERE \"registered_entry_id\" {fits} ORDER BY \"registered_entry_id\", \"type\", \
         \"value\")), \
         (SELECT json_group_array(json_array(\"owner\", \"value\")) FROM \
         (SELECT \"registered_entry_id\" AS \"owner\", \"value\" FROM \"dns_names\" \
         WHERE \"registered_entry_id\" {fits} ORDER BY \"registered_entry_id\", \"id\")), \
         (SELECT json_group_array(json_array(\"owner\", \"trust_domain\")) FROM \
         (SELECT \"registered_entry_id\" AS \"owner\", \"trust_domain\" \
         FROM \"federated_registration_entries\" \
         JOIN \"bundles\" ON \"bundles\".\"id\" = \"bundle_id\" \
         WHERE \"registered_entry_id\" {fits} \
         ORDER BY \"registered_entry_id\", \"trust_domain\"))"
    )
}

/// Reads the rows that a SELECT of entries, in the order of their ids, answers. None if that
/// cannot be done so.
pub(super) async fn fetch(tx: &Tx, select: SelectStatement, reach: Reach) -> Option<Packed> {
    if !matches!(tx.dialect, Dialect::Sqlite { .. }) {
        return None;
    }
    let mut all = Query::select();
    all.expr(Expr::cust(ENTRY)).expr(Expr::cust("min(\"id\")")).expr(Expr::cust("max(\"id\")"));
    if reach == Reach::Listed {
        all.expr(Expr::cust("json_group_array(\"id\")"));
    }
    all.from_subquery(select, "page");
    let rows = tx.inner.query_one(&all).await.ok()??;
    let id = |column| rows.try_get_by_index::<Option<i64>>(column).ok();
    let (first, last_id) = (id(1)?, id(2)?);
    let children = match (first, last_id) {
        (Some(first), Some(last)) => {
            let (fits, values) = match reach {
                Reach::Contiguous => ("BETWEEN ?1 AND ?2", vec![first.into(), last.into()]),
                Reach::Listed => {
                    let ids: String = rows.try_get_by_index(3).ok()?;
                    ("IN (SELECT \"value\" FROM json_each(?1))", vec![ids.into()])
                }
            };
            let select = Statement::from_sql_and_values(DbBackend::Sqlite, children(fits), values);
            Some(tx.inner.query_one_raw(select).await.ok()??)
        }
        _ => None,
    };
    Some(Packed { rows, children, last_id })
}

impl Packed {
    /// The entries of the page. None if one of them, or what belongs to it, is not as it should be.
    pub(super) fn unpack(&self) -> Option<EntryBatch> {
        let mut batch = EntryBatch::default();
        let rows: Vec<EntryRow<'_>> = read(&self.rows, 0)?;
        let Some(children) = &self.children else { return rows.is_empty().then_some(batch) };
        let mut selectors = InOrder::new(read::<Vec<Pair<'_>>>(children, 0)?);
        let mut dns_names = InOrder::new(read::<Vec<Name<'_>>>(children, 1)?);
        let mut domains = InOrder::new(read::<Vec<Name<'_>>>(children, 2)?);
        if !rows.is_sorted_by(|a, b| a.0 < b.0) {
            return None;
        }
        for row in &rows {
            let selectors = selectors.of(row.0)?;
            let pairs = || selectors.iter().map(|pair| (pair.1.as_str(), pair.2.as_str()));
            if !pairs().is_sorted_by(|a, b| a < b) {
                return None;
            }
            let names = domains.of(row.0)?.iter().map(|name| domain_name(name.1.as_str()));
            let names = names.collect::<Option<Vec<&str>>>()?;
            let dns_names = dns_names.of(row.0)?.iter().map(|name| name.1.as_str());
            batch.add(&row.heads()?, row.numbers()?, pairs(), names.into_iter(), dns_names);
        }
        Some(batch)
    }
}

/// Reads a column of JSON.
fn read<'a, T: serde::Deserialize<'a>>(row: &'a QueryResult, column: usize) -> Option<T> {
    let text: &str = row.try_as_sqlite_row()?.try_get(column).ok()?;
    serde_json::from_str(text).ok()
}

/// The name in a trust domain's name or id.
fn domain_name(text: &str) -> Option<&str> {
    TrustDomain::from_name_or_id(text).ok()?;
    match SpiffeIdRef::parse(text) {
        Ok(id) => Some(id.trust_domain_name()),
        Err(_) => Some(text),
    }
}

impl EntryRow<'_> {
    fn heads(&self) -> Option<Heads<'_>> {
        Some(Heads {
            entry_id: self.1.as_str(),
            spiffe_id: SpiffeIdRef::parse(self.2.as_str()).ok()?,
            parent_id: SpiffeIdRef::parse(self.3.as_str()).ok()?,
            hint: self.11.as_str(),
        })
    }

    fn numbers(&self) -> Option<EntryNumbers> {
        let attributes = match self.12.as_str() {
            "" => AdditionalAttributes::default(),
            text => AdditionalAttributes::decode(unhex(text)?.as_slice()).ok()?,
        };
        Some(EntryNumbers {
            x509_svid_ttl: self.4.0.try_into().ok()?,
            jwt_svid_ttl: self.5.0.try_into().ok()?,
            expires_at: self.8.0,
            revision_number: self.9.0,
            created_at: self.13.0.map_or(0, Nanos::rounded_seconds),
            admin: self.6.0 != 0,
            downstream: self.7.0 != 0,
            store_svid: self.10.0 != 0,
            disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
            jwt_svid_include_jti: attributes.jwt_svid_include_jti,
        })
    }
}

/// Rows that belong to entries, to be taken entry by entry.
struct InOrder<T> {
    rows: Vec<T>,
    at: usize,
}

/// Says which entry a row belongs to.
trait Child {
    fn owner(&self) -> i64;
}

impl Child for Pair<'_> {
    fn owner(&self) -> i64 {
        self.0
    }
}

impl Child for Name<'_> {
    fn owner(&self) -> i64 {
        self.0
    }
}

impl<T: Child> InOrder<T> {
    fn new(rows: Vec<T>) -> Self {
        Self { rows, at: 0 }
    }

    /// The rows of the next entry. None if they did not come in the order of the entries.
    fn of(&mut self, owner: i64) -> Option<&[T]> {
        let left = &self.rows[self.at..];
        // Rows of entries that are gone may lie around from old releases.
        let skip = left.iter().take_while(|row| row.owner() < owner).count();
        let take = left[skip..].iter().take_while(|row| row.owner() == owner).count();
        let start = self.at + skip;
        self.at = start + take;
        let next = self.rows.get(self.at);
        next.is_none_or(|row| row.owner() > owner).then(|| &self.rows[start..self.at])
    }
}

/// A text, or NULL.
struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader<'a>(PhantomData<&'a str>);
        impl<'de: 'a, 'a> Visitor<'de> for Reader<'a> {
            type Value = Text<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or NULL")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'a>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'a>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E>(self) -> Result<Text<'a>, E> {
                Ok(Text(Cow::Borrowed("")))
            }
        }
        from.deserialize_any(Reader(PhantomData))
    }
}

/// A whole number, or NULL.
struct Number(i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Option::<i64>::deserialize(from).map(|number| Self(number.unwrap_or(0)))
    }
}

/// A time in one of the forms that [`super::tx::Row::timestamp`] reads.
struct Timestamp(Option<Nanos>);

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time or NULL")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Timestamp, E> {
                let at = timestamp::parse(text).ok_or_else(|| E::custom("no time"))?;
                Ok(Timestamp(Some(at)))
            }

            fn visit_i64<E>(self, seconds: i64) -> Result<Timestamp, E> {
                Ok(Timestamp(Some(Nanos::from_seconds(seconds))))
            }

            fn visit_u64<E: Error>(self, seconds: u64) -> Result<Timestamp, E> {
                i64::try_from(seconds).map_err(E::custom).and_then(|it| self.visit_i64(it))
            }

            fn visit_unit<E>(self) -> Result<Timestamp, E> {
                Ok(Timestamp(None))
            }
        }
        from.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests;

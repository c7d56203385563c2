//! Filters as SQL conditions. All of the choosing happens in the database, so a page is full
//! and a count is one number.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::sea_query::{Cond, Condition, Expr, ExprTrait, Query, SelectStatement};

use super::dialect::Dialect;
use super::{BUNDLES, ENTRIES, FEDERATED_ENTRIES, NODE_SELECTORS, NODES, SELECTORS};
use crate::error::StoreError;
use crate::model::{EntryFilter, FederatesWithFilter, MatchBehavior, NodeFilter, SelectorFilter};

/// More selectors or trust domains than this in one filter buy work, not answers; SQLite itself
/// stops SPIRE's statements at as many.
const MAX_SET: usize = 500;

/// Each type of selectors makes the condition a step deeper, and SQLite goes 1000 deep.
const MAX_KINDS: usize = 100;

pub(super) fn entries(filter: &EntryFilter, dialect: Dialect) -> Result<Condition, StoreError> {
    let mut all = Cond::all();
    if let Some(parent_id) = &filter.parent_id {
        all = all.add(dialect.is("parent_id", parent_id.as_str()));
    }
    if let Some(spiffe_id) = &filter.spiffe_id {
        all = all.add(dialect.is("spiffe_id", spiffe_id.as_str()));
    }
    if let Some(hint) = filter.hint.as_deref().filter(|hint| !hint.is_empty()) {
        all = all.add(dialect.is("hint", hint));
    }
    if filter.downstream == Some(true) {
        all = all.add(Expr::col("downstream").eq(true));
    }
    if let Some(selectors) = &filter.selectors {
        all = all.add(by_selectors(
            selectors,
            &ENTRY_SELECTORS,
            "cannot list by empty selector set",
            dialect,
        )?);
    }
    if let Some(federates_with) = &filter.federates_with {
        all = all.add(by_federates_with(federates_with)?);
    }
    Ok(all)
}

pub(super) fn nodes(filter: &NodeFilter, dialect: Dialect) -> Result<Condition, StoreError> {
    let mut all = Cond::all();
    if let Some(kind) = filter.attestation_type.as_deref().filter(|kind| !kind.is_empty()) {
        all = all.add(dialect.is("data_type", kind));
    }
    match filter.banned {
        Some(true) => all = all.add(Expr::col("serial_number").eq("")),
        Some(false) => all = all.add(Expr::col("serial_number").ne("")),
        None => {}
    }
    if let Some(can_reattest) = filter.can_reattest {
        all = all.add(Expr::col("can_reattest").eq(can_reattest));
    }
    if let Some(expires_before) = filter.expires_before {
        all = all.add(dialect.is_before("expires_at", expires_before));
    }
    if let Some(selectors) = &filter.selectors {
        all = all.add(by_selectors(
            selectors,
            &AGENT_SELECTORS,
            "cannot list by empty selectors set",
            dialect,
        )?);
    }
    Ok(all)
}

/// A table of things that rows of another table have, and how the two are joined.
struct SetTable {
    owner: &'static str,
    owner_key: &'static str,
    member: &'static str,
    member_key: &'static str,
}

const ENTRY_SELECTORS: SetTable = SetTable {
    owner: ENTRIES,
    owner_key: "id",
    member: SELECTORS,
    member_key: "registered_entry_id",
};

const AGENT_SELECTORS: SetTable = SetTable {
    owner: NODES,
    owner_key: "spiffe_id",
    member: NODE_SELECTORS,
    member_key: "spiffe_id",
};

impl SetTable {
    /// The owner has a member that fits.
    fn has(&self, fits: Condition) -> Expr {
        let mut owners = Query::select();
        owners.column(self.member_key).from(self.member).cond_where(fits);
        Expr::col((self.owner, self.owner_key)).in_subquery(owners)
    }

    /// The owner has this many members that fit. (Members are unique per owner; and a chain of
    /// one condition for each would be deeper than SQLite goes.)
    fn has_many(&self, fits: Condition, count: usize) -> Expr {
        let mut owners = Query::select();
        owners
            .column(self.member_key)
            .from(self.member)
            .cond_where(fits)
            .group_by_col(self.member_key)
            .and_having(Expr::cust("COUNT(*)").eq(i64::try_from(count).unwrap_or(i64::MAX)));
        Expr::col((self.owner, self.owner_key)).in_subquery(owners)
    }

    /// The owner has no member that fits.
    fn has_no(&self, fits: Condition) -> Expr {
        let mut members = Query::select();
        members
            .expr(Expr::val(1))
            .from(self.member)
            .and_where(
                Expr::col((self.member, self.member_key)).equals((self.owner, self.owner_key)),
            )
            .cond_where(fits);
        Expr::exists(members).not()
    }
}

fn by_selectors(
    filter: &SelectorFilter,
    table: &SetTable,
    empty: &str,
    dialect: Dialect,
) -> Result<Condition, StoreError> {
    let selectors: BTreeSet<_> = filter.selectors.iter().collect();
    if selectors.is_empty() {
        return Err(StoreError::Invalid(empty.into()));
    }
    check_size(selectors.len(), "selectors")?;
    let mut values = BTreeMap::<&str, Vec<&str>>::new();
    for selector in &selectors {
        values.entry(&selector.kind).or_default().push(&selector.value);
    }
    if values.len() > MAX_KINDS {
        let text = format!("cannot list by more than {MAX_KINDS} types of selectors");
        return Err(StoreError::Invalid(text));
    }
    // One condition for each type and not for each selector, for the same reason as above.
    let any = || {
        values.iter().fold(Cond::any(), |any, (&kind, values)| {
            any.add(
                Cond::all()
                    .add(dialect.is_one_of((table.member, "type"), std::iter::once(kind)))
                    .add(dialect.is_one_of((table.member, "value"), values.iter().copied())),
            )
        })
    };
    Ok(match filter.behavior {
        MatchBehavior::Any => Cond::all().add(table.has(any())),
        MatchBehavior::Subset => Cond::all().add(table.has(any())).add(table.has_no(any().not())),
        MatchBehavior::Superset => Cond::all().add(table.has_many(any(), selectors.len())),
        MatchBehavior::Exact => {
            Cond::all().add(table.has_many(any(), selectors.len())).add(table.has_no(any().not()))
        }
    })
}

fn by_federates_with(filter: &FederatesWithFilter) -> Result<Condition, StoreError> {
    let trust_domains: BTreeSet<String> =
        filter.trust_domains.iter().map(steeple_spiffe::TrustDomain::id_string).collect();
    if trust_domains.is_empty() {
        return Ok(Cond::all());
    }
    check_size(trust_domains.len(), "trust domains")?;
    let name = || Expr::col((BUNDLES, "trust_domain"));
    let any = || federated(name().is_in(trust_domains.iter().map(String::as_str)));
    let none_else = || {
        let mut others = links(name().is_not_in(trust_domains.iter().map(String::as_str)));
        others.and_where(
            Expr::col((FEDERATED_ENTRIES, "registered_entry_id")).equals((ENTRIES, "id")),
        );
        Expr::exists(others).not()
    };
    let all = || {
        trust_domains.iter().fold(Cond::all(), |all, trust_domain| {
            all.add(federated(name().eq(trust_domain.as_str())))
        })
    };
    Ok(match filter.behavior {
        MatchBehavior::Any => Cond::all().add(any()),
        MatchBehavior::Subset => Cond::all().add(any()).add(none_else()),
        MatchBehavior::Superset => all(),
        MatchBehavior::Exact => all().add(none_else()),
    })
}

/// The entry federates with a bundle that fits.
fn federated(fits: Expr) -> Expr {
    Expr::col((ENTRIES, "id")).in_subquery(links(fits))
}

fn links(fits: Expr) -> SelectStatement {
    let mut links = Query::select();
    links
        .column((FEDERATED_ENTRIES, "registered_entry_id"))
        .from(FEDERATED_ENTRIES)
        .inner_join(BUNDLES, Expr::col((BUNDLES, "id")).equals((FEDERATED_ENTRIES, "bundle_id")))
        .and_where(fits);
    links
}

fn check_size(size: usize, of: &str) -> Result<(), StoreError> {
    if size > MAX_SET {
        return Err(StoreError::Invalid(format!("cannot list by more than {MAX_SET} {of}")));
    }
    Ok(())
}

//! Rows to agents, with their selectors.

use std::collections::HashMap;

use sea_orm::sea_query::{Condition, Expr, ExprTrait, Query, SelectStatement};
use steeple_spiffe::{Selector, SpiffeId};

use super::dialect::Dialect;
use super::timestamp::Nanos;
use super::tx::{Row, Tx};
use super::{IN_LIST, NODE_SELECTORS, NODES, SqlStore, pages};
use crate::error::{StoreError, excerpt};
use crate::model::{AttestedNode, Page};

/// An agent with the id of its row.
pub(super) struct StoredNode {
    pub(super) row_id: i64,
    pub(super) node: AttestedNode,
}

/// Agents of one page, and the last row id that was looked at.
pub(super) struct NodePage {
    pub(super) nodes: Vec<StoredNode>,
    pub(super) last_id: Option<i64>,
}

/// The agents that fit a condition on their row.
pub(super) async fn find(
    tx: &Tx,
    fits: Condition,
    page: Option<&Page>,
) -> Result<NodePage, StoreError> {
    let mut select = select_nodes(tx.dialect);
    select.cond_where(fits);
    pages::apply(tx.dialect, &mut select, page)?;
    tx.lock_rows(&mut select);
    let rows = tx.all(&select).await?;
    let (mut found, places) = read_rows(&rows)?;
    let ids: Vec<String> =
        found.nodes.iter().map(|stored| stored.node.spiffe_id.as_str().to_owned()).collect();
    for ids in ids.chunks(IN_LIST) {
        let mut select = select_selectors();
        select.and_where(Expr::col("spiffe_id").is_in(ids.iter().map(String::as_str)));
        add_selectors(&tx.all(&select).await?, &places, &mut found.nodes)?;
    }
    sort_selectors(&mut found.nodes);
    Ok(found)
}

/// The agent with an id.
pub(super) async fn find_by_id(tx: &Tx, id: &SpiffeId) -> Result<Option<StoredNode>, StoreError> {
    let mut select = select_with_selectors(tx.dialect, id);
    tx.lock_rows_of(&mut select, NODES);
    read_with_selectors(&tx.all(&select).await?)
}

/// The agent with an id, in a statement of its own.
pub(super) async fn look(
    store: &SqlStore,
    id: &SpiffeId,
) -> Result<Option<AttestedNode>, StoreError> {
    let rows = store.look(&select_with_selectors(store.dialect, id)).await?;
    Ok(read_with_selectors(&rows)?.map(|stored| stored.node))
}

/// A row for each selector of the agent, and one if it has none.
fn select_with_selectors(dialect: Dialect, id: &SpiffeId) -> SelectStatement {
    let owner = |table| Expr::col((table, "spiffe_id"));
    let mut select = Query::select();
    select
        .columns([(NODES, "id"), (NODES, "spiffe_id")])
        .columns(["data_type", "serial_number"])
        .expr(dialect.select_timestamp("expires_at"))
        .column("new_serial_number")
        .expr(dialect.select_timestamp("new_expires_at"))
        .columns(["can_reattest", "agent_version"])
        .columns([(NODE_SELECTORS, "spiffe_id"), (NODE_SELECTORS, "type")])
        .column((NODE_SELECTORS, "value"))
        .from(NODES)
        .left_join(NODE_SELECTORS, owner(NODE_SELECTORS).equals((NODES, "spiffe_id")))
        .and_where(dialect.is_one_of((NODES, "spiffe_id"), std::iter::once(id.as_str())));
    select
}

fn read_with_selectors(rows: &[Row]) -> Result<Option<StoredNode>, StoreError> {
    let (mut page, _) = read_rows(&rows[..rows.len().min(1)])?;
    let Some(mut stored) = page.nodes.pop() else { return Ok(None) };
    for row in rows {
        // MySQL joins what differs in case, too.
        if row.get_or_default::<String>(9)? == stored.node.spiffe_id.as_str() {
            let (kind, value): (String, String) =
                (row.get_or_default(10)?, row.get_or_default(11)?);
            stored.node.selectors.push(Selector::new(&kind, &value));
        }
    }
    sort_selectors(std::slice::from_mut(&mut stored));
    Ok(Some(stored))
}

/// All agents, in the order of creation.
pub(super) async fn find_all(tx: &Tx) -> Result<Vec<AttestedNode>, StoreError> {
    const ROWS_PER_READ: usize = 5_000;
    let mut all = Vec::new();
    let mut page = Page { token: None, size: ROWS_PER_READ };
    loop {
        let mut select = select_nodes(tx.dialect);
        pages::apply(tx.dialect, &mut select, Some(&page))?;
        let (found, _) = read_rows(&tx.all(&select).await?)?;
        all.extend(found.nodes);
        page.token = pages::next_token(Some(&page), found.last_id);
        if page.token.is_none() {
            break;
        }
    }
    let places: Places = all
        .iter()
        .enumerate()
        .map(|(place, stored)| (stored.node.spiffe_id.as_str().to_owned(), place))
        .collect();
    // Selectors have no row of their owner to page by, so they are paged by their own ids.
    let mut page = Page { token: None, size: 2 * ROWS_PER_READ };
    loop {
        let mut select = select_selectors();
        pages::apply(tx.dialect, &mut select, Some(&page))?;
        let rows = tx.all(&select).await?;
        add_selectors(&rows, &places, &mut all)?;
        let last_id = rows.last().map(|row| row.get(3)).transpose()?;
        page.token = pages::next_token(Some(&page), last_id);
        if page.token.is_none() {
            break;
        }
    }
    sort_selectors(&mut all);
    Ok(all.into_iter().map(|stored| stored.node).collect())
}

fn select_nodes(dialect: Dialect) -> SelectStatement {
    let mut select = Query::select();
    select
        .columns(["id", "spiffe_id", "data_type", "serial_number"])
        .expr(dialect.select_timestamp("expires_at"))
        .column("new_serial_number")
        .expr(dialect.select_timestamp("new_expires_at"))
        .columns(["can_reattest", "agent_version"])
        .from(NODES);
    select
}

fn select_selectors() -> SelectStatement {
    let mut select = Query::select();
    select.columns(["spiffe_id", "type", "value", "id"]).from(NODE_SELECTORS);
    select
}

type Places = HashMap<String, usize>;

fn read_rows(rows: &[Row]) -> Result<(NodePage, Places), StoreError> {
    let mut page = NodePage { nodes: Vec::with_capacity(rows.len()), last_id: None };
    let mut places = Places::with_capacity(rows.len());
    for row in rows {
        let row_id: i64 = row.get(0)?;
        page.last_id = Some(row_id);
        if let Some(node) = read_or_skip(row, 0) {
            places.insert(node.spiffe_id.as_str().to_owned(), page.nodes.len());
            page.nodes.push(StoredNode { row_id, node });
        }
    }
    Ok((page, places))
}

/// The agent of a row whose columns begin with `first`, as they are selected here.
pub(super) fn read_or_skip(row: &Row, first: usize) -> Option<AttestedNode> {
    let read = read_node(row, first);
    let skipped = |error: &StoreError| {
        tracing::warn!(
            subsystem_name = "sql",
            row = row.get_or_default::<i64>(first).unwrap_or_default(),
            %error,
            "Skipping a malformed agent"
        );
    };
    read.inspect_err(skipped).ok()
}

fn read_node(row: &Row, first: usize) -> Result<AttestedNode, StoreError> {
    let text: String = row.get_or_default(first + 1)?;
    let spiffe_id = SpiffeId::parse(&text)
        .map_err(|error| StoreError::sql(&format!("\"{}\": {error}", excerpt(&text))))?;
    let seconds = |at: Option<Nanos>| at.map(Nanos::seconds).unwrap_or(0);
    Ok(AttestedNode {
        spiffe_id,
        attestation_type: row.get_or_default(first + 2)?,
        serial_number: row.get_or_default(first + 3)?,
        expires_at: seconds(row.timestamp(first + 4)?),
        new_serial_number: row.get_or_default(first + 5)?,
        new_expires_at: seconds(row.timestamp(first + 6)?),
        can_reattest: row.get_or_default(first + 7)?,
        selectors: Vec::new(),
        agent_version: row.get_or_default(first + 8)?,
    })
}

fn add_selectors(
    rows: &[Row],
    places: &Places,
    nodes: &mut [StoredNode],
) -> Result<(), StoreError> {
    for row in rows {
        // An attestation that was cut short in SPIRE leaves selectors without an agent.
        if let Some(&place) = places.get(&row.get_or_default::<String>(0)?) {
            let (kind, value): (String, String) = (row.get_or_default(1)?, row.get_or_default(2)?);
            nodes[place].node.selectors.push(Selector::new(&kind, &value));
        }
    }
    Ok(())
}

fn sort_selectors(nodes: &mut [StoredNode]) {
    for stored in nodes {
        stored.node.selectors.sort_unstable();
        stored.node.selectors.dedup();
    }
}

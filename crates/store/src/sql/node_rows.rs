//! Rows to agents, with their selectors.

use std::collections::HashMap;

use sea_orm::sea_query::{Cond, Condition, Expr, ExprTrait, Query, SelectStatement};
use steeple_spiffe::{Selector, SpiffeId};

use super::dialect::Dialect;
use super::timestamp::Nanos;
use super::tx::{Row, Tx};
use super::{IN_LIST, NODE_SELECTORS, NODES, pages};
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
    let found = find(tx, Cond::all().add(tx.dialect.is("spiffe_id", id.as_str())), None).await?;
    Ok(found.nodes.into_iter().next())
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
        match read_node(row) {
            Ok(node) => {
                places.insert(node.spiffe_id.as_str().to_owned(), page.nodes.len());
                page.nodes.push(StoredNode { row_id, node });
            }
            Err(error) => tracing::warn!(
                subsystem_name = "sql",
                row = row_id,
                error = %error,
                "Skipping a malformed agent"
            ),
        }
    }
    Ok((page, places))
}

fn read_node(row: &Row) -> Result<AttestedNode, StoreError> {
    let text: String = row.get_or_default(1)?;
    let spiffe_id = SpiffeId::parse(&text)
        .map_err(|error| StoreError::sql(&format!("\"{}\": {error}", excerpt(&text))))?;
    let seconds = |at: Option<Nanos>| at.map(Nanos::seconds).unwrap_or(0);
    Ok(AttestedNode {
        spiffe_id,
        attestation_type: row.get_or_default(2)?,
        serial_number: row.get_or_default(3)?,
        expires_at: seconds(row.timestamp(4)?),
        new_serial_number: row.get_or_default(5)?,
        new_expires_at: seconds(row.timestamp(6)?),
        can_reattest: row.get_or_default(7)?,
        selectors: Vec::new(),
        agent_version: row.get_or_default(8)?,
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

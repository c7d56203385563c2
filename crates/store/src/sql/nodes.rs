//! Agents: attest, renew, ban, evict, prune (NL-04 to NL-17).

use std::time::SystemTime;

use sea_orm::sea_query::{
    Cond, DeleteStatement, Expr, ExprTrait, InsertStatement, Query, UpdateStatement,
};
use steeple_spiffe::{Selector, SpiffeId};

use super::admit::Renewal;
use super::node_rows::{self, StoredNode};
use super::tx::Tx;
use super::{NODE_SELECTORS, NODES, entries, entry_rows, filters, pages, timestamp};
use crate::error::StoreError;
use crate::model::{AttestedNode, NodeFilter, NodeUpdate, Page};

/// Agents are evicted in batches of this size when the caller names none.
const DEFAULT_PRUNE_BATCH: usize = 1000;

/// The rows of agents that have none.
pub(super) fn rows(tx: &Tx, nodes: &[AttestedNode]) -> InsertStatement {
    const COLUMNS: [&str; 8] = [
        "spiffe_id",
        "data_type",
        "serial_number",
        "expires_at",
        "new_serial_number",
        "new_expires_at",
        "can_reattest",
        "agent_version",
    ];
    let mut insert = tx.insert_into(NODES, COLUMNS.into_iter());
    for node in nodes {
        let row = [
            node.spiffe_id.as_str().into(),
            node.attestation_type.as_str().into(),
            node.serial_number.as_str().into(),
            tx.dialect.timestamp_seconds(node.expires_at),
            node.new_serial_number.as_str().into(),
            nullable_seconds(tx, node.new_expires_at),
            node.can_reattest.into(),
            node.agent_version.as_str().into(),
        ];
        tx.add_row(&mut insert, row);
    }
    insert
}

/// A time that is not known is NULL, not the epoch.
fn nullable_seconds(tx: &Tx, seconds: i64) -> Expr {
    if seconds == 0 { tx.dialect.no_timestamp() } else { tx.dialect.timestamp_seconds(seconds) }
}

/// The rows of selectors of agents.
pub(super) fn selector_rows(tx: &Tx, selectors: &[(&SpiffeId, &Selector)]) -> InsertStatement {
    let mut insert = tx.insert_into(NODE_SELECTORS, ["spiffe_id", "type", "value"].into_iter());
    for (id, selector) in selectors {
        let row = [id.as_str().into(), (&*selector.kind).into(), (&*selector.value).into()];
        tx.add_row(&mut insert, row);
    }
    insert
}

/// Deletes all selectors of agents: also those that an attestation that was cut short in SPIRE
/// has left without an agent.
pub(super) fn delete_selectors_of(tx: &Tx, nodes: &[&AttestedNode]) -> DeleteStatement {
    let ids = nodes.iter().map(|node| node.spiffe_id.as_str());
    let mut delete = Query::delete();
    delete
        .from_table(NODE_SELECTORS)
        .and_where(tx.dialect.is_one_of((NODE_SELECTORS, "spiffe_id"), ids));
    delete
}

async fn delete_selectors(tx: &Tx, id: &SpiffeId) -> Result<(), StoreError> {
    let mut delete = Query::delete();
    delete.from_table(NODE_SELECTORS).and_where(tx.dialect.is("spiffe_id", id.as_str()));
    tx.execute(&delete).await?;
    Ok(())
}

pub(super) async fn update(
    tx: &Tx,
    id: &SpiffeId,
    update: NodeUpdate,
) -> Result<AttestedNode, StoreError> {
    let stored = node_rows::find_by_id(tx, id).await?.ok_or_else(StoreError::not_found)?;
    let node = write_update(tx, stored, update).await?;
    tx.node_is(&node);
    Ok(node)
}

pub(super) async fn promote_serial(
    tx: &Tx,
    id: &SpiffeId,
    serial_number: &str,
) -> Result<AttestedNode, StoreError> {
    let stored = node_rows::find_by_id(tx, id).await?.ok_or_else(StoreError::not_found)?;
    if !serial_number.is_empty() && stored.node.serial_number == serial_number {
        return Ok(stored.node);
    }
    if serial_number.is_empty() || stored.node.new_serial_number != serial_number {
        return Err(StoreError::Precondition(
            "the serial number is not the agent's new serial number".into(),
        ));
    }
    let update = NodeUpdate {
        serial_number: Some(stored.node.new_serial_number.clone()),
        expires_at: Some(stored.node.new_expires_at),
        new_serial_number: Some(String::new()),
        new_expires_at: Some(0),
        ..NodeUpdate::default()
    };
    let node = write_update(tx, stored, update).await?;
    tx.node_is(&node);
    Ok(node)
}

async fn write_update(
    tx: &Tx,
    StoredNode { row_id, mut node }: StoredNode,
    update: NodeUpdate,
) -> Result<AttestedNode, StoreError> {
    tx.execute(&update_of(tx, row_id, &update)).await?;
    let NodeUpdate { serial_number, expires_at, .. } = update;
    node.serial_number = serial_number.unwrap_or(node.serial_number);
    node.expires_at = expires_at.unwrap_or(node.expires_at);
    node.new_serial_number = update.new_serial_number.unwrap_or(node.new_serial_number);
    node.new_expires_at = update.new_expires_at.unwrap_or(node.new_expires_at);
    node.can_reattest = update.can_reattest.unwrap_or(node.can_reattest);
    node.agent_version = update.agent_version.unwrap_or(node.agent_version);
    Ok(node)
}

/// A change to the row of an agent.
pub(super) fn update_of(tx: &Tx, row_id: i64, update: &NodeUpdate) -> UpdateStatement {
    let mut statement = change(tx, update);
    statement.and_where(Expr::col("id").eq(row_id));
    statement
}

/// The next serial number of an agent, whose row may be there or not.
pub(super) fn renewal_of(tx: &Tx, renewal: &Renewal) -> UpdateStatement {
    let update = NodeUpdate {
        new_serial_number: Some(renewal.serial_number.clone()),
        new_expires_at: Some(renewal.expires_at),
        ..NodeUpdate::default()
    };
    let mut statement = change(tx, &update);
    statement.and_where(tx.dialect.is("spiffe_id", renewal.agent.as_str()));
    statement
}

fn change(tx: &Tx, update: &NodeUpdate) -> UpdateStatement {
    let mut statement = Query::update();
    statement.table(NODES).value("updated_at", tx.dialect.timestamp(tx.now));
    if let Some(expires_at) = update.expires_at {
        statement.value("expires_at", tx.dialect.timestamp_seconds(expires_at));
    }
    if let Some(new_expires_at) = update.new_expires_at {
        statement.value("new_expires_at", nullable_seconds(tx, new_expires_at));
    }
    if let Some(can_reattest) = update.can_reattest {
        statement.value("can_reattest", can_reattest);
    }
    for (column, text) in [
        ("serial_number", &update.serial_number),
        ("new_serial_number", &update.new_serial_number),
        ("agent_version", &update.agent_version),
    ] {
        if let Some(text) = text {
            statement.value(column, text.as_str());
        }
    }
    statement
}

pub(super) async fn delete(tx: &Tx, id: &SpiffeId) -> Result<AttestedNode, StoreError> {
    let stored = node_rows::find_by_id(tx, id).await?.ok_or_else(StoreError::not_found)?;
    delete_stored(tx, &stored).await?;
    Ok(stored.node)
}

async fn delete_stored(tx: &Tx, stored: &StoredNode) -> Result<(), StoreError> {
    let node = &stored.node;
    if node.attestation_type == "join_token" {
        delete_alias_entries(tx, &node.spiffe_id).await?;
    }
    delete_selectors(tx, &node.spiffe_id).await?;
    let mut delete = Query::delete();
    delete.from_table(NODES).and_where(Expr::col("id").eq(stored.row_id));
    tx.execute(&delete).await?;
    tx.node_event(node.spiffe_id.as_str());
    Ok(())
}

/// Deletes the entries that came with the agent's join token (NL-06): those whose only selector
/// is the agent's own id. Other entries below the agent are the operator's, and stay.
async fn delete_alias_entries(tx: &Tx, id: &SpiffeId) -> Result<(), StoreError> {
    let below = Cond::all().add(tx.dialect.is("parent_id", id.as_str()));
    for stored in entry_rows::find(tx, below, None).await?.entries {
        let is_alias = matches!(stored.entry.selectors.as_slice(),
            [only] if &*only.kind == "spiffe_id" && &*only.value == id.as_str());
        if is_alias {
            entries::delete_stored(tx, &stored).await?;
            tracing::info!(
                subsystem_name = "sql",
                spiffe_id = %stored.entry.spiffe_id,
                parent_id = %stored.entry.parent_id,
                entry_id = %stored.entry.entry_id,
                "Cascade-deleted registration entry on attested node deletion"
            );
        }
    }
    Ok(())
}

pub(super) async fn prune(
    tx: &Tx,
    expired_before: SystemTime,
    batch: usize,
    include_tofu: bool,
) -> Result<Vec<AttestedNode>, StoreError> {
    let before = timestamp::Nanos::from(expired_before).seconds();
    let mut expired = Cond::all()
        .add(tx.dialect.is_before("expires_at", before))
        .add(Expr::col("serial_number").ne(""));
    if !include_tofu {
        expired = expired.add(Expr::col("can_reattest").eq(true));
    }
    let size = if batch == 0 { DEFAULT_PRUNE_BATCH } else { batch };
    let found = node_rows::find(tx, expired, Some(&Page { token: None, size })).await?;
    for stored in &found.nodes {
        delete_stored(tx, stored).await?;
    }
    tracing::info!(subsystem_name = "sql", count = found.nodes.len(), "Pruned expired agents");
    Ok(found.nodes.into_iter().map(|stored| stored.node).collect())
}

pub(super) async fn list(
    tx: &Tx,
    filter: &NodeFilter,
    page: Option<&Page>,
) -> Result<(Vec<AttestedNode>, Option<String>), StoreError> {
    let found = node_rows::find(tx, filters::nodes(filter, tx.dialect)?, page).await?;
    let next = pages::next_token(page, found.last_id);
    Ok((found.nodes.into_iter().map(|stored| stored.node).collect(), next))
}

pub(super) async fn count(tx: &Tx, filter: &NodeFilter) -> Result<u64, StoreError> {
    let mut select = Query::select();
    select.expr(Expr::cust("COUNT(*)")).from(NODES).cond_where(filters::nodes(filter, tx.dialect)?);
    super::count(tx, &select).await
}

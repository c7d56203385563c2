//! Recording attestations and renewals of agents: one, or many in a transaction.
//!
//! Each of many has the outcome that it would have had alone, in its place in the order: what has
//! to be known is read for all of them first, each is decided on, and what came of it is written
//! for all. Refusals are outcomes; an error is one of the database, and nothing is to be kept then.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use sea_orm::Statement;
use sea_orm::sea_query::{Expr, Query};
use steeple_spiffe::SpiffeId;

use super::create::pieces;
use super::tx::Tx;
use super::{JOIN_TOKENS, NODES, nodes, timestamp};
use crate::error::StoreError;
use crate::model::{AttestedNode, NodeUpdate};

/// An attestation to be recorded.
#[derive(Clone)]
pub(super) struct Admission {
    pub(super) node: AttestedNode,
    pub(super) by: By,
}

/// What lets a node in.
#[derive(Clone)]
pub(super) enum By {
    /// Evidence that may come again.
    Evidence,
    /// Evidence that counts once: there must be no such agent yet.
    FirstEvidence,
    /// A join token, which is spent (NL-04).
    Token { token: String, now: SystemTime },
}

impl By {
    fn token(&self) -> Option<&str> {
        match self {
            Self::Token { token, .. } => Some(token),
            Self::Evidence | Self::FirstEvidence => None,
        }
    }
}

/// Why a node is not let in. A token that was there is gone all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    UnknownToken,
    ExpiredToken,
    Banned,
    Attested,
}

/// What became of an attestation: the agent as it is recorded now, or why it is not.
pub(super) type Admitted = Result<AttestedNode, Refused>;

/// Records attestations, as if one after the other each in a transaction of its own.
///
/// # Errors
/// When the database refuses a row or fails: then nothing is to be kept, and nothing is said of
/// any single one.
pub(super) async fn admit_many(
    tx: &Tx,
    wanted: Vec<Admission>,
) -> Result<Vec<Admitted>, StoreError> {
    let mut outcomes: Vec<Option<Admitted>> = wanted.iter().map(|_| None).collect();
    let mut left: Vec<(usize, Admission)> = wanted.into_iter().enumerate().collect();
    while !left.is_empty() {
        // Those who come for the same agent or with the same token are done one after the other.
        let (mut agents, mut tokens) = (HashSet::new(), HashSet::new());
        let (now, later): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, admission)| {
            let token = admission.by.token().map(str::to_owned);
            agents.insert(admission.node.spiffe_id.clone())
                & token.is_none_or(|token| tokens.insert(token))
        });
        for some in pieces(&now, tx.dialect) {
            let wanted: Vec<&Admission> = some.iter().map(|(_, admission)| admission).collect();
            let admitted = admit_some(tx, &wanted).await?;
            for ((place, _), admitted) in some.iter().zip(admitted) {
                outcomes[*place] = Some(admitted);
            }
        }
        left = later;
    }
    let forgotten = || StoreError::sql("an attestation was not recorded");
    outcomes.into_iter().map(|outcome| outcome.ok_or_else(forgotten)).collect()
}

/// Records an attestation.
///
/// # Errors
/// When the database refuses a row or fails.
pub(super) async fn admit_one(tx: &Tx, wanted: Admission) -> Result<Admitted, StoreError> {
    let admitted = admit_some(tx, &[&wanted]).await?.pop();
    admitted.ok_or_else(|| StoreError::sql("an attestation was not recorded"))
}

/// Records attestations of different agents with different tokens.
async fn admit_some(tx: &Tx, wanted: &[&Admission]) -> Result<Vec<Admitted>, StoreError> {
    let Found { tokens, agents } = find(tx, wanted).await?;
    let mut admitted = Vec::with_capacity(wanted.len());
    let (mut fresh, mut again) = (Vec::new(), Vec::new());
    for Admission { node, by } in wanted {
        let stored = agents.get(node.spiffe_id.as_str());
        admitted.push(match refusal(by, stored, &tokens) {
            Some(refused) => Err(refused),
            None => {
                let mut node = node.clone();
                node.selectors.sort_unstable();
                node.selectors.dedup();
                if let Some(stored) = stored {
                    node.attestation_type.clone_from(&stored.attestation_type);
                    node.agent_version.clone_from(&stored.agent_version);
                    node.new_serial_number.clear();
                    node.new_expires_at = 0;
                    again.push((stored.row_id, node.clone()));
                } else {
                    fresh.push(node.clone());
                }
                Ok(node)
            }
        });
    }
    let recorded: Vec<&AttestedNode> = admitted.iter().flatten().collect();
    if !recorded.is_empty() {
        write(tx, &fresh, &again, &recorded).await?;
    }
    Ok(admitted)
}

fn refusal(by: &By, stored: Option<&Stored>, tokens: &HashMap<String, i64>) -> Option<Refused> {
    if let By::Token { token, now } = by {
        let Some(&expires_at) = tokens.get(token) else { return Some(Refused::UnknownToken) };
        // The expiry is a whole second, and SPIRE compares it with the exact time.
        if timestamp::Nanos::from_seconds(expires_at) < timestamp::Nanos::from(*now) {
            return Some(Refused::ExpiredToken);
        }
    }
    match stored {
        Some(stored) if stored.is_banned => Some(Refused::Banned),
        Some(_) if matches!(by, By::FirstEvidence) => Some(Refused::Attested),
        _ => None,
    }
}

/// What is there of those who attest.
struct Found {
    /// Join tokens, which are gone from now on, and when they end.
    tokens: HashMap<String, i64>,
    agents: HashMap<String, Stored>,
}

/// What counts of the row of an agent that attests again.
struct Stored {
    row_id: i64,
    is_banned: bool,
    attestation_type: String,
    agent_version: String,
}

async fn find(tx: &Tx, wanted: &[&Admission]) -> Result<Found, StoreError> {
    let tokens: Vec<&str> = wanted.iter().filter_map(|it| it.by.token()).collect();
    let ids = wanted.iter().map(|it| it.node.spiffe_id.as_str());
    // Rows of both kinds: of a token (0), of an agent (1).
    let mut agents = Query::select();
    agents
        .expr(Expr::val(1_i64))
        .columns(["id", "spiffe_id", "data_type", "serial_number", "agent_version"])
        .from(NODES)
        .and_where(tx.dialect.is_one_of((NODES, "spiffe_id"), ids));
    tx.lock_rows(&mut agents);
    let agents = tx.built(&agents);
    let rows = match (tokens.is_empty(), tx.dialect.has_returning()) {
        (true, _) => tx.rows_together(vec![agents]).await?,
        (false, true) => {
            let mut take = Query::delete();
            take.from_table(JOIN_TOKENS)
                .and_where(tx.dialect.is_one_of((JOIN_TOKENS, "token"), tokens.iter().copied()))
                .returning(Query::returning().exprs([
                    Expr::val(0_i64),
                    Expr::col("expiry"),
                    Expr::col("token"),
                ]));
            tx.changed();
            tx.rows_together(vec![tx.built(&take), agents]).await?
        }
        (false, false) => {
            let mut select = Query::select();
            select
                .expr(Expr::val(0_i64))
                .columns(["expiry", "token"])
                .from(JOIN_TOKENS)
                .and_where(tx.dialect.is_one_of((JOIN_TOKENS, "token"), tokens.iter().copied()));
            tx.lock_rows(&mut select);
            let mut rows = tx.all(&select).await?;
            if !rows.is_empty() {
                let mut delete = Query::delete();
                delete.from_table(JOIN_TOKENS).and_where(
                    tx.dialect.is_one_of((JOIN_TOKENS, "token"), tokens.iter().copied()),
                );
                tx.execute(&delete).await?;
            }
            rows.extend(tx.rows_together(vec![agents]).await?);
            rows
        }
    };
    let mut found = Found { tokens: HashMap::new(), agents: HashMap::new() };
    for row in rows {
        if row.get::<i64>(0)? == 0 {
            // It was deleted.
            tx.wrote_a_row();
            found.tokens.insert(row.get(2)?, row.get_or_default(1)?);
            continue;
        }
        let stored = Stored {
            row_id: row.get(1)?,
            is_banned: row.get_or_default::<String>(4)?.is_empty(),
            attestation_type: row.get_or_default(3)?,
            agent_version: row.get_or_default(5)?,
        };
        found.agents.insert(row.get_or_default(2)?, stored);
    }
    Ok(found)
}

/// Writes agents' rows, selectors and events.
async fn write(
    tx: &Tx,
    fresh: &[AttestedNode],
    again: &[(i64, AttestedNode)],
    recorded: &[&AttestedNode],
) -> Result<(), StoreError> {
    let mut statements: Vec<Statement> = Vec::new();
    for fresh in pieces(fresh, tx.dialect) {
        statements.push(tx.built(&nodes::rows(tx, fresh)));
    }
    for (row_id, node) in again {
        let update = NodeUpdate {
            serial_number: Some(node.serial_number.clone()),
            expires_at: Some(node.expires_at),
            new_serial_number: Some(String::new()),
            new_expires_at: Some(0),
            can_reattest: Some(node.can_reattest),
            agent_version: None,
        };
        statements.push(tx.built(&nodes::update_of(tx, *row_id, &update)));
    }
    statements.push(tx.built(&nodes::delete_selectors_of(tx, recorded)));
    let selectors: Vec<_> = recorded
        .iter()
        .flat_map(|node| node.selectors.iter().map(|selector| (&node.spiffe_id, selector)))
        .collect();
    for selectors in pieces(&selectors, tx.dialect) {
        statements.push(tx.built(&nodes::selector_rows(tx, selectors)));
    }
    recorded.iter().for_each(|node| tx.node_is(node));
    tx.run_last(statements).await
}

/// The next serial number of an agent, which has not used it yet.
#[derive(Clone)]
pub(super) struct Renewal {
    pub(super) agent: SpiffeId,
    pub(super) serial_number: String,
    pub(super) expires_at: i64,
}

/// Records a renewal; `false` if there is no such agent.
///
/// # Errors
/// When the database fails.
pub(super) async fn renew_one(tx: &Tx, wanted: &Renewal) -> Result<bool, StoreError> {
    Ok(renew_many(tx, std::slice::from_ref(wanted)).await? == [true])
}

/// Records renewals, as if one after the other; `false` where there is no such agent.
///
/// # Errors
/// When the database fails.
pub(super) async fn renew_many(tx: &Tx, wanted: &[Renewal]) -> Result<Vec<bool>, StoreError> {
    let mut renewed = Vec::with_capacity(wanted.len());
    for some in pieces(wanted, tx.dialect) {
        let mut updates = Vec::with_capacity(some.len());
        for renewal in some {
            let mut update = nodes::renewal_of(tx, renewal);
            if tx.dialect.has_returning() {
                update.returning_col("spiffe_id");
                updates.push(tx.built(&update));
            } else {
                renewed.push(tx.execute(&update).await? > 0);
            }
        }
        if !updates.is_empty() {
            tx.changed();
            let rows = tx.rows_together(updates).await?;
            let there: Result<HashSet<String>, _> = rows.iter().map(|row| row.get(0)).collect();
            let there = there?;
            renewed.extend(some.iter().map(|it| there.contains(it.agent.as_str())));
        }
    }
    for renewal in wanted.iter().zip(&renewed).filter(|(_, renewed)| **renewed).map(|it| it.0) {
        tx.node_renewed(renewal);
    }
    Ok(renewed)
}

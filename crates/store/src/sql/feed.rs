//! The change feed on the event tables (CH-03 to CH-08); why it cannot skip is in ADR 0002.

pub(super) mod unordered;

use std::collections::HashMap;
use std::time::SystemTime;

use sea_orm::sea_query::{Cond, Expr, ExprTrait, Order, Query, UnionType};
use steeple_spiffe::{Selector, SpiffeId};

use super::dialect::Dialect;
use super::tx::{Row, Tx};
use super::{ENTRY_EVENTS, IN_LIST, NODE_EVENTS, SqlStore, entries, node_rows, timestamp};
use crate::error::{StoreError, excerpt};
use crate::feed::{Changes, Cursor, EntryChange, NodeChange, ResnapshotReason, Revision, Since};
use crate::model::AttestedNode;

/// After more events than this a snapshot costs less than the changes one by one.
const MAX_EVENTS: i64 = 50_000;

/// So many events of agents are looked at in one statement with the agents.
const FEW_EVENTS: i64 = 256;

/// An event table and the column that says whom an event is about.
#[derive(Clone, Copy)]
pub(super) struct Events {
    pub(super) table: &'static str,
    subject: &'static str,
}

pub(super) const ENTRY: Events = Events { table: ENTRY_EVENTS, subject: "entry_id" };
pub(super) const NODE: Events = Events { table: NODE_EVENTS, subject: "spiffe_id" };

/// Which copy of the database is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// The one that is written to.
    Primary,
    /// One that may be behind.
    Replica,
}

/// What happened to one table: where it stands now and who was touched, each once.
type News = Result<(Cursor, Vec<String>), ResnapshotReason>;

/// Where both event tables stand.
pub(super) async fn heads(tx: &Tx) -> Result<Revision, StoreError> {
    Ok(Revision { entries: head(tx, ENTRY).await?, nodes: head(tx, NODE).await? })
}

pub(super) async fn changes_since(
    tx: &Tx,
    after: &Revision,
    from: From,
) -> Result<Since, StoreError> {
    let [entries, nodes] = if tx.dialect.has_ordered_ids() {
        ordered_news(tx, after).await?
    } else {
        [
            unordered::news(tx, ENTRY, &after.entries, from).await?,
            unordered::news(tx, NODE, &after.nodes, from).await?,
        ]
    };
    let (entry_cursor, entry_ids) = match entries {
        Ok(news) => news,
        Err(reason) => return Ok(Since::ResnapshotNeeded(reason)),
    };
    let (node_cursor, node_ids) = match nodes {
        Ok(news) => news,
        Err(reason) => return Ok(Since::ResnapshotNeeded(reason)),
    };
    Ok(Since::Changes(Changes {
        revision: Revision { entries: entry_cursor, nodes: node_cursor },
        entries: entry_changes(tx, entry_ids).await?,
        nodes: node_changes(tx, &node_ids).await?,
    }))
}

/// As [`changes_since`], in one statement, if nothing happened but to a few agents: what agents do
/// is most of what happens. It takes ids that are ordered. None if more has happened.
pub(super) async fn look(store: &SqlStore, after: &Revision) -> Result<Option<Since>, StoreError> {
    // Rows of five kinds: where a table stands (even), an event in it (odd), and an agent that is
    // touched with one of its selectors, as often as it has some.
    const NEWS: &str = r#"
SELECT 0, "seq", NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    FROM "sqlite_sequence" WHERE "name" = 'registered_entries_events'
UNION ALL
SELECT 1, "id", "entry_id", CAST("created_at" AS TEXT), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    FROM "registered_entries_events" WHERE "id" BETWEEN ?1 AND ?2
UNION ALL
SELECT 2, "seq", NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    FROM "sqlite_sequence" WHERE "name" = 'attested_node_entries_events'
UNION ALL
SELECT 3, "id", "spiffe_id", CAST("created_at" AS TEXT), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    FROM "attested_node_entries_events" WHERE "id" BETWEEN ?3 AND ?4
UNION ALL
SELECT 4, n."id", n."spiffe_id", n."data_type", n."serial_number", n."expires_at",
    n."new_serial_number", n."new_expires_at", n."can_reattest", n."agent_version",
    s."id", s."type", s."value"
    FROM "attested_node_entries" AS n
    LEFT JOIN "node_resolver_map_entries" AS s ON s."spiffe_id" = n."spiffe_id"
    WHERE n."spiffe_id" IN (SELECT "spiffe_id" FROM "attested_node_entries_events"
        WHERE "id" > ?3 AND "id" <= ?4)"#;
    let bounds = [
        after.entries.id,
        after.entries.id.saturating_add(1),
        after.nodes.id,
        after.nodes.id.saturating_add(FEW_EVENTS),
    ];
    let rows = store.look_at_text(NEWS, &bounds).await?;
    let mut told = Told::default();
    let mut agents: HashMap<String, Option<AttestedNode>> = HashMap::new();
    for row in &rows {
        if row.get::<i64>(0)? < 4 {
            told.row(row)?;
            continue;
        }
        let id: String = row.get_or_default(2)?;
        let has_selector = row.get_or_default::<i64>(10)? != 0;
        let agent = agents.entry(id).or_insert_with(|| node_rows::read_or_skip(row, 1));
        if let Some(agent) = agent.as_mut().filter(|_| has_selector) {
            let (kind, value): (String, String) =
                (row.get_or_default(11)?, row.get_or_default(12)?);
            agent.selectors.push(Selector::new(&kind, &value));
        }
    }
    let [entry, node] = told.newest;
    if entry > after.entries.id || node.saturating_sub(after.nodes.id) > FEW_EVENTS {
        return Ok(None);
    }
    let (entries, (nodes, ids)) = match told.news(after) {
        [Ok((entries, _none)), Ok(nodes)] => (entries, nodes),
        [Err(reason), _] | [_, Err(reason)] => return Ok(Some(Since::ResnapshotNeeded(reason))),
    };
    let mut found = HashMap::with_capacity(agents.len());
    for mut agent in agents.into_values().flatten() {
        agent.selectors.sort_unstable();
        agent.selectors.dedup();
        found.insert(agent.spiffe_id.clone(), agent);
    }
    Ok(Some(Since::Changes(Changes {
        revision: Revision { entries, nodes },
        entries: Vec::new(),
        nodes: told_of(&ids, found),
    })))
}

/// Where an event table stands now.
async fn head(tx: &Tx, events: Events) -> Result<Cursor, StoreError> {
    if !tx.dialect.has_ordered_ids() {
        return unordered::head(tx, events).await;
    }
    let id = newest_id(tx, events).await?;
    let mark = read_events(tx, events, Expr::col("id").gte(id)).await?.into_iter().next();
    Ok(Cursor { id, mark: mark.map(Event::into_mark).unwrap_or_default(), ..Cursor::default() })
}

async fn newest_id(tx: &Tx, events: Events) -> Result<i64, StoreError> {
    if tx.dialect.has_ordered_ids() {
        let id = Dialect::newest_id(&tx.inner, events.table).await;
        return id.map_err(|error| tx.error(&error));
    }
    let mut select = Query::select();
    select.expr(Expr::cust("MAX(id)")).from(events.table);
    Ok(tx.one(&select).await?.map(|row| row.get_or_default(0)).transpose()?.unwrap_or(0))
}

struct Event {
    id: i64,
    subject: String,
    written_at: String,
}

impl Event {
    fn into_mark(self) -> String {
        self.written_at + " " + &self.subject
    }
}

/// The events that fit, in the order of their ids.
async fn read_events(tx: &Tx, events: Events, fits: Expr) -> Result<Vec<Event>, StoreError> {
    let written_at = match tx.dialect {
        Dialect::Postgres => Expr::col("created_at").cast_as("text"),
        Dialect::MySql { .. } => Expr::col("created_at").cast_as("CHAR"),
        Dialect::Sqlite { .. } => Expr::col("created_at").cast_as("TEXT"),
    };
    let mut select = Query::select();
    select
        .columns(["id", events.subject])
        .expr(written_at)
        .from(events.table)
        .and_where(fits)
        .order_by("id", Order::Asc);
    let rows = tx.all(&select).await?;
    rows.iter()
        .map(|row| {
            Ok(Event {
                id: row.get(0)?,
                subject: row.get_or_default(1)?,
                written_at: row.get_or_default(2)?,
            })
        })
        .collect()
}

/// What happened to both tables, in one statement, where ids are ordered.
async fn ordered_news(tx: &Tx, after: &Revision) -> Result<[News; 2], StoreError> {
    let cursors = [(ENTRY, &after.entries), (NODE, &after.nodes)];
    let mut selects = Vec::new();
    // Rows of both kinds: where a table stands (even), and an event in it (odd).
    for (kind, (events, after)) in [0_i64, 2].into_iter().zip(cursors) {
        let mut newest = Query::select();
        newest
            .expr(Expr::val(kind))
            .column("seq")
            .expr(Expr::cust("NULL"))
            .expr(Expr::cust("NULL"))
            .from("sqlite_sequence")
            .and_where(Expr::col("name").eq(events.table));
        let mut read = Query::select();
        read.expr(Expr::val(kind + 1))
            .columns(["id", events.subject])
            .expr(Expr::col("created_at").cast_as("TEXT"))
            .from(events.table)
            .and_where(Expr::col("id").between(after.id, after.id.saturating_add(MAX_EVENTS)));
        selects.extend([newest, read]);
    }
    let all = selects.into_iter().reduce(|mut all, next| {
        all.union(UnionType::All, next);
        all
    });
    let rows = match &all {
        Some(all) => tx.all(all).await?,
        None => Vec::new(),
    };
    let mut told = Told::default();
    rows.iter().try_for_each(|row| told.row(row))?;
    Ok(told.news(after))
}

/// Both event tables, where ids are ordered: the newest id that each ever had, and what was read.
#[derive(Default)]
struct Told {
    newest: [i64; 2],
    read: [Vec<Event>; 2],
}

impl Told {
    /// Takes a row of where a table stands (0, 2), or of an event in it (1, 3).
    fn row(&mut self, row: &Row) -> Result<(), StoreError> {
        let (kind, id) = (row.get::<i64>(0)?, row.get_or_default(1)?);
        let which = usize::from(kind >= 2);
        if kind % 2 == 0 {
            self.newest[which] = id;
        } else {
            let (subject, written_at) = (row.get_or_default(2)?, row.get_or_default(3)?);
            self.read[which].push(Event { id, subject, written_at });
        }
        Ok(())
    }

    fn news(self, after: &Revision) -> [News; 2] {
        let [entries, nodes] = self.read;
        let judge = |after: &Cursor, newest: i64, mut events: Vec<Event>| {
            if newest < after.id {
                return Err(ResnapshotReason::Replaced);
            }
            if newest - after.id > MAX_EVENTS {
                return Err(ResnapshotReason::TooMany);
            }
            events.sort_unstable_by_key(|event| event.id);
            follow(after, newest, events)
        };
        let [newest_entry, newest_node] = self.newest;
        [judge(&after.entries, newest_entry, entries), judge(&after.nodes, newest_node, nodes)]
    }
}

/// Checks that every id from the cursor to the newest is there, and gathers who was touched.
fn follow(after: &Cursor, newest: i64, events: Vec<Event>) -> News {
    let mut events = events.into_iter().peekable();
    let mut cursor = after.clone();
    if let Some(known) = events.next_if(|event| event.id == after.id) {
        let mark = known.into_mark();
        if !after.mark.is_empty() && mark != after.mark {
            return Err(ResnapshotReason::Replaced);
        }
        cursor.mark = mark;
    }
    let mut subjects = Vec::new();
    for event in events {
        if event.id != cursor.id + 1 {
            let first = cursor.id == after.id;
            return Err(if first { ResnapshotReason::Pruned } else { ResnapshotReason::Gap });
        }
        cursor.id = event.id;
        subjects.push(event.subject.clone());
        cursor.mark = event.into_mark();
    }
    if cursor.id != newest {
        let first = cursor.id == after.id;
        return Err(if first { ResnapshotReason::Pruned } else { ResnapshotReason::Gap });
    }
    // An entry touched ten times is read once; the order says nothing, as rows are read as of
    // now.
    subjects.sort_unstable();
    subjects.dedup();
    Ok((cursor, subjects))
}

async fn entry_changes(tx: &Tx, ids: Vec<String>) -> Result<Vec<EntryChange>, StoreError> {
    let found = entries::fetch_many(tx, &ids).await?;
    let mut found: HashMap<String, _> =
        found.into_iter().map(|entry| (entry.entry_id.clone(), entry)).collect();
    Ok(ids
        .into_iter()
        .map(|entry_id| EntryChange { entry: found.remove(&entry_id), entry_id })
        .collect())
}

async fn node_changes(tx: &Tx, ids: &[String]) -> Result<Vec<NodeChange>, StoreError> {
    let mut found = HashMap::new();
    for ids in ids.chunks(IN_LIST) {
        let listed = Expr::col("spiffe_id").is_in(ids.iter().map(String::as_str));
        let page = node_rows::find(tx, Cond::all().add(listed), None).await?;
        found.extend(
            page.nodes.into_iter().map(|stored| (stored.node.spiffe_id.clone(), stored.node)),
        );
    }
    Ok(told_of(ids, found))
}

/// What is to be told of agents, by what was found of them.
fn told_of(ids: &[String], mut found: HashMap<SpiffeId, AttestedNode>) -> Vec<NodeChange> {
    let changes = ids.iter().filter_map(|id| match SpiffeId::parse(id) {
        Ok(spiffe_id) => Some(NodeChange { node: found.remove(&spiffe_id), spiffe_id }),
        // An agent with a malformed id is in no index, so nothing can have changed.
        Err(error) => {
            tracing::warn!(
                subsystem_name = "sql",
                spiffe_id = %excerpt(id),
                error = %error,
                "Skipping an event of a malformed agent"
            );
            None
        }
    });
    changes.collect()
}

/// Deletes old events, but for the newest of each table: it marks the place for readers.
pub(super) async fn prune(tx: &Tx, written_before: SystemTime) -> Result<u64, StoreError> {
    let before = timestamp::Nanos::from(written_before).seconds();
    let mut pruned = 0;
    for events in [ENTRY, NODE] {
        let newest = newest_id(tx, events).await?;
        let mut delete = Query::delete();
        delete
            .from_table(events.table)
            .and_where(tx.dialect.is_before("created_at", before))
            .and_where(Expr::col("id").lt(newest));
        pruned += tx.execute(&delete).await?;
    }
    Ok(pruned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(ids: impl IntoIterator<Item = i64>) -> Vec<Event> {
        ids.into_iter()
            .map(|id| Event { id, subject: format!("s{id}"), written_at: "t".into() })
            .collect()
    }

    fn cursor(id: i64) -> Cursor {
        Cursor { id, mark: format!("t s{id}"), ..Cursor::default() }
    }

    #[test]
    fn a_history_without_gaps_is_followed_to_its_end() {
        let (at, subjects) = follow(&cursor(3), 5, events(3..=5)).unwrap();
        assert_eq!((at.id, at.mark.as_str()), (5, "t s5"));
        assert_eq!(subjects, ["s4", "s5"]);
        assert_eq!(follow(&cursor(3), 3, events(3..=3)).unwrap().1.len(), 0);
        assert_eq!(follow(&Cursor::default(), 2, events(1..=2)).unwrap().1, ["s1", "s2"]);
        assert_eq!(follow(&Cursor::default(), 0, Vec::new()).unwrap().0.id, 0);
    }

    #[test]
    fn events_up_to_the_cursor_may_be_pruned() {
        assert_eq!(follow(&cursor(3), 5, events(4..=5)).unwrap().1, ["s4", "s5"]);
        assert_eq!(follow(&cursor(5), 5, Vec::new()).unwrap().0.id, 5);
    }

    #[test]
    fn events_pruned_before_they_were_read_need_a_snapshot() {
        for left in [events([5]), events([3, 5]), Vec::new(), events([3])] {
            assert_eq!(follow(&cursor(3), 5, left).err(), Some(ResnapshotReason::Pruned));
        }
    }

    #[test]
    fn a_hole_in_the_middle_or_at_the_end_needs_a_snapshot() {
        assert_eq!(follow(&cursor(3), 6, events([4, 6])).err(), Some(ResnapshotReason::Gap));
        assert_eq!(follow(&cursor(3), 6, events([4, 5])).err(), Some(ResnapshotReason::Gap));
    }

    #[test]
    fn another_event_under_the_known_id_means_another_database() {
        let mut other = events(3..=4);
        other[0].subject = "somebody else".into();
        assert_eq!(follow(&cursor(3), 4, other).err(), Some(ResnapshotReason::Replaced));
        let unmarked = Cursor { id: 3, ..Cursor::default() };
        assert_eq!(follow(&unmarked, 4, events(3..=4)).unwrap().1, ["s4"]);
    }
}

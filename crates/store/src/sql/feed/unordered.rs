//! Where ids are handed out in one order and become visible in another (PostgreSQL, MySQL).
//!
//! A reader keeps the *set* of ids that it has seen. Whatever is there and not in the set is new,
//! in whichever order transactions committed, and however late one does. Nothing has to be known
//! of other writers. The set is kept short by a floor: see [`settle`].

use std::collections::BTreeSet;
use std::sync::Arc;

use sea_orm::sea_query::{Expr, ExprTrait, Order, Query};

use super::{Event, Events, From, MAX_EVENTS, News, read_events};
use crate::error::StoreError;
use crate::feed::{Cursor, ResnapshotReason};
use crate::sql::IN_LIST;
use crate::sql::tx::Tx;

pub(super) async fn head(tx: &Tx, events: Events) -> Result<Cursor, StoreError> {
    let seen = ids_above(tx, events, 0).await?;
    let id = seen.last().copied().unwrap_or(0);
    let mark = mark_of(tx, events, id).await?.unwrap_or_default();
    Ok(Cursor { id, mark, floor: 0, seen: Arc::new(seen) })
}

/// The ids of the events above a floor that are visible now.
pub(in crate::sql) async fn ids_above(
    tx: &Tx,
    events: Events,
    floor: i64,
) -> Result<BTreeSet<i64>, StoreError> {
    let mut select = Query::select();
    select
        .column("id")
        .from(events.table)
        .and_where(Expr::col("id").gt(floor))
        .order_by("id", Order::Asc);
    tx.all(&select).await?.iter().map(|row| row.get(0)).collect()
}

async fn mark_of(tx: &Tx, events: Events, id: i64) -> Result<Option<String>, StoreError> {
    let found = read_events(tx, events, Expr::col("id").eq(id)).await?;
    Ok(found.into_iter().next().map(Event::into_mark))
}

pub(super) async fn news(
    tx: &Tx,
    events: Events,
    after: &Cursor,
    from: From,
) -> Result<News, StoreError> {
    let visible = ids_above(tx, events, after.floor).await?;
    let newest = visible.last().copied().unwrap_or(after.floor);
    let mark = if after.id == 0 { None } else { mark_of(tx, events, after.id).await? };
    if let Err(reason) = is_continued(after, mark.as_deref(), &visible) {
        let behind = from == From::Replica && mark.is_none() && newest < after.id;
        // A copy that has not come as far yet as the one that was read before: later.
        return Ok(if behind { Ok((after.clone(), Vec::new())) } else { Err(reason) });
    }
    let new: Vec<i64> = visible.difference(&after.seen).copied().collect();
    if new.len() > usize::try_from(MAX_EVENTS).unwrap_or(usize::MAX) {
        return Ok(Err(ResnapshotReason::TooMany));
    }
    if new.is_empty() && visible.len() == after.seen.len() {
        return Ok(Ok((after.clone(), Vec::new())));
    }
    let mut subjects = Vec::with_capacity(new.len());
    let mut cursor = after.clone();
    for ids in new.chunks(IN_LIST) {
        for event in read_events(tx, events, Expr::col("id").is_in(ids.iter().copied())).await? {
            subjects.push(event.subject.clone());
            if event.id > cursor.id {
                cursor.id = event.id;
                cursor.mark = event.into_mark();
            }
        }
    }
    // What was pruned is forgotten: an id that is not there cannot be mistaken for a new one.
    cursor.seen = Arc::new(visible);
    subjects.sort_unstable();
    subjects.dedup();
    Ok(Ok((cursor, subjects)))
}

/// Whether the table is the continuation of what was seen.
fn is_continued(
    after: &Cursor,
    mark: Option<&str>,
    visible: &BTreeSet<i64>,
) -> Result<(), ResnapshotReason> {
    if after.id == 0 {
        // The table was empty. The first id there ever is is 1; if it starts elsewhere, who
        // knows what was pruned before it was read.
        let first = visible.first().copied().unwrap_or(1);
        return if first == 1 { Ok(()) } else { Err(ResnapshotReason::Pruned) };
    }
    match mark {
        Some(mark) if after.mark.is_empty() || mark == after.mark => Ok(()),
        Some(_) => Err(ResnapshotReason::Replaced),
        None if visible.range(after.id..).next().is_some() => Err(ResnapshotReason::Pruned),
        None => Err(ResnapshotReason::Replaced),
    }
}

/// Raises the floor of a cursor, given the ids that are above it at a moment at which no
/// transaction that wrote an event was open (the caller held the table): up to the first of them
/// that was not seen, nothing new can appear.
pub(in crate::sql) fn settle(cursor: &mut Cursor, settled: &BTreeSet<i64>) {
    let unseen = settled.difference(&cursor.seen).next();
    let floor = match unseen {
        Some(unseen) => unseen - 1,
        None => settled.last().copied().unwrap_or(cursor.floor),
    };
    if floor > cursor.floor {
        cursor.floor = floor;
        Arc::make_mut(&mut cursor.seen).retain(|id| *id > floor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: impl IntoIterator<Item = i64>) -> BTreeSet<i64> {
        ids.into_iter().collect()
    }

    fn cursor(id: i64, floor: i64, seen: impl IntoIterator<Item = i64>) -> Cursor {
        Cursor { id, mark: format!("t s{id}"), floor, seen: Arc::new(set(seen)) }
    }

    #[test]
    fn the_floor_rises_to_the_first_event_that_was_not_seen() {
        let mut at = cursor(9, 2, [3, 4, 6, 9]);
        settle(&mut at, &set([3, 4, 6, 7, 9]));
        assert_eq!((at.floor, at.seen.as_ref()), (6, &set([9])), "5 was a rollback, 7 is awaited");
        settle(&mut at, &set([9]));
        assert_eq!((at.floor, at.seen.len()), (9, 0));
        settle(&mut at, &set([]));
        assert_eq!(at.floor, 9);
    }

    #[test]
    fn a_table_that_is_no_continuation_is_recognised() {
        let at = cursor(5, 0, [4, 5]);
        assert_eq!(is_continued(&at, Some("t s5"), &set([4, 5, 6])), Ok(()));
        assert_eq!(is_continued(&at, Some("u s5"), &set([4, 5])), Err(ResnapshotReason::Replaced));
        assert_eq!(is_continued(&at, None, &set([4])), Err(ResnapshotReason::Replaced));
        assert_eq!(is_continued(&at, None, &set([6])), Err(ResnapshotReason::Pruned));
        let empty = Cursor::default();
        assert_eq!(is_continued(&empty, None, &set([1, 3])), Ok(()));
        assert_eq!(is_continued(&empty, None, &set([5])), Err(ResnapshotReason::Pruned));
    }

    #[test]
    fn a_place_is_the_same_however_much_is_remembered() {
        assert!(cursor(9, 2, [3, 9]) == cursor(9, 5, [9]));
        assert!(cursor(9, 2, [3, 8, 9]) != cursor(9, 5, [9]));
        assert!(cursor(9, 2, [9]) != cursor(8, 2, [9]));
    }
}

//! What is read, on one of the connections that only read.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rusqlite::{Connection, OptionalExtension, Params, ToSql, params};

use super::write::PIECE_BYTES;
use crate::budget::Funds;
use crate::clock::Timestamp;
use crate::id::{CallerId, ConversationId, GroupId, NodeId, RequestId, TaskId};
use crate::money::Microdollars;
use crate::store::row::{self, COLUMNS, Row, integer};
use crate::store::{
    Context, ContextValue, Due, LogEntry, Parts, Query, Request, SessionRef, StoreError, Totals,
};
use crate::task::{Level, Record, SavedSession, State};

/// Reads rows for [`row`]; a test holds it to `COLUMNS`.
pub(super) const SELECT_TASK: &str = "SELECT id, version, caller, state, tags, group_id, \
    parent_id, place, rank, request_id, create_time, ready_time, start_time, end_time, \
    queue_deadline, attached, abandon_time, attempt, burnt, slot, lease_node, lease_until, \
    session_id, context_revision, budget, reserved, cost, attempt_cost, cost_estimated, recovery, \
    saves_session, conversation, last_sequence, due_time, trace, usage, session_offset, \
    node_label, level, home FROM tasks";

/// More tags than this are looked for task by task instead of tag by tag.
const TAG_ARMS_MAX: usize = 16;

#[rustfmt::skip]
pub(super) fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        id: row.get(0)?, version: row.get(1)?, caller: row.get(2)?, state: row.get(3)?,
        tags: row.get(4)?, group: row.get(5)?, parent: row.get(6)?, place: row.get(7)?,
        rank: row.get(8)?, request: row.get(9)?, create_time: row.get(10)?,
        ready_time: row.get(11)?, start_time: row.get(12)?, end_time: row.get(13)?,
        queue_deadline: row.get(14)?, attached: row.get(15)?, abandon_time: row.get(16)?,
        attempt: row.get(17)?, burnt: row.get(18)?, slot: row.get(19)?,
        lease_node: row.get(20)?, lease_until: row.get(21)?, session_id: row.get(22)?,
        context_revision: row.get(23)?, budget: row.get(24)?, reserved: row.get(25)?,
        cost: row.get(26)?, attempt_cost: row.get(27)?, cost_estimated: row.get(28)?,
        recovery: row.get(29)?, saves_session: row.get(30)?, conversation: row.get(31)?,
        last_sequence: row.get(32)?, due_time: row.get(33)?,
        trace: row.get(34)?, usage: row.get(35)?, session_offset: row.get(36)?,
        node_label: row.get(37)?, level: row.get(38)?, home: row.get(39)?,
    })
}

/// A number that is never negative.
fn unsigned(row: &rusqlite::Row<'_>, place: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(place)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(place, number))
}

/// `SELECT` of records up to and with the joins, for [`records`].
fn select(parts: Parts) -> String {
    let mut sql = String::from("SELECT ");
    for (place, column) in COLUMNS.into_iter().enumerate() {
        let comma = if place == 0 { "" } else { ", " };
        let _ = write!(sql, "{comma}t.{column}");
    }
    sql.push_str(if parts.spec {
        ", s.received, s.effective, s.chain"
    } else {
        ", NULL, NULL, NULL"
    });
    sql.push_str(if parts.result { ", r.result" } else { ", NULL" });
    sql.push_str(" FROM tasks t");
    if parts.spec {
        sql.push_str(" LEFT JOIN task_specs s ON s.task = t.id");
    }
    if parts.result {
        sql.push_str(" LEFT JOIN task_results r ON r.task = t.id");
    }
    sql
}

fn records(conn: &Connection, sql: &str, params: impl Params) -> Result<Vec<Record>, StoreError> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut records = Vec::new();
    while let Some(found) = rows.next()? {
        let task = row(found)?.into_task()?;
        let received: Option<Vec<u8>> = found.get(COLUMNS.len())?;
        let effective: Option<Vec<u8>> = found.get(COLUMNS.len() + 1)?;
        let chain: Option<Vec<u8>> = found.get(COLUMNS.len() + 2)?;
        let spec = received
            .zip(effective)
            .map(|(received, effective)| {
                row::spec(task.id, &received, &effective, chain.as_deref())
            })
            .transpose()?
            .map(Arc::new);
        let result: Option<Vec<u8>> = found.get(COLUMNS.len() + 3)?;
        let result = result
            .map(|bytes| row::result(task.id, &bytes))
            .transpose()?;
        records.push(Record { task, spec, result });
    }
    Ok(records)
}

pub(super) fn record(
    conn: &Connection,
    id: TaskId,
    parts: Parts,
) -> Result<Option<Record>, StoreError> {
    let sql = format!("{} WHERE t.id = ?", select(parts));
    Ok(records(conn, &sql, [id.as_bytes()])?.pop())
}

pub(super) fn session(
    conn: &Connection,
    caller: &CallerId,
    which: &SessionRef,
) -> Result<Option<SavedSession>, StoreError> {
    let (condition, value) = match which {
        SessionRef::Id(id) => ("id = ?", id),
        SessionRef::Conversation(conversation) => ("conversation = ?", &conversation.0),
    };
    let sql = format!(
        "SELECT id, conversation, used_time, node FROM sessions WHERE caller = ? AND {condition}
         ORDER BY used_time DESC, id DESC LIMIT 1"
    );
    Ok(conn
        .prepare_cached(&sql)?
        .query_row([&caller.0, value], |row| {
            Ok(SavedSession {
                id: row.get(0)?,
                caller: caller.clone(),
                conversation: row.get::<_, Option<String>>(1)?.map(ConversationId),
                used_time: Timestamp(row.get(2)?),
                node: row.get::<_, Option<String>>(3)?.map(NodeId),
            })
        })
        .optional()?)
}

pub(super) fn group(
    conn: &Connection,
    id: GroupId,
    parts: Parts,
) -> Result<Vec<Record>, StoreError> {
    let sql = format!(
        "{} WHERE t.group_id = ? ORDER BY t.place, t.id",
        select(parts)
    );
    records(conn, &sql, [id.as_bytes()])
}

/// A page, newest first. Each arm of the union walks one index in the order of
/// ids and stops at the limit, so that a page costs the same at a thousand
/// tasks and at a million.
pub(super) fn list(conn: &Connection, query: &Query) -> Result<Vec<Record>, StoreError> {
    let filter = &query.filter;
    let mut rest = String::from("t.id < :before");
    let mut values: Vec<(String, Box<dyn ToSql>)> = Vec::new();
    let before = query.before.map_or([0xff; 16], |id| *id.as_bytes());
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    values.push((":before".into(), Box::new(before)));
    values.push((":limit".into(), Box::new(limit)));
    let mut also = |condition: &str, name: &str, value: Box<dyn ToSql>| {
        let _ = write!(rest, " AND {condition} {name}");
        values.push((name.to_owned(), value));
    };
    if let Some(slot) = &filter.slot {
        also("t.slot =", ":slot", Box::new(slot.0.clone()));
    }
    if let Some(from) = filter.created_from {
        also("t.create_time >=", ":from", Box::new(from.0));
    }
    if let Some(to) = filter.created_before {
        also("t.create_time <", ":to", Box::new(to.0));
    }
    if let Some(caller) = &filter.caller {
        also("t.caller =", ":caller", Box::new(caller.0.clone()));
    }
    if let Some(group) = filter.group {
        also("t.group_id =", ":group", Box::new(*group.as_bytes()));
    }
    if let Some(parent) = filter.parent {
        also("t.parent_id =", ":parent", Box::new(*parent.as_bytes()));
    } else if !filter.include_steps {
        rest.push_str(" AND t.parent_id IS NULL");
    }
    let timed = filter.created_from.is_some() || filter.created_before.is_some();
    let few = filter.group.is_some() || filter.parent.is_some();
    let tag_arms = !few && (1..=TAG_ARMS_MAX).contains(&filter.any_tags.len());
    if tag_arms {
        for (place, tag) in filter.any_tags.iter().enumerate() {
            values.push((format!(":tag{place}"), Box::new(tag.clone())));
        }
    } else if !filter.any_tags.is_empty() {
        let tags = serde_json::Value::from(filter.any_tags.as_slice()).to_string();
        values.push((":tags".into(), Box::new(tags)));
        rest.push_str(
            " AND EXISTS (SELECT 1 FROM json_each(:tags) j JOIN task_tags g
              ON g.tag = j.value AND g.task = t.id)",
        );
    }
    let states = match &filter.states[..] {
        [] => &State::ALL[..],
        some => some,
    };
    let numbers: Vec<String> = states
        .iter()
        .map(|state| (state.to_proto() as i32).to_string())
        .collect();
    let among = format!("t.state IN ({})", numbers.join(", "));

    let arms: Vec<String> = if filter.group.is_some() {
        vec![format!(
            "tasks t INDEXED BY tasks_group WHERE {rest} AND {among}"
        )]
    } else if filter.parent.is_some() {
        vec![format!(
            "tasks t INDEXED BY tasks_parent WHERE {rest} AND {among}"
        )]
    } else if tag_arms {
        (0..filter.any_tags.len())
            .map(|place| {
                // CROSS JOIN: first the tag's tasks, newest first, then their rows.
                format!(
                    "task_tags g CROSS JOIN tasks t ON t.id = g.task \
                     WHERE g.tag = :tag{place} AND g.task < :before AND {rest} AND {among}"
                )
            })
            .collect()
    } else if filter.slot.is_some() {
        vec![format!(
            "tasks t INDEXED BY tasks_slot WHERE {rest} AND {among}"
        )]
    } else if filter.caller.is_some() || !filter.states.is_empty() || timed {
        let index = match filter.caller {
            Some(_) => "tasks_caller",
            None => "tasks_state",
        };
        numbers
            .iter()
            .map(|state| format!("tasks t INDEXED BY {index} WHERE {rest} AND t.state = {state}"))
            .collect()
    } else {
        vec![format!("tasks t WHERE {rest}")]
    };
    let order = if tag_arms { "g.task" } else { "t.id" };
    let arms: Vec<String> = arms
        .into_iter()
        .map(|arm| {
            format!("SELECT id FROM (SELECT t.id FROM {arm} ORDER BY {order} DESC LIMIT :limit)")
        })
        .collect();
    let sql = format!(
        "{} WHERE t.id IN (SELECT id FROM ({}) ORDER BY id DESC LIMIT :limit) ORDER BY t.id DESC",
        select(query.parts),
        arms.join(" UNION ")
    );
    let values: Vec<(&str, &dyn ToSql)> = values
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_ref()))
        .collect();
    records(conn, &sql, &values[..])
}

pub(super) fn request(
    conn: &Connection,
    caller: &CallerId,
    id: RequestId,
) -> Result<Option<Request>, StoreError> {
    Ok(conn
        .prepare_cached(
            "SELECT fingerprint, task, group_id, expire_time, deleted
             FROM requests WHERE caller = ? AND id = ?",
        )?
        .query_row(params![caller.0, id.as_bytes()], |row| {
            Ok(Request {
                caller: caller.clone(),
                id,
                fingerprint: row.get(0)?,
                task: TaskId::from_bytes(row.get(1)?),
                group: row.get::<_, Option<_>>(2)?.map(GroupId::from_bytes),
                expire_time: Timestamp(row.get(3)?),
                deleted: row.get(4)?,
            })
        })
        .optional()?)
}

pub(super) fn log(
    conn: &Connection,
    id: TaskId,
    after: u64,
    bytes_max: usize,
) -> Result<Vec<LogEntry>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT sequence, bytes FROM events WHERE task = ?1 AND sequence > ?2
         AND EXISTS (SELECT 1 FROM tasks WHERE id = ?1) ORDER BY sequence",
    )?;
    let mut rows = statement.query(params![id.as_bytes(), integer(after)])?;
    let mut entries = Vec::new();
    let mut size = 0;
    while let Some(row) = rows.next()? {
        let bytes: Vec<u8> = row.get(1)?;
        size += bytes.len();
        if !entries.is_empty() && size > bytes_max {
            break;
        }
        entries.push(LogEntry {
            sequence: unsigned(row, 0)?,
            bytes: bytes.into(),
        });
    }
    Ok(entries)
}

pub(super) fn log_bytes(conn: &Connection, id: TaskId) -> Result<u64, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT coalesce(sum(length(bytes)), 0) FROM events WHERE task = ?1
         AND EXISTS (SELECT 1 FROM tasks WHERE id = ?1)",
    )?;
    Ok(statement.query_row([id.as_bytes()], |row| unsigned(row, 0))?)
}

pub(super) fn output(
    conn: &Connection,
    id: TaskId,
    offset: u64,
    len: usize,
) -> Result<Option<Bytes>, StoreError> {
    // One transaction, so that a task is there with all of its output or not at all.
    let transaction = conn.unchecked_transaction()?;
    let kept = transaction
        .prepare_cached(
            "SELECT 1 FROM task_outputs WHERE task = ?1
             AND EXISTS (SELECT 1 FROM tasks WHERE id = ?1) LIMIT 1",
        )?
        .exists([id.as_bytes()])?;
    if !kept {
        return Ok(None);
    }
    let piece_bytes = PIECE_BYTES as u64;
    let last = offset.saturating_add(len as u64) / piece_bytes;
    let mut statement = transaction.prepare_cached(
        "SELECT bytes FROM task_outputs WHERE task = ? AND piece BETWEEN ? AND ? ORDER BY piece",
    )?;
    let mut rows = statement.query(params![
        id.as_bytes(),
        integer(offset / piece_bytes),
        integer(last)
    ])?;
    // The remainder is below 256 KiB.
    let mut skip = (offset % piece_bytes) as usize;
    let mut text = BytesMut::new();
    while text.len() < len
        && let Some(row) = rows.next()?
    {
        let piece: Vec<u8> = row.get(0)?;
        let piece = piece.get(skip..).unwrap_or_default();
        let wanted = piece.len().min(len - text.len());
        text.extend_from_slice(&piece[..wanted]);
        skip = 0;
    }
    Ok(Some(text.freeze()))
}

pub(super) fn due(
    conn: &Connection,
    now: Timestamp,
    level: Level,
    limit: usize,
) -> Result<Due, StoreError> {
    let transaction = conn.unchecked_transaction()?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = transaction.prepare_cached(&format!(
        "{SELECT_TASK} INDEXED BY tasks_due WHERE due_time <= ?
         AND (level <= ? OR parent_id IS NULL) ORDER BY due_time, id LIMIT ?"
    ))?;
    let mut tasks = Vec::new();
    for found in statement.query_map([now.0, i64::from(level.0), limit], row)? {
        tasks.push(found?.into_task()?);
    }
    let next: Option<i64> = transaction
        .prepare_cached("SELECT min(due_time) FROM tasks INDEXED BY tasks_due WHERE due_time > ?")?
        .query_row([now.0], |row| row.get(0))?;
    Ok(Due {
        tasks,
        next: next.map(Timestamp),
    })
}

pub(super) fn totals(conn: &Connection) -> Result<Totals, StoreError> {
    // One transaction, so that both are of the same moment.
    let transaction = conn.unchecked_transaction()?;
    let funds = transaction
        .prepare_cached("SELECT spent, reserved, budget_limit FROM funds")?
        .query_row([], |row| {
            Ok(Funds {
                spent: Microdollars(row.get(0)?),
                reserved: Microdollars(row.get(1)?),
                limit: row.get::<_, Option<_>>(2)?.map(Microdollars),
            })
        })?;
    let mut statement = transaction.prepare_cached("SELECT state, tasks FROM counts")?;
    let mut tasks = BTreeMap::new();
    for count in statement.query_map([], |row| Ok((row.get(0)?, unsigned(row, 1)?)))? {
        let (state, count) = count?;
        let state = State::from_number(state)
            .ok_or_else(|| StoreError::Corrupt(format!("counts have a state {state}")))?;
        tasks.insert(state, count);
    }
    let first_ready = next_ready(&transaction, Timestamp(i64::MIN))?;
    Ok(Totals {
        tasks,
        funds,
        first_ready,
    })
}

/// The lowest rank at or above this one among queued tasks. The index is
/// gone through rank by rank: what is not ready yet is never read.
pub(super) fn rank_from(conn: &Connection, rank: i64) -> Result<Option<i64>, StoreError> {
    Ok(conn
        .prepare_cached(
            "SELECT min(rank) FROM tasks INDEXED BY tasks_ready WHERE state = 1 AND rank <> 255 AND rank >= ?",
        )?
        .query_row([rank], |row| row.get(0))?)
}

/// The earliest ready time after a moment among queued tasks.
pub(super) fn next_ready(
    conn: &Connection,
    after: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    let mut next: Option<i64> = None;
    let mut rank = rank_from(conn, 0)?;
    while let Some(r) = rank {
        let time: Option<i64> = conn
            .prepare_cached(
                "SELECT min(ready_time) FROM tasks INDEXED BY tasks_ready
                 WHERE state = 1 AND rank <> 255 AND rank = ? AND ready_time > ?",
            )?
            .query_row(params![r, after.0], |row| row.get(0))?;
        next = match (next, time) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        rank = rank_from(conn, r + 1)?;
    }
    Ok(next.map(Timestamp))
}

pub(super) fn context(conn: &Connection) -> Result<Context, StoreError> {
    let transaction = conn.unchecked_transaction()?;
    let revision = transaction
        .prepare_cached("SELECT revision FROM context_revision")?
        .query_row([], |row| unsigned(row, 0))?;
    let mut statement =
        transaction.prepare_cached("SELECT key, value, update_time FROM context")?;
    let mut entries = BTreeMap::new();
    for entry in statement.query_map([], |row| {
        let value = ContextValue {
            value: row.get(1)?,
            update_time: Timestamp(row.get(2)?),
        };
        Ok((row.get(0)?, value))
    })? {
        let (key, value) = entry?;
        entries.insert(key, value);
    }
    Ok(Context { revision, entries })
}

/// Adds up what is kept as a sum, and says where the two differ. For a store
/// that is at rest.
#[cfg(any(test, feature = "testing"))]
pub(super) fn check_sums(conn: &Connection) -> Result<(), StoreError> {
    let kept = totals(conn)?;
    let transaction = conn.unchecked_transaction()?;
    let (spent, reserved): (i64, i64) = transaction.query_row(
        "SELECT coalesce(sum(CASE WHEN kind IN (2, 3) THEN cost ELSE 0 END), 0),
                coalesce(sum(CASE kind WHEN 1 THEN reserved ELSE -reserved END), 0) FROM ledger",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let mut counts = BTreeMap::new();
    let mut statement = transaction
        .prepare("SELECT state, count(*) FROM tasks WHERE parent_id IS NULL GROUP BY state")?;
    for count in statement.query_map([], |row| Ok((row.get(0)?, unsigned(row, 1)?)))? {
        let (state, count) = count?;
        counts.extend(State::from_number(state).map(|state| (state, count)));
    }
    let nonzero: BTreeMap<State, u64> = kept.tasks.into_iter().filter(|(_, n)| *n > 0).collect();
    if (kept.funds.spent.0, kept.funds.reserved.0) != (spent, reserved) || nonzero != counts {
        return Err(StoreError::Corrupt(format!(
            "kept: {:?} {nonzero:?}; added up: spent {spent}, reserved {reserved}, {counts:?}",
            kept.funds
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_selected_in_the_order_of_the_columns() {
        let select = format!("SELECT {} FROM tasks", COLUMNS.join(", "));
        assert_eq!(SELECT_TASK, select);
    }
}

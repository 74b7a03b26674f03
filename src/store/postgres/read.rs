//! What is read. Each statement sees one moment.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio_postgres::Row;

use super::call::Link;
use super::columns::{self, SELECT, names, uuid};
use super::fault::Fault;
use super::text::{kept, said};
use super::write::{PIECE_BYTES, missing};
use crate::budget::Funds;
use crate::clock::Timestamp;
use crate::id::{CallerId, GroupId, RequestId, TaskId};
use crate::money::Microdollars;
use crate::store::row::{self, COLUMNS, integer};
use crate::store::{Context, ContextValue, Due, LogEntry, Parts, Request, StoreError, Totals};
use crate::task::{Level, Record, Spec, State};

/// Entries of a log that are fetched at a time.
const ENTRIES: i64 = 256;

/// `SELECT` of records up to and with the joins, for [`records`].
pub(super) fn select(parts: Parts) -> String {
    let spec = match parts.spec {
        true => "s.received, s.effective, s.chain",
        false => "NULL::bytea, NULL::bytea, NULL::bytea",
    };
    let result = if parts.result {
        "r.result"
    } else {
        "NULL::bytea"
    };
    let mut sql = format!("SELECT {}, {spec}, {result} FROM tasks t", names("t."));
    if parts.spec {
        sql += " LEFT JOIN task_specs s ON s.task = t.id";
    }
    if parts.result {
        sql += " LEFT JOIN task_results r ON r.task = t.id";
    }
    sql
}

pub(super) fn records(rows: &[Row]) -> Result<Vec<Record>, Fault> {
    let record = |found: &Row| {
        let task = columns::task(found)?;
        let spec = spec_of(task.id, found, COLUMNS.len())?.map(Arc::new);
        let result: Option<&[u8]> = found.try_get(COLUMNS.len() + 3)?;
        let result = result
            .map(|bytes| row::result(task.id, bytes))
            .transpose()?;
        Ok(Record { task, spec, result })
    };
    rows.iter().map(record).collect()
}

/// What was asked, as three columns from `place` say.
fn spec_of(id: TaskId, found: &Row, place: usize) -> Result<Option<Spec>, Fault> {
    let received: Option<&[u8]> = found.try_get(place)?;
    let effective: Option<&[u8]> = found.try_get(place + 1)?;
    let chain: Option<&[u8]> = found.try_get(place + 2)?;
    let spec = received.zip(effective);
    let spec = spec.map(|(received, effective)| row::spec(id, received, effective, chain));
    Ok(spec.transpose()?)
}

pub(super) async fn specs(link: &Link, ids: &[TaskId]) -> Result<HashMap<TaskId, Spec>, Fault> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<_> = ids.iter().map(|id| uuid(id.as_bytes())).collect();
    let sql = "SELECT task, received, effective, chain FROM task_specs WHERE task = ANY($1)";
    let mut specs = HashMap::new();
    for found in link.rows(sql, &[&ids]).await? {
        let id = TaskId::from_bytes(found.try_get::<_, uuid::Uuid>(0)?.into_bytes());
        specs.extend(spec_of(id, &found, 1)?.map(|spec| (id, spec)));
    }
    Ok(specs)
}

pub(super) async fn record(link: &Link, id: TaskId, parts: Parts) -> Result<Option<Record>, Fault> {
    let sql = format!("{} WHERE t.id = $1", select(parts));
    let rows = link.rows(&sql, &[&uuid(id.as_bytes())]).await?;
    Ok(records(&rows)?.pop())
}

pub(super) async fn group(link: &Link, id: GroupId, parts: Parts) -> Result<Vec<Record>, Fault> {
    let sql = format!(
        "{} WHERE t.group_id = $1 ORDER BY t.place, t.id",
        select(parts)
    );
    records(&link.rows(&sql, &[&uuid(id.as_bytes())]).await?)
}

/// A request by caller and id, for [`request_of`].
pub(super) const REQUEST: &str = "SELECT fingerprint, task, group_id, expire_time, deleted
    FROM requests WHERE caller = $1 AND id = $2";

pub(super) fn request_of(row: &Row, caller: &CallerId, id: RequestId) -> Result<Request, Fault> {
    let fingerprint: &[u8] = row.try_get(0)?;
    let bad = |_| StoreError::Corrupt(format!("request {id} has a bad fingerprint"));
    let task: uuid::Uuid = row.try_get(1)?;
    let group: Option<uuid::Uuid> = row.try_get(2)?;
    Ok(Request {
        caller: caller.clone(),
        id,
        fingerprint: fingerprint.try_into().map_err(bad)?,
        task: TaskId::from_bytes(task.into_bytes()),
        group: group.map(|group| GroupId::from_bytes(group.into_bytes())),
        expire_time: Timestamp(row.try_get(3)?),
        deleted: row.try_get(4)?,
    })
}

pub(super) async fn request(
    link: &Link,
    caller: CallerId,
    id: RequestId,
) -> Result<Option<Request>, Fault> {
    let values = (kept(&caller.0), uuid(id.as_bytes()));
    let rows = link.rows(REQUEST, &[&values.0, &values.1]).await?;
    let found = rows.first().map(|row| request_of(row, &caller, id));
    found.transpose()
}

pub(super) async fn log(
    link: &Link,
    id: TaskId,
    after: u64,
    bytes_max: usize,
) -> Result<Vec<LogEntry>, Fault> {
    let sql = "SELECT sequence, bytes FROM events WHERE task = $1 AND sequence > $2
               AND EXISTS (SELECT 1 FROM tasks WHERE id = $1) ORDER BY sequence LIMIT $3";
    let (task, mut after) = (uuid(id.as_bytes()), integer(after));
    let mut entries = Vec::new();
    let mut size = 0;
    loop {
        let rows = link.rows(sql, &[&task, &after, &ENTRIES]).await?;
        for row in &rows {
            let bytes: &[u8] = row.try_get(1)?;
            size += bytes.len();
            if !entries.is_empty() && size > bytes_max {
                return Ok(entries);
            }
            after = row.try_get(0)?;
            entries.push(LogEntry {
                sequence: u64::try_from(after).map_err(|_| row::damaged(id, "sequence"))?,
                bytes: Bytes::copy_from_slice(bytes),
            });
        }
        if (rows.len() as i64) < ENTRIES {
            return Ok(entries);
        }
    }
}

pub(super) async fn log_bytes(link: &Link, id: TaskId) -> Result<u64, Fault> {
    let sql = "SELECT coalesce(sum(length(bytes)), 0)::bigint FROM events WHERE task = $1
               AND EXISTS (SELECT 1 FROM tasks WHERE id = $1)";
    let rows = link.rows(sql, &[&uuid(id.as_bytes())]).await?;
    let sum: i64 = rows.first().ok_or_else(|| missing("a query"))?.try_get(0)?;
    Ok(u64::try_from(sum).unwrap_or_default())
}

pub(super) async fn output(
    link: &Link,
    id: TaskId,
    offset: u64,
    len: usize,
) -> Result<Option<Bytes>, Fault> {
    // The first piece tells that it was kept, even when nothing of it is wanted.
    let sql = "SELECT CASE WHEN piece >= $2 THEN bytes ELSE '' END FROM task_outputs
               WHERE task = $1 AND (piece = 0 OR piece BETWEEN $2 AND $3)
               AND EXISTS (SELECT 1 FROM tasks WHERE id = $1) ORDER BY piece";
    let piece_bytes = PIECE_BYTES as u64;
    let first = integer(offset / piece_bytes);
    let last = integer(offset.saturating_add(len as u64) / piece_bytes);
    let rows = link
        .rows(sql, &[&uuid(id.as_bytes()), &first, &last])
        .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    // The remainder is below 256 KiB.
    let mut skip = (offset % piece_bytes) as usize;
    let mut text = BytesMut::new();
    for row in &rows {
        let piece: &[u8] = row.try_get(0)?;
        if piece.is_empty() {
            continue;
        }
        let piece = piece.get(skip..).unwrap_or_default();
        let wanted = piece.len().min(len - text.len());
        text.extend_from_slice(&piece[..wanted]);
        skip = 0;
    }
    Ok(Some(text.freeze()))
}

pub(super) async fn due(
    link: &Link,
    now: Timestamp,
    level: Level,
    limit: usize,
) -> Result<Due, Fault> {
    let sql = format!(
        "{} WHERE t.due_time <= $1 AND (t.level <= $3 OR t.parent_id IS NULL)
         ORDER BY t.due_time, t.id LIMIT $2",
        *SELECT
    );
    let limit = integer(limit as u64);
    let values: [super::call::Value<'_>; 3] = [&now.0, &limit, &i32::from(level.0)];
    let rows = link.rows(&sql, &values).await?;
    let tasks = rows.iter().map(columns::task).collect::<Result<_, _>>()?;
    let sql = "SELECT min(due_time) FROM tasks WHERE due_time > $1";
    let rows = link.rows(sql, &[&now.0]).await?;
    let next: Option<i64> = rows.first().ok_or_else(|| missing("a query"))?.try_get(0)?;
    Ok(Due {
        tasks,
        next: next.map(Timestamp),
    })
}

/// The ranks of queued tasks, lowest first, and the earliest ready time after a
/// moment. The index is gone through rank by rank: what is not ready yet is
/// never read.
pub(super) async fn ranks(
    link: &Link,
    after: Timestamp,
) -> Result<(Vec<i32>, Option<Timestamp>), Fault> {
    let sql = "WITH RECURSIVE ranks (rank) AS (
            (SELECT t.rank FROM tasks t WHERE t.state = 1 AND t.rank <> 255
             ORDER BY t.rank LIMIT 1)
            UNION ALL
            SELECT (SELECT t.rank FROM tasks t WHERE t.state = 1 AND t.rank <> 255
                    AND t.rank > ranks.rank ORDER BY t.rank LIMIT 1)
            FROM ranks WHERE ranks.rank IS NOT NULL)
        SELECT ranks.rank, (SELECT t.ready_time FROM tasks t WHERE t.state = 1
            AND t.rank <> 255 AND t.rank = ranks.rank AND t.ready_time > $1
            ORDER BY t.ready_time LIMIT 1)
        FROM ranks WHERE ranks.rank IS NOT NULL ORDER BY ranks.rank";
    let (mut ranks, mut next) = (Vec::new(), None::<i64>);
    for row in link.rows(sql, &[&after.0]).await? {
        ranks.push(row.try_get(0)?);
        let time: Option<i64> = row.try_get(1)?;
        next = next.into_iter().chain(time).min();
    }
    Ok((ranks, next.map(Timestamp)))
}

pub(super) async fn totals(link: &Link) -> Result<Totals, Fault> {
    let sql = "SELECT (SELECT budget_limit FROM budget),
        greatest(least(sum(spent), 9223372036854775807), -9223372036854775808)::bigint,
        greatest(least(sum(reserved), 9223372036854775807), -9223372036854775808)::bigint,
        sum(state_1)::bigint, sum(state_2)::bigint, sum(state_3)::bigint, sum(state_4)::bigint,
        sum(state_5)::bigint, sum(state_6)::bigint, sum(state_7)::bigint FROM books";
    let rows = link.rows(sql, &[]).await?;
    let row = rows.first().ok_or_else(|| missing("books"))?;
    let limit: Option<i64> = row.try_get(0)?;
    let mut tasks = BTreeMap::new();
    for state in State::ALL {
        // The wire's numbers of our states are 1 to 7.
        let count: i64 = row.try_get(2 + state.to_proto() as usize)?;
        tasks.insert(state, u64::try_from(count).unwrap_or_default());
    }
    let funds = Funds {
        spent: Microdollars(row.try_get(1)?),
        reserved: Microdollars(row.try_get(2)?),
        limit: limit.map(Microdollars),
    };
    let (_, first_ready) = ranks(link, Timestamp(i64::MIN)).await?;
    Ok(Totals {
        tasks,
        funds,
        first_ready,
    })
}

pub(super) async fn context(link: &Link) -> Result<Context, Fault> {
    let sql = "SELECT r.revision, c.key, c.value, c.update_time
               FROM context_revision r LEFT JOIN context c ON true";
    let mut context = Context::default();
    for row in link.rows(sql, &[]).await? {
        let revision: i64 = row.try_get(0)?;
        context.revision = u64::try_from(revision).unwrap_or_default();
        let Some(key) = row.try_get::<_, Option<String>>(1)? else {
            continue;
        };
        let value = ContextValue {
            value: said(row.try_get(2)?),
            update_time: Timestamp(row.try_get(3)?),
        };
        context.entries.insert(said(key), value);
    }
    Ok(context)
}

/// Adds up what is kept as a sum, and says where the two differ.
#[cfg(any(test, feature = "testing"))]
pub(super) async fn check_sums(link: &Link) -> Result<(), Fault> {
    // One statement, so that all is of one moment.
    let states: Vec<String> = (1..=7)
        .map(|n| {
            format!(
                "(SELECT sum(state_{n}) FROM books) = (SELECT count(*) FROM tasks
                 WHERE state = {n} AND parent_id IS NULL)"
            )
        })
        .collect();
    let sql = format!(
        "WITH entries AS (
            SELECT kind, reserved::numeric AS reserved, cost::numeric AS cost FROM ledger
            UNION ALL SELECT kind, reserved, cost FROM ledger_days)
         SELECT (SELECT sum(spent) FROM books) =
            (SELECT coalesce(sum(cost) FILTER (WHERE kind IN (2, 3)), 0) FROM entries)
         AND (SELECT sum(reserved) FROM books) =
            (SELECT coalesce(sum(CASE kind WHEN 1 THEN reserved ELSE -reserved END), 0)
             FROM entries), {}",
        states.join(" AND ")
    );
    let rows = link.rows(&sql, &[]).await?;
    let row = rows.first().ok_or_else(|| missing("a query"))?;
    let (money, tasks): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    match money && tasks {
        true => Ok(()),
        false => Err(Fault::Store(StoreError::Corrupt(format!(
            "the sums that are kept are right: money {money}, tasks {tasks}"
        )))),
    }
}

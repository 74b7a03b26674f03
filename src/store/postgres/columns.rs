//! Rows of `tasks` as columns of many rows: one statement for any number.

use std::sync::LazyLock;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::call::Value;
use super::fault::Fault;
use super::text::{kept, said};
use crate::store::row::{COLUMNS, FIXED, Row};
use crate::task::Task;

/// The types of `COLUMNS`, in their order.
const TYPES: [&str; COLUMNS.len()] = [
    "uuid", "bigint", "text", "integer", "text", "uuid", "uuid", "bigint", "integer", "uuid",
    "bigint", "bigint", "bigint", "bigint", "bigint", "boolean", "bigint", "bigint", "bigint",
    "text", "text", "bigint", "text", "bigint", "bigint", "bigint", "bigint", "bigint", "boolean",
    "integer", "boolean", "text", "bigint", "bigint", "text", "bytea", "bigint", "text", "integer",
    "text",
];

/// `SELECT` of rows for [`task`], `t` being the table.
pub(super) static SELECT: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {} FROM tasks t", names("t.")));

static UNNEST: LazyLock<String> = LazyLock::new(|| {
    let arrays = (1..).zip(TYPES).map(|(n, of)| format!("${n}::{of}[]"));
    arrays.collect::<Vec<_>>().join(", ")
});

pub(super) static INSERT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "INSERT INTO tasks ({}) SELECT * FROM unnest({})",
        names(""),
        *UNNEST
    )
});

pub(super) static UPDATE: LazyLock<String> = LazyLock::new(|| {
    let changing = COLUMNS.iter().filter(|column| !FIXED.contains(column));
    let set: Vec<String> = changing.map(|c| format!("{c} = n.{c}")).collect();
    let (set, names) = (set.join(", "), names(""));
    format!(
        "UPDATE tasks t SET {set} FROM unnest({}) AS n ({names}) WHERE t.id = n.id",
        *UNNEST
    )
});

/// The columns, each after this.
pub(super) fn names(before: &str) -> String {
    let names: Vec<String> = COLUMNS.iter().map(|c| format!("{before}{c}")).collect();
    names.join(", ")
}

fn column<'r, T: ToSql + Sync + Send + 'r>(
    rows: &'r [Row],
    value: impl Fn(&'r Row) -> T,
) -> Box<dyn ToSql + Sync + Send + 'r> {
    Box::new(rows.iter().map(value).collect::<Vec<T>>())
}

fn maybe(text: &Option<String>) -> Option<std::borrow::Cow<'_, str>> {
    text.as_deref().map(kept)
}

fn id(bytes: &Option<[u8; 16]>) -> Option<Uuid> {
    bytes.map(Uuid::from_bytes)
}

/// The values of `INSERT` and `UPDATE`.
#[rustfmt::skip]
pub(super) fn arrays(rows: &[Row]) -> [Box<dyn ToSql + Sync + Send + '_>; COLUMNS.len()] {
    [
        column(rows, |r| Uuid::from_bytes(r.id)), column(rows, |r| r.version),
        column(rows, |r| kept(&r.caller)), column(rows, |r| r.state),
        column(rows, |r| r.tags.as_str()), column(rows, |r| id(&r.group)),
        column(rows, |r| id(&r.parent)), column(rows, |r| r.place), column(rows, |r| r.rank),
        column(rows, |r| id(&r.request)), column(rows, |r| r.create_time),
        column(rows, |r| r.ready_time), column(rows, |r| r.start_time),
        column(rows, |r| r.end_time), column(rows, |r| r.queue_deadline),
        column(rows, |r| r.attached), column(rows, |r| r.abandon_time),
        column(rows, |r| r.attempt), column(rows, |r| r.burnt), column(rows, |r| maybe(&r.slot)),
        column(rows, |r| maybe(&r.lease_node)), column(rows, |r| r.lease_until),
        column(rows, |r| kept(&r.session_id)), column(rows, |r| r.context_revision),
        column(rows, |r| r.budget), column(rows, |r| r.reserved), column(rows, |r| r.cost),
        column(rows, |r| r.attempt_cost), column(rows, |r| r.cost_estimated),
        column(rows, |r| r.recovery), column(rows, |r| r.saves_session),
        column(rows, |r| maybe(&r.conversation)), column(rows, |r| r.last_sequence),
        column(rows, |r| r.due_time), column(rows, |r| r.trace.as_deref()),
        column(rows, |r| r.usage.as_slice()), column(rows, |r| r.session_offset),
        column(rows, |r| maybe(&r.node_label)), column(rows, |r| r.level),
        column(rows, |r| maybe(&r.home)),
    ]
}

/// As the driver wants them.
pub(super) fn values<'v>(boxes: &'v [Box<dyn ToSql + Sync + Send + '_>]) -> Vec<Value<'v>> {
    boxes.iter().map(|value| &**value as Value<'v>).collect()
}

/// What a row that begins with the columns says.
#[rustfmt::skip]
pub(super) fn task(row: &tokio_postgres::Row) -> Result<Task, Fault> {
    let bytes = |place: usize| row.try_get::<_, Option<Uuid>>(place).map(|id| id.map(Uuid::into_bytes));
    let text = |place: usize| row.try_get::<_, String>(place).map(said);
    let maybe = |place: usize| row.try_get::<_, Option<String>>(place).map(|text| text.map(said));
    let row = Row {
        id: row.try_get::<_, Uuid>(0)?.into_bytes(), version: row.try_get(1)?, caller: text(2)?,
        state: row.try_get(3)?, tags: row.try_get(4)?, group: bytes(5)?, parent: bytes(6)?,
        place: row.try_get(7)?, rank: row.try_get(8)?, request: bytes(9)?,
        create_time: row.try_get(10)?, ready_time: row.try_get(11)?, start_time: row.try_get(12)?,
        end_time: row.try_get(13)?, queue_deadline: row.try_get(14)?, attached: row.try_get(15)?,
        abandon_time: row.try_get(16)?, attempt: row.try_get(17)?, burnt: row.try_get(18)?,
        slot: maybe(19)?, lease_node: maybe(20)?, lease_until: row.try_get(21)?,
        session_id: text(22)?, context_revision: row.try_get(23)?, budget: row.try_get(24)?,
        reserved: row.try_get(25)?, cost: row.try_get(26)?, attempt_cost: row.try_get(27)?,
        cost_estimated: row.try_get(28)?, recovery: row.try_get(29)?,
        saves_session: row.try_get(30)?, conversation: maybe(31)?,
        last_sequence: row.try_get(32)?, due_time: row.try_get(33)?, trace: row.try_get(34)?,
        usage: row.try_get(35)?, session_offset: row.try_get(36)?,
        node_label: maybe(37)?, level: row.try_get(38)?, home: maybe(39)?,
    };
    Ok(row.into_task()?)
}

/// A task's id as the driver knows it.
pub(super) fn uuid(id: &[u8; 16]) -> Uuid {
    Uuid::from_bytes(*id)
}

//! Whether the database works again.

use std::time::Duration;

use super::call::{Link, Tx};
use super::fault::Fault;

/// As large as the largest usual commit: the end of a task with all of its
/// result and of its log that waited.
const ROOM_BYTES: usize = 2 * 1024 * 1024;

/// Every table, and what is large in it.
const TABLES: [(&str, &str); 14] = [
    ("tasks", "usage"),
    ("task_tags", "tag::bytea"),
    ("task_specs", "received || effective || coalesce(chain, '')"),
    ("task_results", "result"),
    ("task_outputs", "bytes"),
    ("events", "bytes"),
    ("sessions", "id::bytea"),
    ("requests", "fingerprint"),
    ("ledger", "''::bytea"),
    ("ledger_days", "''::bytea"),
    ("removed", "''::bytea"),
    ("books", "''::bytea"),
    ("context", "convert_to(value, 'UTF8')"),
    ("catalog", "bytes"),
];

impl Tx {
    /// Takes as much room as a large commit, and gives it back at once.
    pub async fn take_room(&self) -> Result<(), Fault> {
        // No result is of nobody.
        let nobody = uuid::Uuid::nil();
        let room = vec![0x55_u8; ROOM_BYTES];
        let sql = "INSERT INTO task_results (task, result) VALUES ($1, $2)
                   ON CONFLICT (task) DO UPDATE SET result = excluded.result";
        self.run(sql, &[&nobody, &&room[..]]).await?;
        let sql = "DELETE FROM task_results WHERE task = $1";
        self.run(sql, &[&nobody]).await.map(drop)
    }
}

/// Reads everything, so that the engine looks at every page of it.
pub(super) async fn check(link: &Link, limit: Duration) -> Result<(), Fault> {
    link.rows_once("SET statement_timeout = 0", &[]).await?;
    for (table, large) in TABLES {
        let sql = format!("SELECT max(md5({large})) FROM {table}");
        link.rows_once(&sql, &[]).await?;
    }
    let limit = limit.as_millis();
    link.rows_once(&format!("SET statement_timeout = {limit}"), &[])
        .await?;
    Ok(())
}

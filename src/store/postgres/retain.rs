//! Letting go of what is old: gone at once, swept in small steps, by any number
//! of servers.

use uuid::Uuid;

use super::call::{Link, Tx};
use super::columns::{self, SELECT, uuid};
use super::fault::Fault;
use super::fold::Sums;
use super::text::kept;
use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::store::StoreError;
use crate::store::row::integer;
use crate::task::{State, Task};

/// Entries of a log that one step deletes: of the longest, 16 MiB.
const ENTRIES: i64 = 256;
/// Pieces of a whole output that one step deletes: 4 MiB.
const PIECES: i64 = 16;
/// Deleted tasks that one step finishes.
const TASKS: usize = 32;
/// A day in microseconds.
const DAY: i64 = 86_400_000_000;

/// Ended tasks of each state that ended before its moment, oldest first.
pub(super) async fn outdated(
    link: &Link,
    ended: Vec<(State, Timestamp)>,
    limit: usize,
) -> Result<Vec<Task>, Fault> {
    let sql = format!(
        "{} WHERE t.state = $1 AND t.end_time < $2 AND t.end_time IS NOT NULL
         AND t.parent_id IS NULL
         AND NOT EXISTS (SELECT 1 FROM tasks m WHERE m.group_id = t.group_id
            AND m.group_id IS NOT NULL AND m.end_time IS NULL)
         ORDER BY t.end_time, t.id LIMIT $3",
        *SELECT
    );
    let mut tasks = Vec::new();
    for (state, before) in ended {
        let left = integer((limit - tasks.len()) as u64);
        let state = state.to_proto() as i32;
        for row in link.rows(&sql, &[&state, &before.0, &left]).await? {
            tasks.push(columns::task(&row)?);
        }
    }
    Ok(tasks)
}

impl Tx {
    pub async fn delete(&self, id: TaskId, version: u64) -> Result<Vec<TaskId>, Fault> {
        let id = uuid(id.as_bytes());
        let sql = format!("{} WHERE t.id = $1 FOR UPDATE", *SELECT);
        let found = self.rows(&sql, &[&id]).await?;
        let task = columns::task(found.first().ok_or(StoreError::Conflict)?)?;
        if task.version != version {
            return Err(StoreError::Conflict.into());
        }
        let sql = format!(
            "{} WHERE t.parent_id = $1 ORDER BY t.id FOR UPDATE",
            *SELECT
        );
        let mut gone = vec![task];
        for step in self.rows(&sql, &[&id]).await? {
            gone.push(columns::task(&step)?);
        }
        if gone.iter().any(|task| !task.state.is_end()) {
            return Err(StoreError::Conflict.into());
        }
        self.remove(&gone).await?;
        Ok(gone.into_iter().map(|task| task.id).collect())
    }

    async fn remove(&self, gone: &[Task]) -> Result<(), Fault> {
        let ids: Vec<Uuid> = gone.iter().map(|task| uuid(task.id.as_bytes())).collect();
        self.run("DELETE FROM tasks WHERE id = ANY($1)", &[&ids])
            .await?;
        let sql = "INSERT INTO removed (task) SELECT * FROM unnest($1::uuid[])
                   ON CONFLICT DO NOTHING";
        self.run(sql, &[&ids]).await?;
        let mut sums = Sums::default();
        for task in gone {
            sums.count(task, -1);
            let id = uuid(task.id.as_bytes());
            if !task.tags.is_empty() {
                let tags: Vec<_> = task.tags.iter().map(|tag| kept(tag)).collect();
                let sql = "DELETE FROM task_tags WHERE tag = ANY($1) AND task = $2";
                self.run(sql, &[&tags, &id]).await?;
            }
            if let Some(request) = task.request {
                // Unless it has been made anew for another task since.
                let sql = "UPDATE requests SET deleted = true
                           WHERE caller = $1 AND id = $2 AND (task = $3 OR group_id = $4)";
                let group = task.group.map(|group| uuid(group.as_bytes()));
                let (caller, request) = (kept(&task.caller.0), uuid(request.as_bytes()));
                self.run(sql, &[&caller, &request, &id, &group]).await?;
            }
        }
        self.add(&sums).await
    }

    pub async fn expire_requests(&self, now: Timestamp, limit: usize) -> Result<usize, Fault> {
        let sql = "DELETE FROM requests WHERE (caller, id) IN (
                       SELECT caller, id FROM requests WHERE expire_time < $1
                       ORDER BY expire_time LIMIT $2 FOR UPDATE SKIP LOCKED)";
        let gone = self.run(sql, &[&now.0, &integer(limit as u64)]).await?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }

    /// One step: deletes some of what is left of deleted tasks.
    pub async fn sweep(&self) -> Result<bool, Fault> {
        for _ in 0..TASKS {
            let sql = "SELECT task FROM removed ORDER BY task LIMIT 1 FOR UPDATE SKIP LOCKED";
            let next = self.rows(sql, &[]).await?;
            let Some(next) = next.first() else {
                return Ok(false);
            };
            let task: Uuid = next.try_get(0)?;
            if self.shorten(&task).await? {
                break;
            }
            self.sum_up(&task).await?;
            for sql in [
                "DELETE FROM task_specs WHERE task = $1",
                "DELETE FROM task_results WHERE task = $1",
                "DELETE FROM removed WHERE task = $1",
            ] {
                self.run(sql, &[&task]).await?;
            }
        }
        Ok(true)
    }

    /// Deletes the beginning of a task's log and output; whether there may be
    /// more of them.
    async fn shorten(&self, task: &Uuid) -> Result<bool, Fault> {
        let sql = "DELETE FROM events WHERE task = $1 AND sequence < $2 +
                   (SELECT min(sequence) FROM events WHERE task = $1)";
        let entries = self.run(sql, &[task, &ENTRIES]).await?;
        let sql = "DELETE FROM task_outputs WHERE task = $1 AND piece < $2 +
                   (SELECT min(piece) FROM task_outputs WHERE task = $1)";
        let pieces = self.run(sql, &[task, &PIECES]).await?;
        Ok(integer(entries) == ENTRIES || integer(pieces) == PIECES)
    }

    /// Adds a deleted task's ledger entries to those of their days.
    async fn sum_up(&self, task: &Uuid) -> Result<(), Fault> {
        let sql = "INSERT INTO ledger_days AS d (day, kind, estimated, reserved, cost)
            SELECT time - mod(time, $2), kind, estimated, sum(reserved), sum(cost)
            FROM ledger WHERE task = $1 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
            ON CONFLICT (day, kind, estimated) DO UPDATE
            SET reserved = d.reserved + excluded.reserved, cost = d.cost + excluded.cost";
        self.run(sql, &[task, &DAY]).await?;
        self.run("DELETE FROM ledger WHERE task = $1", &[task])
            .await
            .map(drop)
    }
}

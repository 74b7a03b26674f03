//! Letting go of what is old: gone at once, swept in small steps.
//!
//! A deleted task is gone when its row is; what belonged to it may be large, so
//! that is given back a little at a time, and then the file is made shorter.

use rusqlite::{Connection, OptionalExtension, params};

use super::read::{self, SELECT_TASK};
use super::write::Transaction;
use crate::clock::Timestamp;
use crate::id::{RequestId, TaskId};
use crate::store::StoreError;
use crate::store::row::integer;
use crate::task::{State, Task};

/// Entries of a log that one step deletes: of the longest, 16 MiB.
const ENTRIES: i64 = 256;
/// Pieces of a whole output that one step deletes: 4 MiB.
const PIECES: i64 = 16;
/// Deleted tasks that one step finishes.
const TASKS: usize = 32;
/// Pages that one step moves to shorten the file: 512 KiB.
const PAGES: i64 = 128;
/// Free pages that are kept for what comes next, 1 MiB, besides an eighth of
/// the file: giving all back would only have it grow again.
const SPARE_PAGES: i64 = 256;

/// The task of a ledger entry that sums up those of deleted tasks.
const NOBODY: TaskId = TaskId::MIN;
/// A day in microseconds.
const DAY: i64 = 86_400_000_000;

/// Ended tasks of each state that ended before its moment, oldest first.
pub(super) fn outdated(
    conn: &Connection,
    ended: &[(State, Timestamp)],
    limit: usize,
) -> Result<Vec<Task>, StoreError> {
    let transaction = conn.unchecked_transaction()?;
    let mut statement = transaction.prepare_cached(&format!(
        "{SELECT_TASK} INDEXED BY tasks_ended
         WHERE state = ? AND end_time < ? AND end_time IS NOT NULL AND parent_id IS NULL
         AND NOT EXISTS (SELECT 1 FROM tasks m INDEXED BY tasks_group_live
            WHERE m.group_id = tasks.group_id AND m.group_id IS NOT NULL AND m.end_time IS NULL)
         ORDER BY end_time, id LIMIT ?"
    ))?;
    let mut tasks = Vec::new();
    for (state, before) in ended {
        let left = integer((limit - tasks.len()) as u64);
        let wanted = params![state.to_proto() as i32, before.0, left];
        for found in statement.query_map(wanted, read::row)? {
            tasks.push(found?.into_task()?);
        }
    }
    Ok(tasks)
}

impl Transaction<'_> {
    pub fn delete(&mut self, id: TaskId, version: u64) -> Result<Vec<TaskId>, StoreError> {
        let task = self
            .conn
            .prepare_cached(&format!("{SELECT_TASK} WHERE id = ?"))?
            .query_row([id.as_bytes()], read::row)
            .optional()?
            .ok_or(StoreError::Conflict)?
            .into_task()?;
        if task.version != version {
            return Err(StoreError::Conflict);
        }
        let mut gone = vec![task];
        let mut steps = self.conn.prepare_cached(&format!(
            "{SELECT_TASK} INDEXED BY tasks_parent
             WHERE parent_id = ? AND parent_id IS NOT NULL ORDER BY id"
        ))?;
        for step in steps.query_map([id.as_bytes()], read::row)? {
            gone.push(step?.into_task()?);
        }
        if gone.iter().any(|task| !task.state.is_end()) {
            return Err(StoreError::Conflict);
        }
        for task in &gone {
            self.remove(task)?;
        }
        Ok(gone.into_iter().map(|task| task.id).collect())
    }

    fn remove(&mut self, task: &Task) -> Result<(), StoreError> {
        for sql in [
            "DELETE FROM tasks WHERE id = ?",
            "INSERT OR IGNORE INTO removed (task) VALUES (?)",
        ] {
            self.conn
                .prepare_cached(sql)?
                .execute([task.id.as_bytes()])?;
        }
        for tag in &task.tags {
            self.conn
                .prepare_cached("DELETE FROM task_tags WHERE tag = ? AND task = ?")?
                .execute(params![tag, task.id.as_bytes()])?;
        }
        if let Some(request) = task.request {
            self.entomb(task, request)?;
        }
        self.uncount(task);
        Ok(())
    }

    /// Keeps the request of a deleted task as a tombstone, unless it has been
    /// made anew for another task since.
    fn entomb(&self, task: &Task, request: RequestId) -> Result<(), StoreError> {
        self.conn
            .prepare_cached(
                "UPDATE requests SET deleted = 1
                 WHERE caller = ? AND id = ? AND (task = ? OR group_id = ?)",
            )?
            .execute(params![
                task.caller.0,
                request.as_bytes(),
                task.id.as_bytes(),
                task.group.map(|group| *group.as_bytes())
            ])?;
        Ok(())
    }

    pub fn expire_requests(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        Ok(self
            .conn
            .prepare_cached(
                "DELETE FROM requests WHERE (caller, id) IN (
                    SELECT caller, id FROM requests INDEXED BY requests_expire
                    WHERE expire_time < ? LIMIT ?)",
            )?
            .execute([now.0, integer(limit as u64)])?)
    }

    /// One step: deletes what is left of deleted tasks, then shortens the file.
    pub fn sweep(&self) -> Result<bool, StoreError> {
        for _ in 0..TASKS {
            let next: Option<[u8; 16]> = self
                .conn
                .prepare_cached("SELECT task FROM removed ORDER BY task LIMIT 1")?
                .query_row([], |row| row.get(0))
                .optional()?;
            let Some(task) = next else {
                return self.shorten_file();
            };
            if self.shorten(&task)? {
                break;
            }
            self.sum_up(&task)?;
            for sql in [
                "DELETE FROM task_specs WHERE task = ?",
                "DELETE FROM task_results WHERE task = ?",
                "DELETE FROM removed WHERE task = ?",
            ] {
                self.conn.prepare_cached(sql)?.execute([task])?;
            }
        }
        Ok(true)
    }

    /// Deletes the beginning of a task's log and output; whether there may be
    /// more of them.
    fn shorten(&self, task: &[u8; 16]) -> Result<bool, StoreError> {
        let entries = self
            .conn
            .prepare_cached(
                "DELETE FROM events WHERE task = ?1 AND sequence < ?2 +
                 (SELECT min(sequence) FROM events WHERE task = ?1)",
            )?
            .execute(params![task, ENTRIES])?;
        let pieces = self
            .conn
            .prepare_cached(
                "DELETE FROM task_outputs WHERE task = ?1 AND piece < ?2 +
                 (SELECT min(piece) FROM task_outputs WHERE task = ?1)",
            )?
            .execute(params![task, PIECES])?;
        Ok(integer(entries as u64) == ENTRIES || integer(pieces as u64) == PIECES)
    }

    /// Adds a deleted task's ledger entries to those of their days.
    fn sum_up(&self, task: &[u8; 16]) -> Result<(), StoreError> {
        let mut days = self.conn.prepare_cached(
            "SELECT time / ?2 * ?2, kind, estimated, sum(reserved), sum(cost)
             FROM ledger INDEXED BY ledger_task WHERE task = ?1 GROUP BY 1, 2, 3",
        )?;
        let mut days = days.query(params![task, DAY])?;
        while let Some(day) = days.next()? {
            let key: (i64, i64, i64) = (day.get(0)?, day.get(1)?, day.get(2)?);
            let sums: (i64, i64) = (day.get(3)?, day.get(4)?);
            let known = self
                .conn
                .prepare_cached(
                    "UPDATE ledger INDEXED BY ledger_task
                     SET reserved = reserved + ?5, cost = cost + ?6
                     WHERE task = ?1 AND time = ?2 AND kind = ?3 AND estimated = ?4",
                )?
                .execute(params![
                    NOBODY.as_bytes(),
                    key.0,
                    key.1,
                    key.2,
                    sums.0,
                    sums.1
                ])?;
            if known == 0 {
                self.conn
                    .prepare_cached(
                        "INSERT INTO ledger (task, time, kind, estimated, reserved, cost)
                         VALUES (?, ?, ?, ?, ?, ?)",
                    )?
                    .execute(params![
                        NOBODY.as_bytes(),
                        key.0,
                        key.1,
                        key.2,
                        sums.0,
                        sums.1
                    ])?;
            }
        }
        self.conn
            .prepare_cached("DELETE FROM ledger INDEXED BY ledger_task WHERE task = ?")?
            .execute([task])?;
        Ok(())
    }

    /// Moves pages from the end of the file into its holes. A file that was
    /// made before this was wanted cannot be shortened; its holes are used
    /// again all the same.
    fn shorten_file(&self) -> Result<bool, StoreError> {
        let number = |sql: &str| self.conn.query_row(sql, [], |row| row.get::<_, i64>(0));
        let free = number("PRAGMA freelist_count")?;
        if free <= SPARE_PAGES + number("PRAGMA page_count")? / 8 {
            return Ok(false);
        }
        let mut vacuum = self
            .conn
            .prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
        let mut moved = vacuum.query([])?;
        while moved.next()?.is_some() {}
        Ok(number("PRAGMA freelist_count")? < free)
    }
}

//! Whether the database works again.

use std::path::PathBuf;

use rusqlite::{Connection, InterruptHandle};

use super::open::{self, READER};
use crate::store::StoreError;

/// As large as the largest usual commit: the end of a task with all of its
/// result and of its log that waited.
const ROOM_BYTES: u32 = 2 * 1024 * 1024;

/// Takes as much room as a large commit. The pages stay with the file, for what
/// comes next.
pub(super) fn take_room(conn: &Connection) -> Result<(), StoreError> {
    // What a server left that was killed in between goes first.
    give_room_back(conn)?;
    conn.execute_batch(&format!(
        "CREATE TABLE probe (room BLOB); INSERT INTO probe (room) VALUES (zeroblob({ROOM_BYTES}));"
    ))?;
    Ok(())
}

/// Gives back what [`take_room`] took, once that was committed.
pub(super) fn give_room_back(conn: &Connection) -> Result<(), StoreError> {
    Ok(conn.execute_batch("DROP TABLE IF EXISTS probe")?)
}

/// Reads the whole database, by a connection that has nothing of it in memory.
/// Dropping this ends it.
pub(super) async fn check(path: PathBuf) -> Result<(), StoreError> {
    let (opened, handle) = tokio::sync::oneshot::channel();
    let checking = tokio::task::spawn_blocking(move || {
        let conn = open::connect(&path, &READER)?;
        // Nobody waits any more? Then the first step is the last.
        if opened.send(conn.get_interrupt_handle()).is_err() {
            return Ok("ok".to_owned());
        }
        conn.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
    });
    let _ends_it = handle.await.ok().map(InterruptOnDrop);
    let verdict = checking
        .await
        .map_err(|error| StoreError::Unavailable(error.to_string()))??;
    match verdict.as_str() {
        "ok" => Ok(()),
        _ => Err(StoreError::Damaged(verdict)),
    }
}

struct InterruptOnDrop(InterruptHandle);

impl Drop for InterruptOnDrop {
    fn drop(&mut self) {
        self.0.interrupt();
    }
}

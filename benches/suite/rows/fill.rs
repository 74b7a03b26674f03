//! Databases with a million tasks in them, made in seconds: a few real tasks
//! are run, and their rows are multiplied.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use claudepool::clock::Clock;
use claudepool::id::CallerId;
use claudepool::money::Microdollars;
use claudepool::pool::Pool;
use claudepool::store::{self, Batch};
use claudepool::task::apply::submit;
use claudepool::task::{Spec, Task};
use rusqlite::Connection;

use crate::agent::Talker;
use crate::measure::Failure;
use crate::server::spec;

/// Tables that hold something of a task, and by which column.
const TABLES: [(&str, &str); 5] = [
    ("tasks", "id"),
    ("task_specs", "task"),
    ("task_results", "task"),
    ("events", "task"),
    ("ledger", "task"),
];

/// A database with so many finished and queued tasks; made once a run. What is
/// queued would hang.
pub async fn database(dir: &Path, finished: usize, queued: usize) -> Result<PathBuf, Failure> {
    let path = dir.join(format!("filled-{finished}-{queued}.db"));
    if path.exists() {
        return Ok(path);
    }
    let url = format!("sqlite:{}", path.display());
    let pool = Pool::builder(Talker).store(store::open(&url).await?);
    let pool = pool.slots(1).working_dir(dir).build().await?;
    let done = pool.run("say ok").await?.task.id;
    pool.shutdown().await;
    let store = store::open(&url).await?;
    let now = Clock::system().now();
    let task = Task {
        // Without one it would end as soon as it is claimed.
        budget: Microdollars(1_000_000),
        ..Task::new(&CallerId::default(), now)
    };
    let waits = task.id;
    let spec = Spec {
        received: spec("hang"),
        ..Spec::default()
    };
    if queued > 0 {
        let changes = vec![submit(task, Arc::new(spec))];
        let request = None;
        let batch = Batch {
            request,
            changes,
            now,
        };
        store.commit(batch).await?;
    }
    store.close().await;

    let file = path.clone();
    tokio::task::spawn_blocking(move || {
        let conn = Connection::open(file)?;
        conn.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -262144;")?;
        multiply(&conn, done.as_bytes(), 1, finished)?;
        multiply(&conn, waits.as_bytes(), 2, queued)?;
        conn.execute_batch(
            "INSERT OR REPLACE INTO counts
             SELECT state, count(*) FROM tasks WHERE parent_id IS NULL GROUP BY state;
             PRAGMA wal_checkpoint(TRUNCATE);",
        )?;
        Ok::<_, Failure>(())
    })
    .await??;
    Ok(path)
}

/// Makes a task one of so many like it.
fn multiply(conn: &Connection, like: &[u8; 16], kind: u8, count: usize) -> Result<(), Failure> {
    if count < 2 {
        return Ok(());
    }
    // Ids of an hour ago and later, in order, as the real ones are.
    let before = Clock::system().now().0 / 1000 - 3_600_000;
    let id = format!(
        "unhex(printf('%012x7000{:x}%015x', {before} + i / 1000, i))",
        7 + kind
    );
    for (table, key) in TABLES {
        let columns: Vec<String> = conn
            .prepare(&format!("SELECT name FROM pragma_table_info('{table}')"))?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        // The ledger numbers its rows itself.
        let columns: Vec<_> = columns
            .iter()
            .filter(|name| table != "ledger" || *name != "id")
            .map(String::as_str)
            .collect();
        let values = columns.iter().map(|name| match *name == key {
            true => id.clone(),
            false => format!("t.{name}"),
        });
        let values: Vec<_> = values.collect();
        conn.execute(
            &format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                 INSERT INTO {table} ({}) SELECT {} FROM n, {table} t WHERE t.{key} = ?2",
                columns.join(", "),
                values.join(", ")
            ),
            rusqlite::params![i64::try_from(count - 1)?, like],
        )?;
    }
    Ok(())
}

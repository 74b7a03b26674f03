//! apalis on SQLite with the jobs of `queue.mjs`.

use std::str::FromStr;
use std::time::{Duration, Instant};

use apalis_core::backend::TaskSink;
use apalis_sqlite::SqliteStorage;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::Failure;

const PROMPT: &str = "Look at the last ten commits and say in one sentence what they change.";

/// Jobs a second that some callers submit, each durable before it is acknowledged.
pub async fn submissions(file: &str, callers: usize, seconds: f64) -> Result<f64, Failure> {
    let options = SqliteConnectOptions::from_str(&format!("sqlite:{file}"))?
        .create_if_missing(true)
        .busy_timeout(Duration::from_secs(60))
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    // Its set-up turns syncing off on the connection that it is given.
    let one = || SqlitePoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(60));
    let first = one().connect_with(options.clone()).await?;
    SqliteStorage::setup(&first).await?;
    first.close().await;
    // SQLite has one writer: with more connections it is slower.
    let pool = one().connect_with(options).await?;
    let begun = Instant::now();
    let span = Duration::from_secs_f64(seconds);
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let mut storage = SqliteStorage::new(&pool);
            tokio::spawn(async move {
                let mut count = 0;
                while begun.elapsed() < span {
                    storage.push(PROMPT.to_owned()).await?;
                    count += 1;
                }
                Ok::<_, Failure>(count)
            })
        })
        .collect();
    let mut count = 0;
    for caller in callers {
        count += caller.await??;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

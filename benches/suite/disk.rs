//! What the disk allows: SQLite's group commit with nothing around it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use claudepool::clock::Timestamp;
use claudepool::store::{self, Store};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::measure::{Failure, median, milliseconds};

/// One thread that commits what is queued, in one transaction, and then
/// answers: one small row per submission in one table.
pub struct GroupCommit {
    queue: mpsc::Sender<(Vec<u8>, oneshot::Sender<()>)>,
}

impl GroupCommit {
    /// Over a new file in `dir`.
    pub fn start(dir: &Path) -> Result<Self, Failure> {
        let dir = tempfile::tempdir_in(dir)?.keep();
        let conn = Connection::open(dir.join("raw.db"))?;
        conn.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE tasks (id INTEGER PRIMARY KEY, prompt BLOB NOT NULL) STRICT;",
        )?;
        let (queue, mut waiting) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>(1024);
        std::thread::spawn(move || -> rusqlite::Result<()> {
            let mut insert = conn.prepare("INSERT INTO tasks (prompt) VALUES (?)")?;
            while let Some(first) = waiting.blocking_recv() {
                let mut answers = Vec::new();
                let mut next = Some(first);
                conn.execute_batch("BEGIN IMMEDIATE")?;
                while let Some((prompt, answer)) = next {
                    insert.execute([prompt])?;
                    answers.push(answer);
                    next = waiting.try_recv().ok();
                }
                conn.execute_batch("COMMIT")?;
                for answer in answers {
                    let _ = answer.send(());
                }
            }
            Ok(())
        });
        Ok(Self { queue })
    }

    /// Makes one row durable.
    pub fn submit(&self, prompt: &str) -> impl Future<Output = Result<(), Failure>> + Send + use<> {
        let (queue, prompt) = (self.queue.clone(), prompt.as_bytes().to_vec());
        async move {
            let (answer, answered) = oneshot::channel();
            queue.send((prompt, answer)).await?;
            Ok(answered.await?)
        }
    }
}

/// A store whose commits are timed.
pub async fn a_store(dir: &Path) -> Result<Arc<dyn Store>, Failure> {
    let dir = tempfile::tempdir_in(dir)?.keep();
    let url = format!("sqlite:{}", dir.join("commit.db").display());
    Ok(store::open(&url).await?)
}

/// One commit of a store, as long as it takes here and now, in milliseconds.
pub async fn commit_time(store: &Arc<dyn Store>) -> Result<f64, Failure> {
    let mut times = Vec::new();
    for _ in 0..100 {
        times.push(one_commit(store).await?);
    }
    Ok(median(&times))
}

/// The time of one commit, in milliseconds.
pub async fn one_commit(store: &Arc<dyn Store>) -> Result<f64, Failure> {
    let revision = store.context().await?.revision;
    let value = revision.to_string();
    let begun = Instant::now();
    store
        .set_context(revision, "bench", Some(&value), Timestamp(0))
        .await?;
    Ok(milliseconds(begun.elapsed()))
}

/// One write of 4 KiB to the end of a file and its way to the disk, in
/// milliseconds.
pub fn sync_time(dir: &Path) -> Result<f64, Failure> {
    use std::io::Write;
    let mut file = tempfile::tempfile_in(dir)?;
    let mut times = Vec::new();
    for _ in 0..100 {
        file.write_all(&[7; 4096])?;
        let begun = Instant::now();
        file.sync_data()?;
        times.push(milliseconds(begun.elapsed()));
    }
    Ok(median(&times))
}

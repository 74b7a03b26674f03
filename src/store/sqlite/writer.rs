//! The one thread that writes: group commit.
//!
//! What is queued is carried out in one transaction, and nobody is answered
//! before the commit. It never waits for more to come: what arrives during a
//! commit is the next group. A command that fails must not undo its neighbours,
//! so it is put under a savepoint of its own if it has neighbours and cannot tell
//! before its first write that it will fail: each savepoint copies every page that
//! is written under it.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::fault::closed;
use super::open::{BUSY_TIMEOUT, Lock};
use super::write::{Books, Transaction};
use crate::slice;
use crate::store::{Batch, Committed, StoreError};

/// Commands that wait at most; a caller above that waits for its turn to wait.
const QUEUE_MAX: usize = 1024;

/// Commands in one transaction at most, so that the first of a crowd is not
/// kept waiting for all of it.
const GROUP_MAX: usize = 256;

/// Length of the write-ahead log above which it is emptied. SQLite begins it
/// anew by itself when nobody reads, which readers that overlap for ever would
/// prevent.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Longest wait for those readers. Ours are short; a backup may not be.
const LOG_PATIENCE: Duration = Duration::from_millis(100);

/// The way to the writer thread.
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Message>,
}

enum Message {
    Command(Box<dyn Command>),
    /// Do what is queued, then end.
    Close,
}

impl Writer {
    /// Starts the thread. It ends when it was told to, or the last `Writer` is
    /// gone, and what was queued is done; only then is the lock given back.
    pub fn start(
        conn: Connection,
        books: Books,
        lock: Lock,
    ) -> std::io::Result<(Self, thread::JoinHandle<()>)> {
        let (queue, commands) = mpsc::channel(QUEUE_MAX);
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                // Without it commits only take longer on a busy machine.
                let _ = slice::shorten();
                run(&conn, books, commands);
                // Everything is in the log already: moving it is a courtesy to the next start.
                let _ = conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
                drop(conn);
                drop(lock);
            })?;
        Ok((Self { queue }, thread))
    }

    /// Refuses what comes from now on.
    pub async fn close(&self) {
        // If that fails, it has ended already.
        let _ = self.queue.send(Message::Close).await;
    }

    /// Has `work` done in a transaction; answers after its commit. Once
    /// queued it is done even if the caller is gone.
    pub async fn call<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.queued(work, false).await
    }

    /// The same for work that checks everything before it writes anything.
    pub async fn call_checked<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.queued(work, true).await
    }

    /// Commits a batch. The second of two changes may fail when the first is
    /// written.
    pub async fn commit(&self, batch: Batch) -> Result<Vec<Committed>, StoreError> {
        let checked = batch.changes.len() <= 1;
        self.queued(move |tx| tx.commit(batch), checked).await
    }

    async fn queued<T, F>(&self, work: F, checked: bool) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let call = Call {
            work: Some(work),
            checked,
            done: None,
            answer,
        };
        self.queue
            .send(Message::Command(Box::new(call)))
            .await
            .map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

/// Something to be done, with the one who waits for it.
trait Command: Send {
    /// Does it. An error means that nothing of it may stay.
    fn carry_out(&mut self, transaction: &mut Transaction<'_>) -> Result<(), StoreError>;
    /// Whether it fails before its first write or not at all, but for an outage.
    fn is_checked(&self) -> bool;
    /// Answers, after the commit or with its failure.
    fn answer(self: Box<Self>, commit: &Result<(), StoreError>);
}

struct Call<T, F> {
    work: Option<F>,
    checked: bool,
    done: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Command for Call<T, F>
where
    T: Send,
    F: FnOnce(&mut Transaction<'_>) -> Result<T, StoreError> + Send,
{
    fn carry_out(&mut self, transaction: &mut Transaction<'_>) -> Result<(), StoreError> {
        let Some(work) = self.work.take() else {
            return Ok(());
        };
        let done = work(transaction);
        let outcome = done.as_ref().map(|_| ()).map_err(StoreError::clone);
        self.done = Some(done);
        outcome
    }

    fn is_checked(&self) -> bool {
        self.checked
    }

    fn answer(self: Box<Self>, commit: &Result<(), StoreError>) {
        let result = match (commit, self.done) {
            (Ok(()), Some(done)) => done,
            (Ok(()), None) => Err(closed()),
            // Also for what was refused: a neighbour that is undone now may be why.
            (Err(error), _) => Err(error.clone()),
        };
        // Nobody may be waiting any more.
        let _ = self.answer.send(result);
    }
}

/// The file of the write-ahead log.
struct Log {
    file: PathBuf,
    /// Length up to which it is left alone.
    tolerated: u64,
}

impl Log {
    fn of(conn: &Connection) -> Self {
        Self {
            file: PathBuf::from(format!("{}-wal", conn.path().unwrap_or_default())),
            tolerated: LOG_BYTES_MAX,
        }
    }

    /// Empties it if it is too long.
    fn hold(&mut self, conn: &Connection) {
        let length = std::fs::metadata(&self.file).map_or(0, |file| file.len());
        if length <= self.tolerated {
            return;
        }
        let emptied = conn
            .busy_timeout(LOG_PATIENCE)
            .and_then(|()| {
                conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
                    row.get::<_, bool>(0).map(|busy| !busy)
                })
            })
            .unwrap_or(false);
        // If somebody reads an old state for long, again when it has grown.
        self.tolerated = match emptied {
            true => LOG_BYTES_MAX,
            false => length + LOG_BYTES_MAX / 4,
        };
        // It cannot fail; the next commit would only not wait for a foreign lock.
        let _ = conn.busy_timeout(BUSY_TIMEOUT);
    }
}

fn run(conn: &Connection, mut books: Books, mut queue: mpsc::Receiver<Message>) {
    let mut log = Log::of(conn);
    while let Some(first) = queue.blocking_recv() {
        let mut group = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Command(command) => group.push(command),
                Message::Close => queue.close(),
            }
            next = match group.len() {
                GROUP_MAX.. => None,
                _ => queue.try_recv().ok(),
            };
        }
        let commit = commit(conn, &mut books, &mut group);
        for command in group {
            command.answer(&commit);
        }
        log.hold(conn);
    }
}

/// Carries out a group in one transaction. On an error nothing of it stays.
fn commit(
    conn: &Connection,
    books: &mut Books,
    group: &mut [Box<dyn Command>],
) -> Result<(), StoreError> {
    conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let before = *books;
    let result = carry_out(conn, books, group).and_then(|()| {
        books.write(conn, &before)?;
        conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    });
    if result.is_err() {
        *books = before;
        if !conn.is_autocommit() {
            // It cannot fail: there is a transaction. If it did, the next BEGIN would say so.
            let _ = conn.execute_batch("ROLLBACK");
        }
        if matches!(result, Err(StoreError::Damaged(_))) {
            // A damaged page must not stay in memory: the file may be made whole.
            let _ = conn.execute_batch("PRAGMA shrink_memory");
        }
    }
    result
}

fn carry_out(
    conn: &Connection,
    books: &mut Books,
    group: &mut [Box<dyn Command>],
) -> Result<(), StoreError> {
    let alone = group.len() == 1;
    for command in group {
        let undoable = !alone && !command.is_checked();
        if undoable {
            conn.prepare_cached("SAVEPOINT command")?.execute([])?;
        }
        let before = conn.total_changes();
        let mut transaction = Transaction {
            conn,
            books: *books,
        };
        match command.carry_out(&mut transaction) {
            Ok(()) => *books = transaction.books,
            // The whole transaction is undone; a full disk, for one, has done so already.
            Err(error) if error.is_outage() || conn.is_autocommit() => return Err(error),
            Err(_) if undoable => {
                conn.prepare_cached("ROLLBACK TO command")?.execute([])?;
            }
            // Nothing of it may stay, whatever it takes.
            Err(error) if conn.total_changes() != before => return Err(error),
            Err(_) => {}
        }
        if undoable {
            conn.prepare_cached("RELEASE command")?.execute([])?;
        }
    }
    Ok(())
}

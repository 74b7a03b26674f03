//! The connections that read, a few at a time.
//!
//! A read runs on a thread that may wait. One that has read goes on with what
//! has come meanwhile, so that a crowd of readers does not pay for two changes
//! of threads each.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use super::fault::closed;
use super::open;
use crate::store::StoreError;

/// Reads at the same time; more wait their turn.
const THREADS: usize = 3;
/// Reads that wait at most; a caller above that waits for its turn to wait.
const WAITING_MAX: usize = 1024;

type Read = Box<dyn FnOnce(&Readers) + Send>;

/// Reads a database in WAL mode.
pub(super) struct Readers {
    path: PathBuf,
    room: Arc<Semaphore>,
    under_way: TaskTracker,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Read>,
    threads: usize,
    idle: Vec<Connection>,
}

impl Readers {
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            room: Arc::new(Semaphore::new(WAITING_MAX)),
            under_way: TaskTracker::new(),
            state: Mutex::default(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `work` done. Once it waits it is done even if the caller is gone.
    pub async fn read<T, F>(self: &Arc<Self>, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let room = Arc::clone(&self.room).acquire_owned().await;
        let room = room.map_err(|_| closed())?;
        let (answer, answered) = oneshot::channel();
        let read = move |readers: &Self| {
            let _room = room;
            // It panicked if nobody answers.
            let _ = answer.send(readers.with(work));
        };
        self.queue(Box::new(read))?;
        answered
            .await
            .map_err(|_| StoreError::Unavailable("a read was given up".to_owned()))?
    }

    /// Gives a read to a thread, or to the next that is free.
    fn queue(self: &Arc<Self>, read: Read) -> Result<(), StoreError> {
        let mut state = self.lock();
        if self.room.is_closed() {
            return Err(closed());
        }
        state.waiting.push_back(read);
        let token = self.under_way.token();
        let turn = (state.threads < THREADS).then(|| {
            state.threads += 1;
            Turn {
                readers: Arc::clone(self),
                over: false,
            }
        });
        drop(state);
        if let Some(turn) = turn {
            tokio::task::spawn_blocking(move || {
                turn.run();
                drop(token);
            });
        }
        Ok(())
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let known = self.lock().idle.pop();
        let conn = match known {
            Some(conn) => conn,
            None => open::connect(&self.path, &open::READER)?,
        };
        let result = work(&conn);
        // One that has failed is not trusted again.
        if result.is_ok() {
            self.lock().idle.push(conn);
        }
        result
    }

    /// Refuses what comes from now on, and waits for the rest.
    pub async fn close(&self) {
        {
            // So that what was let in before is known to be under way.
            let _state = self.lock();
            self.room.close();
        }
        self.under_way.close();
        self.under_way.wait().await;
        self.lock().idle.clear();
    }
}

/// One thread's turn.
struct Turn {
    readers: Arc<Readers>,
    over: bool,
}

impl Turn {
    /// Reads until nothing waits.
    fn run(mut self) {
        while let Some(read) = self.next() {
            // It was reported where it was.
            let _ = catch_unwind(AssertUnwindSafe(|| read(&self.readers)));
        }
    }

    /// What waits. Whoever finds nothing has ended its turn in the same moment:
    /// the next caller must not think that it reads on.
    fn next(&mut self) -> Option<Read> {
        let mut state = self.readers.lock();
        let read = state.waiting.pop_front();
        if read.is_none() {
            state.threads -= 1;
            self.over = true;
        }
        read
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.over {
            // The runtime stops and gave it no thread: nobody reads for those
            // who wait.
            let mut state = self.readers.lock();
            state.threads -= 1;
            let given_up = std::mem::take(&mut state.waiting);
            drop(state);
            drop(given_up);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::sqlite::Sqlite;

    async fn readers() -> (tempfile::TempDir, Arc<Readers>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pool.db");
        Sqlite::open(&path).await.unwrap().close().await;
        (dir, Arc::new(Readers::new(path)))
    }

    #[tokio::test]
    async fn a_crowd_reads_on_a_few_threads_and_everybody_is_answered() {
        let (_dir, readers) = readers().await;
        let reads = (0..500).map(|number| {
            let readers = Arc::clone(&readers);
            tokio::spawn(async move {
                let sum = readers.read(move |conn| {
                    Ok(conn
                        .query_row("SELECT ?1 + 1", [number], |row| row.get::<_, i64>(0))
                        .unwrap())
                });
                assert_eq!(sum.await.unwrap(), number + 1);
            })
        });
        for read in reads.collect::<Vec<_>>() {
            read.await.unwrap();
        }

        assert!(readers.lock().idle.len() <= THREADS);
        // An answer is there a moment before its thread has ended its turn.
        readers.close().await;
        let state = readers.lock();
        assert_eq!((state.threads, state.waiting.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_long_read_holds_up_nobody_and_one_that_panics_only_itself() {
        let (_dir, readers) = readers().await;
        let (go, wait) = std::sync::mpsc::sync_channel::<()>(1);
        let shared = Arc::clone(&readers);
        let long = tokio::spawn(async move {
            shared
                .read(move |_| {
                    wait.recv().unwrap();
                    Ok(())
                })
                .await
        });
        while readers.lock().threads == 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            let fails = readers.read::<(), _>(|_| panic!("as it should")).await;
            assert!(matches!(fails, Err(StoreError::Unavailable(_))));
            readers.read(|_| Ok(())).await.unwrap();
        }
        go.send(()).unwrap();
        long.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn after_the_end_nobody_reads_and_what_waited_has_been_read() {
        let (_dir, readers) = readers().await;
        let shared = Arc::clone(&readers);
        let (begun, has_begun) = oneshot::channel();
        let before = tokio::spawn(async move {
            shared
                .read(move |_| {
                    let _ = begun.send(());
                    Ok(())
                })
                .await
        });
        has_begun.await.unwrap();
        readers.close().await;

        before.await.unwrap().unwrap();
        assert!(readers.read(|_| Ok(())).await.is_err());
    }
}

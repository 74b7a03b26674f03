//! One file, one process, every answer on disk: SQLite in WAL mode.
//!
//! One thread writes, a few connections read. A lock file beside
//! the database keeps a second server out.

mod catalog;
mod fault;
mod open;
mod probe;
mod read;
mod readers;
mod retain;
mod session;
mod write;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::Connection;

use super::{
    Batch, CatalogEntry, CatalogKind, ClaimRequest, Claimed, Committed, Context, Due, Fence,
    LogEntry, Note, OpenError, Parts, Query, Request, SessionRef, Store, StoreError, Totals,
};
use crate::budget::Funds;
use crate::clock::Timestamp;
use crate::id::{CallerId, GroupId, RequestId, TaskId};
use crate::money::Microdollars;
use crate::pb::event::Kind;
use crate::task::{Level, Record, SavedSession, State, Task};
use fault::closed;
use readers::Readers;
use write::Books;
use writer::Writer;

/// The embedded durable store. Best ended by [`Store::close`]; dropping it
/// waits for what was queued to be written.
pub struct Sqlite {
    readers: Arc<Readers>,
    writer: Mutex<Option<Writer>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Sqlite {
    /// Opens the database at `path`, or makes it if it is absent.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref().to_owned();
        tokio::task::spawn_blocking(move || Self::open_blocking(&path))
            .await
            .map_err(|error| OpenError(format!("the database could not be opened: {error}")))?
    }

    fn open_blocking(path: &Path) -> Result<Self, OpenError> {
        let open::Opened { path, lock, writer } = open::open(path)?;
        let books = Books::read(&writer).map_err(|error| {
            let (StoreError::Corrupt(why)
            | StoreError::Damaged(why)
            | StoreError::Unavailable(why)) = &error
            else {
                return open::damaged(&path, &error);
            };
            open::damaged(&path, why)
        })?;
        let (writer, thread) = Writer::start(writer, books, lock).map_err(|error| {
            OpenError(format!(
                "the thread that writes could not be started: {error}"
            ))
        })?;
        Ok(Self {
            readers: Arc::new(Readers::new(path)),
            writer: Mutex::new(Some(writer)),
            thread: Mutex::new(Some(thread)),
        })
    }

    fn writer(&self) -> Result<Writer, StoreError> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.clone().ok_or_else(closed)
    }

    async fn read<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.readers.read(work).await
    }

    /// The writer, if nobody has ended it yet, and its thread.
    fn take_writer(&self) -> (Option<Writer>, Option<thread::JoinHandle<()>>) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        (writer.take(), thread.take())
    }

    /// Whether the sums that are kept are those of the ledger and the tasks.
    #[cfg(any(test, feature = "testing"))]
    pub async fn check_sums(&self) -> Result<(), StoreError> {
        self.read(read::check_sums).await
    }

    /// Lets the file grow by so many pages and no more: a disk that is full.
    #[cfg(any(test, feature = "testing"))]
    pub async fn fill_disk(&self, pages_left: u32) -> Result<(), StoreError> {
        self.writer()?
            .call(move |tx| tx.limit_pages(pages_left))
            .await
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        let (writer, thread) = self.take_writer();
        drop(writer);
        if let Some(thread) = thread {
            // The lock is given back when this returns. A panic was reported where it was.
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn commit(&self, batch: Batch) -> Result<Vec<Committed>, StoreError> {
        self.writer()?.commit(batch).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, StoreError> {
        self.writer()?
            .call_checked(move |tx| tx.claim(&request))
            .await
    }

    async fn append(
        &self,
        fence: Fence,
        events: Vec<Kind>,
        note: Note,
        now: Timestamp,
    ) -> Result<Committed, StoreError> {
        self.writer()?
            .call_checked(move |tx| tx.append(fence, events, note, now))
            .await
    }

    async fn session(
        &self,
        caller: &CallerId,
        which: &SessionRef,
    ) -> Result<Option<SavedSession>, StoreError> {
        let (caller, which) = (caller.clone(), which.clone());
        self.read(move |conn| read::session(conn, &caller, &which))
            .await
    }

    async fn forget_session(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.writer()?.call(move |tx| tx.forget_session(&id)).await
    }

    async fn expire_sessions(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        self.writer()?
            .call(move |tx| tx.expire_sessions(before, limit))
            .await
    }

    async fn record(&self, id: TaskId, parts: Parts) -> Result<Option<Record>, StoreError> {
        self.read(move |conn| read::record(conn, id, parts)).await
    }

    async fn list(&self, query: &Query) -> Result<Vec<Record>, StoreError> {
        let query = query.clone();
        self.read(move |conn| read::list(conn, &query)).await
    }

    async fn group(&self, id: GroupId, parts: Parts) -> Result<Vec<Record>, StoreError> {
        self.read(move |conn| read::group(conn, id, parts)).await
    }

    async fn request(
        &self,
        caller: &CallerId,
        id: RequestId,
        now: Timestamp,
    ) -> Result<Option<Request>, StoreError> {
        let caller = caller.clone();
        let request = self
            .read(move |conn| read::request(conn, &caller, id))
            .await?;
        Ok(request.filter(|request| request.is_remembered(now)))
    }

    async fn log(
        &self,
        id: TaskId,
        after: u64,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        self.read(move |conn| read::log(conn, id, after, bytes_max))
            .await
    }

    async fn output(
        &self,
        id: TaskId,
        offset: u64,
        len: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        self.read(move |conn| read::output(conn, id, offset, len))
            .await
    }

    async fn log_bytes(&self, id: TaskId) -> Result<u64, StoreError> {
        self.read(move |conn| read::log_bytes(conn, id)).await
    }

    async fn delete(&self, id: TaskId, version: u64) -> Result<Vec<TaskId>, StoreError> {
        self.writer()?.call(move |tx| tx.delete(id, version)).await
    }

    async fn outdated(
        &self,
        ended: &[(State, Timestamp)],
        limit: usize,
    ) -> Result<Vec<Task>, StoreError> {
        let ended = ended.to_vec();
        self.read(move |conn| retain::outdated(conn, &ended, limit))
            .await
    }

    async fn expire_requests(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.writer()?
            .call(move |tx| tx.expire_requests(now, limit))
            .await
    }

    async fn sweep(&self) -> Result<bool, StoreError> {
        self.writer()?.call(|tx| tx.sweep()).await
    }

    async fn due(&self, now: Timestamp, level: Level, limit: usize) -> Result<Due, StoreError> {
        self.read(move |conn| read::due(conn, now, level, limit))
            .await
    }

    async fn totals(&self) -> Result<Totals, StoreError> {
        self.read(read::totals).await
    }

    async fn set_budget(&self, limit: Option<Microdollars>) -> Result<Funds, StoreError> {
        self.writer()?
            .call(move |tx| Ok(tx.set_budget(limit)))
            .await
    }

    async fn context(&self) -> Result<Context, StoreError> {
        self.read(read::context).await
    }

    async fn set_context(
        &self,
        revision: u64,
        key: &str,
        value: Option<&str>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let (key, value) = (key.to_owned(), value.map(str::to_owned));
        self.writer()?
            .call(move |tx| tx.set_context(revision, &key, value.as_deref(), now))
            .await
    }

    async fn catalog_entry(
        &self,
        kind: CatalogKind,
        name: &str,
    ) -> Result<Option<CatalogEntry>, StoreError> {
        let name = name.to_owned();
        self.read(move |conn| catalog::entry(conn, kind, &name))
            .await
    }

    async fn catalog(
        &self,
        kind: CatalogKind,
        after: &str,
        bytes_max: usize,
    ) -> Result<Vec<CatalogEntry>, StoreError> {
        let after = after.to_owned();
        self.read(move |conn| catalog::page(conn, kind, &after, bytes_max))
            .await
    }

    async fn put_catalog(
        &self,
        kind: CatalogKind,
        entry: CatalogEntry,
        most: usize,
    ) -> Result<bool, StoreError> {
        self.writer()?
            .call(move |tx| catalog::put(tx.conn, kind, &entry, most))
            .await
    }

    async fn delete_catalog(&self, kind: CatalogKind, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.writer()?
            .call(move |tx| catalog::delete(tx.conn, kind, &name))
            .await
    }

    async fn probe(&self, thorough: bool) -> Result<(), StoreError> {
        let writer = self.writer()?;
        writer.call(|tx| probe::take_room(tx.conn)).await?;
        writer.call(|tx| probe::give_room_back(tx.conn)).await?;
        self.read(read::totals).await?;
        if thorough {
            probe::check(self.readers.path().to_owned()).await?;
        }
        Ok(())
    }

    async fn close(&self) {
        // Readers first: an open read would keep the log from being moved.
        self.readers.close().await;
        let (writer, thread) = self.take_writer();
        if let Some(writer) = writer {
            writer.close().await;
        }
        if let Some(thread) = thread {
            // A panic was reported where it was.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

#[cfg(test)]
mod plan_tests;

//! A store that fails when told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Batch, CatalogEntry, CatalogKind, ClaimRequest, Claimed, Committed, Context, Due, Fence,
    LogEntry, Note, Parts, Query, Request, SessionRef, Store, StoreError, Totals,
};
use crate::budget::Funds;
use crate::clock::Timestamp;
use crate::id::{CallerId, GroupId, RequestId, TaskId};
use crate::money::Microdollars;
use crate::pb::event::Kind;
use crate::task::{Record, SavedSession, State, Task};

/// Passes every call on, or fails it with `Unavailable` before it has done
/// anything.
pub struct Faulty {
    store: Arc<dyn Store>,
    fail_all: AtomicBool,
    /// Commits until one fails; 0: none.
    fail_commit: AtomicU64,
}

impl Faulty {
    /// One that fails nothing yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            fail_all: AtomicBool::new(false),
            fail_commit: AtomicU64::new(0),
        }
    }

    /// The `n`th call of `commit` from now on fails, from 1; once. 0: none.
    pub fn fail_commit(&self, n: u64) {
        self.fail_commit.store(n, Ordering::SeqCst);
    }

    /// Whether every call but `close` fails.
    pub fn fail_all(&self, fail: bool) {
        self.fail_all.store(fail, Ordering::SeqCst);
    }

    fn up(&self) -> Result<&dyn Store, StoreError> {
        if self.fail_all.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("told to fail".to_owned()));
        }
        Ok(&*self.store)
    }
}

#[async_trait]
impl Store for Faulty {
    async fn commit(&self, batch: Batch) -> Result<Vec<Committed>, StoreError> {
        let count = |n: u64| n.checked_sub(1);
        let before = self
            .fail_commit
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, count);
        if before == Ok(1) {
            return Err(StoreError::Unavailable("told to fail".to_owned()));
        }
        self.up()?.commit(batch).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, StoreError> {
        self.up()?.claim(request).await
    }

    async fn append(
        &self,
        fence: Fence,
        events: Vec<Kind>,
        note: Note,
        now: Timestamp,
    ) -> Result<Committed, StoreError> {
        self.up()?.append(fence, events, note, now).await
    }

    async fn session(
        &self,
        caller: &CallerId,
        which: &SessionRef,
    ) -> Result<Option<SavedSession>, StoreError> {
        self.up()?.session(caller, which).await
    }

    async fn forget_session(&self, id: &str) -> Result<(), StoreError> {
        self.up()?.forget_session(id).await
    }

    async fn expire_sessions(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        self.up()?.expire_sessions(before, limit).await
    }

    async fn record(&self, id: TaskId, parts: Parts) -> Result<Option<Record>, StoreError> {
        self.up()?.record(id, parts).await
    }

    async fn list(&self, query: &Query) -> Result<Vec<Record>, StoreError> {
        self.up()?.list(query).await
    }

    async fn group(&self, id: GroupId, parts: Parts) -> Result<Vec<Record>, StoreError> {
        self.up()?.group(id, parts).await
    }

    async fn request(
        &self,
        caller: &CallerId,
        id: RequestId,
        now: Timestamp,
    ) -> Result<Option<Request>, StoreError> {
        self.up()?.request(caller, id, now).await
    }

    async fn log(
        &self,
        id: TaskId,
        after: u64,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        self.up()?.log(id, after, bytes_max).await
    }

    async fn output(
        &self,
        id: TaskId,
        offset: u64,
        len: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        self.up()?.output(id, offset, len).await
    }

    async fn log_bytes(&self, id: TaskId) -> Result<u64, StoreError> {
        self.up()?.log_bytes(id).await
    }

    async fn delete(&self, id: TaskId, version: u64) -> Result<Vec<TaskId>, StoreError> {
        self.up()?.delete(id, version).await
    }

    async fn outdated(
        &self,
        ended: &[(State, Timestamp)],
        limit: usize,
    ) -> Result<Vec<Task>, StoreError> {
        self.up()?.outdated(ended, limit).await
    }

    async fn expire_requests(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.up()?.expire_requests(now, limit).await
    }

    async fn sweep(&self) -> Result<bool, StoreError> {
        self.up()?.sweep().await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Due, StoreError> {
        self.up()?.due(now, limit).await
    }

    async fn totals(&self) -> Result<Totals, StoreError> {
        self.up()?.totals().await
    }

    async fn set_budget(&self, limit: Option<Microdollars>) -> Result<Funds, StoreError> {
        self.up()?.set_budget(limit).await
    }

    async fn context(&self) -> Result<Context, StoreError> {
        self.up()?.context().await
    }

    async fn set_context(
        &self,
        revision: u64,
        key: &str,
        value: Option<&str>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        self.up()?.set_context(revision, key, value, now).await
    }

    async fn catalog_entry(
        &self,
        kind: CatalogKind,
        name: &str,
    ) -> Result<Option<CatalogEntry>, StoreError> {
        self.up()?.catalog_entry(kind, name).await
    }

    async fn catalog(
        &self,
        kind: CatalogKind,
        after: &str,
        bytes_max: usize,
    ) -> Result<Vec<CatalogEntry>, StoreError> {
        self.up()?.catalog(kind, after, bytes_max).await
    }

    async fn put_catalog(
        &self,
        kind: CatalogKind,
        entry: CatalogEntry,
        most: usize,
    ) -> Result<bool, StoreError> {
        self.up()?.put_catalog(kind, entry, most).await
    }

    async fn delete_catalog(&self, kind: CatalogKind, name: &str) -> Result<bool, StoreError> {
        self.up()?.delete_catalog(kind, name).await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

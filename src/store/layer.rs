//! Something around every call of a store: one that fails on purpose, one that
//! watches.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Batch, CatalogEntry, CatalogKind, ClaimRequest, Claimed, Cluster, Committed, Context, Due,
    Fence, LogEntry, Note, Parts, Query, Request, SessionRef, Store, StoreError, Totals,
};
use crate::budget::Funds;
use crate::clock::Timestamp;
use crate::id::{CallerId, GroupId, RequestId, TaskId};
use crate::money::Microdollars;
use crate::pb::event::Kind;
use crate::task::{Level, Record, SavedSession, State, Task};

/// What is asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Changes of tasks.
    Commit,
    /// A claim.
    Claim,
    /// An append to a running attempt's log.
    Append,
    /// Any other change.
    Change,
    /// A look.
    Read,
    /// The question whether it works.
    Probe,
}

impl Call {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Claim => "claim",
            Self::Append => "append",
            Self::Change => "change",
            Self::Read => "read",
            Self::Probe => "probe",
        }
    }

    /// Whether it changes what is stored.
    pub fn writes(self) -> bool {
        match self {
            Self::Commit | Self::Claim | Self::Append | Self::Change => true,
            Self::Read | Self::Probe => false,
        }
    }
}

/// What is done around a call.
pub trait Layer: Send + Sync + 'static {
    /// Carries out `work`, or not, and answers.
    fn around<T: Send>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> impl Future<Output = Result<T, StoreError>> + Send;
}

/// A store with a layer around every call but `close`.
pub struct Layered<L> {
    store: Arc<dyn Store>,
    layer: Arc<L>,
}

impl<L: Layer> Layered<L> {
    /// `layer` around `store`.
    pub fn over(store: Arc<dyn Store>, layer: Arc<L>) -> Self {
        Self { store, layer }
    }

    /// The layer.
    pub fn layer(&self) -> &L {
        &self.layer
    }
}

#[async_trait]
impl<L: Layer> Store for Layered<L> {
    async fn commit(&self, batch: Batch) -> Result<Vec<Committed>, StoreError> {
        let work = self.store.commit(batch);
        self.layer.around(Call::Commit, work).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, StoreError> {
        let work = self.store.claim(request);
        self.layer.around(Call::Claim, work).await
    }

    async fn append(
        &self,
        fence: Fence,
        events: Vec<Kind>,
        note: Note,
        now: Timestamp,
    ) -> Result<Committed, StoreError> {
        let work = self.store.append(fence, events, note, now);
        self.layer.around(Call::Append, work).await
    }

    async fn session(
        &self,
        caller: &CallerId,
        which: &SessionRef,
    ) -> Result<Option<SavedSession>, StoreError> {
        let work = self.store.session(caller, which);
        self.layer.around(Call::Read, work).await
    }

    async fn forget_session(&self, id: &str) -> Result<(), StoreError> {
        let work = self.store.forget_session(id);
        self.layer.around(Call::Change, work).await
    }

    async fn expire_sessions(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        let work = self.store.expire_sessions(before, limit);
        self.layer.around(Call::Change, work).await
    }

    async fn record(&self, id: TaskId, parts: Parts) -> Result<Option<Record>, StoreError> {
        let work = self.store.record(id, parts);
        self.layer.around(Call::Read, work).await
    }

    async fn list(&self, query: &Query) -> Result<Vec<Record>, StoreError> {
        let work = self.store.list(query);
        self.layer.around(Call::Read, work).await
    }

    async fn group(&self, id: GroupId, parts: Parts) -> Result<Vec<Record>, StoreError> {
        let work = self.store.group(id, parts);
        self.layer.around(Call::Read, work).await
    }

    async fn request(
        &self,
        caller: &CallerId,
        id: RequestId,
        now: Timestamp,
    ) -> Result<Option<Request>, StoreError> {
        let work = self.store.request(caller, id, now);
        self.layer.around(Call::Read, work).await
    }

    async fn log(
        &self,
        id: TaskId,
        after: u64,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let work = self.store.log(id, after, bytes_max);
        self.layer.around(Call::Read, work).await
    }

    async fn output(
        &self,
        id: TaskId,
        offset: u64,
        len: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        let work = self.store.output(id, offset, len);
        self.layer.around(Call::Read, work).await
    }

    async fn log_bytes(&self, id: TaskId) -> Result<u64, StoreError> {
        let work = self.store.log_bytes(id);
        self.layer.around(Call::Read, work).await
    }

    async fn delete(&self, id: TaskId, version: u64) -> Result<Vec<TaskId>, StoreError> {
        let work = self.store.delete(id, version);
        self.layer.around(Call::Change, work).await
    }

    async fn outdated(
        &self,
        ended: &[(State, Timestamp)],
        limit: usize,
    ) -> Result<Vec<Task>, StoreError> {
        let work = self.store.outdated(ended, limit);
        self.layer.around(Call::Read, work).await
    }

    async fn expire_requests(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let work = self.store.expire_requests(now, limit);
        self.layer.around(Call::Change, work).await
    }

    async fn sweep(&self) -> Result<bool, StoreError> {
        let work = self.store.sweep();
        self.layer.around(Call::Change, work).await
    }

    async fn due(&self, now: Timestamp, level: Level, limit: usize) -> Result<Due, StoreError> {
        let work = self.store.due(now, level, limit);
        self.layer.around(Call::Read, work).await
    }

    async fn totals(&self) -> Result<Totals, StoreError> {
        let work = self.store.totals();
        self.layer.around(Call::Read, work).await
    }

    async fn set_budget(&self, limit: Option<Microdollars>) -> Result<Funds, StoreError> {
        let work = self.store.set_budget(limit);
        self.layer.around(Call::Change, work).await
    }

    async fn context(&self) -> Result<Context, StoreError> {
        let work = self.store.context();
        self.layer.around(Call::Read, work).await
    }

    async fn set_context(
        &self,
        revision: u64,
        key: &str,
        value: Option<&str>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let work = self.store.set_context(revision, key, value, now);
        self.layer.around(Call::Change, work).await
    }

    async fn catalog_entry(
        &self,
        kind: CatalogKind,
        name: &str,
    ) -> Result<Option<CatalogEntry>, StoreError> {
        let work = self.store.catalog_entry(kind, name);
        self.layer.around(Call::Read, work).await
    }

    async fn catalog(
        &self,
        kind: CatalogKind,
        after: &str,
        bytes_max: usize,
    ) -> Result<Vec<CatalogEntry>, StoreError> {
        let work = self.store.catalog(kind, after, bytes_max);
        self.layer.around(Call::Read, work).await
    }

    async fn put_catalog(
        &self,
        kind: CatalogKind,
        entry: CatalogEntry,
        most: usize,
    ) -> Result<bool, StoreError> {
        let work = self.store.put_catalog(kind, entry, most);
        self.layer.around(Call::Change, work).await
    }

    async fn delete_catalog(&self, kind: CatalogKind, name: &str) -> Result<bool, StoreError> {
        let work = self.store.delete_catalog(kind, name);
        self.layer.around(Call::Change, work).await
    }

    async fn probe(&self, thorough: bool) -> Result<(), StoreError> {
        let work = self.store.probe(thorough);
        self.layer.around(Call::Probe, work).await
    }

    async fn close(&self) {
        self.store.close().await;
    }

    fn cluster(&self) -> Option<&dyn Cluster> {
        self.store.cluster()
    }
}

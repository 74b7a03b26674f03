//! One database for any number of servers: PostgreSQL.
//!
//! A call is a transaction on one of a few connections; what others are in the
//! way of is done again. docs/postgresql.md says what lies where, and why.

mod call;
mod claim;
mod cluster;
mod columns;
mod fault;
mod fold;
mod list;
mod migrate;
mod pool;
mod probe;
mod read;
mod retain;
mod small;
mod text;
mod tls;
mod url;
mod wire;
mod write;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{
    Batch, CatalogEntry, CatalogKind, ClaimRequest, Claimed, Cluster, Committed, Context, Due,
    Fence, LogEntry, Note, OpenError, Parts, Query, Request, SessionRef, Store, StoreError, Totals,
};
use crate::budget::Funds;
use crate::clock::Timestamp;
use crate::id::{CallerId, GroupId, RequestId, TaskId};
use crate::money::Microdollars;
use crate::pb::event::Kind;
use crate::task::{Level, Record, SavedSession, State, Task};
use call::Engine;
use cluster::Joined;
use url::Target;
use wire::{Outbox, Wire};

/// Longest thorough probe: it reads everything.
const PROBE: Duration = Duration::from_secs(24 * 3600);

/// The store that servers share. Ended by [`Store::close`].
pub struct Postgres {
    engine: Arc<Engine>,
    heard: Arc<Outbox>,
    /// The node that this is.
    joined: Mutex<Option<Joined>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Postgres {
    /// Opens the database that a URL names, and brings its schema to today's.
    pub async fn open(url: &str) -> Result<Self, OpenError> {
        let target = Target::parse(url)?;
        let tls = tls::connector(&target.trust)?;
        let pool = pool::pool(&target, tls.clone())?;
        let place = target.place();
        let client = tokio::time::timeout(target.call, pool.get()).await;
        let client = client.map_err(|_| OpenError(format!("{place} does not answer")))?;
        let client = client.map_err(|error| match error {
            deadpool_postgres::PoolError::Backend(error) => migrate::refused(&place, &error),
            error => OpenError(format!("{place} cannot be used: {error}")),
        })?;
        migrate::migrate(client, &place).await?;
        let (outbox, heard) = (Arc::<Outbox>::default(), Arc::<Outbox>::default());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let wire = Wire {
            own: Uuid::new_v4(),
            tls,
            outbox: Arc::clone(&outbox),
            heard: Arc::clone(&heard),
            stop: stop.clone(),
            target: target.clone(),
        };
        tasks.spawn(wire.run());
        Ok(Self {
            engine: Arc::new(Engine::new(pool, target.call, outbox)),
            heard,
            joined: Mutex::default(),
            stop,
            tasks,
        })
    }

    /// Whether the sums that are kept are those of the ledger and the tasks.
    #[cfg(any(test, feature = "testing"))]
    pub async fn check_sums(&self) -> Result<(), StoreError> {
        let engine = &self.engine;
        engine.read(|link| Box::pin(read::check_sums(link))).await
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl Store for Postgres {
    async fn commit(&self, batch: Batch) -> Result<Vec<Committed>, StoreError> {
        let committed = self
            .engine
            .write(move |tx| Box::pin(tx.commit(batch.clone())))
            .await?;
        for change in &committed {
            self.engine.outbox.committed(change);
        }
        Ok(committed)
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, StoreError> {
        let (request, joined) = (Arc::new(request), self.joined());
        let claimed = self
            .engine
            .write(move |tx| Box::pin(tx.claim(Arc::clone(&request), joined.clone())))
            .await?;
        for task in &claimed.tasks {
            self.engine.outbox.task(task.task.id);
        }
        Ok(claimed)
    }

    async fn append(
        &self,
        fence: Fence,
        events: Vec<Kind>,
        note: Note,
        now: Timestamp,
    ) -> Result<Committed, StoreError> {
        let committed = self
            .engine
            .write(move |tx| Box::pin(tx.append(fence, events.clone(), note.clone(), now)))
            .await?;
        self.engine.outbox.task(fence.task);
        Ok(committed)
    }

    async fn record(&self, id: TaskId, parts: Parts) -> Result<Option<Record>, StoreError> {
        self.engine
            .read(move |link| Box::pin(read::record(link, id, parts)))
            .await
    }

    async fn list(&self, query: &Query) -> Result<Vec<Record>, StoreError> {
        let query = query.clone();
        self.engine
            .read(move |link| Box::pin(list::list(link, query.clone())))
            .await
    }

    async fn group(&self, id: GroupId, parts: Parts) -> Result<Vec<Record>, StoreError> {
        self.engine
            .read(move |link| Box::pin(read::group(link, id, parts)))
            .await
    }

    async fn request(
        &self,
        caller: &CallerId,
        id: RequestId,
        now: Timestamp,
    ) -> Result<Option<Request>, StoreError> {
        let caller = caller.clone();
        let request = self
            .engine
            .read(move |link| Box::pin(read::request(link, caller.clone(), id)))
            .await?;
        Ok(request.filter(|request| request.is_remembered(now)))
    }

    async fn log(
        &self,
        id: TaskId,
        after: u64,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        self.engine
            .read(move |link| Box::pin(read::log(link, id, after, bytes_max)))
            .await
    }

    async fn log_bytes(&self, id: TaskId) -> Result<u64, StoreError> {
        self.engine
            .read(move |link| Box::pin(read::log_bytes(link, id)))
            .await
    }

    async fn output(
        &self,
        id: TaskId,
        offset: u64,
        len: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        self.engine
            .read(move |link| Box::pin(read::output(link, id, offset, len)))
            .await
    }

    async fn delete(&self, id: TaskId, version: u64) -> Result<Vec<TaskId>, StoreError> {
        let gone = self
            .engine
            .write(move |tx| Box::pin(tx.delete(id, version)))
            .await?;
        for id in &gone {
            self.engine.outbox.task(*id);
        }
        Ok(gone)
    }

    async fn outdated(
        &self,
        ended: &[(State, Timestamp)],
        limit: usize,
    ) -> Result<Vec<Task>, StoreError> {
        let ended = ended.to_vec();
        self.engine
            .read(move |link| Box::pin(retain::outdated(link, ended.clone(), limit)))
            .await
    }

    async fn expire_requests(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.engine
            .write(move |tx| Box::pin(tx.expire_requests(now, limit)))
            .await
    }

    async fn sweep(&self) -> Result<bool, StoreError> {
        self.engine.write(|tx| Box::pin(tx.sweep())).await
    }

    async fn due(&self, now: Timestamp, level: Level, limit: usize) -> Result<Due, StoreError> {
        self.engine
            .read(move |link| Box::pin(read::due(link, now, level, limit)))
            .await
    }

    async fn session(
        &self,
        caller: &CallerId,
        which: &SessionRef,
    ) -> Result<Option<SavedSession>, StoreError> {
        let (caller, which) = (caller.clone(), which.clone());
        self.engine
            .read(move |link| Box::pin(small::session(link, caller.clone(), which.clone())))
            .await
    }

    async fn forget_session(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.engine
            .write(move |tx| Box::pin(tx.forget_session(id.clone())))
            .await
    }

    async fn expire_sessions(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        self.engine
            .write(move |tx| Box::pin(tx.expire_sessions(before, limit)))
            .await
    }

    async fn totals(&self) -> Result<Totals, StoreError> {
        self.engine.read(|link| Box::pin(read::totals(link))).await
    }

    async fn set_budget(&self, limit: Option<Microdollars>) -> Result<Funds, StoreError> {
        let set = self
            .engine
            .write(move |tx| Box::pin(tx.set_budget(limit)))
            .await;
        self.engine.outbox.add(|told| told.control = true);
        set
    }

    async fn context(&self) -> Result<Context, StoreError> {
        self.engine.read(|link| Box::pin(read::context(link))).await
    }

    async fn set_context(
        &self,
        revision: u64,
        key: &str,
        value: Option<&str>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let (key, value) = (key.to_owned(), value.map(str::to_owned));
        let set = self
            .engine
            .write(move |tx| Box::pin(tx.set_context(revision, key.clone(), value.clone(), now)))
            .await;
        self.engine.outbox.add(|told| told.control = true);
        set
    }

    async fn catalog_entry(
        &self,
        kind: CatalogKind,
        name: &str,
    ) -> Result<Option<CatalogEntry>, StoreError> {
        let name = name.to_owned();
        self.engine
            .read(move |link| Box::pin(small::entry(link, kind, name.clone())))
            .await
    }

    async fn catalog(
        &self,
        kind: CatalogKind,
        after: &str,
        bytes_max: usize,
    ) -> Result<Vec<CatalogEntry>, StoreError> {
        let after = after.to_owned();
        self.engine
            .read(move |link| Box::pin(small::page(link, kind, after.clone(), bytes_max)))
            .await
    }

    async fn put_catalog(
        &self,
        kind: CatalogKind,
        entry: CatalogEntry,
        most: usize,
    ) -> Result<bool, StoreError> {
        self.engine
            .write(move |tx| Box::pin(tx.put_catalog(kind, entry.clone(), most)))
            .await
    }

    async fn delete_catalog(&self, kind: CatalogKind, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.engine
            .write(move |tx| Box::pin(tx.delete_catalog(kind, name.clone())))
            .await
    }

    async fn probe(&self, thorough: bool) -> Result<(), StoreError> {
        self.engine.write(|tx| Box::pin(tx.take_room())).await?;
        self.totals().await?;
        if thorough {
            let limit = self.engine.limit();
            self.engine
                .read_within(PROBE, move |link| Box::pin(probe::check(link, limit)))
                .await?;
        }
        Ok(())
    }

    async fn close(&self) {
        self.engine.close().await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn cluster(&self) -> Option<&dyn Cluster> {
        Some(self)
    }
}

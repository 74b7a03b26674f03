//! Everything in memory: for tests, and for pools whose work may be forgotten.

mod cluster;
mod inner;
mod nodes;
mod retain;

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::choice::Choice;
use super::{
    Batch, CatalogEntry, CatalogKind, ClaimRequest, Claimed, ClaimedTask, Cluster, Committed,
    Context, ContextValue, Due, Fence, LogEntry, Note, Parts, Query, Request, SessionRef, Store,
    StoreError, Totals,
};
use crate::budget::Funds;
use crate::clock::Timestamp;
use crate::id::{CallerId, GroupId, RequestId, TaskId};
use crate::money::Microdollars;
use crate::pb::event::Kind;
use crate::task::{Level, Record, SavedSession, State, Task};
use inner::{Inner, LAST};
use nodes::Handle;

/// A store that is gone when the process is.
#[derive(Default)]
pub struct Memory {
    shared: Arc<Mutex<Inner>>,
    /// What this handle is among others; `None`: it is the only one.
    handle: Option<Handle>,
    closed: AtomicBool,
}

impl Memory {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The lock is never held while something can panic half way, so what a
    /// poisoned one guards is whole.
    fn lock(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let inner = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("it was closed".to_owned()));
        }
        Ok(inner)
    }
}

#[async_trait]
impl Store for Memory {
    async fn commit(&self, batch: Batch) -> Result<Vec<Committed>, StoreError> {
        let mut inner = self.lock()?;
        inner.check(&batch)?;
        if let Some(request) = batch.request {
            inner
                .requests
                .insert((request.caller.clone(), request.id), request);
        }
        let changes = batch.changes.into_iter();
        let committed: Vec<_> = changes
            .map(|change| inner.carry_out(change, batch.now))
            .collect();
        self.tell_tasks(&inner, &committed);
        Ok(committed)
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, StoreError> {
        let mut inner = self.lock()?;
        self.check_lease(&mut inner)?;
        let mut choice = Choice::new(&request, inner.funds, request.now);
        inner.choose(&mut choice, &request)?;
        let (taken, mut claimed) = choice.finish();
        let mut specs = Vec::with_capacity(taken.len());
        for (_, change) in &taken {
            let id = change.task.id;
            let spec = inner.tasks.get(&id).and_then(|kept| kept.spec.clone());
            specs.push(spec.ok_or_else(|| StoreError::Corrupt(format!("task {id} has no spec")))?);
        }
        for ((slot, change), spec) in taken.into_iter().zip(specs) {
            let committed = inner.carry_out(change, request.now);
            if let Some(kept) = inner.tasks.get(&committed.task) {
                claimed.tasks.push(ClaimedTask {
                    slot,
                    task: kept.task.clone(),
                    spec,
                    committed,
                });
            }
        }
        claimed.next_ready = inner.next_ready(request.now);
        let committed = claimed.tasks.iter().map(|task| &task.committed);
        self.tell_tasks(&inner, committed);
        Ok(claimed)
    }

    async fn append(
        &self,
        fence: Fence,
        events: Vec<Kind>,
        note: Note,
        now: Timestamp,
    ) -> Result<Committed, StoreError> {
        let mut inner = self.lock()?;
        let store = &mut *inner;
        let kept = store
            .tasks
            .get_mut(&fence.task)
            .filter(|kept| kept.task.attempt == fence.attempt && kept.task.state.is_active())
            .ok_or(StoreError::Fenced)?;
        if let Some(cost) = note.cost {
            kept.task.attempt_cost = cost;
        }
        if let Some(session) = note.session {
            kept.task.session_id = session.id;
            kept.task.session_offset = session.offset;
        }
        let committed = kept.append(events, now);
        self.tell_tasks(store, [&committed]);
        Ok(committed)
    }

    async fn record(&self, id: TaskId, parts: Parts) -> Result<Option<Record>, StoreError> {
        Ok(self.lock()?.tasks.get(&id).map(|kept| kept.record(parts)))
    }

    async fn list(&self, query: &Query) -> Result<Vec<Record>, StoreError> {
        let inner = self.lock()?;
        Ok(inner
            .candidates(query)
            .filter_map(|id| inner.tasks.get(&id))
            .filter(|kept| query.filter.admits(&kept.task))
            .take(query.limit)
            .map(|kept| kept.record(query.parts))
            .collect())
    }

    async fn group(&self, id: GroupId, parts: Parts) -> Result<Vec<Record>, StoreError> {
        let inner = self.lock()?;
        Ok(inner
            .groups
            .get(&id)
            .into_iter()
            .flatten()
            .filter_map(|(_, id)| inner.tasks.get(id))
            .map(|kept| kept.record(parts))
            .collect())
    }

    async fn request(
        &self,
        caller: &CallerId,
        id: RequestId,
        now: Timestamp,
    ) -> Result<Option<Request>, StoreError> {
        let inner = self.lock()?;
        let request = inner.requests.get(&(caller.clone(), id));
        Ok(request.filter(|r| r.is_remembered(now)).cloned())
    }

    async fn log(
        &self,
        id: TaskId,
        after: u64,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let inner = self.lock()?;
        let log = inner.tasks.get(&id).map_or(&[][..], |kept| &kept.log[..]);
        let start = usize::try_from(after).unwrap_or(usize::MAX).min(log.len());
        let mut entries = Vec::new();
        let mut size = 0;
        for (bytes, sequence) in log[start..].iter().zip(start as u64 + 1..) {
            size += bytes.len();
            if !entries.is_empty() && size > bytes_max {
                break;
            }
            entries.push(LogEntry {
                sequence,
                bytes: bytes.clone(),
            });
        }
        Ok(entries)
    }

    async fn output(
        &self,
        id: TaskId,
        offset: u64,
        len: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        let inner = self.lock()?;
        let output = inner.tasks.get(&id).and_then(|kept| kept.output.as_ref());
        Ok(output.map(|text| {
            let bytes = text.as_bytes();
            let start = usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            let end = start.saturating_add(len).min(bytes.len());
            Bytes::copy_from_slice(&bytes[start..end])
        }))
    }

    async fn log_bytes(&self, id: TaskId) -> Result<u64, StoreError> {
        let inner = self.lock()?;
        let log = inner.tasks.get(&id).map_or(&[][..], |kept| &kept.log[..]);
        Ok(log.iter().map(|entry| entry.len() as u64).sum())
    }

    async fn delete(&self, id: TaskId, version: u64) -> Result<Vec<TaskId>, StoreError> {
        let mut inner = self.lock()?;
        let gone = inner.delete(id, version)?;
        self.tell(&inner, |told| told.tasks.extend(&gone));
        Ok(gone)
    }

    async fn outdated(
        &self,
        ended: &[(State, Timestamp)],
        limit: usize,
    ) -> Result<Vec<Task>, StoreError> {
        Ok(self.lock()?.outdated(ended, limit))
    }

    async fn expire_requests(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        Ok(self.lock()?.expire_requests(now, limit))
    }

    async fn sweep(&self) -> Result<bool, StoreError> {
        // What is deleted takes no room.
        self.lock().map(|_| false)
    }

    async fn due(&self, now: Timestamp, level: Level, limit: usize) -> Result<Due, StoreError> {
        let inner = self.lock()?;
        let come = inner.due.range(..=(now, LAST));
        let come = come.filter_map(|(_, id)| inner.tasks.get(id));
        let known = come.filter(|kept| kept.task.follows_at(level));
        let later = (Bound::Excluded((now, LAST)), Bound::Unbounded);
        Ok(Due {
            tasks: known.take(limit).map(|kept| kept.task.clone()).collect(),
            next: inner.due.range(later).next().map(|(time, _)| *time),
        })
    }

    async fn session(
        &self,
        caller: &CallerId,
        which: &SessionRef,
    ) -> Result<Option<SavedSession>, StoreError> {
        let inner = self.lock()?;
        let own = inner.sessions.values().filter(|s| s.caller == *caller);
        Ok(match which {
            SessionRef::Id(id) => own.into_iter().find(|session| session.id == *id),
            SessionRef::Conversation(conversation) => own
                .filter(|session| session.conversation.as_ref() == Some(conversation))
                .max_by_key(|session| (session.used_time, &session.id)),
        }
        .cloned())
    }

    async fn forget_session(&self, id: &str) -> Result<(), StoreError> {
        self.lock()?.sessions.remove(id);
        Ok(())
    }

    async fn expire_sessions(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        Ok(self.lock()?.expire_sessions(before, limit))
    }

    async fn totals(&self) -> Result<Totals, StoreError> {
        let inner = self.lock()?;
        Ok(Totals {
            tasks: inner.counts.clone(),
            funds: inner.funds,
            first_ready: inner.next_ready(Timestamp(i64::MIN)),
        })
    }

    async fn set_budget(&self, limit: Option<Microdollars>) -> Result<Funds, StoreError> {
        let mut inner = self.lock()?;
        inner.funds.limit = limit;
        self.tell(&inner, |told| told.control = true);
        Ok(inner.funds)
    }

    async fn context(&self) -> Result<Context, StoreError> {
        Ok(self.lock()?.context.clone())
    }

    async fn set_context(
        &self,
        revision: u64,
        key: &str,
        value: Option<&str>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut inner = self.lock()?;
        let context = &mut inner.context;
        if context.revision != revision {
            return Err(StoreError::Conflict);
        }
        context.revision += 1;
        match value {
            Some(value) => {
                let value = ContextValue {
                    value: value.to_owned(),
                    update_time: now,
                };
                context.entries.insert(key.to_owned(), value);
            }
            None => {
                context.entries.remove(key);
            }
        }
        let revision = context.revision;
        self.tell(&inner, |told| told.control = true);
        Ok(revision)
    }

    async fn catalog_entry(
        &self,
        kind: CatalogKind,
        name: &str,
    ) -> Result<Option<CatalogEntry>, StoreError> {
        let inner = self.lock()?;
        Ok(inner.catalog.get(&(kind, name.to_owned())).cloned())
    }

    async fn catalog(
        &self,
        kind: CatalogKind,
        after: &str,
        bytes_max: usize,
    ) -> Result<Vec<CatalogEntry>, StoreError> {
        let inner = self.lock()?;
        let from = Bound::Excluded((kind, after.to_owned()));
        let mut bytes = 0;
        Ok(inner
            .catalog
            .range((from, Bound::Unbounded))
            .take_while(|((of, _), entry)| {
                let first = bytes == 0;
                bytes += entry.bytes.len().max(1);
                *of == kind && (first || bytes <= bytes_max)
            })
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    async fn put_catalog(
        &self,
        kind: CatalogKind,
        entry: CatalogEntry,
        most: usize,
    ) -> Result<bool, StoreError> {
        let mut inner = self.lock()?;
        let key = (kind, entry.name.clone());
        let there = inner.catalog.keys().filter(|(of, _)| *of == kind).count();
        if there >= most && !inner.catalog.contains_key(&key) {
            return Ok(false);
        }
        inner.catalog.insert(key, entry);
        Ok(true)
    }

    async fn delete_catalog(&self, kind: CatalogKind, name: &str) -> Result<bool, StoreError> {
        let mut inner = self.lock()?;
        Ok(inner.catalog.remove(&(kind, name.to_owned())).is_some())
    }

    async fn probe(&self, _thorough: bool) -> Result<(), StoreError> {
        self.lock().map(drop)
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    fn cluster(&self) -> Option<&dyn Cluster> {
        self.handle.is_some().then_some(self)
    }
}

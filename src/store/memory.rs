//! Everything in memory: for tests, and for pools whose work may be forgotten.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::choice::Choice;
use super::{
    Batch, ClaimRequest, Claimed, ClaimedTask, Committed, Context, ContextValue, Due, Fence,
    LogEntry, Parts, Query, Request, Store, StoreError, Totals,
};
use crate::budget::Funds;
use crate::clock::Timestamp;
use crate::event;
use crate::id::{CallerId, GroupId, RequestId, TaskId};
use crate::money::Microdollars;
use crate::pb;
use crate::pb::event::Kind;
use crate::task::{Change, Record, Spec, State, Task};

/// A store that is gone when the process is.
#[derive(Default)]
pub struct Memory {
    inner: Mutex<Inner>,
}

/// A task with all that belongs to it.
struct Kept {
    task: Task,
    spec: Option<Arc<Spec>>,
    result: Option<Arc<pb::TaskResult>>,
    output: Option<Arc<str>>,
    /// The log: entry `n` is at `n - 1`.
    log: Vec<Bytes>,
}

/// The ready queue's order.
type Ready = (u8, Timestamp, TaskId);

const FIRST: TaskId = TaskId::MIN;
const LAST: TaskId = TaskId::MAX;
const END_OF_TIME: Timestamp = Timestamp(i64::MAX);

#[derive(Default)]
struct Inner {
    closed: bool,
    tasks: BTreeMap<TaskId, Kept>,
    ready: BTreeSet<Ready>,
    due: BTreeSet<(Timestamp, TaskId)>,
    /// Tasks that have not ended: few, and often asked for.
    live: BTreeSet<TaskId>,
    callers: BTreeMap<CallerId, BTreeSet<TaskId>>,
    groups: BTreeMap<GroupId, BTreeSet<(u32, TaskId)>>,
    steps: BTreeMap<TaskId, BTreeSet<TaskId>>,
    requests: BTreeMap<(CallerId, RequestId), Request>,
    counts: BTreeMap<State, u64>,
    /// Sums of a ledger whose entries nobody could read here.
    funds: Funds,
    context: Context,
}

impl Memory {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The lock is never held while something can panic half way, so what a
    /// poisoned one guards is whole.
    fn lock(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.closed {
            return Err(StoreError::Unavailable("it was closed".to_owned()));
        }
        Ok(inner)
    }
}

impl Kept {
    fn record(&self, parts: Parts) -> Record {
        Record {
            task: self.task.clone(),
            spec: self.spec.clone().filter(|_| parts.spec),
            result: self.result.clone().filter(|_| parts.result),
        }
    }

    fn append(&mut self, events: Vec<Kind>, now: Timestamp) -> Committed {
        let mut entries = Vec::with_capacity(events.len());
        for kind in events {
            let sequence = self.task.last_sequence + 1;
            let bytes = event::encode(sequence, now, kind);
            self.task.last_sequence = sequence;
            self.log.push(bytes.clone());
            entries.push(LogEntry { sequence, bytes });
        }
        Committed {
            task: self.task.id,
            state: self.task.state,
            entries,
        }
    }
}

impl Inner {
    fn index(&mut self, id: TaskId) {
        let Some(Kept { task, .. }) = self.tasks.get(&id) else {
            return;
        };
        if task.state == State::Queued {
            self.ready.insert((task.rank, task.ready_time, id));
        }
        if let Some(due) = task.due_time() {
            self.due.insert((due, id));
        }
        if !task.state.is_end() {
            self.live.insert(id);
        }
        if task.parent.is_none() {
            *self.counts.entry(task.state).or_default() += 1;
        }
    }

    fn unindex(&mut self, id: TaskId) {
        let Some(Kept { task, .. }) = self.tasks.get(&id) else {
            return;
        };
        self.ready.remove(&(task.rank, task.ready_time, id));
        if let Some(due) = task.due_time() {
            self.due.remove(&(due, id));
        }
        self.live.remove(&id);
        if task.parent.is_none()
            && let Some(count) = self.counts.get_mut(&task.state)
        {
            *count -= 1;
        }
    }

    /// Checks every precondition of the batch, so that carrying it out cannot
    /// stop half way.
    fn check(&self, batch: &Batch) -> Result<(), StoreError> {
        if let Some(request) = &batch.request {
            let key = (request.caller.clone(), request.id);
            if let Some(known) = self.requests.get(&key)
                && known.is_remembered(batch.now)
            {
                return Err(StoreError::RequestExists(Box::new(known.clone())));
            }
        }
        let mut versions: HashMap<TaskId, u64> = HashMap::new();
        for change in &batch.changes {
            let id = change.task.id;
            let stored = || self.tasks.get(&id).map(|kept| kept.task.version);
            if versions.get(&id).copied().or_else(stored) != change.expect {
                return Err(StoreError::Conflict);
            }
            versions.insert(id, change.task.version);
        }
        Ok(())
    }

    /// Carries out a change whose precondition holds.
    fn carry_out(&mut self, change: Change, now: Timestamp) -> Committed {
        let mut task = change.task;
        let id = task.id;
        self.unindex(id);
        for entry in change.ledger {
            self.funds = self.funds.after(entry);
        }
        let kept = match self.tasks.entry(id) {
            std::collections::btree_map::Entry::Vacant(slot) => {
                task.last_sequence = 0;
                self.callers
                    .entry(task.caller.clone())
                    .or_default()
                    .insert(id);
                if let Some(group) = task.group {
                    self.groups
                        .entry(group)
                        .or_default()
                        .insert((task.place, id));
                }
                if let Some(parent) = task.parent {
                    self.steps.entry(parent).or_default().insert(id);
                }
                slot.insert(Kept {
                    task,
                    spec: None,
                    result: None,
                    output: None,
                    log: Vec::new(),
                })
            }
            std::collections::btree_map::Entry::Occupied(slot) => {
                let kept = slot.into_mut();
                let stored = std::mem::replace(&mut kept.task, task);
                let row = &mut kept.task;
                if row.attempt == stored.attempt && row.state.is_active() {
                    row.attempt_cost = stored.attempt_cost;
                }
                row.last_sequence = stored.last_sequence;
                row.caller = stored.caller;
                row.tags = stored.tags;
                row.group = stored.group;
                row.parent = stored.parent;
                row.place = stored.place;
                row.request = stored.request;
                row.create_time = stored.create_time;
                kept
            }
        };
        kept.spec = change.spec.or_else(|| kept.spec.take());
        kept.result = change.result.or_else(|| kept.result.take());
        kept.output = change.output.or_else(|| kept.output.take());
        let committed = kept.append(change.events, now);
        self.index(id);
        committed
    }

    /// Offers ready tasks by rank, ready time and id.
    fn choose(&self, choice: &mut Choice<'_>, now: Timestamp) -> Result<(), StoreError> {
        let mut from = Some(0);
        while let Some(rank) = from.and_then(|rank| self.rank_from(rank)) {
            for (_, _, id) in self
                .ready
                .range((rank, Timestamp(i64::MIN), FIRST)..=(rank, now, LAST))
            {
                if !choice.wants_more() {
                    return Ok(());
                }
                if let Some(kept) = self.tasks.get(id) {
                    choice.offer(kept.task.clone())?;
                }
            }
            from = rank.checked_add(1);
        }
        Ok(())
    }

    /// The lowest rank at or above this one among queued tasks.
    fn rank_from(&self, rank: u8) -> Option<u8> {
        let first = self
            .ready
            .range((rank, Timestamp(i64::MIN), FIRST)..)
            .next()?;
        Some(first.0)
    }

    fn next_ready(&self, now: Timestamp) -> Option<Timestamp> {
        let mut from = Some(0);
        let mut next: Option<Timestamp> = None;
        while let Some(rank) = from.and_then(|rank| self.rank_from(rank)) {
            let later = (
                Bound::Excluded((rank, now, LAST)),
                Bound::Included((rank, END_OF_TIME, LAST)),
            );
            if let Some((_, time, _)) = self.ready.range(later).next() {
                next = Some(next.map_or(*time, |n| n.min(*time)));
            }
            from = rank.checked_add(1);
        }
        next
    }

    /// Tasks that a query may list, newest first: as few as an index knows.
    fn candidates(&self, query: &Query) -> Box<dyn Iterator<Item = TaskId> + '_> {
        let filter = &query.filter;
        let older = ..query.before.unwrap_or(LAST);
        let from = |ids: Option<&BTreeSet<TaskId>>| -> Vec<TaskId> {
            ids.map(|ids| ids.range(older).rev().copied().collect())
                .unwrap_or_default()
        };
        let is_live = |state: &State| !state.is_end();
        if let Some(group) = filter.group {
            let mut ids: Vec<_> = self
                .groups
                .get(&group)
                .into_iter()
                .flatten()
                .map(|(_, id)| *id)
                .filter(|id| older.contains(id))
                .collect();
            ids.sort_unstable_by(|a, b| b.cmp(a));
            Box::new(ids.into_iter())
        } else if let Some(parent) = filter.parent {
            Box::new(from(self.steps.get(&parent)).into_iter())
        } else if !filter.states.is_empty() && filter.states.iter().all(is_live) {
            Box::new(self.live.range(older).rev().copied())
        } else if let Some(caller) = &filter.caller {
            match self.callers.get(caller) {
                Some(ids) => Box::new(ids.range(older).rev().copied()),
                None => Box::new(std::iter::empty()),
            }
        } else {
            Box::new(self.tasks.range(older).rev().map(|(id, _)| *id))
        }
    }

    fn remove(&mut self, id: TaskId) {
        self.unindex(id);
        let Some(Kept { task, .. }) = self.tasks.remove(&id) else {
            return;
        };
        remove_from(&mut self.callers, &task.caller, &id);
        if let Some(group) = task.group {
            remove_from(&mut self.groups, &group, &(task.place, id));
        }
        if let Some(parent) = task.parent {
            remove_from(&mut self.steps, &parent, &id);
        }
        if let Some(request) = task.request
            && let Some(request) = self.requests.get_mut(&(task.caller, request))
            && (request.task == id || (request.group.is_some() && request.group == task.group))
        {
            request.deleted = true;
        }
    }
}

fn remove_from<K: Ord, V: Ord>(index: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = index.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            index.remove(key);
        }
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
        Ok(batch
            .changes
            .into_iter()
            .map(|change| inner.carry_out(change, batch.now))
            .collect())
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, StoreError> {
        let mut inner = self.lock()?;
        let mut choice = Choice::new(&request, inner.funds);
        inner.choose(&mut choice, request.now)?;
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
        Ok(claimed)
    }

    async fn append(
        &self,
        fence: Fence,
        events: Vec<Kind>,
        cost: Option<Microdollars>,
        now: Timestamp,
    ) -> Result<Committed, StoreError> {
        let mut inner = self.lock()?;
        let kept = inner
            .tasks
            .get_mut(&fence.task)
            .filter(|kept| kept.task.attempt == fence.attempt && kept.task.state.is_active())
            .ok_or(StoreError::Fenced)?;
        if let Some(cost) = cost {
            kept.task.attempt_cost = cost;
        }
        Ok(kept.append(events, now))
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

    async fn delete(&self, id: TaskId, version: u64) -> Result<(), StoreError> {
        let mut inner = self.lock()?;
        let kept = inner.tasks.get(&id).ok_or(StoreError::Conflict)?;
        if kept.task.version != version || !kept.task.state.is_end() {
            return Err(StoreError::Conflict);
        }
        inner.remove(id);
        Ok(())
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Due, StoreError> {
        let inner = self.lock()?;
        let come = inner.due.range(..=(now, LAST)).take(limit);
        let later = (Bound::Excluded((now, LAST)), Bound::Unbounded);
        Ok(Due {
            tasks: come
                .filter_map(|(_, id)| inner.tasks.get(id))
                .map(|kept| kept.task.clone())
                .collect(),
            next: inner.due.range(later).next().map(|(time, _)| *time),
        })
    }

    async fn totals(&self) -> Result<Totals, StoreError> {
        let inner = self.lock()?;
        Ok(Totals {
            tasks: inner.counts.clone(),
            funds: inner.funds,
        })
    }

    async fn set_budget(&self, limit: Option<Microdollars>) -> Result<Funds, StoreError> {
        let mut inner = self.lock()?;
        inner.funds.limit = limit;
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
        Ok(context.revision)
    }

    async fn close(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.closed = true;
    }
}

//! The maps, and what is done to them under the lock.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::budget::Funds;
use crate::clock::Timestamp;
use crate::event;
use crate::id::{CallerId, ConversationId, GroupId, NodeId, RequestId, TaskId};
use crate::pb;
use crate::pb::event::Kind;
use crate::store::choice::Choice;
use crate::store::kept::keep;
use crate::store::{
    Batch, CatalogEntry, CatalogKind, ClaimRequest, Committed, Context, LogEntry, Parts, Query,
    Request, StoreError,
};
use crate::task::{Change, Record, SavedSession, Spec, State, Task};

use super::nodes::Nodes;

/// A task with all that belongs to it.
pub(super) struct Kept {
    pub task: Task,
    pub spec: Option<Arc<Spec>>,
    result: Option<Arc<pb::TaskResult>>,
    pub output: Option<Arc<str>>,
    /// The log: entry `n` is at `n - 1`.
    pub log: Vec<Bytes>,
}

/// The ready queue's order.
type Ready = (u8, Timestamp, TaskId);

pub(super) const FIRST: TaskId = TaskId::MIN;
pub(super) const LAST: TaskId = TaskId::MAX;
const END_OF_TIME: Timestamp = Timestamp(i64::MAX);

#[derive(Default)]
pub(super) struct Inner {
    pub nodes: Nodes,
    pub tasks: BTreeMap<TaskId, Kept>,
    ready: BTreeSet<Ready>,
    pub due: BTreeSet<(Timestamp, TaskId)>,
    /// Tasks that have not ended: few, and often asked for.
    pub live: BTreeSet<TaskId>,
    /// Tasks that have ended, steps of chains apart, by state and end.
    pub ended: BTreeSet<(State, Timestamp, TaskId)>,
    pub callers: BTreeMap<CallerId, BTreeSet<TaskId>>,
    /// Tasks that have not ended, by the conversation they go on with.
    conversations: BTreeMap<(CallerId, ConversationId), BTreeSet<TaskId>>,
    pub sessions: BTreeMap<String, SavedSession>,
    pub groups: BTreeMap<GroupId, BTreeSet<(u32, TaskId)>>,
    pub steps: BTreeMap<TaskId, BTreeSet<TaskId>>,
    pub requests: BTreeMap<(CallerId, RequestId), Request>,
    pub counts: BTreeMap<State, u64>,
    /// Sums of a ledger whose entries nobody could read here.
    pub funds: Funds,
    pub context: Context,
    pub catalog: BTreeMap<(CatalogKind, String), CatalogEntry>,
}

impl Kept {
    pub fn record(&self, parts: Parts) -> Record {
        Record {
            task: self.task.clone(),
            spec: self.spec.clone().filter(|_| parts.spec),
            result: self.result.clone().filter(|_| parts.result),
        }
    }

    pub fn append(&mut self, events: Vec<Kind>, now: Timestamp) -> Committed {
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
        if task.state == State::Queued && !task.is_chain() {
            self.ready.insert((task.rank, task.ready_time, id));
        }
        if let Some(due) = task.due_time() {
            self.due.insert((due, id));
        }
        if !task.state.is_end() {
            self.live.insert(id);
            if let Some(conversation) = &task.conversation {
                let key = (task.caller.clone(), conversation.clone());
                self.conversations.entry(key).or_default().insert(id);
            }
        }
        if task.parent.is_none() {
            if let Some(end) = task.end_time {
                self.ended.insert((task.state, end, id));
            }
            *self.counts.entry(task.state).or_default() += 1;
        }
    }

    pub fn unindex(&mut self, id: TaskId) {
        let Some(Kept { task, .. }) = self.tasks.get(&id) else {
            return;
        };
        self.ready.remove(&(task.rank, task.ready_time, id));
        if let Some(due) = task.due_time() {
            self.due.remove(&(due, id));
        }
        if let Some(end) = task.end_time {
            self.ended.remove(&(task.state, end, id));
        }
        self.live.remove(&id);
        if let Some(conversation) = &task.conversation {
            let key = (task.caller.clone(), conversation.clone());
            remove_from(&mut self.conversations, &key, &id);
        }
        if task.parent.is_none()
            && let Some(count) = self.counts.get_mut(&task.state)
        {
            *count -= 1;
        }
    }

    /// Checks every precondition of the batch, so that carrying it out cannot
    /// stop half way.
    pub fn check(&self, batch: &Batch) -> Result<(), StoreError> {
        if let Some(request) = &batch.request {
            let key = (request.caller.clone(), request.id);
            if let Some(known) = self.requests.get(&key)
                && known.is_remembered(batch.now)
            {
                return Err(StoreError::RequestExists(Box::new(known.clone())));
            }
        }
        let mut versions: HashMap<TaskId, u64> = HashMap::new();
        let mut funds = self.funds;
        for change in &batch.changes {
            let id = change.task.id;
            let stored = || self.tasks.get(&id).map(|kept| kept.task.version);
            if versions.get(&id).copied().or_else(stored) != change.expect {
                return Err(StoreError::Conflict);
            }
            versions.insert(id, change.task.version);
            for entry in &change.ledger {
                funds = funds.book(*entry).ok_or(StoreError::Conflict)?;
            }
        }
        Ok(())
    }

    /// Carries out a change whose precondition holds.
    pub fn carry_out(&mut self, change: Change, now: Timestamp) -> Committed {
        let mut task = change.task;
        let id = task.id;
        self.unindex(id);
        for entry in change.ledger {
            self.funds = self.funds.after(entry);
        }
        if let Some(session) = change.session {
            self.sessions.insert(session.id.clone(), session);
        }
        let kept = match self.tasks.entry(id) {
            Entry::Vacant(slot) => {
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
            Entry::Occupied(slot) => {
                let kept = slot.into_mut();
                let stored = std::mem::replace(&mut kept.task, task);
                keep(&mut kept.task, stored);
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
    pub fn choose(
        &self,
        choice: &mut Choice<'_>,
        request: &ClaimRequest,
    ) -> Result<(), StoreError> {
        let now = request.now;
        let mut from = Some(0);
        while let Some(rank) = from.and_then(|rank| self.rank_from(rank)) {
            for (_, _, id) in self
                .ready
                .range((rank, Timestamp(i64::MIN), FIRST)..=(rank, now, LAST))
            {
                if !choice.wants_more() {
                    return Ok(());
                }
                let Some(kept) = self.tasks.get(id) else {
                    continue;
                };
                if !choice.suits(&kept.task) || self.belongs_elsewhere(&kept.task, &request.node) {
                    continue;
                }
                if self.waits(&kept.task, choice) {
                    choice.pass_conversation();
                } else {
                    choice.offer(kept.task.clone())?;
                }
            }
            from = rank.checked_add(1);
        }
        Ok(())
    }

    /// Whether the task's conversation is another task's now.
    fn waits(&self, task: &Task, choice: &Choice<'_>) -> bool {
        let Some(conversation) = &task.conversation else {
            return false;
        };
        let key = (task.caller.clone(), conversation.clone());
        let mut others = self.conversations.get(&key).into_iter().flatten();
        choice.has_taken(&task.caller, conversation)
            || others.any(|id| {
                let active = || self.tasks.get(id).is_some_and(|k| k.task.state.is_active());
                *id < task.id || (*id > task.id && active())
            })
    }

    /// Whether what the task goes on with is on another node's disk, and that
    /// node lives.
    fn belongs_elsewhere(&self, task: &Task, node: &NodeId) -> bool {
        let home = match &task.conversation {
            Some(conversation) => {
                let own =
                    |s: &&SavedSession| s.caller == task.caller && s.goes_on_as() == *conversation;
                let sessions = self.sessions.values().filter(own);
                let last = sessions.max_by_key(|session| (session.used_time, &session.id));
                last.and_then(|session| session.node.as_ref())
            }
            None => task.home.as_ref(),
        };
        home.is_some_and(|home| home != node && self.nodes.lives(home))
    }

    /// Whether an unfinished task goes on with the session's conversation.
    pub fn goes_on(&self, session: &SavedSession) -> bool {
        let key = (session.caller.clone(), session.goes_on_as());
        self.conversations.contains_key(&key)
    }

    /// The lowest rank at or above this one among queued tasks.
    fn rank_from(&self, rank: u8) -> Option<u8> {
        let first = self
            .ready
            .range((rank, Timestamp(i64::MIN), FIRST)..)
            .next()?;
        Some(first.0)
    }

    pub fn next_ready(&self, now: Timestamp) -> Option<Timestamp> {
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
    pub fn candidates(&self, query: &Query) -> Box<dyn Iterator<Item = TaskId> + '_> {
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
}

pub(super) fn remove_from<K: Ord, V: Ord>(
    index: &mut BTreeMap<K, BTreeSet<V>>,
    key: &K,
    value: &V,
) {
    if let Some(values) = index.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            index.remove(key);
        }
    }
}

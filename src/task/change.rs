//! A change: what is committed in one transaction, under one precondition.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Level, Spec, State, Task};
use crate::budget::Entry;
use crate::clock::Timestamp;
use crate::id::{CallerId, ConversationId, NodeId};
use crate::money::Microdollars;
use crate::pb;
use crate::pb::event::Kind;

/// The new row of one task, with the log entries and money movements that
/// belong to it. All of it is committed, or nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The row afterwards. Its version is one above `expect`; its
    /// `last_sequence` is the store's business.
    pub task: Task,
    /// The state before; `None`: it did not exist.
    pub from: Option<State>,
    /// The version it must have before; `None`: it must not exist.
    pub expect: Option<u64>,
    /// What was asked: with the first change only.
    pub spec: Option<Arc<Spec>>,
    /// What it gave: with the last change only.
    pub result: Option<Arc<pb::TaskResult>>,
    /// The whole final text, if the result holds only its beginning.
    pub output: Option<Arc<str>>,
    /// Entries for the log, in order. The store numbers and dates them.
    pub events: Vec<Kind>,
    /// Money movements.
    pub ledger: Vec<Entry>,
    /// The saved session that it leaves: with the last change only.
    pub session: Option<SavedSession>,
}

/// A session that an ended task has left on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedSession {
    /// The agent's name for it.
    pub id: String,
    /// Whose it is.
    pub caller: CallerId,
    /// The conversation it belongs to; `None`: its own.
    pub conversation: Option<ConversationId>,
    /// When the last task that used it ended.
    pub used_time: Timestamp,
    /// The node whose disk has it; `None`: not known.
    pub node: Option<NodeId>,
}

impl SavedSession {
    /// What a task's attempt leaves, if its sessions are saved.
    pub fn of(task: &Task, now: Timestamp) -> Option<Self> {
        let saved = task.saves_session && !task.session_id.is_empty();
        saved.then(|| Self {
            id: task.session_id.clone(),
            caller: task.caller.clone(),
            conversation: task.conversation.clone(),
            used_time: now,
            node: task.home.clone(),
        })
    }

    /// The conversation that goes on with it.
    pub fn goes_on_as(&self) -> ConversationId {
        let own = || ConversationId::of_session(&self.id);
        self.conversation.clone().unwrap_or_else(own)
    }
}

impl Change {
    /// Whether a node with these labels, and which knows so much, may run the
    /// task.
    pub fn suits(&self, labels: &BTreeSet<String>, level: Level) -> bool {
        let label = self.task.node_label.as_ref();
        self.task.level <= level && label.is_none_or(|label| labels.contains(label))
    }

    /// A change of an existing task: `task` as it was read.
    pub fn of(task: &Task) -> Self {
        let mut next = task.clone();
        next.version = task.version + 1;
        Self {
            task: next,
            from: Some(task.state),
            expect: Some(task.version),
            spec: None,
            result: None,
            output: None,
            events: Vec::new(),
            ledger: Vec::new(),
            session: None,
        }
    }

    /// The cost that it settles.
    pub fn settled(&self) -> Microdollars {
        let cost = self.ledger.iter().map(|entry| entry.spent().0);
        Microdollars(cost.sum())
    }

    /// The next attempt begins without the session of this one, which is left.
    pub fn leave_session(&mut self, now: Timestamp) {
        self.session = SavedSession::of(&self.task, now);
        self.task.session_id.clear();
        self.task.home = None;
    }

    /// Both changes as one: `next` was made from this one's row.
    pub fn then(mut self, next: Change) -> Self {
        self.events.extend(next.events);
        self.ledger.extend(next.ledger);
        Self {
            task: next.task,
            from: self.from,
            expect: self.expect,
            spec: self.spec.or(next.spec),
            result: next.result.or(self.result),
            output: next.output.or(self.output),
            events: self.events,
            ledger: self.ledger,
            session: next.session.or(self.session),
        }
    }
}

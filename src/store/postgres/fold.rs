//! What changes come to: rows, entries and sums, as they are written at once.
//! Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::budget::{Entry, Funds};
use crate::clock::Timestamp;
use crate::event;
use crate::id::TaskId;
use crate::money::Microdollars;
use crate::pb::TaskResult;
use crate::pb::event::Kind;
use crate::store::kept::keep;
use crate::store::{Committed, LogEntry, StoreError};
use crate::task::{Change, SavedSession, Spec, State, Task};

/// A task as it will be.
pub(super) struct Pending {
    pub task: Task,
    /// Whether its row has to be made.
    pub is_new: bool,
    pub spec: Option<Arc<Spec>>,
    pub result: Option<Arc<TaskResult>>,
    pub output: Option<Arc<str>>,
}

/// What is added to the sums. Numbers of states are 1 to 7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub spent: i64,
    pub reserved: i64,
    pub states: [i64; State::ALL.len() + 1],
}

impl Sums {
    /// Counts a task in its state, or no more. Steps are not counted.
    pub fn count(&mut self, task: &Task, by: i64) {
        if task.parent.is_none() {
            self.states[task.state.to_proto() as usize] += by;
        }
    }

    fn book(&mut self, entry: Entry) {
        self.spent = self.spent.saturating_add(entry.spent().0);
        match entry {
            Entry::Reserve(amount) => self.reserved = self.reserved.saturating_add(amount.0),
            Entry::Settle { reserved, .. } => {
                self.reserved = self.reserved.saturating_sub(reserved.0);
            }
            Entry::Correct(_) => {}
        }
    }
}

/// Changes, folded one after the other.
#[derive(Default)]
pub(super) struct Fold {
    /// Rows as they are stored: those that changes are of.
    stored: HashMap<TaskId, Task>,
    pub rows: BTreeMap<TaskId, Pending>,
    pub events: Vec<(TaskId, LogEntry)>,
    pub ledger: Vec<(TaskId, Entry)>,
    pub sessions: BTreeMap<String, SavedSession>,
    pub sums: Sums,
}

impl Fold {
    /// Over rows as they are stored.
    pub fn over(stored: impl IntoIterator<Item = Task>) -> Self {
        Self {
            stored: stored.into_iter().map(|task| (task.id, task)).collect(),
            ..Self::default()
        }
    }

    /// Adds a change; `funds` are what reservations are made of.
    pub fn change(
        &mut self,
        change: Change,
        funds: &mut Funds,
        now: Timestamp,
    ) -> Result<Committed, StoreError> {
        let mut task = change.task;
        let id = task.id;
        let before = self.rows.get(&id).map(|pending| &pending.task);
        let before = before.or_else(|| self.stored.get(&id)).cloned();
        if before.as_ref().map(|task| task.version) != change.expect {
            return Err(StoreError::Conflict);
        }
        let is_new = !self.stored.contains_key(&id);
        match before {
            Some(before) => {
                self.sums.count(&before, -1);
                keep(&mut task, before);
            }
            None => task.last_sequence = 0,
        }
        self.sums.count(&task, 1);
        let entries = self.log(&mut task, change.events, now);
        for entry in change.ledger {
            *funds = funds.book(entry).ok_or(StoreError::Conflict)?;
            self.sums.book(entry);
            self.ledger.push((id, entry));
        }
        if let Some(session) = change.session {
            self.sessions.insert(session.id.clone(), session);
        }
        let state = task.state;
        let known = self.rows.remove(&id);
        let (spec, result, output) =
            known.map_or((None, None, None), |k| (k.spec, k.result, k.output));
        let pending = Pending {
            task,
            is_new,
            spec: change.spec.or(spec),
            result: change.result.or(result),
            output: change.output.or(output),
        };
        self.rows.insert(id, pending);
        Ok(Committed {
            task: id,
            state,
            entries,
        })
    }

    fn log(&mut self, task: &mut Task, events: Vec<Kind>, now: Timestamp) -> Vec<LogEntry> {
        let entries = number(task.last_sequence, events, now);
        task.last_sequence += entries.len() as u64;
        let own = entries.iter().cloned().map(|entry| (task.id, entry));
        self.events.extend(own);
        entries
    }
}

/// Events as entries of a log after `last`.
pub(super) fn number(last: u64, events: Vec<Kind>, now: Timestamp) -> Vec<LogEntry> {
    let numbered = (last + 1..).zip(events);
    let entries = numbered.map(|(sequence, kind)| LogEntry {
        sequence,
        bytes: event::encode(sequence, now, kind),
    });
    entries.collect()
}

/// An entry of the ledger as it is kept: kind, reserved, cost, estimated.
pub(super) fn columns(entry: Entry) -> (i32, Microdollars, Microdollars, bool) {
    match entry {
        Entry::Reserve(amount) => (1, amount, Microdollars::ZERO, false),
        Entry::Settle {
            reserved,
            cost,
            estimated,
        } => (2, reserved, cost, estimated),
        Entry::Correct(cost) => (3, Microdollars::ZERO, cost, false),
    }
}

/// A text's pieces. An empty text is one empty piece: it was kept.
pub(super) fn pieces(text: &str, size: usize) -> impl Iterator<Item = Bytes> + '_ {
    let whole = text.as_bytes();
    let pieces = whole.chunks(size);
    let pieces = pieces.chain(whole.is_empty().then_some(whole));
    pieces.map(Bytes::copy_from_slice)
}

//! Reads one log: history, then live, without gap or duplicate.

use std::collections::VecDeque;
use std::sync::Arc;

use super::hub::{Hub, Subscription};
use crate::error::{Error, Missing};
use crate::event;
use crate::id::TaskId;
use crate::store::{LogEntry, Store};

/// Bytes read from the store at a time.
const READ_BYTES: usize = 256 * 1024;

/// A reader of one task's log.
pub struct Tail {
    store: Arc<dyn Store>,
    after: u64,
    buffer: VecDeque<LogEntry>,
    subscription: Subscription,
    /// Whether all that is new is heard of: the store has been read up to the
    /// present once, or there was nothing yet.
    caught_up: bool,
    ended: bool,
}

impl Tail {
    /// Reads `task` after a sequence. The task is known to exist.
    pub fn new(store: Arc<dyn Store>, hub: &Hub, task: TaskId, after: u64) -> Self {
        Self {
            caught_up: false,
            // Before the first read, so that nothing falls between.
            ..Self::of_new(store, hub.follow(task), after)
        }
    }

    /// Reads a task whose log is heard of since before its first entry.
    pub(crate) fn of_new(store: Arc<dyn Store>, heard: Subscription, after: u64) -> Self {
        Self {
            store,
            after,
            buffer: VecDeque::new(),
            subscription: heard,
            caught_up: true,
            ended: false,
        }
    }

    /// The next entry; `None` after `finished`. Safe to drop and call again.
    pub async fn next(&mut self) -> Result<Option<LogEntry>, Error> {
        loop {
            if let Some(entry) = self.buffer.pop_front() {
                self.after = entry.sequence;
                self.ended = event::is_finished(&entry.bytes);
                return Ok(Some(entry));
            }
            if self.ended {
                return Ok(None);
            }
            if self.caught_up {
                let (last, over, deleted) = {
                    let seen = self.subscription.seen.read();
                    (seen.last, seen.end.is_some(), seen.deleted)
                };
                if deleted {
                    return Err(Error::NotFound(Missing::DeletedTask));
                }
                if last <= self.after {
                    if over {
                        // It began beyond what turned out to be the end.
                        return Ok(None);
                    }
                    self.subscription.seen.changed().await;
                    continue;
                }
            }
            self.buffer = self.subscription.ring_after(self.after).into();
            if self.buffer.is_empty() {
                self.read_store().await?;
            }
        }
    }

    async fn read_store(&mut self) -> Result<(), Error> {
        let task = self.subscription.task;
        let entries = self.store.log(task, self.after, READ_BYTES).await?;
        if entries.is_empty() {
            if !self.caught_up {
                self.caught_up = true;
                // A reader that begins after the end has nothing to wait for.
                match self.store.record(task, Default::default()).await? {
                    Some(record) if record.task.state.is_end() => {
                        self.ended = record.task.last_sequence <= self.after;
                        self.caught_up = self.ended;
                    }
                    Some(_) => {}
                    None => return Err(Error::NotFound(Missing::DeletedTask)),
                }
            } else {
                return Err(Error::NotFound(Missing::DeletedTask));
            }
        }
        self.buffer = entries.into();
        Ok(())
    }
}

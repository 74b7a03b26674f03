//! How much is in the queue: in all, and of each caller.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::options::Options;
use crate::error::Error;
use crate::id::CallerId;
use crate::task::{State, Task};

/// Counts what is queued, and what was let in and is not committed yet, so that
/// calls at the same time do not take the same places.
#[derive(Default)]
pub(super) struct Queue(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    queued: i64,
    coming: i64,
    /// Of both, by caller; none is 0.
    callers: HashMap<CallerId, i64>,
}

impl Counts {
    fn of(&mut self, caller: &CallerId, change: i64) {
        let count = self.callers.entry(caller.clone()).or_default();
        *count += change;
        if *count == 0 {
            self.callers.remove(caller);
        }
    }
}

/// Places in the queue for work that is not committed yet.
pub(super) struct Coming<'a> {
    queue: &'a Queue,
    caller: CallerId,
    count: i64,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut counts = self.queue.counts();
        counts.coming -= self.count;
        counts.of(&self.caller, -self.count);
    }
}

/// Whether a task in this state is in the queue. A chain is not: its steps are.
pub(super) fn is_queued(state: State, task: &Task) -> bool {
    state == State::Queued && !task.is_chain()
}

impl Queue {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tasks in the queue.
    pub fn len(&self) -> u64 {
        u64::try_from(self.counts().queued).unwrap_or(0)
    }

    /// Counts everything anew.
    pub fn set(&self, queued: HashMap<CallerId, i64>) {
        let mut counts = self.counts();
        let coming = counts.coming;
        *counts = Counts {
            queued: queued.values().sum(),
            coming,
            callers: queued,
        };
    }

    /// Counts anew what all nodes have put into the queue.
    pub fn set_of_all(&self, queued: HashMap<CallerId, u64>) {
        let count = |count| i64::try_from(count).unwrap_or(i64::MAX);
        let queued = queued.into_iter().map(|(caller, n)| (caller, count(n)));
        self.set(queued.collect());
    }

    /// A caller's tasks came or went.
    pub fn change(&self, caller: &CallerId, change: i64) {
        if change != 0 {
            let mut counts = self.counts();
            counts.queued += change;
            counts.of(caller, change);
        }
    }

    /// Takes places for work of a caller, to be kept until it is committed.
    pub fn take(
        &self,
        caller: &CallerId,
        count: usize,
        options: &Options,
    ) -> Result<Coming<'_>, Error> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let exceeds = |now: i64, max: u64| {
            let max = i64::try_from(max).unwrap_or(i64::MAX);
            now.max(0).saturating_add(count) > max
        };
        let mut counts = self.counts();
        if exceeds(counts.queued.max(0) + counts.coming, options.queue_max) {
            return Err(Error::QueueFull);
        }
        let own = counts.callers.get(caller).copied().unwrap_or(0);
        let own_max = options.policy.caller_queue_max;
        if own_max.is_some_and(|max| exceeds(own, max)) {
            return Err(Error::CallerQueueFull);
        }
        counts.coming += count;
        counts.of(caller, count);
        Ok(Coming {
            queue: self,
            caller: caller.clone(),
            count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_coming_counts_until_it_is_there_or_refused() {
        let queue = Queue::default();
        let mut options = Options {
            queue_max: 5,
            ..Options::default()
        };
        options.policy.caller_queue_max = Some(3);
        let (a, b) = (CallerId::from("a"), CallerId::from("b"));

        let first = queue.take(&a, 2, &options).expect("room");
        let own = queue.take(&a, 2, &options).err();
        assert!(matches!(own, Some(Error::CallerQueueFull)), "{own:?}");
        queue.take(&b, 3, &options).expect("room of its own");
        queue.change(&a, 2);
        drop(first);
        queue.take(&a, 1, &options).expect("two of three");
        let _second = queue.take(&b, 2, &options).expect("room");
        let all = queue.take(&b, 2, &options).err();
        assert!(matches!(all, Some(Error::QueueFull)), "{all:?}");
        queue.change(&a, -2);

        assert_eq!(queue.len(), 0);
        assert_eq!(queue.counts().callers.len(), 1, "nothing is left of a");
    }
}

//! Wakes readers, and holds a bounded ring of committed entries for each task
//! that is being read.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::board::{Board, Reader};
use crate::id::{GroupId, TaskId};
use crate::store::{Committed, LogEntry};
use crate::task::Record;

/// Bytes of committed entries kept per task that is read. A reader further
/// behind reads the store.
const RING_BYTES_MAX: usize = 256 * 1024;

/// Wakes readers. Cheap to clone.
#[derive(Clone, Default)]
pub struct Hub {
    shared: Arc<Mutex<Topics>>,
}

#[derive(Default)]
struct Topics {
    tasks: BTreeMap<TaskId, TaskTopic>,
    groups: BTreeMap<GroupId, GroupTopic>,
}

struct TaskTopic {
    /// Whether the task is known to be stored: who makes it listens before.
    made: bool,
    readers: usize,
    /// Those of them that read the log, not only its end.
    followers: usize,
    ring: VecDeque<LogEntry>,
    ring_bytes: usize,
    state: Board<Seen>,
}

/// What is known of a task's log, as far as it was published here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Sequence of the last entry published; 0: none yet.
    pub last: u64,
    /// The task at its end, once it has ended.
    pub end: Option<Arc<Record>>,
    /// The task was deleted.
    pub deleted: bool,
}

struct GroupTopic {
    readers: usize,
    /// Members of which no end was told.
    members: HashSet<TaskId>,
    ended: Vec<(u32, TaskId)>,
    count: Board<usize>,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Topics> {
        // Nothing panics while it is held; a poisoned map is still whole.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells readers what was committed. `end`: the task, if it has ended.
    pub fn publish(&self, committed: &Committed, end: Option<&Arc<Record>>) {
        let mut topics = self.lock();
        if let Some(record) = end {
            topics.member_ended(record);
        }
        let Some(topic) = topics.tasks.get_mut(&committed.task) else {
            return;
        };
        topic.made = true;
        topic.extend(&committed.entries);
        topic.state.change(|seen| {
            if let Some(entry) = committed.entries.last() {
                seen.last = seen.last.max(entry.sequence);
            }
            if let Some(record) = end {
                seen.end = Some(Arc::clone(record));
            }
        });
    }

    /// Tells readers that a task was deleted.
    pub fn deleted(&self, task: TaskId) {
        if let Some(topic) = self.lock().tasks.get(&task) {
            topic.state.change(|seen| seen.deleted = true);
        }
    }

    /// Whether a task that is being read is known to be stored, so that it was deleted
    /// if a look that begins now does not find it.
    pub fn is_made(&self, task: TaskId) -> bool {
        let topics = self.lock();
        topics.tasks.get(&task).is_some_and(|topic| topic.made)
    }

    /// The tasks and the groups that are being read.
    pub fn read_now(&self) -> (Vec<TaskId>, Vec<GroupId>) {
        let topics = self.lock();
        let tasks = topics.tasks.keys().copied().collect();
        (tasks, topics.groups.keys().copied().collect())
    }

    /// The tasks that are being read, and the members of groups whose ends are
    /// waited for.
    pub fn waited_for(&self) -> BTreeSet<TaskId> {
        let topics = self.lock();
        let members = topics.groups.values().flat_map(|topic| &topic.members);
        topics.tasks.keys().chain(members).copied().collect()
    }

    /// Tells readers how a task stands, after something of it may have been
    /// committed that was not published. `record`: row and result.
    pub fn stands(&self, record: Arc<Record>) {
        let mut topics = self.lock();
        if record.task.state.is_end() {
            topics.member_ended(&record);
        }
        if let Some(topic) = topics.tasks.get_mut(&record.task.id) {
            topic.made = true;
            topic.state.change(|seen| {
                seen.last = seen.last.max(record.task.last_sequence);
                if record.task.state.is_end() {
                    seen.end = Some(record);
                }
            });
        }
    }

    /// Tells readers of a group which of its members have ended.
    pub fn group_stands(&self, group: GroupId, ended: impl Iterator<Item = (u32, TaskId)>) {
        if let Some(topic) = self.lock().groups.get_mut(&group) {
            for member in ended {
                if topic.members.remove(&member.1) {
                    topic.ended.push(member);
                }
            }
            let ended = topic.ended.len();
            topic.count.change(|count| *count = ended);
        }
    }

    /// Begins to hear of a task's log.
    pub(crate) fn follow(&self, task: TaskId) -> Subscription {
        self.subscribe(task, true, true)
    }

    /// The same of one that is about to be made.
    pub(crate) fn follow_new(&self, task: TaskId) -> Subscription {
        self.subscribe(task, true, false)
    }

    /// Begins to hear of a task's end.
    pub(crate) fn await_end(&self, task: TaskId) -> Subscription {
        self.subscribe(task, false, true)
    }

    /// The same of one that is about to be made.
    pub(crate) fn await_end_of_new(&self, task: TaskId) -> Subscription {
        self.subscribe(task, false, false)
    }

    /// Whether anybody reads the task's log as it grows.
    pub(crate) fn is_followed(&self, task: TaskId) -> bool {
        let topics = self.lock();
        topics.tasks.get(&task).is_some_and(|t| t.followers > 0)
    }

    fn subscribe(&self, task: TaskId, follows: bool, made: bool) -> Subscription {
        let mut topics = self.lock();
        let topic = topics.tasks.entry(task).or_insert_with(|| TaskTopic {
            made,
            readers: 0,
            followers: 0,
            ring: VecDeque::new(),
            ring_bytes: 0,
            state: Board::new(Seen::default()),
        });
        topic.readers += 1;
        topic.followers += usize::from(follows);
        Subscription {
            hub: self.clone(),
            task,
            follows,
            seen: topic.state.reader(),
        }
    }

    /// Begins to hear of a group's ends.
    pub(crate) fn subscribe_group(&self, group: GroupId, members: &[TaskId]) -> GroupSubscription {
        let mut topics = self.lock();
        let topic = topics.groups.entry(group).or_insert_with(|| GroupTopic {
            readers: 0,
            members: members.iter().copied().collect(),
            ended: Vec::new(),
            count: Board::new(0),
        });
        topic.readers += 1;
        GroupSubscription {
            hub: self.clone(),
            group,
            next: 0,
            count: topic.count.reader(),
        }
    }

    /// Tasks that are being read, for tests and status.
    pub fn topics(&self) -> usize {
        let topics = self.lock();
        topics.tasks.len() + topics.groups.len()
    }
}

impl Topics {
    /// Tells who waits for the task's group, once.
    fn member_ended(&mut self, record: &Record) {
        let task = &record.task;
        let group = task.group.and_then(|group| self.groups.get_mut(&group));
        if let Some(topic) = group
            && topic.members.remove(&task.id)
        {
            topic.ended.push((task.place, task.id));
            let ended = topic.ended.len();
            topic.count.change(|count| *count = ended);
        }
    }
}

impl TaskTopic {
    fn extend(&mut self, entries: &[LogEntry]) {
        for entry in entries {
            let follows = match self.ring.back() {
                Some(last) => entry.sequence == last.sequence + 1,
                None => true,
            };
            if !follows {
                // Two commits were published in the other order: what is here
                // has a gap, and readers go to the store.
                self.ring.clear();
                self.ring_bytes = 0;
            }
            self.ring_bytes += entry.bytes.len();
            self.ring.push_back(entry.clone());
        }
        while self.ring_bytes > RING_BYTES_MAX {
            match self.ring.pop_front() {
                Some(old) => self.ring_bytes -= old.bytes.len(),
                None => break,
            }
        }
    }
}

/// Hears of one task while it lives.
pub(crate) struct Subscription {
    hub: Hub,
    pub(crate) task: TaskId,
    follows: bool,
    pub(crate) seen: Reader<Seen>,
}

impl Subscription {
    /// Entries after a sequence, if the ring reaches back to it.
    pub(crate) fn ring_after(&self, after: u64) -> Vec<LogEntry> {
        let topics = self.hub.lock();
        let Some(topic) = topics.tasks.get(&self.task) else {
            return Vec::new();
        };
        match topic.ring.front() {
            Some(first) if first.sequence <= after + 1 => {
                // The ring has no gap, so that nobody has to look for the place:
                // everybody who reads waits while one does.
                let known = (after + 1 - first.sequence) as usize;
                topic.ring.iter().skip(known).cloned().collect()
            }
            _ => Vec::new(),
        }
    }

    /// Waits until the task has ended here; `None`: it was deleted.
    pub(crate) async fn ended(&mut self) -> Option<Arc<Record>> {
        loop {
            let seen = self.seen.read();
            if seen.end.is_some() || seen.deleted {
                return seen.end;
            }
            self.seen.changed().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut topics = self.hub.lock();
        if let Some(topic) = topics.tasks.get_mut(&self.task) {
            topic.readers -= 1;
            topic.followers -= usize::from(self.follows);
            if topic.readers == 0 {
                topics.tasks.remove(&self.task);
            }
        }
    }
}

/// Hears of a group's ends while it lives.
pub(crate) struct GroupSubscription {
    hub: Hub,
    group: GroupId,
    next: usize,
    count: Reader<usize>,
}

impl GroupSubscription {
    /// The next member that ended since the subscription began.
    pub(crate) async fn next(&mut self) -> (u32, TaskId) {
        loop {
            self.count.read();
            let found = self
                .hub
                .lock()
                .groups
                .get(&self.group)
                .and_then(|topic| topic.ended.get(self.next).copied());
            if let Some(member) = found {
                self.next += 1;
                return member;
            }
            self.count.changed().await;
        }
    }
}

impl Drop for GroupSubscription {
    fn drop(&mut self) {
        let mut topics = self.hub.lock();
        if let Some(topic) = topics.groups.get_mut(&self.group) {
            topic.readers -= 1;
            if topic.readers == 0 {
                topics.groups.remove(&self.group);
            }
        }
    }
}

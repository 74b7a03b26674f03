//! What the parts of a pool share, and the one way to change a task.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use super::chain_steps;
use super::hold::Hold;
use super::nodes::Member;
use super::options::Options;
use super::outage::{Doubt, Outage};
use super::process::Held;
use super::queue::{self, Queue};
use super::requirement;
use super::shelf::Shelf;
use super::slot::Slots;
use super::workspace::Roots;
use crate::agent::{Agent, Placement, Probe, Profile};
use crate::catalog::Fixed;
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Missing};
use crate::id::{NodeId, TaskId};
use crate::metrics::{self, Metrics};
use crate::pb::{Failure, FailureReason, RunSettings, TaskResult};
use crate::store::{Batch, Committed, Context, Parts, Request, Store, StoreError};
use crate::stream::Hub;
use crate::task::{Change, Conflict, Level, Record, State, Task, TaskEvent, apply};
use crate::workspace::Workspaces;

/// How often a change is tried again when others come first.
const CONFLICTS_MAX: u32 = 64;

/// What the parts of a pool share.
pub(super) struct Inner {
    /// The truth, watched by `outage`.
    pub store: Arc<dyn Store>,
    /// Whether it answers.
    pub outage: Arc<Outage>,
    pub agent: Arc<dyn Agent>,
    pub probe: Probe,
    pub options: Options,
    pub node: NodeId,
    /// What this program knows of tasks.
    pub level: Level,
    pub clock: Clock,
    pub start_time: Timestamp,
    pub metrics: Metrics,
    pub roots: Roots,
    /// Where isolated work is done, if it may be.
    pub workspaces: Option<Workspaces>,
    pub hub: Hub,
    pub slots: Slots,
    pub shelf: Shelf,
    pub default_settings: RunSettings,
    pub default_profile: Profile,
    /// Skills and workflows of folders and of the program.
    pub catalog: Fixed,
    /// The shared context now; wakes when it changes.
    pub context: watch::Sender<Arc<Context>>,
    /// Serialises changes of the context on this node.
    pub context_change: tokio::sync::Mutex<()>,
    /// Wakes the scheduler: something may be ready, or a slot idle.
    pub wake: Notify,
    /// Wakes upkeep: something may be due earlier than it thinks.
    pub due: Notify,
    /// Wakes retention: deleted tasks have left something to be swept.
    pub sweep: Notify,
    /// Whether ready tasks may be waiting, so that nobody goes before them.
    pub may_wait: AtomicBool,
    /// What is in the queue, and what was let in.
    pub queue: Queue,
    /// Whether the scheduler is finding out what is ready: nobody knows then.
    pub looks: AtomicBool,
    /// Streams being read.
    pub watchers: AtomicUsize,
    /// Tasks that ended since the start, and what they cost.
    pub completed: AtomicU64,
    pub cost: AtomicI64,
    /// The process that kept a session last, by its pid: what another one keeps
    /// of it is out of date.
    pub kept: Mutex<HashMap<String, u32>>,
    /// Attached callers by task.
    pub attached: Mutex<HashMap<TaskId, usize>>,
    /// Counts changes of what status shows.
    pub status: watch::Sender<u64>,
    /// Whether the pool has a budget, so that a claim has to ask what is left.
    pub budget_limited: AtomicBool,
    /// Serialises changes of the budget on this node.
    pub budget_change: tokio::sync::Mutex<()>,
    /// Whether the supervisor brings failed slots back; wakes when it changes.
    pub supervisor: watch::Sender<bool>,
    /// Why an operator paused admission, if one did.
    pub paused: Mutex<Option<String>>,
    /// What this node knows of itself and others, where there may be others.
    pub member: Option<Member>,
    /// What a provider's limit holds back.
    pub hold: Hold,
    /// What chance is drawn from.
    pub chance: Mutex<StdRng>,
    /// Serialises changes of the number of slots.
    pub scaling: tokio::sync::Mutex<()>,
    /// No new work is taken.
    pub draining: CancellationToken,
    /// Attempts hand their tasks back.
    pub hand_back: CancellationToken,
    /// Everything ends.
    pub stop: CancellationToken,
    /// Owns every task of the pool.
    pub tracker: TaskTracker,
    pub runtime: tokio::runtime::Handle,
    /// Whether a drain has begun, and what it did.
    pub drain_begun: AtomicBool,
    pub drained: watch::Sender<Option<super::Drained>>,
}

impl Inner {
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A number from 0 to 1, at random.
    pub fn chance(&self) -> f64 {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        chance.random()
    }

    pub fn context(&self) -> Arc<Context> {
        Arc::clone(&self.context.borrow())
    }

    /// Where a process that is started ahead works.
    pub fn default_placement(&self) -> Placement {
        requirement::placement(
            &self.default_settings,
            self.roots.default_dir().to_owned(),
            &self.context(),
        )
    }

    pub fn status_changed(&self) {
        self.status.send_modify(|revision| *revision += 1);
    }

    /// Tells readers that tasks were deleted.
    pub fn deleted(&self, tasks: &[TaskId]) {
        for task in tasks {
            self.hub.deleted(*task);
        }
        self.status_changed();
    }

    /// Tells readers how a task stands in the store, and gives its row and result. One
    /// that is not there was deleted only if it was stored before the look: who makes
    /// a task listens before its commit.
    pub async fn tell_how_stands(&self, id: TaskId) -> Result<Option<Arc<Record>>, StoreError> {
        let made = self.hub.is_made(id);
        let record = self.store.record(id, Parts::RESULT).await?.map(Arc::new);
        match &record {
            Some(record) => self.hub.stands(Arc::clone(record)),
            None if made => self.hub.deleted(id),
            None => {}
        }
        Ok(record)
    }

    /// Commits changes, all or none, and tells readers.
    pub async fn commit(
        &self,
        request: Option<Request>,
        mut changes: Vec<Change>,
    ) -> Result<Vec<Committed>, StoreError> {
        // What the end of a chain's step brings with it belongs to it.
        for i in 0..changes.len() {
            let followed = chain_steps::follow(self, &changes[i]).await?;
            changes.extend(followed);
        }
        let told = changes
            .iter()
            .map(|change| {
                let (task, result) = (change.task.clone(), change.result.clone());
                (change.from, task, result, change.settled())
            })
            .collect::<Vec<_>>();
        let batch = Batch {
            request,
            changes,
            now: self.now(),
        };
        let _under_way = self.outage.under_way();
        let refused = self.outage.is_on();
        let committed = match self.store.commit(batch).await {
            Ok(committed) => committed,
            Err(error) => {
                if error.is_outage() && !refused {
                    let doubts = told
                        .into_iter()
                        .map(|(_, task, _, cost)| Doubt { task, cost });
                    self.outage.doubt(doubts);
                }
                return Err(error);
            }
        };
        self.metrics.committed(committed.len());
        for ((from, mut task, result, cost), committed) in told.into_iter().zip(&committed) {
            if let Some(last) = committed.entries.last() {
                task.last_sequence = last.sequence;
            }
            self.cost.fetch_add(cost.0, Ordering::Relaxed);
            self.tell(from, task, result, committed);
        }
        Ok(committed)
    }

    /// Tells readers and counters what was committed for a task.
    pub fn tell(
        &self,
        from: Option<State>,
        task: Task,
        result: Option<Arc<crate::pb::TaskResult>>,
        committed: &Committed,
    ) {
        let was_queued = from.is_some_and(|from| queue::is_queued(from, &task));
        let is_queued = queue::is_queued(task.state, &task);
        let change = i64::from(is_queued) - i64::from(was_queued);
        self.queue.change(&task.caller, change);
        if from != Some(task.state) {
            self.count(from, &task, result.as_deref());
            info!(task_id = %task.id, state = ?task.state, attempt = task.attempt, "task");
            self.status_changed();
        }
        if is_queued {
            // Before the wake, so that a call that comes now does not barge in.
            self.may_wait.store(true, Ordering::SeqCst);
            self.wake.notify_one();
        }
        if task.due_time().is_some() {
            self.due.notify_one();
        }
        if task.state == State::Cancelling && !task.is_chain() {
            self.slots.cancel(&task);
        }
        if was_queued && task.state.is_end() && task.conversation.is_some() {
            // The next one of the conversation may run. After one that ran,
            // its slot wakes the scheduler, with the process that it keeps.
            self.wake.notify_one();
        }
        let end = task.state.is_end().then(|| {
            self.completed.fetch_add(1, Ordering::Relaxed);
            Arc::new(Record {
                task,
                spec: None,
                result,
            })
        });
        self.hub.publish(committed, end.as_ref());
    }

    fn count(&self, from: Option<State>, task: &Task, result: Option<&TaskResult>) {
        if from.is_none() {
            self.metrics.task_submitted();
        }
        if task.state.is_end() {
            let failure = result.and_then(|result| result.failure.as_ref());
            let reason = failure.map_or(FailureReason::Unspecified, Failure::reason);
            let reason = metrics::word(reason.as_str_name(), "FAILURE_REASON_");
            self.metrics.task_ended(task.state.to_proto(), reason);
        }
    }

    /// Applies an event to a task as it is now, again if others come first.
    /// `None`: it was so already.
    pub async fn change(
        &self,
        id: TaskId,
        event: impl Fn() -> TaskEvent,
    ) -> Result<Result<Option<Task>, Conflict>, Error> {
        for _ in 0..CONFLICTS_MAX {
            let record = self
                .store
                .record(id, Parts::ROW)
                .await?
                .ok_or(Error::NotFound(Missing::Task))?;
            let change = match apply(&record.task, event(), self.now()) {
                Ok(Some(change)) => change,
                Ok(None) => return Ok(Ok(None)),
                Err(conflict) => return Ok(Err(conflict)),
            };
            let task = change.task.clone();
            match self.commit(None, vec![change]).await {
                Ok(_) => return Ok(Ok(Some(task))),
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Conflict)
    }

    /// Applies an event to many tasks as they were read: in one commit, if
    /// nothing has changed meanwhile, else one by one. Those that it does not
    /// fit are passed over. Gives how many changed.
    pub async fn change_all(
        &self,
        tasks: &[Task],
        event: impl Fn() -> TaskEvent,
    ) -> Result<u32, Error> {
        let now = self.now();
        let changes: Vec<_> = tasks
            .iter()
            .filter_map(|task| apply(task, event(), now).ok().flatten())
            .collect();
        let count = changes.len();
        if count == 0 {
            return Ok(0);
        }
        match self.commit(None, changes).await {
            Ok(_) => return Ok(u32::try_from(count).unwrap_or(u32::MAX)),
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
        let mut count = 0;
        for task in tasks {
            if let Ok(Some(_)) = self.change(task.id, &event).await? {
                count += 1;
            }
        }
        Ok(count)
    }

    /// Whether the pool has a budget, so that a claim has to ask what is left.
    pub fn budget_limited(&self) -> bool {
        self.budget_limited.load(Ordering::SeqCst)
    }

    /// Why an operator paused admission, if one did.
    pub fn pause_reason(&self) -> Option<String> {
        let paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        paused.clone()
    }

    /// The hold was changed here: others have to know.
    pub fn hold_changed(&self) {
        if let Some(member) = &self.member {
            member.share.notify_one();
        }
    }

    /// Notes that an operator paused admission, or resumed it; whether that is
    /// new.
    pub fn set_pause(&self, reason: Option<String>) -> bool {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *paused != reason;
        *paused = reason;
        changed
    }

    /// The tasks that callers here are attached to.
    pub fn tasks_attached(&self) -> Vec<TaskId> {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        attached.keys().copied().collect()
    }

    /// Ends a process that is not needed any more, off everybody's path.
    pub fn end_in_background(&self, mut held: Held) {
        self.tracker.spawn_on(
            async move {
                held.session.end(Duration::from_secs(2)).await;
            },
            &self.runtime,
        );
    }

    /// Notes the process that keeps a session, or that it is kept no more;
    /// gives the one before.
    pub fn keep(&self, session: &str, pid: Option<u32>) -> Option<u32> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match pid {
            Some(pid) => kept.insert(session.to_owned(), pid),
            None => kept.remove(session),
        }
    }

    /// Callers attached to a task.
    pub fn attached(&self, id: &TaskId) -> usize {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        attached.get(id).copied().unwrap_or(0)
    }
}

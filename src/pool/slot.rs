//! A slot, as others see it: owns one process and runs one attempt at a time.

mod idle;
mod life;
mod memory;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::memory::Memory;
use super::inner::Inner;
use crate::clock::Timestamp;
use crate::id::{CallerId, ConversationId, SlotId, TaskId};
use crate::pb::{self, SlotState};
use crate::store::ClaimedTask;
use crate::task::Task;

/// Longest wait before another start of a process.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Every slot of this node, in order.
#[derive(Default)]
pub(super) struct Slots {
    slots: Mutex<BTreeMap<u32, Arc<Slot>>>,
    /// Counts departures; wakes who waits for them.
    pub departed: watch::Sender<u64>,
}

/// One slot, as others see it.
pub(super) struct Slot {
    pub id: SlotId,
    info: Mutex<Info>,
    assign: mpsc::Sender<ClaimedTask>,
    /// The attempts that are to be cancelled: the latest two, for one may end while
    /// the next waits for its process.
    pub cancel: watch::Sender<[Option<(TaskId, u32)>; 2]>,
    /// Counts wishes to have the process replaced.
    pub restart: watch::Sender<u64>,
    /// It takes no new work and leaves when its task ends.
    retire: CancellationToken,
    /// Wakes it when it was given back without a task.
    released: Notify,
    memory: Memory,
}

#[derive(Clone)]
struct Info {
    state: SlotState,
    /// Somebody is finding a task for it, or has: it is free to others no more.
    taken: bool,
    /// Its process is being reset, and fit for another task then.
    free_soon: bool,
    since: Timestamp,
    task: Option<TaskId>,
    /// The task whose attempt it ends while its process is being reset.
    ending: Option<TaskId>,
    /// The task that was found for it and has not begun.
    promised: Option<TaskId>,
    /// The conversation that its idle process keeps.
    keeps: Option<(CallerId, ConversationId)>,
    pid: Option<u32>,
    attempts: i64,
    launches: i64,
    resets: i64,
    recycles: i64,
    failed_launches: u32,
    last_error: String,
}

impl Slots {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes slots and starts them; each takes the lowest free number.
    pub fn add(&self, inner: &Arc<Inner>, count: u32) {
        for _ in 0..count {
            let (assign, assigned) = mpsc::channel(1);
            let mut slots = self.lock();
            let number = (0..).find(|number| !slots.contains_key(number));
            let number = number.unwrap_or_default();
            let slot = Arc::new(Slot::new(number, assign, inner.now()));
            slots.insert(number, Arc::clone(&slot));
            drop(slots);
            let shared = Arc::clone(inner);
            inner.tracker.spawn(async move {
                slot.live(&shared, assigned).await;
                shared.slots.lock().remove(&number);
                shared.slots.departed.send_modify(|count| *count += 1);
                shared.status_changed();
            });
        }
        inner.status_changed();
    }

    /// Slots that stay, and slots that are leaving.
    pub fn count(&self) -> (u32, u32) {
        let slots = self.lock();
        let leaving = slots.values().filter(|slot| slot.is_retiring()).count();
        let size = |count| u32::try_from(count).unwrap_or(u32::MAX);
        (size(slots.len() - leaving), size(leaving))
    }

    /// Lets slots leave: idle ones first, then those that do not work, then
    /// busy ones, the highest number first.
    pub fn retire(&self, inner: &Inner, count: u32) {
        let slots = self.lock();
        let mut staying: Vec<_> = slots.values().filter(|slot| !slot.is_retiring()).collect();
        staying.sort_by_key(|slot| slot.is_working());
        let mut leaving: Vec<_> = Vec::new();
        for works in [false, true] {
            let of_kind = staying.iter().rev().filter(|s| s.is_working() == works);
            leaving.extend(of_kind.copied());
        }
        for slot in leaving.into_iter().take(count as usize) {
            slot.retire.cancel();
        }
        drop(slots);
        inner.status_changed();
    }

    /// One slot by its id.
    pub fn get(&self, id: &SlotId) -> Option<Arc<Slot>> {
        self.lock().values().find(|slot| slot.id == *id).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Slot>> {
        self.lock().values().cloned().collect()
    }

    /// Takes free slots, until they are assigned a task or given back: idle ones,
    /// then those whose process is being reset, so that the claim is made meanwhile;
    /// last those that keep a conversation.
    pub fn take_free(&self, max: usize) -> Vec<Arc<Slot>> {
        let slots = self.lock();
        let mut in_order: Vec<_> = slots.values().collect();
        in_order.sort_by_key(|slot| {
            let info = slot.lock();
            (info.keeps.is_some(), info.state != SlotState::Idle)
        });
        in_order
            .into_iter()
            .filter(|slot| slot.take_if(|info| info.free_soon || info.state == SlotState::Idle))
            .take(max)
            .cloned()
            .collect()
    }

    /// The tasks that run.
    pub fn tasks(&self) -> Vec<TaskId> {
        let slots = self.lock();
        slots.values().filter_map(|slot| slot.lock().task).collect()
    }

    /// Tells the slot that runs a task to end its attempt.
    pub fn cancel(&self, task: &Task) {
        if let Some(slot) = self
            .lock()
            .values()
            .find(|slot| task.slot.as_ref() == Some(&slot.id))
        {
            let unwanted = Some((task.id, task.attempt));
            slot.cancel.send_if_modified(|two| {
                let new = !two.contains(&unwanted);
                if new {
                    *two = [two[1], unwanted];
                }
                new
            });
        }
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Info> {
        self.info.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_if(&self, free: impl FnOnce(&Info) -> bool) -> bool {
        let mut info = self.lock();
        let take = free(&info) && !info.taken && !self.is_retiring();
        info.taken |= take;
        take
    }

    /// The conversation that its idle process keeps, and whose it is.
    pub fn keeps(&self) -> Option<(CallerId, ConversationId)> {
        self.lock().keeps.clone()
    }

    fn new(number: u32, assign: mpsc::Sender<ClaimedTask>, now: Timestamp) -> Self {
        Self {
            id: SlotId(format!("slot-{number}")),
            info: Mutex::new(Info {
                state: SlotState::Starting,
                taken: false,
                free_soon: false,
                since: now,
                task: None,
                ending: None,
                promised: None,
                keeps: None,
                pid: None,
                attempts: 0,
                launches: 0,
                resets: 0,
                recycles: 0,
                failed_launches: 0,
                last_error: String::new(),
            }),
            assign,
            cancel: watch::channel([None; 2]).0,
            restart: watch::channel(0).0,
            retire: CancellationToken::new(),
            released: Notify::new(),
            memory: Memory::default(),
        }
    }

    fn is_retiring(&self) -> bool {
        self.retire.is_cancelled()
    }

    /// Whether it has, or is about to get, a task.
    fn is_working(&self) -> bool {
        let info = self.lock();
        info.taken || info.state == SlotState::Busy
    }

    /// Whether it runs this task, ends its attempt, or may be about to get it.
    pub fn may_run(&self, task: &TaskId) -> bool {
        let info = self.lock();
        let own = [info.task, info.ending, info.promised];
        own.contains(&Some(*task)) || (info.taken && info.promised.is_none())
    }

    /// Whether it runs no attempt and is about to run none.
    pub fn is_quiet(&self) -> bool {
        let info = self.lock();
        !info.taken && !matches!(info.state, SlotState::Busy | SlotState::Resetting)
    }

    /// Gives it a task; it was taken before, so there is room.
    #[allow(
        clippy::result_large_err,
        reason = "the task is handed back, it is no error that travels"
    )]
    pub fn assign(&self, claimed: ClaimedTask) -> Result<(), ClaimedTask> {
        let mut info = self.lock();
        let task = claimed.task.id;
        self.assign.try_send(claimed).map_err(|error| match error {
            mpsc::error::TrySendError::Full(claimed)
            | mpsc::error::TrySendError::Closed(claimed) => claimed,
        })?;
        info.promised = Some(task);
        Ok(())
    }

    /// Gives it back: it was taken and there is no task for it.
    pub fn release(&self, inner: &Inner) {
        self.lock().taken = false;
        self.released.notify_one();
        if inner.draining.is_cancelled() {
            inner.status_changed();
        }
    }

    fn enter(&self, inner: &Inner, state: SlotState, also: impl FnOnce(&mut Info)) {
        {
            let mut info = self.lock();
            info.state = state;
            info.free_soon = false;
            info.keeps = None;
            info.since = inner.now();
            also(&mut info);
        }
        inner.status_changed();
    }

    /// On the wire; `None`: that takes a look at its processes.
    pub fn known(&self, inner: &Inner) -> Option<pb::Slot> {
        let info = self.lock().clone();
        let memory = info.pid.map_or(Some(None), |pid| self.memory.known(pid))?;
        Some(self.describe(inner, info, memory))
    }

    /// On the wire. May block.
    pub fn look(&self, inner: &Inner) -> pb::Slot {
        let info = self.lock().clone();
        let memory = info.pid.and_then(|pid| self.memory.look(pid));
        self.describe(inner, info, memory)
    }

    fn describe(&self, inner: &Inner, info: Info, memory_bytes: Option<i64>) -> pb::Slot {
        pb::Slot {
            slot_id: self.id.0.clone(),
            node_id: inner.node.0.clone(),
            state: if self.is_retiring() {
                SlotState::Retiring
            } else {
                info.state
            } as i32,
            state_time: Some(info.since.to_proto()),
            pid: info.pid.and_then(|pid| i32::try_from(pid).ok()),
            memory_bytes,
            task_id: info.task.map(|id| id.to_string()).unwrap_or_default(),
            attempts_run: info.attempts,
            launches: info.launches,
            resets: info.resets,
            recycles: info.recycles,
            failed_launches: i32::try_from(info.failed_launches).unwrap_or(i32::MAX),
            last_error: info.last_error,
            spares: 0,
        }
    }

    /// Notes the process of a running attempt.
    pub fn has_process(&self, inner: &Inner, pid: u32, launched: bool) {
        {
            let mut info = self.lock();
            info.pid = Some(pid);
            info.launches += i64::from(launched);
        }
        inner.status_changed();
    }

    /// Notes that the attempt is over and its process is being made ready: for
    /// anybody's next task, if it is free soon.
    pub fn resetting(&self, inner: &Inner, free_soon: bool) {
        self.enter(inner, SlotState::Resetting, |info| {
            info.ending = info.task.take();
            info.free_soon = free_soon;
        });
        if free_soon {
            inner.wake.notify_one();
        }
    }
}

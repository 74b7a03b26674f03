//! A slot: owns one process and runs one attempt at a time.

mod idle;
mod memory;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::memory::Memory;
use super::attempt;
use super::inner::Inner;
use super::nodes::elsewhere;
use super::process::{Bench, Held};
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
    /// The attempt that is to be cancelled.
    pub cancel: watch::Sender<Option<(TaskId, u32)>>,
    /// Counts wishes to have the process replaced.
    pub restart: watch::Sender<u64>,
    /// It takes no new work and leaves when its task ends.
    retire: CancellationToken,
    memory: Memory,
}

#[derive(Clone)]
struct Info {
    state: SlotState,
    /// Somebody is finding a task for it: it is idle to others no more.
    taken: bool,
    since: Timestamp,
    task: Option<TaskId>,
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

    /// Takes idle slots, until they are assigned a task or given back; last
    /// those that keep a conversation.
    pub fn take_idle(&self, max: usize) -> Vec<Arc<Slot>> {
        let slots = self.lock();
        let mut in_order: Vec<_> = slots.values().collect();
        in_order.sort_by_key(|slot| slot.keeps().is_some());
        in_order
            .into_iter()
            .filter(|slot| slot.take_if_idle())
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
            slot.cancel.send_replace(Some((task.id, task.attempt)));
        }
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Info> {
        self.info.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_if_idle(&self) -> bool {
        let mut info = self.lock();
        let idle = info.state == SlotState::Idle && !info.taken && !self.is_retiring();
        info.taken |= idle;
        idle
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
                since: now,
                task: None,
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
            cancel: watch::channel(None).0,
            restart: watch::channel(0).0,
            retire: CancellationToken::new(),
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

    /// Whether it runs this task, ends its attempt, or is about to get one.
    pub fn may_run(&self, task: &TaskId) -> bool {
        let info = self.lock();
        info.taken || info.state == SlotState::Resetting || info.task.as_ref() == Some(task)
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
        self.assign.try_send(claimed).map_err(|error| match error {
            mpsc::error::TrySendError::Full(claimed)
            | mpsc::error::TrySendError::Closed(claimed) => claimed,
        })
    }

    /// Gives it back: it was taken and there is no task for it.
    pub fn release(&self, inner: &Inner) {
        self.lock().taken = false;
        if inner.draining.is_cancelled() {
            inner.status_changed();
        }
    }

    fn enter(&self, inner: &Inner, state: SlotState, also: impl FnOnce(&mut Info)) {
        {
            let mut info = self.lock();
            info.state = state;
            info.taken = false;
            info.keeps = None;
            info.since = inner.now();
            also(&mut info);
        }
        inner.status_changed();
    }

    /// Whether describing it takes no look at its processes.
    pub fn is_known(&self) -> bool {
        let pid = self.lock().pid;
        pid.is_none_or(|pid| self.memory.known(pid).is_some())
    }

    /// On the wire. May block unless it is known.
    pub fn describe(&self, inner: &Inner) -> pb::Slot {
        let info = self.lock().clone();
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
            memory_bytes: info.pid.and_then(|pid| self.memory.look(pid)),
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

    /// Its life: a process is made ready, serves an attempt, is reset or
    /// replaced, and so on, until it retires or the pool stops.
    async fn live(&self, inner: &Arc<Inner>, mut assigned: mpsc::Receiver<ClaimedTask>) {
        let mut bench = Bench::default();
        let mut context = inner.context.subscribe();
        let mut restart = self.restart.subscribe();
        loop {
            if bench.held.is_none() && !self.start(inner, &mut bench).await {
                break;
            }
            self.enter(inner, SlotState::Idle, |info| {
                info.task = None;
                info.keeps = bench.held.as_ref().and_then(Held::keeps);
                info.pid = bench.held.as_ref().map(|held| held.session.pid());
            });
            inner.wake.notify_one();

            let problem = tokio::select! {
                biased;
                // A task that was claimed for it comes before everything.
                claimed = assigned.recv() => match claimed {
                    Some(claimed) => {
                        self.serve(inner, &mut bench, claimed).await;
                        continue;
                    }
                    None => break,
                },
                () = self.leaves(inner) => break,
                _ = restart.changed() => "a restart was asked for".to_owned(),
                problem = idle::idle(&mut bench, &mut context, inner) => problem,
            };
            info!(slot_id = %self.id, %problem, "process replaced");
            self.lock().recycles += 1;
            if self.take_if_idle() {
                self.enter(inner, SlotState::Starting, |_| {});
            }
            // Taken in this very moment by somebody else? Then a task may come
            // before the new process: the attempt finds none, and starts one.
            bench.discard(Duration::from_secs(1)).await;
        }
        bench.discard(Duration::from_millis(500)).await;
        // A task that was assigned in the last moment goes back.
        assigned.close();
        while let Some(claimed) = assigned.recv().await {
            attempt::hand_back(inner, &claimed.task).await;
        }
    }

    async fn serve(&self, inner: &Arc<Inner>, bench: &mut Bench, claimed: ClaimedTask) {
        self.enter(inner, SlotState::Busy, |info| {
            info.task = Some(claimed.task.id);
            info.attempts += 1;
        });
        elsewhere::begun(inner, claimed.task.id);
        let after = attempt::run(inner, self, bench, claimed).await;
        let mut info = self.lock();
        match after {
            attempt::After::Reset => info.resets += 1,
            attempt::After::Kept => {}
            attempt::After::Recycled(reason) => {
                info.recycles += 1;
                info!(slot_id = %self.id, %reason, "process recycled");
            }
        }
    }

    /// Waits until it retires or the pool stops.
    async fn leaves(&self, inner: &Inner) {
        tokio::select! {
            biased;
            () = self.retire.cancelled() => {}
            () = inner.stop.cancelled() => {}
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

    /// Notes that the attempt is over and its process is being made ready.
    pub fn resetting(&self, inner: &Inner) {
        self.enter(inner, SlotState::Resetting, |info| info.task = None);
    }

    /// Starts a process, again with backoff while the supervisor runs and has
    /// not given the slot up. `false`: it leaves.
    async fn start(&self, inner: &Inner, bench: &mut Bench) -> bool {
        let mut restart = self.restart.subscribe();
        let mut supervisor = inner.supervisor.subscribe();
        let mut backoff = inner.options.launch_backoff;
        loop {
            self.enter(inner, SlotState::Starting, |info| {
                info.task = None;
                info.pid = None;
            });
            let launched = tokio::select! {
                biased;
                () = self.leaves(inner) => return false,
                launched = Held::launch_ahead(inner) => launched,
            };
            let error = match launched {
                Ok(held) => {
                    let mut info = self.lock();
                    info.launches += 1;
                    info.failed_launches = 0;
                    info.last_error.clear();
                    bench.held = Some(held);
                    return true;
                }
                Err(error) => error,
            };
            warn!(slot_id = %self.id, %error, "a process did not start");
            let mut given_up = false;
            self.enter(inner, SlotState::BackingOff, |info| {
                info.failed_launches += 1;
                info.last_error = error.to_string();
                given_up = info.failed_launches > inner.options.max_restarts;
                if given_up || !*supervisor.borrow() {
                    info.state = SlotState::Errored;
                }
            });
            let again = async {
                // One that was given up waits for a restart by hand.
                if given_up || supervisor.wait_for(|runs| *runs).await.is_err() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(backoff).await;
            };
            tokio::select! {
                biased;
                () = self.leaves(inner) => return false,
                _ = restart.changed() => {
                    self.lock().failed_launches = 0;
                    backoff = inner.options.launch_backoff;
                    continue;
                }
                () = again => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }
}

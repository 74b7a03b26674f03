//! The store of a run: notes every change, fails when told to, and is where the
//! server dies.
//!
//! A call is carried out in one go on the thread of the runtime, SQLite's too:
//! its own threads work meanwhile, so that no simulated time passes unseen and
//! the order of calls is the seed's alone. What a slow store does to the order
//! of things is simulated, by waiting before and after.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use claudepool::budget::{Entry, Funds};
use claudepool::clock::Timestamp;
use claudepool::id::{CallerId, GroupId, RequestId, TaskId};
use claudepool::money::Microdollars;
use claudepool::pb::event::Kind;
use claudepool::store::*;
use claudepool::task::{Level, Record, SavedSession, State as TaskState, Task};

use super::history::{Change, Step};
use super::plan::StoreFault;
use super::shared::{Shared, State};

pub struct Watched {
    pub store: Arc<dyn Store>,
    pub shared: Arc<Shared>,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits on this thread: the runtime and its clock stand still.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = TaskContext::from_waker(&waker);
    let mut future = pin!(tokio::task::coop::unconstrained(future));
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn down() -> StoreError {
    StoreError::Unavailable("told to fail".to_owned())
}

impl Watched {
    /// A store may take its time.
    async fn pause(&self) {
        let pause = {
            let mut state = self.shared.lock();
            let slow = state.slow_percent;
            match state.rng.percent(slow) {
                true => Some(state.rng.range(0, 3)),
                false => None,
            }
        };
        match pause {
            None => {}
            Some(0) => tokio::task::yield_now().await,
            Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
    }

    async fn living(&self) {
        if self.shared.lock().dead {
            std::future::pending::<()>().await;
        }
    }

    async fn before(&self) -> Result<(), StoreError> {
        self.living().await;
        let hangs = self.shared.lock().store_fault(StoreFault::Hangs);
        if let Some(time) = hangs {
            self.shared.lock().count("store call that hung");
            tokio::time::sleep(time).await;
        }
        self.pause().await;
        self.living().await;
        let mut state = self.shared.lock();
        match state.store_fault(StoreFault::Before) {
            Some(_) => {
                state.count("store call that failed");
                Err(down())
            }
            None => Ok(()),
        }
    }

    async fn read<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.before().await?;
        let answer = wait(call);
        self.pause().await;
        answer
    }

    async fn change<T>(
        &self,
        what: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
        note: impl FnOnce(&mut State, &T),
    ) -> Result<T, StoreError> {
        self.before().await?;
        let crash = {
            let mut state = self.shared.lock();
            match &mut state.crash_after {
                Some((0, made)) => Some(*made),
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        };
        if crash == Some(false) {
            self.shared.lock().count("crash before a change");
            self.shared.die();
            self.living().await;
        }
        let answer = wait(call);
        {
            let mut state = self.shared.lock();
            match &answer {
                Ok(value) => note(&mut state, value),
                Err(error) => {
                    let error = format!("{error:?}");
                    let error = error.split('(').next().unwrap_or_default().to_owned();
                    state.say(|_| format!("{what}: {error}"));
                }
            }
        }
        if crash == Some(true) {
            self.shared.lock().count("crash after a change");
            self.shared.die();
            self.living().await;
        }
        let lost = answer.is_ok() && {
            let mut state = self.shared.lock();
            let lost = state.store_fault(StoreFault::After).is_some();
            if lost {
                state.count("store change whose answer was lost");
            }
            lost
        };
        self.pause().await;
        if lost { Err(down()) } else { answer }
    }
}

fn step(
    state: &mut State,
    task: &Task,
    from: Option<TaskState>,
    ledger: Vec<Entry>,
    asked: Timestamp,
) -> Step {
    let name = state.name(task.id);
    state.say(|_| {
        format!(
            "task {name}: {from:?} -> {:?}, attempt {}",
            task.state, task.attempt
        )
    });
    Step {
        at: state.now().0,
        asked: asked.0,
        task: task.id,
        from,
        to: task.state,
        rank: task.rank,
        ready: task.ready_time.0,
        chain: task.is_chain(),
        conversation: task.conversation.is_some(),
        ledger,
        claim: None,
    }
}

macro_rules! store {
    (
        $(read fn $name:ident(&self $(, $arg:ident: $ty:ty)*) -> $ret:ty;)*
        $(change fn $cname:ident(&self $(, $carg:ident: $cty:ty)*) -> $cret:ty;)*
        own { $($own:tt)* }
    ) => {
        #[async_trait]
        impl Store for Watched {
            $(async fn $name(&self $(, $arg: $ty)*) -> Result<$ret, StoreError> {
                self.read(self.store.$name($($arg),*)).await
            })*
            $(async fn $cname(&self $(, $carg: $cty)*) -> Result<$cret, StoreError> {
                self.change(stringify!($cname), self.store.$cname($($carg),*), |_, _| {}).await
            })*
            $($own)*
        }
    };
}

store! {
    read fn probe(&self, thorough: bool) -> ();
    read fn record(&self, id: TaskId, parts: Parts) -> Option<Record>;
    read fn list(&self, query: &Query) -> Vec<Record>;
    read fn group(&self, id: GroupId, parts: Parts) -> Vec<Record>;
    read fn request(&self, caller: &CallerId, id: RequestId, now: Timestamp) -> Option<Request>;
    read fn log(&self, id: TaskId, after: u64, bytes_max: usize) -> Vec<LogEntry>;
    read fn output(&self, id: TaskId, offset: u64, len: usize) -> Option<Bytes>;
    read fn log_bytes(&self, id: TaskId) -> u64;
    read fn outdated(&self, ended: &[(TaskState, Timestamp)], limit: usize) -> Vec<Task>;
    read fn due(&self, now: Timestamp, level: Level, limit: usize) -> Due;
    read fn session(&self, caller: &CallerId, which: &SessionRef) -> Option<SavedSession>;
    read fn totals(&self) -> Totals;
    read fn context(&self) -> Context;
    read fn catalog_entry(&self, kind: CatalogKind, name: &str) -> Option<CatalogEntry>;
    read fn catalog(&self, kind: CatalogKind, after: &str, bytes_max: usize) -> Vec<CatalogEntry>;
    change fn delete(&self, id: TaskId, version: u64) -> Vec<TaskId>;
    change fn expire_requests(&self, now: Timestamp, limit: usize) -> usize;
    change fn sweep(&self) -> bool;
    change fn forget_session(&self, id: &str) -> ();
    change fn expire_sessions(&self, before: Timestamp, limit: usize) -> Vec<String>;
    change fn set_context(&self, revision: u64, key: &str, value: Option<&str>, now: Timestamp) -> u64;
    change fn put_catalog(&self, kind: CatalogKind, entry: CatalogEntry, most: usize) -> bool;
    change fn delete_catalog(&self, kind: CatalogKind, name: &str) -> bool;
    own {
        async fn commit(&self, batch: Batch) -> Result<Vec<Committed>, StoreError> {
            let (now, paused) = (batch.now, self.shared.lock().paused);
            let changes: Vec<_> = batch
                .changes
                .iter()
                .map(|change| (change.task.clone(), change.from, change.ledger.clone()))
                .collect();
            self.change("commit", self.store.commit(batch), move |state, _| {
                for (task, from, ledger) in changes {
                    if from.is_none() && task.state == TaskState::Running && paused {
                        let name = state.name(task.id);
                        state.history.wrong.push(format!("task {name} began in a pause"));
                    }
                    let step = step(state, &task, from, ledger, now);
                    state.history.changes.push(Change::Task(Box::new(step)));
                }
            })
            .await
        }

        async fn claim(&self, request: ClaimRequest) -> Result<Claimed, StoreError> {
            let now = request.now;
            let paused = self.shared.lock().paused;
            self.change("claim", self.store.claim(request), move |state, claimed| {
                state.claims += 1;
                if paused && !claimed.tasks.is_empty() {
                    state.history.wrong.push("a task was claimed in a pause".to_owned());
                }
                for claimed in &claimed.tasks {
                    let task = &claimed.task;
                    let ledger = vec![Entry::Reserve(task.reserved)];
                    let mut step = step(state, task, Some(TaskState::Queued), ledger, now);
                    step.claim = Some(state.claims);
                    state.history.changes.push(Change::Task(Box::new(step)));
                }
            })
            .await
        }

        async fn append(
            &self,
            fence: Fence,
            events: Vec<Kind>,
            note: Note,
            now: Timestamp,
        ) -> Result<Committed, StoreError> {
            let call = self.store.append(fence, events, note, now);
            self.change("append", call, |state, committed| {
                let (task, entries) = (state.name(committed.task), committed.entries.len());
                state.say(|_| format!("task {task}: {entries} entries"));
            })
            .await
        }

        async fn set_budget(&self, limit: Option<Microdollars>) -> Result<Funds, StoreError> {
            self.change("set_budget", self.store.set_budget(limit), |state, funds| {
                state.say(|_| format!("budget {:?}", funds.limit));
                let limit = funds.limit.map(|limit| limit.0);
                let at = state.now().0;
                state.history.changes.push(Change::Limit(at, limit));
            })
            .await
        }

        /// The store outlives its pools.
        async fn close(&self) {}
    }
}

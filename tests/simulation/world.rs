//! Carries a plan out: pools follow each other on one store, each on a runtime
//! of its own whose end is the death of everything in it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use claudepool::id::{CallerId, GroupId, NodeId, TaskId};
use claudepool::pool::{Options, Pool};
use claudepool::store::memory::Memory;
use claudepool::store::{Filter, Parts, Query, Store};
use claudepool::task::State;
use tempfile::TempDir;

use super::agent;
use super::history::{History, LifeEnd, View};
use super::ops;
use super::plan::{Op, Plan};
use super::shared::Shared;
use super::store;

/// Simulated time within which everything has ended once all is well.
const BOUND: Duration = Duration::from_secs(4 * 3600);

/// On which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Memory,
    #[cfg(feature = "sqlite")]
    Sqlite,
}

/// What a run came to.
pub struct Ran {
    pub history: History,
    pub counts: std::collections::BTreeMap<&'static str, u64>,
    /// Of everything that happened, in order.
    pub trace_hash: u64,
    pub trace: Vec<String>,
}

pub struct World {
    pub plan: Plan,
    pub shared: Arc<Shared>,
    agent: agent::Watched,
    known: Mutex<Known>,
    /// The next operation.
    next: AtomicUsize,
}

/// What callers know.
#[derive(Default)]
pub struct Known {
    pub tasks: Vec<(TaskId, u8)>,
    pub chains: Vec<(TaskId, u8)>,
    pub groups: Vec<(GroupId, u8)>,
    /// Slots there are to be.
    pub target: u32,
}

enum Exit {
    Crashed,
    Drained,
    Settled,
}

/// Carries a plan out to its end.
pub fn run(plan: Plan, on: On, traced: bool) -> Ran {
    let shared = Arc::new(Shared::new(plan.seed, plan.slow_percent, traced));
    let world = Arc::new(World {
        agent: agent::Watched::new(Arc::clone(&shared)),
        shared,
        plan,
        known: Mutex::default(),
        next: AtomicUsize::new(0),
    });
    let memory: Arc<dyn Store> = Arc::new(Memory::new());
    let directory = TempDir::new().expect("a directory");
    loop {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let exit = runtime.block_on(async {
            let store = match on {
                On::Memory => Arc::clone(&memory),
                #[cfg(feature = "sqlite")]
                On::Sqlite => {
                    let path = directory.path().join("pool.db");
                    let opened = claudepool::store::sqlite::Sqlite::open(path).await;
                    Arc::new(opened.expect("it opens")) as Arc<dyn Store>
                }
            };
            let exit = world.live(store).await;
            // Here, where the simulated time is known.
            world.shared.lock().stop();
            exit
        });
        drop(runtime);
        let mut state = world.shared.lock();
        state.history.lives.push(match exit {
            Exit::Crashed => LifeEnd::Crashed,
            Exit::Drained | Exit::Settled => LifeEnd::Drained,
        });
        if let Exit::Settled = exit {
            break;
        }
    }
    drop(directory);
    let mut state = world.shared.lock();
    state.history.processes_left = world.agent.scripted.live();
    Ran {
        history: std::mem::take(&mut state.history),
        counts: std::mem::take(&mut state.counts),
        trace_hash: state.trace_hash(),
        trace: state.trace.take().unwrap_or_default(),
    }
}

pub fn caller(number: u8) -> CallerId {
    CallerId(format!("caller-{number}"))
}

impl World {
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics while it is held")
    }

    pub fn wrong(&self, what: String) {
        self.shared.lock().history.wrong.push(what);
    }

    async fn live(self: &Arc<Self>, store: Arc<dyn Store>) -> Exit {
        let clock = self.shared.begin_life();
        let work = async {
            let pool = loop {
                let options = Options {
                    slots: self.plan.slots,
                    spares: self.plan.spares,
                    max_slots: 8,
                    default_task_budget_usd: 0.001,
                    stall_timeout: Duration::from_secs(20),
                    run_timeout: Duration::from_secs(120),
                    working_dir: "/".into(),
                    ..Options::default()
                };
                self.known().target = options.slots;
                let built = Pool::builder(self.agent.clone())
                    .store(Arc::new(store::Watched {
                        store: Arc::clone(&store),
                        shared: Arc::clone(&self.shared),
                    }))
                    .options(options)
                    .node(NodeId("simulated".to_owned()))
                    .clock(clock.clone())
                    .seed(self.plan.seed)
                    .build()
                    .await;
                match built {
                    Ok(pool) => break pool,
                    // The store does not answer: it is started again.
                    Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
                }
            };
            let views = self.shared.lock().history.views.len();
            for view in 0..views {
                ops::watch(self, &pool, view);
            }
            while let Some((gap, op)) = self.plan.ops.get(self.next.load(Ordering::SeqCst)) {
                tokio::time::sleep(Duration::from_millis(*gap)).await;
                self.next.fetch_add(1, Ordering::SeqCst);
                self.shared.lock().say(|_| format!("{op:?}"));
                if let Op::Drain(deadline) = op {
                    self.shared.lock().count("drain");
                    self.drain(&pool, Duration::from_millis(*deadline)).await;
                    return Exit::Drained;
                }
                ops::begin(self, &pool, op);
            }
            self.settle(&pool, &*store).await;
            Exit::Settled
        };
        tokio::select! {
            biased;
            () = self.shared.crash.notified() => Exit::Crashed,
            exit = work => exit,
        }
    }

    async fn drain(&self, pool: &Pool, deadline: Duration) {
        let shutdown = async {
            if pool.drain(deadline).await.is_err() {
                self.wrong("a drain failed".to_owned());
            }
            pool.shutdown().await;
        };
        if tokio::time::timeout(BOUND, shutdown).await.is_err() {
            self.wrong("a drain did not end".to_owned());
        }
    }

    /// Everything works again; then all that there is comes to its end.
    async fn settle(self: &Arc<Self>, pool: &Pool, store: &dyn Store) {
        {
            let mut state = self.shared.lock();
            state.say(|_| "settle".to_owned());
            state.heal();
            state.paused = false;
        }
        pool.resume().await.expect("a pause is in memory");
        // Whoever was not answered asks again.
        for place in 0..self.plan.calls.len() {
            if self.plan.calls[place].request.is_some() {
                ops::begin(self, pool, &Op::Call(place));
            }
        }
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < BOUND {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let live = unfinished(store).await;
            if live.is_empty() {
                break;
            }
            let deadline = BOUND.saturating_sub(begun.elapsed());
            let ends = live.into_iter().map(|(task, caller)| {
                let pool = pool.for_caller(caller);
                async move {
                    pool.result(task, deadline)
                        .await
                        .map(|r| (task, r.task.state))
                }
            });
            for end in ends {
                match end.await {
                    Ok((task, state)) => self.shared.lock().history.told.push((task, state)),
                    Err(error) => self.wrong(format!("a result is not to be had: {error}")),
                }
            }
        }
        for (task, _) in unfinished(store).await {
            let name = self.shared.lock().name(task);
            self.wrong(format!("task {name} did not end"));
        }
        // Who watched is told of the end at once.
        tokio::time::sleep(Duration::from_secs(30)).await;
        self.look(pool, store).await;
        self.drain(pool, Duration::ZERO).await;
    }

    /// Notes what is there at the end.
    async fn look(&self, pool: &Pool, store: &dyn Store) {
        let slots = pool.slots().await.iter().map(|slot| slot.state).collect();
        let tasks = store.list(&all(Vec::new())).await.expect("it works");
        let funds = store.totals().await.expect("it works").funds;
        let mut logs = std::collections::BTreeMap::new();
        for record in &tasks {
            let log = store.log(record.task.id, 0, usize::MAX).await;
            logs.insert(record.task.id, log.expect("it works"));
        }
        let target = self.known().target;
        let history = &mut self.shared.lock().history;
        history.slots = (target, slots);
        history.tasks = tasks;
        history.logs = logs;
        history.funds = funds;
    }

    /// Begins a view of a task.
    pub fn view(&self, task: TaskId, caller: u8, after: u64, reattach: u64) -> usize {
        let views = &mut self.shared.lock().history.views;
        views.push(View {
            task,
            caller,
            after,
            reattach,
            entries: Vec::new(),
            over: false,
        });
        views.len() - 1
    }
}

fn all(states: Vec<State>) -> Query {
    Query {
        filter: Filter {
            states,
            include_steps: true,
            ..Filter::default()
        },
        before: None,
        limit: 10_000,
        parts: Parts::ALL,
    }
}

async fn unfinished(store: &dyn Store) -> Vec<(TaskId, CallerId)> {
    let live = [State::Queued, State::Running, State::Cancelling];
    let records = store.list(&all(live.to_vec())).await.expect("it works");
    let tasks = records.into_iter().map(|r| (r.task.id, r.task.caller));
    tasks.collect()
}

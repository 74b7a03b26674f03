//! What store, agent and world of one run share.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use claudepool::clock::{Clock, Timestamp};
use claudepool::id::TaskId;
use tokio::sync::Notify;

use super::history::{History, Turn, TurnEnd};
use super::plan::{AgentFault, StoreFault};
use super::rng::Rng;

/// When every run begins.
const BEGIN: Timestamp = Timestamp(1_800_000_000_000_000);

pub struct Shared {
    state: Mutex<State>,
    /// Told when the server dies.
    pub crash: Notify,
    /// Told when every process dies.
    pub kill: Notify,
}

pub struct State {
    pub rng: Rng,
    pub slow_percent: u64,
    clock: Option<Clock>,
    /// The time when the last pool ended.
    stopped: Timestamp,
    /// Nothing runs any more in this life.
    pub dead: bool,
    /// Changes of the store until the crash, and whether the last is made.
    pub crash_after: Option<(u64, bool)>,
    store: BTreeMap<StoreFault, Timestamp>,
    agent: BTreeMap<AgentFault, Timestamp>,
    pub paused: bool,
    pub claims: usize,
    ticks: u64,
    names: BTreeMap<TaskId, usize>,
    pub history: History,
    pub counts: BTreeMap<&'static str, u64>,
    hash: DefaultHasher,
    pub trace: Option<Vec<String>>,
}

impl Shared {
    pub fn new(seed: u64, slow_percent: u64, traced: bool) -> Self {
        Self {
            state: Mutex::new(State {
                rng: Rng::new(!seed),
                slow_percent,
                clock: None,
                stopped: BEGIN,
                dead: false,
                crash_after: None,
                store: BTreeMap::new(),
                agent: BTreeMap::new(),
                paused: false,
                claims: 0,
                ticks: 0,
                names: BTreeMap::new(),
                history: History::default(),
                counts: BTreeMap::new(),
                hash: DefaultHasher::new(),
                trace: traced.then(Vec::new),
            }),
            crash: Notify::new(),
            kill: Notify::new(),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it is held")
    }

    /// A pool begins, a second after the one before has ended. Within its
    /// runtime.
    pub fn begin_life(&self) -> Clock {
        let mut state = self.lock();
        let clock = Clock::tokio_from(state.stopped.after(Duration::from_secs(1)));
        state.clock = Some(clock.clone());
        state.dead = false;
        state.paused = false;
        state.crash_after = None;
        clock
    }

    /// The server dies: what is under way is never heard of again.
    pub fn die(&self) {
        let mut state = self.lock();
        if !state.dead {
            state.say(|_| "crash".to_owned());
            state.stop();
            self.crash.notify_one();
        }
    }
}

impl State {
    pub fn now(&self) -> Timestamp {
        match (&self.clock, self.dead) {
            (Some(clock), false) => clock.now(),
            _ => self.stopped,
        }
    }

    /// The life ends; the clock stands.
    pub fn stop(&mut self) {
        self.stopped = self.now();
        self.dead = true;
    }

    pub fn life(&self) -> usize {
        self.history.lives.len()
    }

    pub fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }

    /// A number for a task: its own id is another in every run.
    pub fn name(&mut self, task: TaskId) -> usize {
        let next = self.names.len();
        *self.names.entry(task).or_insert(next)
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// A line of the trace.
    pub fn say(&mut self, line: impl FnOnce(&mut Self) -> String) {
        if self.dead {
            return;
        }
        let at = (self.now().0 - BEGIN.0) as f64 / 1e6;
        let line = format!("{at:12.6} {}", line(self));
        line.hash(&mut self.hash);
        if let Some(trace) = &mut self.trace {
            trace.push(line);
        }
    }

    pub fn trace_hash(&self) -> u64 {
        self.hash.finish()
    }

    pub fn break_store(&mut self, fault: StoreFault, for_ms: u64) {
        let until = self.now().after(Duration::from_millis(for_ms));
        self.store.insert(fault, until);
    }

    pub fn break_agent(&mut self, fault: AgentFault, for_ms: u64) {
        let until = self.now().after(Duration::from_millis(for_ms));
        self.agent.insert(fault, until);
    }

    /// How long a fault of the store lasts yet.
    pub fn store_fault(&self, fault: StoreFault) -> Option<Duration> {
        let until = self.store.get(&fault)?;
        (*until > self.now()).then(|| until.since(self.now()))
    }

    /// How long a fault of the agent lasts yet.
    pub fn agent_fault(&self, fault: AgentFault) -> Option<Duration> {
        let until = self.agent.get(&fault)?;
        (*until > self.now()).then(|| until.since(self.now()))
    }

    /// Everything works from now on.
    pub fn heal(&mut self) {
        self.store.clear();
        self.agent.clear();
        self.crash_after = None;
    }

    pub fn turn_begins(&mut self, marker: &str) -> usize {
        let begin = self.tick();
        let (life, marker) = (self.life(), marker.to_owned());
        self.say(|_| format!("turn of {marker} begins"));
        self.history.turns.push(Turn {
            life,
            marker,
            begin,
            end: None,
            costs: Vec::new(),
        });
        self.history.turns.len() - 1
    }

    pub fn turn_ends(&mut self, turn: usize, how: TurnEnd) {
        let tick = self.tick();
        let how = if self.dead { TurnEnd::Crashed } else { how };
        let marker = self.history.turns[turn].marker.clone();
        self.say(|_| format!("turn of {marker} ends: {how:?}"));
        self.history.turns[turn].end.get_or_insert((tick, how));
    }
}

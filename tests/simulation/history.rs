//! What happened: filled by the world, judged by the checker.

use std::collections::{BTreeMap, BTreeSet};

use claudepool::budget::{Entry, Funds};
use claudepool::id::TaskId;
use claudepool::store::LogEntry;
use claudepool::task::{Record, State};

#[derive(Clone, Debug, Default)]
pub struct History {
    /// How each pool ended, in order.
    pub lives: Vec<LifeEnd>,
    /// Every change of the store, in order.
    pub changes: Vec<Change>,
    /// Every turn of the agent.
    pub turns: Vec<Turn>,
    /// What watchers saw.
    pub views: Vec<View>,
    /// What calls answered: the place of the call, and its tasks.
    pub answers: Vec<(usize, Vec<TaskId>)>,
    /// Tasks whose cancel was accepted.
    pub cancelled: BTreeSet<TaskId>,
    /// Markers of tasks that were tried anew, asked for and answered.
    pub retried: BTreeMap<String, (u32, u32)>,
    /// States that waiting callers were told at the end.
    pub told: Vec<(TaskId, State)>,
    /// What went wrong while it ran, in words.
    pub wrong: Vec<String>,

    /// What the store holds at the end.
    pub tasks: Vec<Record>,
    pub logs: BTreeMap<TaskId, Vec<LogEntry>>,
    pub funds: Funds,
    /// Slots there are to be, and their states.
    pub slots: (u32, Vec<i32>),
    /// Processes that are alive after the end.
    pub processes_left: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifeEnd {
    Crashed,
    Drained,
}

#[derive(Clone, Debug)]
pub enum Change {
    /// When the budget was set, and to what.
    Limit(i64, Option<i64>),
    Task(Box<Step>),
}

/// One change of one task, as committed.
#[derive(Clone, Debug)]
pub struct Step {
    /// When it was made, in microseconds of simulated time.
    pub at: i64,
    /// When the pool asked for it.
    pub asked: i64,
    pub task: TaskId,
    pub from: Option<State>,
    pub to: State,
    pub rank: u8,
    pub ready: i64,
    pub chain: bool,
    pub conversation: bool,
    pub ledger: Vec<Entry>,
    /// Which claim it belongs to; `None`: a commit.
    pub claim: Option<usize>,
}

/// A turn of the agent. `begin` and `end` count what happened, over all turns.
#[derive(Clone, Debug)]
pub struct Turn {
    pub life: usize,
    pub marker: String,
    pub begin: u64,
    pub end: Option<(u64, TurnEnd)>,
    /// What it said that it cost, each time.
    pub costs: Vec<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnEnd {
    Succeeded,
    Failed,
    /// The process died by itself.
    Died,
    /// The pool ended the process.
    Ended,
    /// The server died.
    Crashed,
}

#[derive(Clone, Debug)]
pub struct View {
    pub task: TaskId,
    pub caller: u8,
    /// Entries it began after.
    pub after: u64,
    /// Entries after which it attaches again.
    pub reattach: u64,
    pub entries: Vec<LogEntry>,
    /// It was told that there is no more.
    pub over: bool,
}

/// What a task's prompt or tag calls it.
pub fn marker(record: &Record) -> String {
    let spec = record.spec.as_deref();
    let line = spec.map_or("", |spec| spec.prompt()).lines().next();
    match (record.task.tags.first(), line) {
        (Some(tag), _) => tag.clone(),
        (None, Some(line)) => line.to_owned(),
        (None, None) => String::new(),
    }
}

//! Judges a history. Pure: every rule is a function of what happened, and says
//! in words what is wrong.

mod logs;
mod money;
mod order;
mod turns;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use claudepool::id::TaskId;
use claudepool::pb::SlotState;
use claudepool::task::{Record, State};

use super::history::{History, marker};
use super::plan::{Call, Plan};

/// Everything that is wrong.
pub fn check(plan: &Plan, history: &History) -> Vec<String> {
    let facts = Facts::new(plan, history);
    let mut wrong = history.wrong.clone();
    fates(&facts, &mut wrong);
    requests(&facts, &mut wrong);
    slots(&facts, &mut wrong);
    logs::check(&facts, &mut wrong);
    money::check(&facts, &mut wrong);
    order::check(&facts, &mut wrong);
    turns::check(&facts, &mut wrong);
    wrong
}

/// What the rules look at.
struct Facts<'a> {
    plan: &'a Plan,
    history: &'a History,
    tasks: BTreeMap<TaskId, &'a Record>,
    /// By marker, the older one first.
    marked: BTreeMap<String, Vec<&'a Record>>,
}

impl<'a> Facts<'a> {
    fn new(plan: &'a Plan, history: &'a History) -> Self {
        let mut marked: BTreeMap<String, Vec<&Record>> = BTreeMap::new();
        for record in history.tasks.iter().rev() {
            marked.entry(marker(record)).or_default().push(record);
        }
        Self {
            plan,
            history,
            tasks: history.tasks.iter().map(|r| (r.task.id, r)).collect(),
            marked,
        }
    }

    fn name(&self, id: TaskId) -> String {
        match self.tasks.get(&id) {
            Some(record) => format!("task {}", marker(record)),
            None => format!("task {id}"),
        }
    }
}

/// A task that was answered is there, has ended, and ends once.
fn fates(facts: &Facts<'_>, wrong: &mut Vec<String>) {
    for (place, tasks) in &facts.history.answers {
        for task in tasks {
            if !facts.tasks.contains_key(task) {
                wrong.push(format!("call {place} was answered and its task is gone"));
            }
        }
    }
    for record in &facts.history.tasks {
        let task = &record.task;
        let name = facts.name(task.id);
        if !task.state.is_end() || task.end_time.is_none() {
            wrong.push(format!("{name} has not ended: {:?}", task.state));
        } else if record.result.is_none() {
            wrong.push(format!("{name} has ended without a result"));
        }
        if record.spec.is_none() {
            wrong.push(format!("{name} is not whole"));
        }
    }
    for task in &facts.history.cancelled {
        let state = facts.tasks.get(task).map(|record| record.task.state);
        if state != Some(State::Cancelled) {
            let name = facts.name(*task);
            wrong.push(format!(
                "{name}: its cancel was accepted and it is {state:?}"
            ));
        }
    }
    for (task, told) in &facts.history.told {
        let state = facts.tasks.get(task).map(|record| record.task.state);
        if state != Some(*told) {
            let name = facts.name(*task);
            wrong.push(format!("{name} was told to be {told:?} and is {state:?}"));
        }
    }
}

/// A call makes what it makes once, whole or not at all.
fn requests(facts: &Facts<'_>, wrong: &mut Vec<String>) {
    let mut answers: BTreeMap<usize, Vec<&Vec<TaskId>>> = BTreeMap::new();
    for (place, tasks) in &facts.history.answers {
        answers.entry(*place).or_default().push(tasks);
    }
    for (place, call) in facts.plan.calls.iter().enumerate() {
        let given = answers.remove(&place).unwrap_or_default();
        if given.windows(2).any(|two| two[0] != two[1]) {
            wrong.push(format!("call {place} was answered with different tasks"));
        }
        let made = made(facts, call);
        let whole = made.iter().all(|(_, times)| *times == made[0].1);
        let fits = match made[0].1 {
            Some(true) => true,
            Some(false) => given.is_empty(),
            None => false,
        };
        if !whole || !fits {
            let counts: Vec<_> = made.iter().map(|(count, _)| *count).collect();
            wrong.push(format!("call {place} made {counts:?} of its tasks"));
        }
    }
}

/// How many there are of each task of a call, and whether they were made once,
/// or never; `None`: in another way. Retries by hand are left out.
fn made(facts: &Facts<'_>, call: &Call) -> Vec<(usize, Option<bool>)> {
    let count = |marker: &str, of_one_call: usize| {
        let there = facts.marked.get(marker).map_or(0, Vec::len);
        let retried = facts.history.retried.get(marker).copied();
        let (asked, answered) = retried.unwrap_or_default();
        // A retry without an answer may have made one or not.
        let fits = |calls: usize| {
            let retries = answered as usize..=asked as usize;
            retries
                .map(|retry| calls * of_one_call + retry)
                .any(|sum| sum == there)
        };
        let times = match (fits(1), fits(0)) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        };
        (there, times)
    };
    // Chains that come together have one tag.
    let chains = call.kind.chains();
    let chain = chains
        .first()
        .map(|first| count(&first.marker, chains.len()));
    let jobs = call.kind.jobs().iter().map(|job| count(&job.marker, 1));
    jobs.chain(chain).collect()
}

/// As many slots as there are to be, each ready for work, and nothing besides.
fn slots(facts: &Facts<'_>, wrong: &mut Vec<String>) {
    let (target, states) = &facts.history.slots;
    let ready = |state: &i32| *state == SlotState::Idle as i32;
    if states.len() != *target as usize || !states.iter().all(ready) {
        let states: Vec<_> = states.iter().map(|s| SlotState::try_from(*s)).collect();
        wrong.push(format!("there are to be {target} slots: {states:?}"));
    }
    if facts.history.processes_left > 0 {
        let left = facts.history.processes_left;
        wrong.push(format!("{left} processes are alive after the end"));
    }
}

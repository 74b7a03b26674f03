//! Who is ready first is claimed first: by rank, ready time, age.

use std::collections::BTreeMap;

use claudepool::id::TaskId;
use claudepool::task::State;

use super::Facts;
use crate::history::{Change, Step};

/// How long a task may be in the queue, in microseconds, until a call that finds
/// a free slot knows of it.
const UNSEEN_MAX: i64 = 100_000;

struct Waiting {
    key: (u8, i64, TaskId),
    since: i64,
    /// Another rule decides when it may run.
    conversation: bool,
}

pub fn check(facts: &Facts<'_>, wrong: &mut Vec<String>) {
    let mut queue: BTreeMap<TaskId, Waiting> = BTreeMap::new();
    let mut limit = None;
    let mut changes = facts.history.changes.iter().peekable();
    while let Some(change) = changes.next() {
        let step = match change {
            Change::Limit(_, now) => {
                limit = *now;
                continue;
            }
            Change::Task(step) => step,
        };
        let mut taken: Vec<&Step> = Vec::new();
        if step.to == State::Running && !step.chain && step.from != Some(State::Running) {
            taken.push(step);
            while let Some(Change::Task(next)) = changes.peek()
                && step.claim.is_some()
                && next.claim == step.claim
            {
                taken.push(next);
                changes.next();
            }
            if limit.is_none() {
                passed(facts, &queue, &taken, wrong);
            }
        }
        for step in &taken {
            queue.remove(&step.task);
        }
        if taken.is_empty() && !step.chain {
            if step.to == State::Queued {
                let known = queue.get(&step.task).map(|waiting| waiting.since);
                let waiting = Waiting {
                    key: (step.rank, step.ready, step.task),
                    since: known.unwrap_or(step.at),
                    conversation: step.conversation,
                };
                queue.insert(step.task, waiting);
            } else {
                queue.remove(&step.task);
            }
        }
    }
}

fn passed(
    facts: &Facts<'_>,
    queue: &BTreeMap<TaskId, Waiting>,
    taken: &[&Step],
    wrong: &mut Vec<String>,
) {
    for step in taken {
        let key = (step.rank, step.ready, step.task);
        let before = queue.iter().filter(|(id, waiting)| {
            let fits = match step.claim {
                Some(_) => waiting.key.1 <= step.asked && waiting.key < key,
                None => waiting.key.1.max(waiting.since) + UNSEEN_MAX < step.asked,
            };
            fits && !waiting.conversation && !taken.iter().any(|other| other.task == **id)
        });
        for (other, _) in before {
            let (name, other) = (facts.name(step.task), facts.name(*other));
            wrong.push(format!("{name} went before {other}"));
        }
    }
}

//! A log is dense, tells a life that a task can have, ends once, and is the same
//! for whoever reads it.

use claudepool::event;
use claudepool::pb::event::Kind;
use claudepool::pb::{self, TaskState};
use claudepool::store::LogEntry;
use claudepool::task::{Record, State};

use super::Facts;
use crate::plan::{Op, StoreFault};

pub fn check(facts: &Facts<'_>, wrong: &mut Vec<String>) {
    for (task, log) in &facts.history.logs {
        let mut problem = |what: String| wrong.push(format!("{}: {what}", facts.name(*task)));
        if let Some(what) = sequence(log) {
            problem(what);
        } else if let Some(record) = facts.tasks.get(task)
            && let Err(what) = life(record, log)
        {
            problem(what);
        }
    }
    let loses = |op: &Op| matches!(op, Op::Store(StoreFault::Before | StoreFault::After, _));
    if !facts.plan.ops.iter().any(|(_, op)| loses(op)) {
        for (task, log) in &facts.history.logs {
            if !facts
                .tasks
                .get(task)
                .is_none_or(|record| is_told(record, log))
            {
                let name = facts.name(*task);
                wrong.push(format!(
                    "{name}: its log does not tell what its result says"
                ));
            }
        }
    }
    for view in &facts.history.views {
        let name = facts.name(view.task);
        let empty = Vec::new();
        let log = facts.history.logs.get(&view.task).unwrap_or(&empty);
        let expected: &[LogEntry] = log.get(view.after as usize..).unwrap_or_default();
        let seen = &view.entries[..];
        if !expected.starts_with(seen) {
            wrong.push(format!("{name}: a watcher saw another log"));
        } else if !view.over || seen.len() != expected.len() {
            let (seen, all) = (seen.len(), expected.len());
            wrong.push(format!(
                "{name}: a watcher was left waiting at {seen} of {all}"
            ));
        }
    }
}

fn sequence(log: &[LogEntry]) -> Option<String> {
    for (entry, number) in log.iter().zip(1..) {
        let inside = event::decode(&entry.bytes).map(|event| event.sequence);
        if entry.sequence != number || inside != Some(number) {
            return Some(format!("entry {number} has number {}", entry.sequence));
        }
    }
    None
}

fn life(record: &Record, log: &[LogEntry]) -> Result<(), String> {
    let mut state = None;
    let mut attempt = 0;
    for entry in log {
        let decoded = event::decode(&entry.bytes).and_then(|event| event.kind);
        let kind = decoded.ok_or("an entry cannot be read")?;
        let at = entry.sequence;
        state = match (state, &kind) {
            (None, Kind::Queued(_)) => Some(State::Queued),
            (Some(State::Queued), Kind::Started(started)) => {
                attempt += 1;
                if started.attempt != attempt {
                    return Err(format!(
                        "attempt {} began after {}",
                        started.attempt,
                        attempt - 1
                    ));
                }
                Some(State::Running)
            }
            (Some(State::Queued | State::Running), Kind::Cancelling(_))
                if record.task.is_chain() || state == Some(State::Running) =>
            {
                Some(State::Cancelling)
            }
            (Some(State::Running), Kind::Requeued(_)) => Some(State::Queued),
            (Some(State::Queued), Kind::StepStarted(_)) if record.task.is_chain() => {
                Some(State::Running)
            }
            (Some(now), Kind::StepStarted(_) | Kind::StepFinished(_))
                if record.task.is_chain() && !now.is_end() =>
            {
                state
            }
            (Some(now), Kind::Finished(finished)) if !now.is_end() => {
                Some(end(record, now, finished)?)
            }
            (Some(State::Running | State::Cancelling), _) if said(&kind) => state,
            (now, kind) => return Err(format!("entry {at} in state {now:?}: {kind:?}")),
        };
    }
    if state != Some(record.task.state) {
        return Err(format!(
            "its log ends {state:?}, it is {:?}",
            record.task.state
        ));
    }
    if !record.task.is_chain() && i64::from(record.task.attempt) != i64::from(attempt) {
        return Err(format!(
            "its log tells of {attempt} attempts, it of {}",
            record.task.attempt
        ));
    }
    if record.task.last_sequence != log.len() as u64 {
        return Err("the number of its last entry is another".to_owned());
    }
    Ok(())
}

fn end(record: &Record, before: State, finished: &pb::Finished) -> Result<State, String> {
    let state = State::ALL
        .into_iter()
        .find(|state| state.to_proto() as i32 == finished.state)
        .filter(|state| state.is_end())
        .ok_or("it finished in no end state")?;
    if before == State::Cancelling && state != State::Cancelled {
        return Err(format!("it was cancelling and finished {state:?}"));
    }
    if finished.result.as_ref() != record.result.as_deref() {
        return Err("its result is not the one that its log tells".to_owned());
    }
    let success = record.result.as_ref().is_some_and(|result| result.success);
    if success != (finished.state == TaskState::Succeeded as i32) {
        return Err(format!(
            "it is {state:?} and its result says success: {success}"
        ));
    }
    Ok(state)
}

/// Whether the text of the last attempt is what the result says.
fn is_told(record: &Record, log: &[LogEntry]) -> bool {
    if record.task.state != State::Succeeded || record.task.is_chain() {
        return true;
    }
    let mut text = String::new();
    for entry in log {
        match event::decode(&entry.bytes).and_then(|event| event.kind) {
            Some(Kind::Started(_)) => text.clear(),
            Some(Kind::TextDelta(delta)) => text.push_str(&delta.text),
            _ => {}
        }
    }
    record
        .result
        .as_ref()
        .is_some_and(|result| result.output == text)
}

/// Whether an attempt may say it.
fn said(kind: &Kind) -> bool {
    !matches!(
        kind,
        Kind::Queued(_)
            | Kind::Started(_)
            | Kind::Requeued(_)
            | Kind::Cancelling(_)
            | Kind::Finished(_)
            | Kind::StepStarted(_)
            | Kind::StepFinished(_)
    )
}

//! What the agent itself has seen: a task runs once at a time, and not again
//! once it has succeeded.

use std::collections::BTreeMap;

use super::Facts;
use crate::history::{LifeEnd, Turn, TurnEnd};
use crate::plan::Chain;
use crate::specs::step_marker;

pub fn check(facts: &Facts<'_>, wrong: &mut Vec<String>) {
    let mut turns: BTreeMap<&str, Vec<&Turn>> = BTreeMap::new();
    for turn in &facts.history.turns {
        turns.entry(&turn.marker).or_default().push(turn);
    }
    for (marker, turns) in &turns {
        let retried = facts.history.retried.get(facts.plan.tag(marker));
        // Tried anew twice, it may well run twice at a time.
        if retried.is_none_or(|(asked, _)| *asked < 2) && overlaps(turns) {
            wrong.push(format!("task {marker} ran twice at a time"));
        }
        again(facts, marker, turns, wrong);
    }
    conversations(facts, wrong);
    for call in &facts.plan.calls {
        let chains = call.kind.chains();
        let first = chains.first().map_or("", |chain| &chain.marker);
        if !facts.history.retried.contains_key(first) {
            for chain in chains {
                steps(chain, &turns, wrong);
            }
        }
    }
}

fn end(turn: &Turn) -> u64 {
    turn.end.map_or(u64::MAX, |(end, _)| end)
}

fn succeeded(turn: &Turn) -> bool {
    turn.end.is_some_and(|(_, how)| how == TurnEnd::Succeeded)
}

/// In order of their begin.
fn overlaps(turns: &[&Turn]) -> bool {
    turns.windows(2).any(|two| end(two[0]) > two[1].begin)
}

/// A success is final, unless the server died before it was noted.
fn again(facts: &Facts<'_>, marker: &str, turns: &[&Turn], wrong: &mut Vec<String>) {
    let kept = |turn: &&&Turn| {
        succeeded(turn) && facts.history.lives.get(turn.life) != Some(&LifeEnd::Crashed)
    };
    let Some(first) = turns.iter().find(kept) else {
        return;
    };
    let tasks = facts.marked.get(marker).map_or(0, Vec::len);
    if tasks == 0 {
        wrong.push(format!("task {marker} ran and is not there"));
    } else if turns.iter().filter(kept).count() > tasks {
        wrong.push(format!("task {marker} succeeded more often than it exists"));
    } else if tasks == 1 && turns.iter().any(|turn| turn.begin > first.begin) {
        wrong.push(format!("task {marker} ran again after its success"));
    }
}

/// One task of a conversation runs at a time.
fn conversations(facts: &Facts<'_>, wrong: &mut Vec<String>) {
    let mut turns: BTreeMap<(u8, String), Vec<&Turn>> = BTreeMap::new();
    for turn in &facts.history.turns {
        if let Some(conversation) = facts.plan.conversation(&turn.marker) {
            turns.entry(conversation).or_default().push(turn);
        }
    }
    for ((caller, key), turns) in turns {
        if overlaps(&turns) {
            wrong.push(format!(
                "conversation {key} of caller {caller} went on twice at a time"
            ));
        }
    }
}

/// A step begins after the one before has succeeded, and after nothing else.
fn steps(chain: &Chain, turns: &BTreeMap<&str, Vec<&Turn>>, wrong: &mut Vec<String>) {
    let of = |place: usize, rescue: bool| {
        let marker = step_marker(&chain.marker, place, rescue);
        turns.get(&*marker).cloned().unwrap_or_default()
    };
    let step = |place: usize| -> Vec<&Turn> { [of(place, false), of(place, true)].concat() };
    for place in 1..chain.steps.len() {
        let before = step(place - 1);
        let ready = |turn: &Turn| {
            before.iter().any(|b| succeeded(b) && end(b) < turn.begin)
                && before.iter().all(|b| end(b) < turn.begin)
        };
        if !step(place).iter().all(|turn| ready(turn)) {
            let marker = &chain.marker;
            wrong.push(format!(
                "chain {marker}: step {place} did not wait for the one before"
            ));
        }
    }
}

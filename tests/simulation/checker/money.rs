//! Every microdollar that was spent is in the ledger once, nothing stays
//! reserved, and no reservation passes the budget.

use std::collections::BTreeMap;

use claudepool::budget::Entry;
use claudepool::id::TaskId;
use claudepool::task::State;

use super::Facts;
use crate::history::{Change, LifeEnd, Turn};

#[derive(Default)]
struct Account {
    reserved: i64,
    settled: i64,
    settlements: u32,
    attempts: u32,
}

pub fn check(facts: &Facts<'_>, wrong: &mut Vec<String>) {
    let accounts = ledger(facts, wrong);
    let (mut spent, mut reserved) = (0, 0);
    for (task, account) in &accounts {
        let name = facts.name(*task);
        spent += account.settled;
        reserved += account.reserved;
        if account.reserved != 0 {
            wrong.push(format!("{name} keeps {} reserved", account.reserved));
        }
        if account.settlements != account.attempts {
            let (settled, began) = (account.settlements, account.attempts);
            wrong.push(format!(
                "{name}: {began} attempts were settled {settled} times"
            ));
        }
        if let Some(record) = facts.tasks.get(task)
            && (record.task.cost.0 != account.settled || record.task.reserved.0 != 0)
        {
            let cost = record.task.cost.0;
            wrong.push(format!(
                "{name} cost {cost}, its ledger says {}",
                account.settled
            ));
        }
    }
    let funds = facts.history.funds;
    if (funds.spent.0, funds.reserved.0) != (spent, reserved) {
        wrong.push(format!(
            "the pool shows {funds:?}, its ledger says {spent} and {reserved}"
        ));
    }
    told(facts, wrong);
}

/// Replays the ledger.
fn ledger(facts: &Facts<'_>, wrong: &mut Vec<String>) -> BTreeMap<TaskId, Account> {
    let mut accounts: BTreeMap<TaskId, Account> = BTreeMap::new();
    let (mut limit, mut spent, mut reserved) = (None, 0, 0);
    for change in &facts.history.changes {
        let step = match change {
            Change::Limit(at, now) => {
                limit = now.map(|now| (*at, now));
                continue;
            }
            Change::Task(step) => step,
        };
        let account = accounts.entry(step.task).or_default();
        if step.to == State::Running && step.from != Some(State::Running) && !step.chain {
            account.attempts += 1;
        }
        for entry in &step.ledger {
            match entry {
                Entry::Reserve(amount) => {
                    account.reserved += amount.0;
                    reserved += amount.0;
                    // A claim that was under way when the budget was set was
                    // asked under the one before.
                    let passes = |(set, limit)| step.asked > set && spent + reserved > limit;
                    if limit.is_some_and(passes) {
                        let name = facts.name(step.task);
                        wrong.push(format!("{name}: its reservation passes the budget"));
                    }
                }
                Entry::Settle {
                    reserved: released,
                    cost,
                    ..
                } => {
                    account.reserved -= released.0;
                    account.settled += cost.0;
                    account.settlements += 1;
                    reserved -= released.0;
                    spent += cost.0;
                }
            }
        }
    }
    accounts
}

/// What the agent said that its turns cost is what was settled; less only where
/// the server died before it was told.
fn told(facts: &Facts<'_>, wrong: &mut Vec<String>) {
    let mut turns: BTreeMap<&str, Vec<&Turn>> = BTreeMap::new();
    for turn in &facts.history.turns {
        turns.entry(&turn.marker).or_default().push(turn);
    }
    let crashed = |turn: &Turn| facts.history.lives.get(turn.life) == Some(&LifeEnd::Crashed);
    let last = |turn: &Turn| turn.costs.iter().max().copied().unwrap_or(0);
    for (marker, turns) in turns {
        let Some(records) = facts.marked.get(marker) else {
            continue;
        };
        let said: i64 = turns.iter().map(|turn| last(turn)).sum();
        let settled: i64 = records.iter().map(|record| record.task.cost.0).sum();
        let may_miss = turns.iter().any(|turn| crashed(turn));
        if settled > said || (settled < said && !may_miss) {
            wrong.push(format!(
                "task {marker}: its turns cost {said}, {settled} was settled"
            ));
        }
        let [record] = &records[..] else { continue };
        let mut before = 0;
        for turn in &turns {
            let mut costs = turn.costs.clone();
            costs.dedup();
            let known = costs.len().checked_sub(2).map_or(0, |at| costs[at]);
            if !may_miss && before + known > record.task.budget.0 {
                wrong.push(format!("task {marker} went on above its budget"));
            }
            before += last(turn);
        }
    }
}

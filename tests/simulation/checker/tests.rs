//! A history without fault passes; each fault in it is found.

use claudepool::budget::Entry;
use claudepool::event;
use claudepool::id::TaskId;
use claudepool::money::Microdollars;
use claudepool::pb;
use claudepool::task::State;

use super::check;
use crate::history::{Change, History, Step, TurnEnd, marker};
use crate::plan::{Call, Chain, Job, Kind, Op, Plan, Step as ChainStep};
use crate::world::{On, run};

fn job(marker: &str, conversation: Option<&str>) -> Job {
    Job {
        marker: marker.to_owned(),
        script: vec![
            "wait 100".to_owned(),
            "cost 30".to_owned(),
            "cost 70".to_owned(),
        ],
        conversation: conversation.map(str::to_owned),
        new_process: false,
        recovery: pb::RecoveryPolicy::Restart,
        budget: Some(500),
        queue_timeout: None,
        run_timeout: None,
    }
}

/// One slot; a task, a fan-out of two in one conversation, a chain of two steps,
/// and a watcher of the task.
fn plan() -> Plan {
    let step = || ChainStep {
        script: vec!["wait 100".to_owned()],
        retries: 0,
        rescue: None,
    };
    let chain = Chain {
        marker: "c4".to_owned(),
        recovery: pb::RecoveryPolicy::Restart,
        steps: vec![step(), step()],
    };
    let fan_out = vec![job("t2", Some("red")), job("t3", Some("red"))];
    let kinds = [
        Kind::Submit(job("t1", None)),
        Kind::FanOut(fan_out, None),
        Kind::Chain(chain),
    ];
    let calls = kinds.map(|kind| Call {
        request: None,
        caller: 0,
        kind,
    });
    Plan {
        seed: 0,
        slots: 1,
        spares: 0,
        slow_percent: 0,
        calls: calls.to_vec(),
        ops: vec![
            (10, Op::Call(0)),
            (10, Op::Watch(0, 1, 99)),
            (10, Op::Call(1)),
            (10, Op::Call(2)),
        ],
    }
}

/// What is wrong with a good history after one fault was put into it.
fn judged(fault: impl FnOnce(&mut History)) -> Vec<String> {
    let mut history = run(plan(), On::Memory, false).history;
    fault(&mut history);
    check(&plan(), &history)
}

fn refused(why: &str, fault: impl FnOnce(&mut History)) {
    let wrong = judged(fault);
    assert!(
        wrong.iter().any(|what| what.contains(why)),
        "{why}: {wrong:#?}"
    );
}

fn id(history: &History, of: &str) -> TaskId {
    let found = history.tasks.iter().find(|record| marker(record) == of);
    found.expect("it is there").task.id
}

fn row<'a>(history: &'a mut History, of: &str) -> &'a mut claudepool::task::Task {
    let found = history.tasks.iter_mut().find(|record| marker(record) == of);
    &mut found.expect("it is there").task
}

fn changes(history: &mut History, of: TaskId) -> impl Iterator<Item = &mut Step> {
    history
        .changes
        .iter_mut()
        .filter_map(move |change| match change {
            Change::Task(step) if step.task == of => Some(&mut **step),
            Change::Task(_) | Change::Limit(..) => None,
        })
}

fn turn<'a>(history: &'a mut History, of: &str) -> &'a mut crate::history::Turn {
    let found = history.turns.iter_mut().find(|turn| turn.marker == of);
    found.expect("it ran")
}

#[test]
fn a_history_without_fault_passes() {
    assert_eq!(judged(|_| ()), Vec::<String>::new());
}

#[test]
fn a_task_that_vanished_is_found() {
    refused("its task is gone", |history| {
        history.tasks.retain(|record| marker(record) != "t1");
    });
}

#[test]
fn a_task_that_did_not_end_is_found() {
    refused("has not ended", |history| {
        row(history, "t1").end_time = None
    });
}

#[test]
fn a_cancel_that_was_overwritten_is_found() {
    refused("its cancel was accepted", |history| {
        history.cancelled.insert(id(history, "t1"));
    });
}

#[test]
fn a_caller_who_was_told_another_end_is_found() {
    refused("was told to be", |history| {
        history.told.push((id(history, "t1"), State::Failed));
    });
}

#[test]
fn a_request_with_two_answers_is_found() {
    refused("different tasks", |history| {
        history.answers.push((0, vec![id(history, "t2")]));
    });
}

#[test]
fn a_request_that_ran_twice_is_found() {
    refused("call 0 made [2]", |history| {
        let found = history.tasks.iter().find(|record| marker(record) == "t1");
        let mut copy = found.expect("there").clone();
        copy.task.id = TaskId::new();
        history.tasks.push(copy);
    });
}

#[test]
fn half_a_fan_out_is_found() {
    refused("call 1 made [1, 0]", |history| {
        history.tasks.retain(|record| marker(record) != "t3");
    });
}

#[test]
fn a_lost_slot_a_stuck_one_and_a_process_left_are_found() {
    refused("there are to be 1 slots", |history| history.slots.1.clear());
    refused("there are to be 1 slots", |history| {
        history.slots.1 = vec![pb::SlotState::Busy as i32];
    });
    refused("alive after the end", |history| history.processes_left = 1);
}

#[test]
fn a_gap_in_a_log_is_found() {
    refused("has number", |history| {
        let id = id(history, "t1");
        history.logs.get_mut(&id).expect("there").remove(1);
    });
}

#[test]
fn a_second_end_in_a_log_is_found() {
    refused("in state Some(Succeeded)", |history| {
        let (id, number) = (id(history, "t1"), row(history, "t1").last_sequence + 1);
        let log = history.logs.get_mut(&id).expect("there");
        let last = log.last().expect("an end").clone();
        let kind = event::decode(&last.bytes).and_then(|event| event.kind);
        let bytes = event::encode(number, Default::default(), kind.expect("whole"));
        log.push(claudepool::store::LogEntry {
            sequence: number,
            bytes,
        });
    });
}

#[test]
fn a_log_that_tells_of_another_life_is_found() {
    refused("its log ends", |history| {
        row(history, "t1").state = State::Failed
    });
    refused("its log tells of", |history| row(history, "t1").attempt = 2);
    refused("not the one that its log tells", |history| {
        let found = history
            .tasks
            .iter_mut()
            .find(|record| marker(record) == "t1");
        found.expect("there").result = Some(Default::default());
    });
}

#[test]
fn a_lost_piece_of_an_answer_is_found() {
    refused("does not tell what its result says", |history| {
        let id = id(history, "t1");
        let log = history.logs.get_mut(&id).expect("there");
        for entry in log {
            let event = event::decode(&entry.bytes).expect("whole");
            if let Some(pb::event::Kind::TextDelta(_)) = event.kind {
                let kind = pb::event::Kind::TextDelta(pb::TextDelta::default());
                entry.bytes = event::encode(entry.sequence, Default::default(), kind);
            }
        }
    });
}

#[test]
fn a_watcher_who_saw_something_else_or_waits_for_ever_is_found() {
    refused("saw another log", |history| {
        history.views[0].entries.remove(0);
    });
    refused("left waiting", |history| {
        history.views[0].entries.pop();
    });
    refused("left waiting", |history| history.views[0].over = false);
}

#[test]
fn a_settlement_made_twice_is_found() {
    refused("settled 2 times", |history| {
        let id = id(history, "t1");
        let last = changes(history, id).last().expect("its end");
        last.ledger.push(last.ledger[0]);
    });
}

#[test]
fn a_reservation_that_was_not_released_is_found() {
    refused("reserved", |history| {
        let id = id(history, "t1");
        for step in changes(history, id) {
            step.ledger
                .retain(|entry| matches!(entry, Entry::Reserve(_)));
        }
    });
    refused("the pool shows", |history| {
        history.funds.reserved = Microdollars(1)
    });
}

#[test]
fn a_reservation_above_the_budget_is_found() {
    refused("passes the budget", |history| {
        history.changes.insert(0, Change::Limit(0, Some(499)));
    });
}

#[test]
fn money_that_was_spent_and_not_booked_is_found() {
    refused("its turns cost 71", |history| {
        turn(history, "t1").costs.push(71)
    });
    refused("the pool shows", |history| {
        history.funds.spent = Microdollars(1)
    });
}

#[test]
fn a_turn_that_went_on_above_its_budget_is_found() {
    refused("above its budget", |history| {
        turn(history, "t1").costs = vec![501, 502];
    });
}

#[test]
fn a_task_that_went_before_an_older_one_is_found() {
    refused("went before task t2", |history| {
        let (early, late) = (id(history, "t2"), id(history, "c4s0"));
        for step in changes(history, early) {
            step.conversation = false;
        }
        let claim_of = |of: TaskId, history: &History| {
            let is = |change: &Change| matches!(change, Change::Task(step) if step.task == of && step.to == State::Running);
            history.changes.iter().position(is).expect("claimed")
        };
        let (early, late) = (claim_of(early, history), claim_of(late, history));
        history.changes.swap(early, late);
    });
}

#[test]
fn a_task_that_ran_twice_at_a_time_is_found() {
    refused("ran twice at a time", |history| {
        let copy = turn(history, "t1").clone();
        let at = history.turns.iter().position(|turn| turn.marker == "t1");
        history.turns.insert(at.expect("it ran") + 1, copy);
    });
}

#[test]
fn a_task_that_ran_again_after_its_success_is_found() {
    refused("more often than it exists", |history| {
        let mut copy = turn(history, "t1").clone();
        (copy.begin, copy.end) = (1_000, Some((1_001, TurnEnd::Succeeded)));
        history.turns.push(copy);
    });
    refused("ran again after its success", |history| {
        let mut copy = turn(history, "t1").clone();
        (copy.begin, copy.end) = (1_000, Some((1_001, TurnEnd::Failed)));
        history.turns.push(copy);
    });
}

#[test]
fn a_conversation_that_went_on_twice_at_a_time_is_found() {
    refused("conversation red", |history| {
        turn(history, "t2").end = Some((1_000, TurnEnd::Succeeded));
    });
}

#[test]
fn a_step_that_did_not_wait_is_found() {
    refused("step 1 did not wait", |history| {
        turn(history, "c4s0").end = Some((1_000, TurnEnd::Succeeded));
    });
}

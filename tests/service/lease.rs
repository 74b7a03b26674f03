//! A server that stands still is no server: its processes end by themselves,
//! and when it goes on, each task meets its recovery policy.

use std::os::fd::OwnedFd;
use std::time::Duration;

use claudepool::agent::conformance::{Roll, ends, has_ended};
use claudepool::pb::event::Kind;
use claudepool::pb::{self, FailureReason, RecoveryPolicy, RequeueReason, TaskState};
use rustix::process::Signal;

use crate::support::{Caller, Program, Serving, events, finished, next_event, prompt};

/// Longest life of a tree whose server stands still: the lease, and what a
/// loaded machine takes to end it.
const LIFE_MAX: Duration = Duration::from_secs(20);

/// A task that notes each of its attempts in a file, leaves a process in a
/// session of its own, and goes on for ever.
fn noted(roll: &Roll, recovery: RecoveryPolicy) -> pb::TaskSpec {
    let teller = roll.teller();
    pb::TaskSpec {
        recovery: recovery as i32,
        ..prompt(format!(
            "::bash echo attempt >> attempts; setsid {teller} & {teller}"
        ))
    }
}

fn attempts(program: &Program) -> usize {
    let noted = std::fs::read_to_string(program.working_dir().join("attempts"));
    noted.unwrap().lines().count()
}

/// Stops the server until the tree of its task is gone.
async fn stand_still(server: &Serving, tree: Vec<OwnedFd>) {
    server.signal(Signal::STOP);
    for process in tree {
        assert!(ends(process, LIFE_MAX).await, "it outlives its lease");
    }
    server.signal(Signal::CONT);
}

async fn serves(caller: &mut Caller) {
    let answer = caller.finish(caller.say("and goes on")).await;
    assert_eq!(answer.result.unwrap().output, "and goes on");
}

/// How often a log tells that an attempt started.
fn starts(log: &[pb::Event]) -> usize {
    let started = |event: &&pb::Event| matches!(event.kind, Some(Kind::Started(_)));
    log.iter().filter(started).count()
}

fn requeued(event: &pb::Event) -> Option<&pb::Requeued> {
    match &event.kind {
        Some(Kind::Requeued(requeued)) => Some(requeued),
        _ => None,
    }
}

#[tokio::test]
async fn a_task_that_may_not_run_again_fails_when_its_server_stood_still() {
    let program = Program::with("process_lease = '1s'").await;
    let mut server = program.serve().await;
    let mut roll = Roll::open(&program.working_dir());
    let caller = &mut server.caller;
    let id = caller.submit(noted(&roll, RecoveryPolicy::Fail)).await;
    let tree = roll.next(2).await;

    stand_still(&server, tree).await;

    let caller = &mut server.caller;
    let failure = caller.result(&id).await.result.unwrap().failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::Interrupted);
    assert_eq!(starts(&events(caller.watch(&id, 0).await).await), 1);
    assert_eq!(attempts(&program), 1);
    serves(caller).await;
}

#[tokio::test]
async fn a_task_that_may_run_again_says_so_before_it_does() {
    let program = Program::with("process_lease = '1s'").await;
    let mut server = program.serve().await;
    let mut roll = Roll::open(&program.working_dir());
    let caller = &mut server.caller;
    let id = caller.submit(noted(&roll, RecoveryPolicy::Restart)).await;
    let tree = roll.next(2).await;
    let mut log = caller.watch(&id, 0).await;

    stand_still(&server, tree).await;
    let again = roll.next(2).await;

    let mut seen = Vec::new();
    while starts(&seen) < 2 {
        seen.push(next_event(&mut log).await.expect("it goes on"));
    }
    let back: Vec<_> = seen.iter().filter_map(requeued).collect();
    assert_eq!(back.len(), 1);
    assert_eq!(back[0].reason(), RequeueReason::Interrupted);
    assert_eq!(attempts(&program), 2);
    let caller = &mut server.caller;
    caller.cancel(&id).await;
    let log = events(caller.watch(&id, 0).await).await;
    assert_eq!(finished(&log).state(), TaskState::Cancelled);
    assert!(again.iter().all(has_ended));
    serves(caller).await;
}

#[tokio::test]
async fn a_task_that_resumes_goes_on_with_its_session() {
    let program = Program::with("process_lease = '1s'").await;
    let mut server = program.serve().await;
    let mut roll = Roll::open(&program.working_dir());
    let caller = &mut server.caller;
    let id = caller.submit(noted(&roll, RecoveryPolicy::Resume)).await;
    let tree = roll.next(2).await;

    stand_still(&server, tree).await;

    // The note that it was interrupted asks for nothing of the first prompt.
    let caller = &mut server.caller;
    let answer = caller.result(&id).await;
    let log = events(caller.watch(&id, 0).await).await;
    assert_eq!(answer.task.unwrap().state(), TaskState::Succeeded);
    assert_eq!((starts(&log), attempts(&program)), (2, 1));
    serves(caller).await;
}

#[tokio::test]
async fn a_server_that_stands_still_for_less_than_the_lease_loses_nothing() {
    let program = Program::with("process_lease = '1h'").await;
    let mut server = program.serve().await;
    let mut roll = Roll::open(&program.working_dir());
    let caller = &mut server.caller;
    let id = caller.submit(noted(&roll, RecoveryPolicy::Restart)).await;
    let tree = roll.next(2).await;

    server.signal(Signal::STOP);
    server.signal(Signal::CONT);

    let caller = &mut server.caller;
    serves_others_after_cancel(caller, &id).await;
    assert!(tree.iter().all(has_ended));
    assert_eq!(attempts(&program), 1);
}

async fn serves_others_after_cancel(caller: &mut Caller, id: &str) {
    assert_eq!(caller.task(id).await.state(), TaskState::Running);
    caller.cancel(id).await;
    let log = events(caller.watch(id, 0).await).await;
    assert_eq!(starts(&log), 1);
    serves(caller).await;
}

/// The lock of the store's file proves that the earlier server is dead.
#[tokio::test]
async fn the_lease_of_a_dead_server_is_not_waited_for() {
    let program = Program::with("process_lease = '1h'").await;
    let mut server = program.serve().await;
    let mut roll = Roll::open(&program.working_dir());
    let caller = &mut server.caller;
    let id = caller.submit(noted(&roll, RecoveryPolicy::Fail)).await;
    let tree = roll.next(2).await;

    server.kill().await;
    let mut server = program.serve().await;

    assert!(tree.iter().all(has_ended), "nothing serves before that");
    let failure = server.caller.result(&id).await.result.unwrap().failure;
    assert_eq!(failure.unwrap().reason(), FailureReason::Interrupted);
    serves(&mut server.caller).await;
}

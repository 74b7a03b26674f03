//! The failure table, one test per row: what happens, what the caller sees, what
//! the pool does. `docs/failures.md` has the table.

use std::sync::Arc;
use std::time::Duration;

use claudepool::agent::conformance::{Roll, ends, has_ended};
use claudepool::pb::event::Kind;
use claudepool::pb::{self, FailureReason, RequeueReason, TaskState};
use claudepool::pool::Options;
use claudepool::store::faulty::Faulty;
use claudepool::store::memory::Memory;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tonic::{Code, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_types::StatusExt;

use super::faults::{fails, one_slot, serves, stalls, succeeds_and_is_replaced};
use crate::support::{
    Caller, Harness, PATIENCE, Program, Running, events, finished, next, next_event, prompt,
    refused, request_id,
};

/// The next event of a task's log of this kind.
async fn until(server: &mut Caller, id: &str, fits: impl Fn(&Kind) -> bool) -> Kind {
    let mut log = server.watch(id, 0).await;
    loop {
        let event = next_event(&mut log).await.expect("it comes first");
        if let Some(kind) = event.kind.filter(&fits) {
            return kind;
        }
    }
}

async fn one(set: impl FnOnce(&mut Options)) -> Running {
    let set = |o: &mut Options| {
        o.slots = 1;
        o.spares = 0;
        set(o);
    };
    Harness::with_processes().options(set).start().await
}

/// Kills the CLI of the only slot, whose attempt has begun its turn.
async fn kill_cli(server: &mut Running) {
    let pid = server.status().await.slots[0].pid.and_then(Pid::from_raw);
    let cli = pidfd_open(pid.unwrap(), PidfdFlags::empty()).unwrap();
    kill_process(pid.unwrap(), Signal::KILL).unwrap();
    assert!(ends(cli, PATIENCE).await);
}

#[tokio::test]
async fn cli_is_killed_mid_turn() {
    let mut server = one(|_| {}).await;
    let task = server.hang("x");
    let id = server.submit(task).await;
    server.said(&id).await;

    kill_cli(&mut server).await;

    let retried = |kind: &Kind| matches!(kind, Kind::Requeued(_));
    let Kind::Requeued(again) = until(&mut server, &id, retried).await else {
        panic!("as asked");
    };
    assert_eq!(again.reason(), RequeueReason::Retry);
    assert_eq!(again.failure_reason(), FailureReason::ProcessDied);
    // A second time in a row is no bad luck.
    let mut log = server.watch(&id, 0).await;
    let mut said = 0;
    while said < 2 {
        let event = next_event(&mut log).await.expect("it goes on").kind;
        said += usize::from(matches!(event, Some(Kind::TextDelta(_))));
    }
    kill_cli(&mut server).await;
    let failure = server.result(&id).await.result.unwrap().failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::ProcessDied);
    assert_eq!(failure.exit_code, Some(137));
    serves(&mut server).await;
}

#[tokio::test]
async fn cli_exits_mid_turn() {
    let script = "::stderr 10000\n::exit 3";
    let failure = fails(one_slot(|_| {}), script, FailureReason::ProcessDied).await;
    assert_eq!(failure.exit_code, Some(3));
    assert!((1..=4096).contains(&failure.stderr_tail.len()));
}

#[tokio::test]
async fn cli_hangs_with_no_event() {
    fails(stalls(|_| {}), "::hang", FailureReason::Stalled).await;
}

#[tokio::test]
async fn garbage_on_stdout_and_a_megabyte_on_stderr() {
    let unaffected = "::bad-utf8\n::unknown-type\n::big-line 20000000\n::stderr 1000000\n::echo x";
    succeeds_and_is_replaced(one_slot(|_| {}), unaffected).await;
    let broken = "::garbage\n::echo x";
    fails(one_slot(|_| {}), broken, FailureReason::Protocol).await;
}

/// That it probes and goes on is seen in paused time, by
/// `a_rate_limit_holds_the_pool_burns_nothing_and_one_goes_ahead`.
#[tokio::test]
async fn usage_limit_as_success_with_exit_0() {
    let mut server = one(|_| {}).await;
    let limited = server.submit(prompt("::limit")).await;

    let retried = |kind: &Kind| matches!(kind, Kind::Requeued(_));
    let Kind::Requeued(again) = until(&mut server, &limited, retried).await else {
        panic!("as asked");
    };

    assert_eq!(again.reason(), RequeueReason::RateLimited);
    let status = server.status().await;
    assert!(status.hold.is_some(), "the status says so: {status:?}");
    let task = server.say("waits");
    let other = server.submit(task).await;
    for id in [limited, other] {
        assert_eq!(server.task(&id).await.state(), TaskState::Queued);
        server.cancel(&id).await;
    }
}

#[tokio::test]
async fn client_disconnects_from_run() {
    let mut server = one(|o| {
        o.reattach_grace = Duration::from_millis(100);
        o.settings.allowed_tools = vec!["Bash".into()];
    })
    .await;
    let mut roll = Roll::open(server.working_dir());
    let teller = roll.teller();
    for id in [String::new(), request_id()] {
        let request = pb::RunStreamRequest {
            task: Some(prompt(format!("::bash setsid {teller} & {teller}"))),
            request_id: id,
            ..Default::default()
        };
        let stream = server.work.run_stream(request).await.unwrap();
        let mut stream = stream.into_inner();
        let first = next(&mut stream).await.unwrap().unwrap().item;
        let Some(pb::run_stream_response::Item::Accepted(accepted)) = first else {
            panic!("the id comes first");
        };
        let tree = roll.next(2).await;

        drop(stream);

        let log = events(server.watch(&accepted.task_id, 0).await).await;
        assert_eq!(finished(&log).state(), TaskState::Cancelled);
        assert!(tree.iter().all(has_ended));
    }
    serves(&mut server).await;
}

#[tokio::test]
async fn client_disconnects_from_watch() {
    let mut server = one(|_| {}).await;
    let task = server.slow("x", Duration::from_millis(500));
    let id = server.submit(task).await;
    let mut log = server.watch(&id, 0).await;
    next_event(&mut log).await.unwrap();

    drop(log);

    let answer = server.result(&id).await;
    assert_eq!(answer.task.unwrap().state(), TaskState::Succeeded);
}

#[tokio::test]
async fn server_is_killed_9() {
    let program = Program::new().await;
    let mut roll = Roll::open(&program.working_dir());
    let mut server = program.serve().await;
    let caller = &mut server.caller;
    let done = caller.finish(caller.paid("x")).await.task.unwrap();
    let done = caller.task(&done.task_id).await;
    let log = events(caller.watch(&done.task_id, 0).await).await;
    let running = caller
        .submit(pb::TaskSpec {
            recovery: pb::RecoveryPolicy::Fail as i32,
            ..prompt(format!(
                "::bash setsid {} & {}",
                roll.teller(),
                roll.teller()
            ))
        })
        .await;
    let tree = roll.next(2).await;
    let queued = caller.submit(caller.say("still there")).await;
    let spent = caller.status().await.spent_microdollars;

    server.kill().await;
    let mut server = program.serve().await;

    assert!(tree.iter().all(has_ended), "nothing is served before that");
    let caller = &mut server.caller;
    assert_eq!(caller.task(&done.task_id).await, done);
    assert_eq!(events(caller.watch(&done.task_id, 0).await).await, log);
    let failure = caller.result(&running).await.result.unwrap().failure;
    assert_eq!(failure.unwrap().reason(), FailureReason::Interrupted);
    let output = caller.result(&queued).await.result.unwrap().output;
    assert_eq!(output, "still there");
    assert!(spent > 0 && caller.status().await.spent_microdollars >= spent);
}

#[tokio::test]
async fn store_error() {
    let store = Arc::new(Faulty::new(Arc::new(Memory::new())));
    let harness = Harness::with_processes().store(store.clone());
    let mut server = harness.options(|o| o.slots = 1).start().await;
    let request = pb::SubmitRequest {
        task: Some(server.say("x")),
        request_id: request_id(),
    };

    let mut health = health(&mut server).await;
    store.fail_all(true);
    let refusal = server.work.submit(request.clone()).await;
    refused(refusal, Code::Unavailable, "STORE");
    let told = next(&mut health).await.unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::NotServing);

    store.fail_all(false);
    let told = next(&mut health).await.unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::Serving);
    let list = pb::ListTasksRequest::default();
    let tasks = server.work.list_tasks(list).await.unwrap().into_inner();
    assert!(tasks.tasks.is_empty(), "nothing half done");
    let made = server.work.submit(request).await.unwrap().into_inner();
    let answer = server.result(&made.task_id).await;
    assert_eq!(answer.result.unwrap().output, "x");
}

/// The health of a server that serves, as it changes.
async fn health(caller: &mut Caller) -> Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest {
        service: "claudepool.v1.PoolService".into(),
    };
    let watch = caller.health.watch(request).await.unwrap();
    let mut watch = watch.into_inner();
    let now = next(&mut watch).await.unwrap().unwrap();
    assert_eq!(now.status(), ServingStatus::Serving);
    watch
}

async fn not_serving(health: &mut Streaming<HealthCheckResponse>) {
    let told = next(health).await.unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn sigterm() {
    let program = Program::with("drain_timeout = '1s'").await;
    let mut server = program.serve().await;
    let caller = &mut server.caller;
    let task = caller.hang("x");
    let id = caller.submit(task).await;
    caller.said(&id).await;
    let mut log = caller.watch(&id, 0).await;
    let mut health = health(caller).await;

    server.signal(Signal::TERM);

    not_serving(&mut health).await;
    let caller = &mut server.caller;
    let submit = pb::SubmitRequest {
        task: Some(caller.say("y")),
        ..Default::default()
    };
    let refusal = caller.work.submit(submit).await;
    refused(refusal, Code::Unavailable, "DRAINING");
    let end = loop {
        match next(&mut log).await {
            Ok(message) => assert!(message.is_some(), "the task has not ended"),
            Err(status) => break status,
        }
    };
    let end = refused::<()>(Err(end), Code::Unavailable, "DRAINING");
    assert!(end.get_details_retry_info().is_some());
    assert!(server.ended().await.success());
    let mut server = program.serve().await;
    let task = server.caller.task(&id).await;
    assert_eq!(task.end_time, None, "it went back to the queue");
}

#[tokio::test]
async fn sigterm_twice() {
    let program = Program::with("drain_timeout = '1h'").await;
    let mut server = program.serve().await;
    let caller = &mut server.caller;
    let task = caller.hang("x");
    let id = caller.submit(task).await;
    caller.said(&id).await;
    let mut log = caller.watch(&id, 0).await;
    let mut health = health(caller).await;

    server.signal(Signal::TERM);
    // Two signals that come together are one.
    not_serving(&mut health).await;
    server.signal(Signal::TERM);

    while next(&mut log).await.is_ok_and(|message| message.is_some()) {}
    assert!(server.ended().await.success());
}

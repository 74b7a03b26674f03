//! SIGTERM at a server that many look at while it works.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use claudepool::agent::conformance::has_ended;
use claudepool::pb::{self, TaskState, run_stream_response};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

use crate::support::raw::call;
use crate::support::{
    PATIENCE, Program, connect, hanging_calls, next, prompt, refused, request_id,
};

const WATCHES: usize = 100;
const TASKS: usize = 4;
/// The drain's deadline, and what the end may take beyond: what the grace of what
/// is in deploy/ leaves for it.
const DRAIN: Duration = Duration::from_secs(3);
const BEYOND: Duration = Duration::from_secs(10);

/// A task that goes on until there is a file `go`, deaf to TERM or not.
fn task(number: usize) -> pb::TaskSpec {
    let deaf = if number == 0 { "::ignore-term\n" } else { "" };
    let trap = if number == 0 { "trap '' TERM; " } else { "" };
    prompt(format!(
        "{deaf}::echo begun\n::bash {trap}test -e go || tail -f /dev/null\n::echo done {number}"
    ))
}

/// Reads a stream to its end; how it ended.
async fn end<M>(mut stream: Streaming<M>) -> Status {
    loop {
        match next(&mut stream).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("its task has not ended"),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn a_server_that_is_told_to_end_says_so_to_all_and_loses_nothing() {
    let lines = format!("drain_timeout = '{}s'", DRAIN.as_secs());
    let program = Program::with_slots_and(TASKS as u32, &lines).await;
    let mut server = program.serve().await;
    let (mut ids, mut clients, ended) = (Vec::new(), Vec::new(), Arc::new(AtomicUsize::new(0)));
    for number in 0..TASKS {
        let request = pb::RunStreamRequest {
            task: Some(task(number)),
            request_id: request_id(),
            ..Default::default()
        };
        let stream = server.caller.work.run_stream(request).await.unwrap();
        let mut stream = stream.into_inner();
        let first = next(&mut stream).await.unwrap().unwrap().item;
        let Some(run_stream_response::Item::Accepted(accepted)) = first else {
            panic!("the id comes first");
        };
        server.caller.said(&accepted.task_id).await;
        ids.push(accepted.task_id);
        clients.push(tokio::spawn(end(stream)));
    }
    for number in 0..WATCHES {
        let mut caller = match number % 10 {
            0 => server.caller.elsewhere(connect(server.addr).await),
            _ => server.caller.clone(),
        };
        let log = caller.watch(&ids[number % TASKS], 0).await;
        let ended = Arc::clone(&ended);
        clients.push(tokio::spawn(async move {
            let status = end(log).await;
            ended.fetch_add(1, Ordering::SeqCst);
            status
        }));
    }
    // Every other kind of call that waits, for work that is still queued.
    let mut waiting = Vec::new();
    for (path, message) in hanging_calls(&mut server.caller).await {
        let addr = server.addr;
        waiting.push((
            path,
            tokio::spawn(async move { call(addr, path, None, &message).await }),
        ));
    }
    // Those that make work are known by it; the others may as well come later.
    // A task, a chain, Run's, RunStream's, and two of FanOut.
    let all = TASKS as i64 + 6;
    let made = async {
        let mut caller = server.caller.clone();
        while caller
            .status()
            .await
            .tasks
            .iter()
            .map(|c| c.count)
            .sum::<i64>()
            < all
        {}
    };
    timeout(PATIENCE, made).await.expect("all are made");
    let mut health = Vec::new();
    for service in ["", "Pool", "Operator", "Catalog", "Context"] {
        let service = match service {
            "" => String::new(),
            name => format!("claudepool.v1.{name}Service"),
        };
        let request = HealthCheckRequest { service };
        let watch = server.caller.health.watch(request).await.unwrap();
        let mut watch = watch.into_inner();
        let now = next(&mut watch).await.unwrap().unwrap();
        assert_eq!(now.status(), ServingStatus::Serving);
        health.push(watch);
    }
    let slots = server.caller.status().await.slots;
    let process = |pid: Option<i32>| pidfd_open(Pid::from_raw(pid?)?, PidfdFlags::empty()).ok();
    let processes: Vec<_> = slots.iter().filter_map(|slot| process(slot.pid)).collect();
    assert_eq!(processes.len(), TASKS);
    let began = Instant::now();

    server.signal(Signal::TERM);

    // Health comes first, then refusals, while what runs is still watched.
    for watch in &mut health {
        let now = next(watch).await.unwrap().unwrap();
        assert_eq!(now.status(), ServingStatus::NotServing);
    }
    let submit = pb::SubmitRequest {
        task: Some(prompt("::echo never")),
        ..Default::default()
    };
    let answer = server.caller.work.submit(submit).await;
    let status = refused(answer, Code::Unavailable, "DRAINING");
    assert!(status.get_details_retry_info().is_some());
    assert_eq!(ended.load(Ordering::SeqCst), 0, "none has been ended yet");
    assert!(began.elapsed() < DRAIN);
    for client in clients {
        let status = client.await.unwrap();
        let status = refused::<()>(Err(status), Code::Unavailable, "DRAINING");
        let retry = status.get_details_retry_info().unwrap().retry_delay;
        assert!(retry.is_some_and(|delay| delay > Duration::ZERO));
    }
    for (path, call) in waiting {
        let seen = call.await.unwrap();
        assert_eq!(seen.status.code(), Code::Unavailable, "{path}");
        assert_eq!(seen.reason(), "DRAINING", "{path}");
        assert!(seen.status.get_details_retry_info().is_some(), "{path}");
    }
    assert!(server.ended().await.success());
    let took = began.elapsed();
    assert!(took >= DRAIN && took < DRAIN + BEYOND, "{took:?}");
    assert!(processes.iter().all(has_ended), "no process is left");

    std::fs::write(program.working_dir().join("go"), "").unwrap();
    let mut server = program.serve().await;
    for (number, id) in ids.iter().enumerate() {
        let answer = server.caller.result(id).await;
        let task = answer.task.unwrap();
        assert_eq!(task.state(), TaskState::Succeeded);
        assert_eq!(answer.result.unwrap().output, format!("done {number}"));
    }
}

//! What callers are promised, held to as a caller would.

use std::time::Duration;

use claudepool::pb::event::Kind;
use claudepool::pb::{self, TaskState, fan_out_response, run_stream_response};
use prost::Message;
use tonic::Code;

use crate::support::raw::call;
use crate::support::{
    Caller, Harness, assert_same_bytes, connect, events, finished, hanging_calls, next, next_event,
    request_id,
};

/// The next `count` events of a log, which is then left.
async fn some(caller: &mut Caller, task_id: &str, after: u64, count: usize) -> Vec<pb::Event> {
    let mut log = caller.watch(task_id, after).await;
    let mut seen = Vec::new();
    for _ in 0..count {
        seen.push(next_event(&mut log).await.expect("it goes on"));
    }
    seen
}

#[tokio::test]
async fn every_watcher_sees_the_same_bytes_whenever_it_comes_and_goes() {
    let mut server = Harness::new().start().await;
    let request = pb::RunStreamRequest {
        task: Some(server.long()),
        ..Default::default()
    };
    let mut stream = server.work.run_stream(request).await.unwrap().into_inner();
    let first = next(&mut stream).await.unwrap().unwrap().item.unwrap();
    let run_stream_response::Item::Accepted(accepted) = first else {
        panic!("the id comes first");
    };
    let id = accepted.task_id;

    // One from the start; one that leaves and comes back, again and again, each
    // time by another connection; one that comes when much was said.
    let from_start = tokio::spawn(events(server.watch(&id, 0).await));
    let mut restless = Vec::new();
    for _ in 0..5 {
        let mut elsewhere = server.elsewhere(connect(server.addr).await);
        let after = restless.len() as u64;
        restless.extend(some(&mut elsewhere, &id, after, 4).await);
    }
    assert_eq!(server.task(&id).await.state(), TaskState::Running);
    let late = tokio::spawn(events(server.watch(&id, 0).await));
    let rest = server.watch(&id, restless.len() as u64).await;
    restless.extend(events(rest).await);
    let mut attached = Vec::new();
    while let Some(message) = next(&mut stream).await.unwrap() {
        if let Some(run_stream_response::Item::Event(event)) = message.item {
            attached.push(event);
        }
    }
    let afterwards = events(server.watch(&id, 0).await).await;

    let text: String = (afterwards.iter())
        .filter_map(|event| match &event.kind {
            Some(Kind::TextDelta(delta)) => Some(delta.text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(finished(&afterwards).state(), TaskState::Succeeded);
    assert!(text.len() > 100_000, "{} bytes", text.len());
    for (seen, who) in [
        (attached, "who runs it"),
        (from_start.await.unwrap(), "who is there from the start"),
        (restless, "who drops and resumes"),
        (late.await.unwrap(), "who comes late"),
    ] {
        assert_same_bytes(&seen, &afterwards, who);
    }
}

#[tokio::test]
async fn a_fan_out_of_ten_tells_every_end_and_its_costs_are_the_ledgers() {
    let mut server = Harness::new().start().await;
    let mut tasks: Vec<_> = (0..10).map(|i| server.paid(&format!("item {i}"))).collect();
    tasks[7] = server.refused();
    let request = pb::FanOutRequest {
        tasks,
        ..Default::default()
    };

    let mut stream = server.work.fan_out(request).await.unwrap().into_inner();

    let mut items = Vec::new();
    while let Some(message) = next(&mut stream).await.unwrap() {
        if let Some(fan_out_response::Item::Finished(item)) = message.item {
            items.push(item);
        }
    }
    items.sort_by_key(|item| item.index);
    assert_eq!(items.len(), 10);
    let mut sum = 0;
    for (index, item) in items.iter().enumerate() {
        let result = item.result.as_ref().unwrap();
        assert_eq!(item.index as usize, index);
        if index == 7 {
            assert_eq!(item.state(), TaskState::Failed);
            let failure = result.failure.as_ref().unwrap();
            assert_eq!(failure.reason(), pb::FailureReason::InvalidRequest);
        } else {
            assert_eq!(item.state(), TaskState::Succeeded);
            assert_eq!(result.output, format!("item {index}"));
            assert!(result.cost_microdollars > 0);
        }
        sum += result.cost_microdollars;
    }
    let status = server.status().await;
    assert_eq!(status.spent_microdollars, sum);
    assert_eq!(status.reserved_microdollars, 0);
    let count = |state| {
        let of_state = status.tasks.iter().find(|c| c.state() == state);
        of_state.map_or(0, |c| c.count)
    };
    assert_eq!(
        (count(TaskState::Succeeded), count(TaskState::Failed)),
        (9, 1)
    );
}

/// Calls `method` with a task that hangs, and half a second to do it.
async fn hang(server: &Caller, addr: std::net::SocketAddr, method: &str) -> tonic::Status {
    // RunStream has these fields under the same numbers.
    let request = pb::RunRequest {
        task: Some(pb::TaskSpec {
            tags: vec!["late".into()],
            ..server.hang("x")
        }),
        request_id: request_id(),
        ..Default::default()
    };
    let path = format!("/claudepool.v1.PoolService/{method}");
    let message = request.encode_to_vec();
    let call = call(addr, &path, Some("500m"), &message);
    let seen = tokio::time::timeout(Duration::from_secs(10), call).await;
    seen.expect("an answer about when it was due").status
}

#[tokio::test]
async fn a_deadline_that_passes_is_told_and_its_task_is_cancelled() {
    let mut server = Harness::new()
        .options(|o| o.reattach_grace = Duration::ZERO)
        .start()
        .await;
    for (nth, method) in ["Run", "RunStream"].into_iter().enumerate() {
        let status = hang(&server, server.addr, method).await;

        assert_eq!(status.code(), Code::DeadlineExceeded, "{method}");
        let list = pb::ListTasksRequest::default();
        let page = server.work.list_tasks(list).await.unwrap().into_inner();
        assert_eq!(page.tasks.len(), nth + 1);
        let ended = server.result(&page.tasks[0].task_id).await;
        assert_eq!(
            ended.task.unwrap().state(),
            TaskState::Cancelled,
            "{method}"
        );
    }
}

#[tokio::test]
async fn every_kind_of_call_ends_at_its_deadline_with_that_code() {
    let mut server = Harness::new().start().await;
    for (path, message) in hanging_calls(&mut server).await {
        for timeout in ["1m", "250m"] {
            let seen = call(server.addr, path, Some(timeout), &message);
            let seen = tokio::time::timeout(Duration::from_secs(10), seen).await;
            let seen = seen.expect("an answer about when it was due");
            assert_eq!(
                seen.status.code(),
                Code::DeadlineExceeded,
                "{path} {timeout}"
            );
            assert_eq!(seen.reason(), "DEADLINE", "{path} {timeout}");
        }
    }
}

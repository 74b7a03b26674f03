//! The end of a server, asked for by a call or by a signal.

use std::time::Duration;

use claudepool::pb::{self, TaskState};
use claudepool::task::State;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

use crate::support::{Harness, PATIENCE, Running, next, next_event, refused, request_id};

async fn serving(server: &mut Running) -> bool {
    let request = HealthCheckRequest {
        service: "claudepool.v1.PoolService".into(),
    };
    let answer = server.health.check(request).await.unwrap().into_inner();
    answer.status() == ServingStatus::Serving
}

fn drain(deadline: Duration) -> pb::DrainRequest {
    pb::DrainRequest {
        deadline: Some(deadline.try_into().unwrap()),
        node_id: String::new(),
    }
}

#[tokio::test]
async fn a_drained_server_reads_but_takes_nothing_new() {
    let mut server = Harness::new().start().await;
    let task = server.say("x");
    let task_id = server.finish(task).await.task.unwrap().task_id;
    assert!(serving(&mut server).await);

    let answer = server.operator.drain(drain(Duration::from_secs(5))).await;

    let drained = answer.unwrap().into_inner();
    assert_eq!((drained.tasks_completed, drained.tasks_left), (1, 0));
    let submit = pb::SubmitRequest {
        task: Some(server.say("y")),
        ..Default::default()
    };
    let status = refused(
        server.work.submit(submit).await,
        Code::Unavailable,
        "DRAINING",
    );
    assert!(status.get_details_retry_info().is_some());
    assert_eq!(server.task(&task_id).await.state(), TaskState::Succeeded);
    assert!(!serving(&mut server).await);
}

#[tokio::test]
async fn who_watches_what_a_drain_hands_back_is_sent_elsewhere() {
    let mut server = Harness::new().start().await;
    let task = server.hang("x");
    let task_id = server.submit(task).await;
    server.said(&task_id).await;
    let mut log = server.watch(&task_id, 0).await;

    let answer = server
        .operator
        .drain(drain(Duration::from_millis(100)))
        .await;

    assert_eq!(answer.unwrap().into_inner().tasks_left, 1);
    let end = loop {
        match next(&mut log).await {
            Ok(message) => assert!(message.is_some(), "the task has not ended"),
            Err(status) => break status,
        }
    };
    refused::<()>(Err(end.clone()), Code::Unavailable, "DRAINING");
    assert!(end.get_details_retry_info().is_some());
    assert_eq!(server.task(&task_id).await.state(), TaskState::Queued);
    let wait = pb::GetResultRequest {
        task_id,
        wait: Some(PATIENCE.try_into().unwrap()),
    };
    refused(
        server.work.get_result(wait).await,
        Code::Unavailable,
        "DRAINING",
    );
}

#[tokio::test]
async fn a_drain_goes_on_when_its_caller_leaves() {
    let mut server = Harness::new().start().await;
    let task = server.hang("x");
    let task_id = server.submit(task).await;
    server.said(&task_id).await;
    let mut log = server.watch(&task_id, 0).await;
    let call = tokio::time::timeout(
        Duration::from_millis(100),
        server.operator.drain(drain(Duration::from_millis(500))),
    );

    assert!(call.await.is_err(), "the caller left");

    while next(&mut log).await.is_ok_and(|m| m.is_some()) {}
    assert_eq!(server.task(&task_id).await.state(), TaskState::Queued);
}

#[tokio::test]
async fn a_server_that_stops_lets_work_finish_and_tells_its_end() {
    let mut server = Harness::new().start().await;
    let task = server.slow("done", Duration::from_millis(700));
    let task_id = server.submit(task).await;
    let mut log = server.watch(&task_id, 0).await;
    let mut kinds = Vec::new();
    while !matches!(kinds.last(), Some(pb::event::Kind::Started(_))) {
        kinds.extend(next_event(&mut log).await.unwrap().kind);
    }

    server.stop();

    while let Some(event) = next_event(&mut log).await {
        kinds.extend(event.kind);
    }
    assert!(matches!(kinds.last(), Some(pb::event::Kind::Finished(_))));
    let served = tokio::time::timeout(PATIENCE, server.served).await.unwrap();
    let drained = served.unwrap().unwrap().expect("there was a pool");
    assert_eq!((drained.tasks_completed, drained.tasks_left), (1, 0));
    server.pool.shutdown().await;
}

#[tokio::test]
async fn a_server_that_stops_hands_back_what_takes_too_long() {
    let mut server = Harness::new()
        .options(|o| o.drain_timeout = Duration::from_millis(200))
        .start()
        .await;
    let task = server.hang("x");
    let task_id = server.submit(task).await;
    server.said(&task_id).await;
    let mut log = server.watch(&task_id, 0).await;

    server.stop();

    let end = loop {
        match next(&mut log).await {
            Ok(message) => assert!(message.is_some(), "the task has not ended"),
            Err(status) => break status,
        }
    };
    refused::<()>(Err(end), Code::Unavailable, "DRAINING");
    let served = tokio::time::timeout(PATIENCE, server.served).await.unwrap();
    let drained = served.unwrap().unwrap().expect("there was a pool");
    assert_eq!(drained.tasks_left, 1);
}

#[tokio::test]
async fn attached_work_waits_for_its_caller_to_come_back_after_a_restart() {
    let mut server = Harness::new()
        .options(|o| o.drain_timeout = Duration::from_millis(200))
        .start()
        .await;
    let request = pb::RunStreamRequest {
        task: Some(server.hang("x")),
        request_id: request_id(),
        ..Default::default()
    };
    let mut stream = server.work.run_stream(request).await.unwrap().into_inner();
    let first = next(&mut stream).await.unwrap().unwrap().item.unwrap();
    let pb::run_stream_response::Item::Accepted(accepted) = first else {
        panic!("the id comes first");
    };
    server.said(&accepted.task_id).await;

    server.stop();

    while next(&mut stream).await.is_ok_and(|m| m.is_some()) {}
    let served = tokio::time::timeout(PATIENCE, server.served).await.unwrap();
    assert_eq!(served.unwrap().unwrap().unwrap().tasks_left, 1);
    let id = accepted.task_id.parse().unwrap();
    let task = server.pool.task(id).await.unwrap().task;
    assert_eq!(task.state, State::Queued);
    server.pool.shutdown().await;
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let mut server = Harness::new().start().await;
    let task = server.hang("x");
    let task_id = server.submit(task).await;
    server.said(&task_id).await;

    server.stop();
    server.handle.hurry();

    let served = tokio::time::timeout(Duration::from_secs(8), server.served)
        .await
        .unwrap();
    assert_eq!(
        served.unwrap().unwrap(),
        None,
        "the drain was not waited for"
    );
    server.pool.shutdown().await;
}

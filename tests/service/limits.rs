//! Limits, and what becomes of old work.

use std::sync::Arc;
use std::time::Duration;

use claudepool::pb::event::Kind;
use claudepool::pb::{self, TaskState};
use claudepool::pool::Retention;
use claudepool::store::sqlite::Sqlite;
use prost::Message;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{
    Harness, Kind as AgentKind, Running, events, finished, next, next_event, prompt, refused,
};

/// What every client receives at least.
const RECEIVED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Asserts a refusal that says what is used up and when to come back.
#[track_caller]
fn used_up<T>(answer: Result<T, Status>, reason: &str, subject: &str) {
    let status = refused(answer, Code::ResourceExhausted, reason);
    let quota = status.get_details_quota_failure().expect("what is used up");
    assert_eq!(quota.violations[0].subject, subject);
    let retry = status.get_details_retry_info().expect("when to come back");
    assert!(retry.retry_delay > Some(Duration::ZERO));
}

#[tokio::test]
async fn a_full_queue_is_refused_until_there_is_a_place() {
    let mut server = Harness::new()
        .options(|o| {
            o.slots = 1;
            o.queue_max = 2;
        })
        .start()
        .await;
    let hang = server.hang("x");
    let running = server.submit(hang.clone()).await;
    server.said(&running).await;
    let queued = server.submit(hang.clone()).await;
    server.submit(hang.clone()).await;
    let request = pb::SubmitRequest {
        task: Some(hang),
        ..Default::default()
    };
    let answer = server.work.submit(request.clone()).await;
    used_up(answer, "QUEUE_FULL", "pool:queue");

    server.cancel(&queued).await;

    server.work.submit(request).await.expect("there is a place");
}

/// What each method that streams says now; a stream that is given is held.
async fn streams(server: &mut Running, held: &str) -> Vec<Result<Box<dyn Send>, Status>> {
    fn boxed<T: Send + 'static>(
        answer: Result<tonic::Response<T>, Status>,
    ) -> Result<Box<dyn Send>, Status> {
        answer.map(|stream| Box::new(stream) as Box<dyn Send>)
    }
    let watch = pb::WatchTaskRequest {
        task_id: held.to_owned(),
        ..Default::default()
    };
    let run = pb::RunStreamRequest {
        task: Some(server.say("never")),
        ..Default::default()
    };
    let fan_out = pb::FanOutRequest {
        tasks: vec![server.say("never")],
        ..Default::default()
    };
    let status = pb::WatchStatusRequest::default();
    vec![
        boxed(server.work.watch_task(watch).await),
        boxed(server.work.run_stream(run).await),
        boxed(server.work.fan_out(fan_out).await),
        boxed(server.work.watch_status(status).await),
    ]
}

#[tokio::test]
async fn a_stream_too_many_is_refused_whatever_it_streams_and_makes_nothing() {
    let mut server = Harness::new().options(|o| o.watchers_max = 2).start().await;
    let hang = server.hang("x");
    let task_id = server.submit(hang).await;
    let mut log = server.watch(&task_id, 0).await;
    next_event(&mut log).await;
    let request = pb::WatchStatusRequest::default();
    let status = server.work.watch_status(request).await.unwrap();
    let mut status = status.into_inner();
    next(&mut status).await.unwrap();

    for answer in streams(&mut server, &task_id).await {
        used_up(answer, "TOO_MANY_WATCHERS", "pool:watchers");
    }
    let list = pb::ListTasksRequest::default();
    let page = server.work.list_tasks(list).await.unwrap().into_inner();
    assert_eq!(page.tasks.len(), 1, "only the one that was watched");

    // Those who leave make room.
    drop((log, status));
    let mut watchers = server.status().await.watchers;
    while watchers > 0 {
        tokio::task::yield_now().await;
        watchers = server.status().await.watchers;
    }
    server.watch(&task_id, 0).await;
}

#[tokio::test]
async fn a_log_over_its_limit_says_so_and_the_result_is_whole() {
    let mut server = Harness::of(AgentKind::Scripted)
        .options(|o| o.log_bytes_max = 50_000)
        .start()
        .await;
    let said = "x".repeat(10_000);
    let talk = format!("say {said}\nwait 1\n").repeat(30);
    let task_id = server
        .submit(prompt(format!("{talk}retrying 529\nsay end")))
        .await;

    let live = events(server.watch(&task_id, 0).await).await;
    let late = events(server.watch(&task_id, 0).await).await;

    assert_eq!(live, late);
    let numbers: Vec<_> = live.iter().map(|e| e.sequence).collect();
    assert_eq!(numbers, (1..=live.len() as u64).collect::<Vec<_>>());
    let said: usize = live
        .iter()
        .filter(|e| !matches!(e.kind, Some(Kind::Finished(_))))
        .map(|e| e.encoded_len())
        .sum();
    assert!((40_000..50_500).contains(&said), "{said}");
    let told = |wanted: fn(&Kind) -> bool| {
        let kinds = live.iter().filter_map(|e| e.kind.as_ref());
        kinds.filter(|kind| wanted(kind)).count()
    };
    assert_eq!(told(|k| matches!(k, Kind::LogTruncated(_))), 1);
    assert_eq!(told(|k| matches!(k, Kind::Retrying(_))), 1);
    let result = finished(&live).result.clone().unwrap();
    assert_eq!(result.output.len(), 300_003);
    assert_eq!(server.result(&task_id).await.result, Some(result));
}

#[tokio::test]
async fn no_event_is_larger_than_what_every_client_receives() {
    let mut server = Harness::of(AgentKind::Scripted)
        .options(|o| o.policy.prompt_bytes_max = 15 * 1024 * 1024)
        .start()
        .await;
    let long = "é".repeat(5_000_000);
    let task_id = server.submit(prompt(format!("say {long}"))).await;

    let log = events(server.watch(&task_id, 0).await).await;

    let mut text = String::new();
    for event in &log {
        assert!(event.encoded_len() < RECEIVED_BYTES_MAX / 2);
        if let Some(Kind::TextDelta(delta)) = &event.kind {
            assert!(event.encoded_len() < 70_000);
            text.push_str(&delta.text);
        }
    }
    assert!(text == long, "the pieces are the text");
    let result = finished(&log).result.clone().unwrap();
    assert!(result.output_truncated);
    assert_eq!(result.output_bytes, 10_000_000);
}

#[tokio::test]
async fn old_work_goes_from_the_disk_and_what_it_cost_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Sqlite::open(dir.path().join("pool.db")).await.unwrap());
    let mut server = Harness::new()
        .store(Arc::clone(&store) as _)
        .options(|o| {
            o.retention = Retention {
                succeeded: Duration::from_secs(1),
                ..Retention::default()
            };
        })
        .start()
        .await;
    let paid = server.paid("x");
    let task_id = server.submit(paid).await;
    let request = pb::WatchStatusRequest {
        interval: Some(Duration::from_millis(100).try_into().unwrap()),
        ..Default::default()
    };
    let status = server.work.watch_status(request).await.unwrap();
    let mut status = status.into_inner();
    server.result(&task_id).await;
    let spent = server.status().await.spent_microdollars;
    assert!(spent > 0);

    let after = loop {
        let message = next(&mut status).await.unwrap().expect("it never ends");
        if let Some(pb::watch_status_response::Item::Status(status)) = message.item
            && status.tasks.is_empty()
        {
            break status;
        }
    };

    assert_eq!(after.spent_microdollars, spent);
    assert_eq!(after.reserved_microdollars, 0);
    let request = pb::WatchTaskRequest {
        task_id: task_id.clone(),
        ..Default::default()
    };
    let answer = server.work.watch_task(request).await;
    refused(answer, Code::NotFound, "TASK_NOT_FOUND");
    let request = pb::GetResultRequest {
        task_id,
        wait: None,
    };
    let answer = server.work.get_result(request).await;
    refused(answer, Code::NotFound, "TASK_NOT_FOUND");
    let next_task = server.paid("y");
    let result = server.finish(next_task).await;
    assert_eq!(result.task.unwrap().state(), TaskState::Succeeded);
    assert_eq!(server.status().await.spent_microdollars, 2 * spent);
    store.check_sums().await.expect("the sums agree");
}

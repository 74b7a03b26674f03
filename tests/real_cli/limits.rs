//! A provider's limit, on the real CLI with an API key: it does not say until
//! when, the pool holds from its first word on, and nothing is burnt.

use std::time::Duration;

use claudepool::demo::script::FaultKind;
use claudepool::pb::event::Kind as Event;
use claudepool::pb::{self, FailureReason, RequeueReason, TaskState};
use tonic::Streaming;

use crate::support::{Harness, Running, events, next};

/// A server of two slots that tries again after this.
async fn server(limit_wait: Duration) -> Running {
    let real = Harness::real();
    real.options(|o| o.limit_wait = limit_wait).start().await
}

async fn statuses(server: &mut Running) -> Streaming<pb::WatchStatusResponse> {
    let watch = pb::WatchStatusRequest::default();
    server.work.watch_status(watch).await.unwrap().into_inner()
}

/// The first status that fits.
async fn until(
    statuses: &mut Streaming<pb::WatchStatusResponse>,
    fits: impl Fn(&pb::PoolStatus) -> bool,
) -> pb::PoolStatus {
    loop {
        let message = next(statuses).await.unwrap().expect("it never ends");
        if let Some(pb::watch_status_response::Item::Status(status)) = message.item
            && fits(&status)
        {
            return status;
        }
    }
}

fn count(status: &pb::PoolStatus, state: TaskState) -> i64 {
    let count = status.tasks.iter().find(|count| count.state() == state);
    count.map_or(0, |count| count.count)
}

/// Asserts that a task succeeded and that only the limit ever put it back.
async fn unburnt(server: &mut Running, task_id: &str) {
    let ended = server.result(task_id).await;
    assert_eq!(ended.task.unwrap().state(), TaskState::Succeeded);
    for event in events(server.watch(task_id, 0).await).await {
        if let Some(Event::Requeued(requeued)) = event.kind {
            assert_eq!(requeued.reason(), RequeueReason::RateLimited);
        }
    }
}

#[tokio::test]
async fn a_usage_limit_fails_and_burns_nothing_and_one_goes_ahead() {
    let mut server = server(Duration::from_secs(3)).await;
    // The CLI calls it a success and exits with 0.
    server.standin().fault(Some(FaultKind::Limit));
    let mut statuses = statuses(&mut server).await;
    let mut ids = Vec::new();
    let task = server.say("the first");
    ids.push(server.submit(task).await);

    let held = until(&mut statuses, |now| {
        now.hold.is_some() && count(now, TaskState::Queued) == 1
    })
    .await;

    let hold = held.hold.clone().unwrap();
    assert_eq!(hold.reason(), FailureReason::RateLimited);
    assert!(hold.estimated && hold.until.is_some());
    assert_eq!(count(&held, TaskState::Failed), 0);
    // Two slots are idle and more waits; one goes ahead, and meets it again.
    for number in 1..6 {
        let task = server.say(&format!("task {number}"));
        ids.push(server.submit(task).await);
    }
    let longer = until(&mut statuses, |now| {
        let until = now.hold.as_ref().and_then(|hold| hold.until);
        until.is_some() && until != hold.until && count(now, TaskState::Queued) == 6
    })
    .await;
    assert_eq!(server.standin().requests().len(), 2, "one probe");
    assert_eq!(count(&longer, TaskState::Failed), 0);

    server.standin().fault(None);
    for id in &ids {
        unburnt(&mut server, id).await;
    }
    let status = server.status().await;
    assert_eq!((status.hold, status.reserved_microdollars), (None, 0));
}

#[tokio::test]
async fn the_hold_begins_at_the_first_announced_retry() {
    let mut server = server(Duration::from_secs(60)).await;
    server.standin().fault(Some(FaultKind::Status {
        code: 429,
        retry_after_s: Some(1),
    }));
    let mut statuses = statuses(&mut server).await;
    let first = server.say("first");
    let first = server.submit(first).await;

    let held = until(&mut statuses, |now| now.hold.is_some()).await;

    let hold = held.hold.clone().unwrap();
    assert_eq!(hold.reason(), FailureReason::RateLimited);
    assert!(hold.estimated);
    assert_eq!(count(&held, TaskState::Running), 1, "its attempt goes on");
    let second = server.say("second");
    let second = server.submit(second).await;
    // The limit lifts, and the CLI's own next try succeeds.
    server.standin().fault(None);
    let task = server.task(&second).await;
    assert_eq!((task.state(), task.attempt), (TaskState::Queued, 0));
    unburnt(&mut server, &first).await;
    unburnt(&mut server, &second).await;
    assert_eq!(server.status().await.hold, None);
}

//! One request makes one attempt, however often and by whatever call it comes.

use claudepool::pb::event::Kind;
use claudepool::pb::{self, RunSettings, TaskState, run_stream_response};
use tonic::Code;

use crate::support::{Caller, Harness, Running, connect, events, next, refused, request_id};

/// Who call at the same time.
const CALLERS: usize = 100;
/// Their connections.
const CONNECTIONS: usize = 10;

/// The ways in which a task is made.
#[derive(Clone, Copy, Debug)]
enum By {
    Submit,
    Run,
    RunStream,
}

/// Makes the task of a request, and waits for its end if the call does.
async fn call(caller: &mut Caller, by: By, task: pb::TaskSpec, request_id: &str) -> String {
    let (task, request_id) = (Some(task), request_id.to_owned());
    match by {
        By::Submit => {
            let request = pb::SubmitRequest { task, request_id };
            let made = caller.work.submit(request).await.unwrap();
            made.into_inner().task_id
        }
        By::Run => {
            let request = pb::RunRequest {
                task,
                request_id,
                ..Default::default()
            };
            let ended = caller.work.run(request).await.unwrap().into_inner();
            ended.task.unwrap().task_id
        }
        By::RunStream => {
            let request = pb::RunStreamRequest {
                task,
                request_id,
                ..Default::default()
            };
            let stream = caller.work.run_stream(request).await.unwrap();
            let mut stream = stream.into_inner();
            let mut task_id = String::new();
            while let Some(message) = next(&mut stream).await.unwrap() {
                if let Some(run_stream_response::Item::Accepted(accepted)) = message.item {
                    task_id = accepted.task_id;
                }
            }
            task_id
        }
    }
}

/// Asserts that there is this task alone, and that one attempt of it ran.
async fn ran_once(server: &mut Running, task_id: &str) {
    let ended = server.result(task_id).await;
    let task = ended.task.unwrap();
    let list = pb::ListTasksRequest::default();
    let all = server.work.list_tasks(list).await.unwrap().into_inner();
    let log = events(server.watch(task_id, 0).await).await;
    let started = log
        .iter()
        .filter(|e| matches!(e.kind, Some(Kind::Started(_))));
    assert_eq!(task.state(), TaskState::Succeeded);
    assert_eq!((all.tasks.len(), task.attempt, started.count()), (1, 1, 1));
    let spent = server.status().await.spent_microdollars;
    assert_eq!(spent, task.cost_microdollars);
}

async fn a_hundred(by: &'static [By]) {
    let mut server = Harness::new().start().await;
    let id = request_id();
    let mut callers = Vec::new();
    for _ in 0..CONNECTIONS {
        callers.push(server.elsewhere(connect(server.addr).await));
    }
    let calls: Vec<_> = (0..CALLERS)
        .map(|number| {
            let mut caller = callers[number % CONNECTIONS].clone();
            let (task, id) = (server.paid("once"), id.clone());
            tokio::spawn(async move { call(&mut caller, by[number % by.len()], task, &id).await })
        })
        .collect();

    let mut ids = Vec::new();
    for call in calls {
        ids.push(call.await.unwrap());
    }

    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    ran_once(&mut server, &ids[0]).await;
}

#[tokio::test]
async fn a_hundred_who_submit_one_request_make_one_attempt() {
    a_hundred(&[By::Submit]).await;
}

#[tokio::test]
async fn a_hundred_who_run_one_request_make_one_attempt() {
    a_hundred(&[By::Run]).await;
}

#[tokio::test]
async fn a_hundred_who_stream_one_request_make_one_attempt() {
    a_hundred(&[By::RunStream]).await;
}

#[tokio::test]
async fn a_hundred_who_make_one_request_in_every_way_make_one_attempt() {
    a_hundred(&[By::Submit, By::Run, By::RunStream]).await;
}

#[tokio::test]
async fn callers_who_hang_up_and_come_back_find_their_one_attempt() {
    for by in [By::Run, By::RunStream] {
        let mut server = Harness::new().start().await;
        let task = || pb::TaskSpec {
            settings: Some(RunSettings::default()),
            ..server.slow("done", std::time::Duration::from_millis(700))
        };
        let (task, id) = (task(), request_id());
        let lost: Vec<_> = (0..10)
            .map(|_| {
                let (mut caller, task, id) = (server.clone(), task.clone(), id.clone());
                tokio::spawn(async move { call(&mut caller, by, task, &id).await })
            })
            .collect();
        let mut statuses = (server.work)
            .watch_status(pb::WatchStatusRequest::default())
            .await
            .unwrap()
            .into_inner();
        loop {
            let message = next(&mut statuses).await.unwrap().expect("it never ends");
            if let Some(pb::watch_status_response::Item::Status(status)) = message.item
                && status.tasks.iter().any(|c| c.state() == TaskState::Running)
            {
                break;
            }
        }
        // The calls are reset, as by a client that is gone.
        for call in lost {
            call.abort();
        }

        let task_id = call(&mut server, by, task, &id).await;

        ran_once(&mut server, &task_id).await;
    }
}

#[tokio::test]
async fn a_retry_is_another_request_than_what_it_repeats() {
    let mut server = Harness::new().start().await;
    let (spec, id) = (server.say("x"), request_id());
    let first = server.finish(spec.clone()).await.task.unwrap().task_id;
    let second = server.finish(spec.clone()).await.task.unwrap().task_id;
    let retry = |task_id: &str, request_id: &str| pb::RetryRequest {
        task_id: task_id.to_owned(),
        request_id: request_id.to_owned(),
    };
    let submit = |request_id: &str| pb::SubmitRequest {
        task: Some(spec.clone()),
        request_id: request_id.to_owned(),
    };

    let made = server.work.retry(retry(&first, &id)).await.unwrap();

    let made = made.into_inner().task_id;
    let again = server.work.retry(retry(&first, &id)).await.unwrap();
    assert_eq!(again.into_inner().task_id, made);
    for refusal in [
        server.work.submit(submit(&id)).await.map(drop),
        server.work.retry(retry(&second, &id)).await.map(drop),
    ] {
        refused(refusal, Code::InvalidArgument, "REQUEST_ID_REUSED");
    }
    let other = request_id();
    server.work.submit(submit(&other)).await.unwrap();
    let refusal = server.work.retry(retry(&first, &other)).await;
    refused(refusal, Code::InvalidArgument, "REQUEST_ID_REUSED");
    // Also when what it repeats is gone.
    let delete = pb::DeleteTaskRequest {
        task_id: first.clone(),
    };
    server.work.delete_task(delete).await.unwrap();
    let again = server.work.retry(retry(&first, &id)).await.unwrap();
    assert_eq!(again.into_inner().task_id, made);
}

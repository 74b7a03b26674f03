//! Attached callers: work ends when nobody waits for it.

use std::time::Duration;

use claudepool::pb::{self, TaskState, run_stream_response};
use tonic::{Code, Request, Streaming};

use crate::support::{Harness, Running, connect, next, request_id};

async fn accepted(stream: &mut Streaming<pb::RunStreamResponse>) -> String {
    let first = next(stream).await.unwrap().unwrap().item.unwrap();
    let run_stream_response::Item::Accepted(accepted) = first else {
        panic!("the id comes first");
    };
    accepted.task_id
}

async fn hanging(
    server: &mut Running,
    request_id: &str,
    detach: bool,
) -> (String, Streaming<pb::RunStreamResponse>) {
    let request = pb::RunStreamRequest {
        task: Some(server.hang("x")),
        request_id: request_id.to_owned(),
        detach,
        ..Default::default()
    };
    let mut stream = server.work.run_stream(request).await.unwrap().into_inner();
    (accepted(&mut stream).await, stream)
}

#[tokio::test]
async fn the_work_of_a_caller_who_leaves_is_cancelled() {
    let mut server = Harness::new().start().await;
    let (task_id, stream) = hanging(&mut server, "", false).await;
    server.said(&task_id).await;

    drop(stream);

    let ended = server.result(&task_id).await;
    assert_eq!(ended.task.unwrap().state(), TaskState::Cancelled);
}

#[tokio::test]
async fn the_work_of_a_connection_that_breaks_is_cancelled() {
    let mut server = Harness::new().start().await;
    let elsewhere = connect(server.addr).await;
    let mine = std::mem::replace(
        &mut server.work,
        pb::pool_service_client::PoolServiceClient::new(elsewhere.clone()),
    );
    let (task_id, stream) = hanging(&mut server, "", false).await;
    server.work = mine;
    server.said(&task_id).await;

    drop((stream, elsewhere));

    let ended = server.result(&task_id).await;
    assert_eq!(ended.task.unwrap().state(), TaskState::Cancelled);
}

#[tokio::test]
async fn the_work_of_a_caller_whose_deadline_passes_is_cancelled() {
    let mut server = Harness::new().start().await;
    let mut request = Request::new(pb::RunRequest {
        task: Some(server.hang("x")),
        ..Default::default()
    });
    request.set_timeout(Duration::from_millis(300));

    let answer = server.work.run(request).await;

    // The client library's own timer may answer first.
    let code = answer.expect_err("it hangs").code();
    assert!(matches!(code, Code::DeadlineExceeded | Code::Cancelled));
    let list = pb::ListTasksRequest::default();
    let page = server.work.list_tasks(list).await.unwrap().into_inner();
    let task_id = page.tasks[0].task_id.clone();
    let ended = server.result(&task_id).await;
    assert_eq!(ended.task.unwrap().state(), TaskState::Cancelled);
}

#[tokio::test]
async fn detached_work_goes_on_without_its_caller() {
    let mut server = Harness::new().start().await;
    let request = pb::RunStreamRequest {
        task: Some(server.slow("done", Duration::from_millis(300))),
        detach: true,
        ..Default::default()
    };
    let mut stream = server.work.run_stream(request).await.unwrap().into_inner();
    let task_id = accepted(&mut stream).await;

    drop(stream);

    let ended = server.result(&task_id).await;
    assert_eq!(ended.result.unwrap().output, "done");
}

#[tokio::test]
async fn a_caller_who_comes_back_in_time_finds_the_work_going_on() {
    let mut server = Harness::new()
        .options(|o| o.reattach_grace = Duration::from_secs(1))
        .start()
        .await;
    let id = request_id();
    let (task_id, stream) = hanging(&mut server, &id, false).await;
    server.said(&task_id).await;
    drop(stream);

    let (again, _stream) = hanging(&mut server, &id, false).await;

    assert_eq!(again, task_id);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let task = server.task(&task_id).await;
    assert_eq!(task.state(), TaskState::Running);
    assert_eq!(task.abandon_time, None);
}

#[tokio::test]
async fn headers_and_id_come_while_the_work_waits_in_the_queue() {
    let mut server = Harness::new().options(|o| o.slots = 1).start().await;
    let task = server.hang("x");
    let busy = server.submit(task).await;
    server.said(&busy).await;

    let (task_id, _stream) = hanging(&mut server, "", false).await;

    let task = server.task(&task_id).await;
    assert_eq!(task.state(), TaskState::Queued);
}

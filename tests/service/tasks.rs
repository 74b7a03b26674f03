//! Tasks: made, read, listed, cancelled, deleted.

use std::time::Duration;

use claudepool::pb::{self, TaskState};
use tonic::Code;

use crate::support::{Harness, fields, next, refused, request_id};

#[tokio::test]
async fn a_run_answers_with_its_task_and_its_result_once() {
    let mut server = Harness::new().start().await;
    let request = pb::RunRequest {
        task: Some(server.say("hello")),
        ..Default::default()
    };

    let answer = server.work.run(request).await.unwrap().into_inner();

    let (task, result) = (answer.task.unwrap(), answer.result.unwrap());
    assert_eq!(task.state(), TaskState::Succeeded);
    assert!(task.end_time.is_some());
    assert_eq!((task.spec, task.result), (None, None));
    assert_eq!((result.output.as_str(), result.success), ("hello", true));
}

#[tokio::test]
async fn a_failed_task_is_an_answer_and_no_error() {
    let mut server = Harness::new().start().await;
    let request = pb::RunRequest {
        task: Some(server.refused()),
        ..Default::default()
    };

    let answer = server.work.run(request).await.unwrap().into_inner();

    assert_eq!(answer.task.unwrap().state(), TaskState::Failed);
    let failure = answer.result.unwrap().failure.unwrap();
    assert_eq!(failure.reason(), pb::FailureReason::InvalidRequest);
}

#[tokio::test]
async fn a_result_is_absent_until_there_is_one() {
    let mut server = Harness::new().start().await;
    let task = server.hang("x");
    let task_id = server.submit(task).await;
    let ask = |wait: Option<Duration>| pb::GetResultRequest {
        task_id: task_id.clone(),
        wait: wait.map(|w| w.try_into().unwrap()),
    };

    for wait in [None, Some(Duration::from_millis(50))] {
        let answer = server
            .work
            .get_result(ask(wait))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answer.result, None);
        assert_eq!(answer.task.unwrap().end_time, None);
    }

    let task = server.say("done");
    let answer = server.finish(task).await;
    assert_eq!(answer.result.unwrap().output, "done");
}

#[tokio::test]
async fn a_request_id_makes_one_task_however_often_it_is_sent() {
    let mut server = Harness::new().start().await;
    let request = pb::SubmitRequest {
        task: Some(server.say("once")),
        request_id: request_id(),
    };

    let first = server
        .work
        .submit(request.clone())
        .await
        .unwrap()
        .into_inner();
    let again = server
        .work
        .submit(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(first, again);

    let other = pb::SubmitRequest {
        task: Some(server.say("another")),
        ..request
    };
    let answer = server.work.submit(other).await;
    refused(answer, Code::InvalidArgument, "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn wrong_fields_are_named_by_their_path() {
    let mut server = Harness::new().start().await;

    let answer = server.work.submit(pb::SubmitRequest::default()).await;
    let status = refused(answer, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&status), ["task"]);

    let empty = pb::SubmitRequest {
        task: Some(pb::TaskSpec::default()),
        ..Default::default()
    };
    let status = refused(
        server.work.submit(empty).await,
        Code::InvalidArgument,
        "INVALID_FIELD",
    );
    assert_eq!(fields(&status), ["task.prompt"]);

    let mut tasks = vec![server.say("x"); 5];
    tasks[3].input = None;
    let fan_out = pb::FanOutRequest {
        tasks,
        ..Default::default()
    };
    let answer = server.work.fan_out(fan_out).await;
    let status = refused(answer, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&status), ["tasks[3].prompt"]);
}

#[tokio::test]
async fn a_task_that_is_not_there_is_not_found() {
    let mut server = Harness::new().start().await;
    let task_id = request_id();

    let get = pb::GetTaskRequest {
        task_id: task_id.clone(),
    };
    refused(
        server.work.get_task(get).await,
        Code::NotFound,
        "TASK_NOT_FOUND",
    );
    let watch = pb::WatchTaskRequest {
        task_id: task_id.clone(),
        ..Default::default()
    };
    refused(
        server.work.watch_task(watch).await,
        Code::NotFound,
        "TASK_NOT_FOUND",
    );
    let read = pb::ReadOutputRequest {
        task_id: task_id.clone(),
        ..Default::default()
    };
    refused(
        server.work.read_output(read).await,
        Code::NotFound,
        "TASK_NOT_FOUND",
    );
    let delete = pb::DeleteTaskRequest { task_id };
    refused(
        server.work.delete_task(delete).await,
        Code::NotFound,
        "TASK_NOT_FOUND",
    );
}

#[tokio::test]
async fn a_cancelled_task_is_cancelled_for_good() {
    let mut server = Harness::new().start().await;
    let task = server.hang("x");
    let task_id = server.submit(task).await;
    server.said(&task_id).await;
    let request = pb::CancelRequest {
        target: Some(pb::cancel_request::Target::TaskId(task_id.clone())),
    };

    let answer = server
        .work
        .cancel(request.clone())
        .await
        .unwrap()
        .into_inner();

    assert_eq!(answer.cancelled, 1);
    let task = answer.task.unwrap();
    assert!(matches!(
        task.state(),
        TaskState::Cancelling | TaskState::Cancelled
    ));
    let ended = server.result(&task_id).await;
    assert_eq!(ended.task.unwrap().state(), TaskState::Cancelled);
    let again = server.work.cancel(request).await.unwrap().into_inner();
    assert_eq!(again.cancelled, 0, "a repeat is harmless");
}

#[tokio::test]
async fn a_finished_task_cannot_be_cancelled() {
    let mut server = Harness::new().start().await;
    let task = server.say("x");
    let task_id = server.finish(task).await.task.unwrap().task_id;
    let request = pb::CancelRequest {
        target: Some(pb::cancel_request::Target::TaskId(task_id)),
    };

    let answer = server.work.cancel(request).await;

    refused(answer, Code::FailedPrecondition, "TASK_FINISHED");
}

#[tokio::test]
async fn a_deleted_task_is_gone_and_its_request_never_runs_again() {
    let mut server = Harness::new().start().await;
    let submit = pb::SubmitRequest {
        task: Some(server.say("x")),
        request_id: request_id(),
    };
    let answer = server.work.submit(submit.clone()).await.unwrap();
    let task_id = answer.into_inner().task_id;
    server.result(&task_id).await;
    let delete = pb::DeleteTaskRequest {
        task_id: task_id.clone(),
    };

    server.work.delete_task(delete).await.unwrap();

    let get = pb::GetTaskRequest { task_id };
    refused(
        server.work.get_task(get).await,
        Code::NotFound,
        "TASK_NOT_FOUND",
    );
    refused(
        server.work.submit(submit).await,
        Code::NotFound,
        "TASK_DELETED",
    );
}

#[tokio::test]
async fn a_list_is_read_page_by_page_newest_first() {
    let mut server = Harness::new().start().await;
    let mut made = Vec::new();
    for i in 0..5 {
        let task = pb::TaskSpec {
            tags: vec!["listed".into()],
            ..server.say(&i.to_string())
        };
        made.push(server.submit(task).await);
    }
    for id in &made {
        server.result(id).await;
    }
    let ask = |view: pb::TaskView, page_token: String| pb::ListTasksRequest {
        filter: Some(pb::TaskFilter {
            any_tags: vec!["listed".into(), "other".into()],
            ..Default::default()
        }),
        page_size: 2,
        page_token,
        view: view as i32,
    };

    for view in [pb::TaskView::Basic, pb::TaskView::Full] {
        let (mut listed, mut token) = (Vec::new(), String::new());
        loop {
            let page = server
                .work
                .list_tasks(ask(view, token))
                .await
                .unwrap()
                .into_inner();
            assert!(page.tasks.len() <= 2);
            for task in page.tasks {
                let whole = view == pb::TaskView::Full;
                assert_eq!(task.spec.is_some(), whole);
                assert_eq!(task.result.is_some(), whole);
                assert_eq!(task.effective_settings.is_some(), whole);
                listed.push(task.task_id);
            }
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        listed.reverse();
        assert_eq!(listed, made);
    }
}

#[tokio::test]
async fn a_page_token_belongs_to_its_query() {
    let mut server = Harness::new().start().await;
    for _ in 0..2 {
        let task = server.say("x");
        server.finish(task).await;
    }
    let first = pb::ListTasksRequest {
        page_size: 1,
        ..Default::default()
    };
    let page = server
        .work
        .list_tasks(first.clone())
        .await
        .unwrap()
        .into_inner();

    let other = pb::ListTasksRequest {
        page_token: page.next_page_token,
        filter: Some(pb::TaskFilter {
            any_tags: vec!["x".into()],
            ..Default::default()
        }),
        ..first
    };

    let answer = server.work.list_tasks(other).await;
    refused(answer, Code::InvalidArgument, "PAGE_TOKEN_MISMATCH");
}

#[tokio::test]
async fn a_long_text_is_read_whole_and_from_anywhere() {
    let mut server = Harness::new().start().await;
    let text = "0123456789".repeat(150_000);
    let task = server.say(&text);
    let ended = server.finish(task).await;
    let task_id = ended.task.unwrap().task_id;
    let result = ended.result.unwrap();
    assert!(result.output_truncated && result.output.len() <= 1024 * 1024);
    assert_eq!(result.output_bytes, 1_500_000);

    for offset in [0, 7, 1_499_999, 1_500_000] {
        let request = pb::ReadOutputRequest {
            task_id: task_id.clone(),
            offset,
            heartbeat_interval: None,
        };
        let mut chunks = server.work.read_output(request).await.unwrap().into_inner();
        let mut read = String::new();
        while let Some(message) = next(&mut chunks).await.unwrap() {
            let Some(pb::read_output_response::Item::Chunk(chunk)) = message.item else {
                continue;
            };
            assert_eq!(chunk.offset, offset + read.len() as i64);
            assert!(chunk.text.len() <= 256 * 1024);
            read.push_str(&chunk.text);
        }
        assert_eq!(read, text[offset as usize..], "from {offset}");
    }
}

#[tokio::test]
async fn the_output_of_a_task_that_goes_on_cannot_be_read() {
    let mut server = Harness::new().start().await;
    let task = server.hang("x");
    let task_id = server.submit(task).await;
    let request = pb::ReadOutputRequest {
        task_id,
        ..Default::default()
    };

    let answer = server.work.read_output(request).await;

    refused(answer, Code::FailedPrecondition, "TASK_NOT_FINISHED");
}

#[tokio::test]
async fn a_finished_task_is_retried_as_a_new_one() {
    let mut server = Harness::new().start().await;
    let hanging = server.hang("x");
    let hanging = server.submit(hanging).await;
    let task = server.say("again");
    let task_id = server.finish(task).await.task.unwrap().task_id;
    let retry = |task_id: &str| pb::RetryRequest {
        task_id: task_id.into(),
        request_id: String::new(),
    };

    let answer = server
        .work
        .retry(retry(&task_id))
        .await
        .unwrap()
        .into_inner();

    assert_ne!(answer.task_id, task_id);
    let ended = server.result(&answer.task_id).await;
    assert_eq!(ended.result.unwrap().output, "again");
    let answer = server.work.retry(retry(&hanging)).await;
    refused(answer, Code::FailedPrecondition, "TASK_NOT_FINISHED");
}

//! Whose trace a task belongs to.

use claudepool::pb::{self, chain_step};
use tonic::Request;

use crate::support::{Caller, Harness, Program, request_id};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// No task's id.
const ABSENT: &str = "01a20d9a-8dd2-77a9-908e-1f47ef9aa5a2";

/// With a header.
fn traced<T>(message: T, parent: &str) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", parent.parse().unwrap());
    metadata.insert("tracestate", "vendor=opaque".parse().unwrap());
    request
}

fn submission(task: pb::TaskSpec, id: &str) -> pb::SubmitRequest {
    pb::SubmitRequest {
        task: Some(task),
        request_id: id.to_owned(),
    }
}

async fn trace_parent(caller: &mut Caller, task_id: &str) -> String {
    let request = pb::GetTaskRequest {
        task_id: task_id.to_owned(),
    };
    let answer = caller.work.get_task(request).await.unwrap().into_inner();
    answer.task.unwrap().trace_parent
}

#[tokio::test]
async fn a_task_belongs_to_its_callers_trace_and_a_malformed_one_is_none() {
    let mut server = Harness::new().start().await;
    let mut told = Vec::new();
    for parent in [PARENT, "00-nonsense", ""] {
        let request = traced(submission(server.say("hello"), ""), parent);
        let id = server
            .work
            .submit(request)
            .await
            .unwrap()
            .into_inner()
            .task_id;
        told.push(trace_parent(&mut server, &id).await);
    }

    assert_eq!(told, [PARENT, "", ""]);
}

#[tokio::test]
async fn a_repeat_from_another_trace_is_the_same_request() {
    let mut server = Harness::new().start().await;
    let again = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let id = request_id();
    let mut made = Vec::new();
    for parent in [PARENT, again] {
        let request = traced(submission(server.say("once"), &id), parent);
        made.push(
            server
                .work
                .submit(request)
                .await
                .unwrap()
                .into_inner()
                .task_id,
        );
    }

    assert_eq!(made[0], made[1]);
    assert_eq!(trace_parent(&mut server, &made[1]).await, PARENT);
}

#[tokio::test]
async fn the_steps_of_a_chain_and_a_retry_belong_to_the_trace_of_their_call() {
    let mut server = Harness::new().start().await;
    let step = |name: &str, prompt: &str| pb::ChainStep {
        name: name.to_owned(),
        action: Some(chain_step::Action::Prompt(prompt.to_owned())),
        ..Default::default()
    };
    let chain = pb::SubmitChainRequest {
        steps: vec![step("one", "say one"), step("two", "say two")],
        ..Default::default()
    };
    let chain = server.work.submit_chain(traced(chain, PARENT)).await;
    let chain = chain.unwrap().into_inner().task_id;
    server.result(&chain).await;

    let list = pb::ListTasksRequest {
        filter: Some(pb::TaskFilter {
            parent_task_id: chain.clone(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let tasks = server
        .work
        .list_tasks(list)
        .await
        .unwrap()
        .into_inner()
        .tasks;
    assert_eq!(tasks.len(), 2);
    assert!(tasks.iter().all(|task| task.trace_parent == PARENT));

    let retry = pb::RetryRequest {
        task_id: chain,
        ..Default::default()
    };
    let other = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let again = server.work.retry(traced(retry, other)).await.unwrap();
    let again = again.into_inner().task_id;
    assert_eq!(trace_parent(&mut server, &again).await, other);
}

#[tokio::test]
async fn each_event_is_a_json_object_that_names_call_task_and_trace() {
    let program = Program::new().await;
    let log = [
        ("CLAUDEPOOL_LOG", "debug"),
        ("CLAUDEPOOL_LOG_FORMAT", "json"),
    ];
    let mut server = program.serve_with(&log).await;
    let request = pb::RunRequest {
        task: Some(server.caller.say("a secret\nof the caller's")),
        ..Default::default()
    };
    let answer = server
        .caller
        .work
        .run(traced(request, PARENT))
        .await
        .unwrap();
    let id = answer.into_inner().task.unwrap().task_id;
    let absent = pb::GetTaskRequest {
        task_id: ABSENT.to_owned(),
    };
    server.caller.work.get_task(absent).await.unwrap_err();
    server.signal(rustix::process::Signal::TERM);
    assert!(server.ended().await.success());

    let text = program.log();

    let events: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect();
    let in_span = |event: &serde_json::Value, name: &str, key: &str, value: &str| {
        let spans = event["spans"].as_array().into_iter().flatten();
        spans
            .into_iter()
            .any(|span| span["name"] == name && span[key] == value)
    };
    let call = "claudepool.v1.PoolService/Run";
    assert!(events.iter().any(|event| {
        in_span(event, "rpc", "rpc.method", call)
            && in_span(event, "rpc", "trace_id", TRACE)
            && in_span(event, "rpc", "task_id", &id)
    }));
    assert!(
        events
            .iter()
            .any(|event| in_span(event, "rpc", "task_id", ABSENT))
    );
    assert!(events.iter().any(|event| {
        in_span(event, "attempt", "task_id", &id) && in_span(event, "attempt", "trace_id", TRACE)
    }));
    // What a caller says and what the CLI is given are nobody's business.
    assert!(!text.contains("a secret"), "{text}");
    assert!(!text.contains("dummy"), "{text}");
}

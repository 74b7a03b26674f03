//! A server that is older than what lies in its database.

use bytes::Bytes;
use claudepool::id::TaskId;
use claudepool::pb::{self, TaskState};
use prost::Message;
use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;

use crate::server::SHARED;
use crate::support::codec::Raw;
use crate::support::{PATIENCE, Program, Serving, connect, events, finished, refused, request_id};

/// An event of a later version: a kind that nobody knows, a field beside it, and
/// what is known in an order that nobody here writes.
fn newer_event(sequence: u64) -> Vec<u8> {
    let known = pb::Event {
        sequence,
        time: Some(prost_types::Timestamp::default()),
        kind: None,
    };
    // Field 400, a message; field 401, a text.
    let unknown = [0x82, 0x19, 4, 0x0a, 2, b'h', b'i', 0x8a, 0x19, 1, b'x'];
    [&unknown[..], &known.encode_to_vec()].concat()
}

/// An event that today's program knows, with a field that it does not.
fn larger_event(sequence: u64) -> Vec<u8> {
    let delta = pb::TextDelta {
        text: "known".to_owned(),
        ..pb::TextDelta::default()
    };
    let event = pb::Event {
        sequence,
        time: Some(prost_types::Timestamp::default()),
        kind: Some(pb::event::Kind::TextDelta(delta)),
    };
    [&event.encode_to_vec()[..], &[0x8a, 0x19, 1, b'x']].concat()
}

/// What a stream gives, as bytes.
async fn raw(server: &Serving, path: &'static str, request: impl Message) -> Vec<Bytes> {
    let mut client = tonic::client::Grpc::new(connect(server.addr).await);
    client.ready().await.unwrap();
    let request = tonic::Request::new(Bytes::from(request.encode_to_vec()));
    let answer = client
        .server_streaming(request, PathAndQuery::from_static(path), Raw)
        .await;
    let mut stream = answer.unwrap().into_inner();
    let mut messages = Vec::new();
    while let Some(message) = tokio::time::timeout(PATIENCE, stream.message())
        .await
        .expect("in time")
        .unwrap()
    {
        messages.push(message);
    }
    messages
}

/// A message of a stream with this event.
fn with_event(event: &[u8]) -> Vec<u8> {
    let length = u8::try_from(event.len()).unwrap();
    assert!(length < 128, "of one byte");
    [&[0x0a, length], event].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_server_passes_newer_events_on_and_leaves_newer_tasks_alone() {
    let name = SHARED.database().await;
    let program = Program::new().await.on(SHARED.url(&name));
    let mut server = program.serve().await;
    let admin = SHARED.admin(&name).await;
    let caller = &mut server.caller;
    // It is made while nothing is begun, and becomes a newer server's.
    let busy = caller.submit(caller.hang("busy")).await;
    caller.said(&busy).await;
    let request = pb::RunStreamRequest {
        task: Some(caller.say("never")),
        request_id: request_id(),
        ..pb::RunStreamRequest::default()
    };
    let submitted = caller
        .work
        .submit(pb::SubmitRequest {
            task: request.task.clone(),
            request_id: request.request_id.clone(),
        })
        .await;
    let id = submitted.unwrap().into_inner().task_id;
    let uuid = uuid::Uuid::from_bytes(*id.parse::<TaskId>().unwrap().as_bytes());
    let newer = [newer_event(2), larger_event(3)];
    for (sequence, bytes) in (2_i64..).zip(&newer) {
        let sql = "INSERT INTO events (task, sequence, bytes) VALUES ($1, $2, $3)";
        admin
            .execute(sql, &[&uuid, &sequence, bytes])
            .await
            .unwrap();
    }
    // Field 999 of its settings, a text.
    let sql = "UPDATE task_specs SET effective = effective || '\\xba3e03616263' WHERE task = $1";
    admin.execute(sql, &[&uuid]).await.unwrap();
    let sql = "UPDATE tasks SET level = 2, last_sequence = 3 WHERE id = $1";
    admin.execute(sql, &[&uuid]).await.unwrap();

    caller.cancel(&busy).await;
    // What comes after it is done before it.
    caller.finish(caller.say("goes on")).await;

    assert_eq!(caller.task(&id).await.state(), TaskState::Queued);
    caller.cancel(&id).await;
    let watch = pb::WatchTaskRequest {
        task_id: id.clone(),
        ..pb::WatchTaskRequest::default()
    };
    let seen = raw(&server, "/claudepool.v1.PoolService/WatchTask", watch).await;
    assert_eq!(seen.len(), 4);
    assert_eq!(seen[1], with_event(&newer[0]));
    assert_eq!(seen[2], with_event(&newer[1]));
    let seen = raw(&server, "/claudepool.v1.PoolService/RunStream", request).await;
    assert_eq!(seen.len(), 5);
    assert_eq!(seen[2], with_event(&newer[0]));
    assert_eq!(seen[3], with_event(&newer[1]));
    let stored = "SELECT bytes FROM events WHERE task = $1 AND sequence = 2";
    let stored: Vec<u8> = admin.query_one(stored, &[&uuid]).await.unwrap().get(0);
    assert_eq!(stored, newer[0]);
    let caller = &mut server.caller;
    let log = events(caller.watch(&id, 0).await).await;
    assert_eq!(finished(&log).state(), TaskState::Cancelled);
    // Done again it would not be what was asked.
    let again = pb::RetryRequest {
        task_id: id.clone(),
        ..pb::RetryRequest::default()
    };
    refused(
        caller.work.retry(again).await,
        Code::Unavailable,
        "NEWER_SERVER_NEEDED",
    );
    let gone = pb::DeleteTaskRequest { task_id: id };
    caller.work.delete_task(gone).await.unwrap();
}

//! Calls that a mesh repeats, cuts short or translates.

use claudepool::pb;
use claudepool::pb::pool_service_client::PoolServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::proxy::Envoy;
use crate::support::raw::call;
use crate::support::{Program, connect, hanging_calls, prompt, refused, request_id};

#[tokio::test]
async fn a_call_that_is_repeated_by_the_mesh_runs_once() {
    const CALLS: usize = 4;
    let program = Program::with_slots(CALLS as u32).await;
    let mut server = program.serve().await;
    // It gives up on a try, as on one that is lost, and sends it again at once:
    // while the server still sees the caller leave.
    let impatient = [
        (
            "retry_on: cancelled,unavailable",
            "retry_on: reset,cancelled,unavailable",
        ),
        (
            "num_retries: 2",
            "per_try_timeout: 0.5s\n                              num_retries: 100",
        ),
        ("base_interval: 0.1s", "base_interval: 0.001s"),
    ];
    let envoy = Envoy::before(server.addr, &impatient).await;
    let channel = connect(envoy.addr).await;

    let calls: Vec<_> = (0..CALLS)
        .map(|number| {
            let mut work = PoolServiceClient::new(channel.clone());
            let request = pb::RunRequest {
                task: Some(prompt(format!(
                    "::bash echo {number} >> runs; sleep 1.8\n::echo done"
                ))),
                request_id: request_id(),
                ..Default::default()
            };
            tokio::spawn(async move { work.run(request).await })
        })
        .collect();

    for call in calls {
        let answer = call.await.unwrap().unwrap().into_inner();
        assert_eq!(answer.result.unwrap().output, "done");
        assert_eq!(answer.task.unwrap().attempt, 1);
    }
    let ran = std::fs::read_to_string(program.working_dir().join("runs")).unwrap();
    assert_eq!(ran.lines().count(), CALLS, "{ran}");
    let again = envoy.count("upstream_rq_retry").await;
    assert!(again >= 2 * CALLS as u64, "{again} were sent again");

    // UNAVAILABLE is repeated as well, and is told in the end.
    let caller = &mut server.caller;
    caller
        .operator
        .pause(pb::PauseRequest::default())
        .await
        .unwrap();
    let request = pb::SubmitRequest {
        task: Some(prompt("::bash echo paused >> runs")),
        request_id: request_id(),
    };
    let before = envoy.count("upstream_rq_retry").await;
    let mut work = PoolServiceClient::new(channel);
    let mut request = tonic::Request::new(request);
    request.set_timeout(std::time::Duration::from_secs(1));
    let answer = work.submit(request).await.map(drop);
    assert!(answer.is_err());
    assert!(envoy.count("upstream_rq_retry").await > before);
    caller
        .operator
        .resume(pb::ResumeRequest::default())
        .await
        .unwrap();
    let ran = std::fs::read_to_string(program.working_dir().join("runs")).unwrap();
    assert_eq!(ran.lines().count(), CALLS, "{ran}");
}

#[tokio::test]
async fn an_expired_deadline_is_told_as_such_and_not_repeated() {
    let program = Program::new().await;
    let mut server = program.serve().await;
    let envoy = Envoy::before(server.addr, &[]).await;

    for (path, message) in hanging_calls(&mut server.caller).await {
        let seen = call(envoy.addr, path, Some("400m"), &message).await;
        assert_eq!(seen.status.code(), Code::DeadlineExceeded, "{path}");
    }

    assert_eq!(envoy.count("upstream_rq_retry").await, 0);
}

/// A call of gRPC-Web by HTTP/1, and all that is answered. The first field of Run
/// and RunStream is the same.
async fn web(envoy: &Envoy, method: &str, task: &str, header: &str) -> String {
    use prost::Message;
    let request = pb::RunRequest {
        task: Some(prompt(task)),
        ..Default::default()
    };
    let message = request.encode_to_vec();
    let head = format!(
        "POST /claudepool.v1.PoolService/{method} HTTP/1.1\r\nhost: pool\r\nconnection: close\r\n\
         content-type: application/grpc-web+proto\r\nx-grpc-web: 1\r\n{header}\
         content-length: {}\r\n\r\n",
        message.len() + 5
    );
    let length = u8::try_from(message.len()).unwrap();
    let sent = [head.as_bytes(), &[0, 0, 0, 0, length], &message].concat();
    let mut stream = TcpStream::connect(envoy.addr).await.unwrap();
    stream.write_all(&sent).await.unwrap();
    let mut answer = Vec::new();
    // What is refused before it is read ends with a reset.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn grpc_web_passes_and_a_page_that_is_not_listed_does_not() {
    let program = Program::new().await;
    let mut server = program.serve().await;
    let envoy = Envoy::before(server.addr, &[]).await;

    let answer = web(&envoy, "Run", "::echo over the web", "").await;
    assert!(answer.contains("over the web"), "{answer}");
    assert!(answer.contains("grpc-status:0"), "{answer}");

    let stream = web(&envoy, "RunStream", "::echo by pieces", "").await;
    assert!(stream.contains("by pieces"), "{stream}");
    assert!(stream.contains("grpc-status:0"), "{stream}");

    let late = web(&envoy, "Run", "::hang", "grpc-timeout: 300m\r\n").await;
    assert!(late.replace(": ", ":").contains("grpc-status:4"), "{late}");

    let page = web(
        &envoy,
        "Run",
        "::echo x",
        "origin: https://evil.example\r\n",
    )
    .await;
    assert!(!page.contains("grpc-status:0"), "{page}");
    let list = pb::ListTasksRequest::default();
    let tasks = server
        .caller
        .work
        .list_tasks(list)
        .await
        .unwrap()
        .into_inner()
        .tasks;
    assert_eq!(tasks.len(), 3, "the page made none");
    let gone = pb::GetTaskRequest {
        task_id: "nothing".into(),
    };
    let mut work = PoolServiceClient::new(connect(envoy.addr).await);
    refused(
        work.get_task(gone).await,
        Code::InvalidArgument,
        "INVALID_FIELD",
    );
}

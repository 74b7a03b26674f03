//! Three servers on one database, restarted in turn while clients use them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use claudepool::pb::pool_service_client::PoolServiceClient;
use claudepool::pb::{self, TaskState, event::Kind};
use rustix::process::Signal;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::proxy::{Envoy, free};
use crate::server::SHARED;
use crate::support::{Program, Serving, lazily, prompt, request_id};

/// Clients at a time, each in one of three ways.
const CLIENTS: usize = 6;
/// Rounds that must have been done before each restart, and after the last.
const ROUNDS: usize = 20;
/// How clients/service-config.json, which tonic does not read, has calls sent
/// again.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Counts what clients got done, and tells who waits for it.
struct Load {
    done: watch::Sender<usize>,
    stop: AtomicBool,
}

/// A call of a stub, as a client with the shipped configuration makes it.
async fn sent<Q: Clone, A, F>(
    work: &PoolServiceClient<Channel>,
    request: Q,
    call: impl Fn(PoolServiceClient<Channel>, Q) -> F,
) -> A
where
    F: Future<Output = Result<tonic::Response<A>, Status>>,
{
    let (mut tries, mut pause) = (1, FIRST_PAUSE);
    loop {
        match call(work.clone(), request.clone()).await {
            Ok(answer) => return answer.into_inner(),
            Err(status) if status.code() == Code::Unavailable && tries < TRIES => {
                tokio::time::sleep(pause).await;
            }
            Err(status) => panic!("an error after {tries} tries: {status:?}"),
        }
        tries += 1;
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

/// Runs a task by the call that answers once.
async fn run(work: &PoolServiceClient<Channel>, number: usize) {
    let request = pb::RunRequest {
        task: Some(prompt(format!("::bash sleep 0.1\n::echo {number}"))),
        request_id: request_id(),
        ..pb::RunRequest::default()
    };
    let call = |mut work: PoolServiceClient<_>, request| async move { work.run(request).await };
    let answer = sent(work, request, call).await;
    assert_eq!(answer.result.unwrap().output, number.to_string());
}

/// Submits a task, and asks for its result until it has ended.
async fn ask(work: &PoolServiceClient<Channel>, number: usize) -> String {
    let submit = pb::SubmitRequest {
        task: Some(prompt(format!("::bash sleep 0.1\n::echo {number}"))),
        request_id: request_id(),
    };
    let call = |mut work: PoolServiceClient<_>, request| async move { work.submit(request).await };
    let made = sent(work, submit, call).await;
    let request = pb::GetResultRequest {
        task_id: made.task_id.clone(),
        wait: Some(prost_types::Duration {
            seconds: 5,
            nanos: 0,
        }),
    };
    loop {
        let call =
            |mut work: PoolServiceClient<_>, request| async move { work.get_result(request).await };
        let answer = sent(work, request.clone(), call).await;
        if answer.task.unwrap().state() == TaskState::Succeeded {
            assert_eq!(answer.result.unwrap().output, number.to_string());
            return made.task_id;
        }
    }
}

/// Reads a task's log to its end: dense, and what was said.
async fn read(client: &claudepool_client::Client, task_id: &str) -> pb::Finished {
    let mut log = client.watch(task_id, 0);
    let mut last = 0;
    while let Some(event) = log.next().await.expect("a watch is never lost") {
        assert_eq!(event.sequence, last + 1);
        last = event.sequence;
        if let Some(Kind::Finished(end)) = event.kind {
            return end;
        }
    }
    panic!("a log ends with its end");
}

/// Uses the servers until it is told to stop; the tasks that it was told of.
async fn client(load: Arc<Load>, envoy: SocketAddr, way: usize) -> Vec<String> {
    let client = claudepool_client::connect(&format!("http://{envoy}"), Default::default());
    let client = client.unwrap();
    let stub = PoolServiceClient::new(lazily(envoy));
    let (mut told, mut number) = (Vec::new(), 0);
    while !load.stop.load(Ordering::Relaxed) {
        number += 1;
        match way % 3 {
            0 => {
                run(&stub, number).await;
                let result = client.run(prompt(format!("::echo {number}"))).await;
                assert_eq!(result.expect("never lost").output, number.to_string());
            }
            1 => told.push(ask(&stub, number).await),
            _ => {
                let task = prompt(format!("::slow 5 20\n::echo {number}"));
                let id = client.submit(task).await.expect("never lost");
                let end = read(&client, &id).await;
                assert_eq!(end.state(), TaskState::Succeeded);
                told.push(id);
            }
        }
        load.done.send_modify(|done| *done += 1);
    }
    told
}

/// Waits until clients have done so many rounds more.
async fn more(done: &mut watch::Receiver<usize>) {
    let before = *done.borrow_and_update();
    done.wait_for(|done| *done >= before + ROUNDS)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_are_restarted_in_turn_under_load_and_no_client_sees_an_error() {
    let url = SHARED.url(&SHARED.database().await);
    let mut servers: Vec<(Program, SocketAddr, Serving)> = Vec::new();
    for name in ["a", "b", "c"] {
        let lines = format!("node_id = '{name}'\ndrain_timeout = '2s'");
        let program = Program::with_slots_and(2, &lines).await.on(url.clone());
        let addr = free();
        let server = program.serve_at(addr).await;
        servers.push((program, addr, server));
    }
    let addresses: Vec<_> = servers.iter().map(|(_, addr, _)| *addr).collect();
    let envoy = Envoy::before_all(&addresses, &[]).await;
    let (done, mut seen) = watch::channel(0);
    let load = Arc::new(Load {
        done,
        stop: AtomicBool::new(false),
    });
    // Somebody reads what outlasts every server: each drain hands it back.
    let patient = claudepool_client::connect(&format!("http://{}", envoy.addr), Default::default());
    let patient = patient.unwrap();
    let long = patient.submit(prompt("::echo on\n::hang")).await.unwrap();
    let id = long.clone();
    let reader = tokio::spawn(async move { read(&patient, &id).await });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|way| tokio::spawn(client(Arc::clone(&load), envoy.addr, way)))
        .collect();

    for (program, addr, server) in &mut servers {
        more(&mut seen).await;
        server.signal(Signal::TERM);
        let again = async {
            assert!(server.has_ended().await.success());
            program.serve_at(*addr).await
        };
        *server = again.await;
        // Not when it is healthy: Envoy may not have seen yet that it was gone.
        envoy.until_used(*addr).await;
        more(&mut seen).await;
    }
    load.stop.store(true, Ordering::Relaxed);

    let mut told = Vec::new();
    for client in clients {
        told.extend(client.await.expect("no client saw an error"));
    }
    let caller = &mut servers[0].2.caller;
    caller.cancel(&long).await;
    let end = reader.await.expect("the reader saw no error");
    assert_eq!(end.state(), TaskState::Cancelled);
    assert!(caller.task(&long).await.attempt > 1, "it was handed back");
    for id in &told {
        let answer = caller.result(id).await;
        assert_eq!(answer.task.unwrap().state(), TaskState::Succeeded);
    }
    assert!(told.len() > ROUNDS);
}

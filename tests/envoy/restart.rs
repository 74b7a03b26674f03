//! One server that is restarted while clients use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use claudepool::pb::TaskState;
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::proxy::{Envoy, free};
use crate::support::{Program, next_event, prompt};

/// Clients at a time.
const CLIENTS: usize = 6;
/// Calls that must have succeeded before the restart, and after it.
const CALLS: usize = 30;

/// Counts what clients got done, and tells who waits for it.
struct Load {
    done: watch::Sender<usize>,
    stop: AtomicBool,
    submitted: AtomicUsize,
}

/// Uses the server until it is told to stop; the tasks that were acknowledged.
async fn client(load: Arc<Load>, address: String) -> Vec<String> {
    let client = claudepool_client::connect(&address, Default::default()).unwrap();
    let mut acknowledged = Vec::new();
    while !load.stop.load(Ordering::Relaxed) {
        let number = load.submitted.fetch_add(1, Ordering::Relaxed);
        let id = client.submit(prompt("::echo made")).await;
        acknowledged.push(id.expect("a submit is never lost"));
        let answer = client.run(prompt(format!("::echo {number}"))).await;
        let result = answer.expect("a run is never lost");
        assert_eq!(result.output, number.to_string());
        load.done.send_modify(|done| *done += 1);
    }
    acknowledged
}

#[tokio::test]
async fn a_server_is_restarted_under_load_and_no_client_sees_an_error() {
    let program = Program::with_slots(2).await;
    let addr = free();
    let mut server = program.serve_at(addr).await;
    let envoy = Envoy::before(addr, &[]).await;
    let (done, mut seen) = watch::channel(0);
    let load = Arc::new(Load {
        done,
        stop: AtomicBool::new(false),
        submitted: AtomicUsize::new(0),
    });
    let address = format!("http://{}", envoy.addr);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(client(Arc::clone(&load), address.clone())))
        .collect();
    seen.wait_for(|done| *done >= CALLS).await.unwrap();
    // What the drain has to wait for: until the test lets it end.
    let gate = program.working_dir().join("gate");
    let made = std::process::Command::new("mkfifo").arg(&gate).status();
    assert!(made.unwrap().success());
    let last = server
        .caller
        .submit(prompt(format!(
            "::bash cat {}\n::echo let go",
            gate.display()
        )))
        .await;
    let mut log = server.caller.watch(&last, 0).await;
    while !matches!(
        next_event(&mut log).await.unwrap().kind,
        Some(claudepool::pb::event::Kind::ToolUse(_))
    ) {}

    server.signal(Signal::TERM);

    envoy.until_health_of(addr, false).await;
    // The port is open, and what runs goes on.
    TcpStream::connect(addr).await.expect("it still listens");
    assert_eq!(server.caller.task(&last).await.state(), TaskState::Running);
    tokio::task::spawn_blocking(move || std::fs::write(gate, "go"))
        .await
        .unwrap()
        .unwrap();
    assert!(server.ended().await.success());
    assert!(TcpStream::connect(addr).await.is_err(), "it has gone");
    let mut server = program.serve_at(addr).await;
    let before = *seen.borrow_and_update();
    seen.wait_for(|done| *done >= before + CALLS).await.unwrap();
    load.stop.store(true, Ordering::Relaxed);

    let mut acknowledged = vec![last];
    for client in clients {
        acknowledged.extend(client.await.expect("no client saw an error"));
    }
    for id in &acknowledged {
        let answer = server.caller.result(id).await;
        assert_eq!(answer.task.unwrap().state(), TaskState::Succeeded);
    }
    assert!(acknowledged.len() > CALLS);
}

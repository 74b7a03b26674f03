//! `/livez`, `/readyz` and `/metrics`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use claudepool::metrics::CONTENT_TYPE;
use claudepool::rpc::Server;
use claudepool::store::faulty::Faulty;
use claudepool::store::memory::Memory;
use claudepool::{rpc, status_port};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::openmetrics::read;
use crate::support::http::{ask, get};
use crate::support::{Harness, Program};

/// A status port for a server.
async fn port(handle: rpc::Handle) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(status_port::serve(listener, handle));
    addr
}

/// Waits until readiness is told so.
async fn until(addr: SocketAddr, status: u16, word: &str) {
    let wanted = async {
        loop {
            let answer = get(addr, "/readyz").await;
            if (answer.status, answer.body.trim()) == (status, word) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(crate::support::PATIENCE, wanted).await;
    waited.unwrap_or_else(|_| panic!("never {status} {word}"));
}

#[tokio::test]
async fn a_server_without_a_pool_lives_and_says_that_it_is_starting() {
    let server = Server::new(rpc::Options::default());
    let addr = port(server.handle()).await;

    let (live, ready) = (get(addr, "/livez").await, get(addr, "/readyz").await);

    assert_eq!((live.status, &*live.body), (200, "ok\n"));
    assert_eq!((ready.status, &*ready.body), (503, "starting\n"));
    let metrics = read(&get(addr, "/metrics").await.body);
    assert_eq!(metrics["claudepool_ready"].samples[0].2, 0.0);
    assert!(!metrics.contains_key("claudepool_slots"));
}

#[tokio::test]
async fn readiness_follows_the_store_and_a_drain() {
    let faulty = std::sync::Arc::new(Faulty::new(std::sync::Arc::new(Memory::new())));
    let server = Harness::new().store(faulty.clone()).start().await;
    let addr = port(server.handle.clone()).await;
    until(addr, 200, "ready").await;

    faulty.fail_all(true);
    let work = server.say("lost");
    let request = claudepool::pb::SubmitRequest {
        task: Some(work),
        ..Default::default()
    };
    server.work.clone().submit(request).await.unwrap_err();
    until(addr, 503, "store").await;
    let metrics = read(&get(addr, "/metrics").await.body);
    assert_eq!(metrics["claudepool_store_up"].samples[0].2, 0.0);
    assert!(!metrics.contains_key("claudepool_tasks"), "nobody knows");

    faulty.fail_all(false);
    until(addr, 200, "ready").await;
    let drain = tokio::spawn({
        let pool = server.pool.clone();
        async move { pool.drain(Duration::ZERO).await }
    });
    until(addr, 503, "draining").await;
    drain.await.unwrap().unwrap();
    assert_eq!(get(addr, "/livez").await.status, 200);
}

#[tokio::test]
async fn the_port_shows_what_it_has_and_changes_nothing() {
    let program = Program::new().await;
    let server = program.serve().await;
    let addr = server.status;

    assert!(addr.ip().is_loopback());
    let metrics = get(addr, "/metrics").await;
    assert_eq!(
        (metrics.status, &*metrics.content_type),
        (200, CONTENT_TYPE)
    );
    assert_eq!(get(addr, "/").await.status, 404);
    assert_eq!(get(addr, "/metrics/../secret").await.status, 404);
    assert_eq!(ask(addr, "POST", "/readyz").await.status, 405);
    // The store has a key of the CLI in its environment.
    assert!(!metrics.body.contains("dummy"));
}

#[tokio::test]
async fn visitors_who_say_nothing_keep_nobody_out() {
    let server = Server::new(rpc::Options::default());
    let addr = port(server.handle()).await;
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(TcpStream::connect(addr).await.unwrap());
    }
    let began = Instant::now();

    let live = get(addr, "/livez").await;

    assert_eq!(live.status, 200);
    assert!(began.elapsed() < Duration::from_secs(15));
    // The oldest had to go, and not only for its silence, which takes 5 s.
    let mut said = Vec::new();
    let cut = tokio::time::timeout(Duration::from_secs(4), silent[0].read_to_end(&mut said));
    let _ = cut.await.expect("it is cut off");
    assert_eq!(said, b"");
}

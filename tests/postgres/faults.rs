//! A database that fails, and the way to it: calls end in time, what was
//! answered is kept, and everything works again by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use claudepool::id::TaskId;
use claudepool::store::Cluster;
use claudepool::store::conformance::fixture::{batch, claim, everything, made, queued, submit};
use claudepool::store::postgres::Postgres;
use claudepool::store::{Store, StoreError};
use futures_util::future::join_all;
use rustix::process::Signal;

use crate::proxy::{Cut, Proxy};
use crate::server::{SHARED, Server, open};

/// Tries until it works; how often it did not.
async fn until_it_works(store: &Postgres) -> usize {
    let mut failed = 0;
    while let Err(error) = store.probe(false).await {
        assert!(error.is_outage(), "{error:?}");
        failed += 1;
    }
    failed
}

async fn submitted(store: &Postgres) -> Result<TaskId, StoreError> {
    let task = queued();
    let id = task.id;
    store.commit(batch(vec![made(task)])).await.map(|_| id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_under_load_loses_nothing_that_it_has_answered() {
    let server = Server::start();
    let (store, _) = server.store().await;
    let store = Arc::new(store);
    let stop = Arc::new(AtomicBool::new(false));
    let submitters: Vec<_> = (0..8)
        .map(|_| {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut answered = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    match submitted(&store).await {
                        Ok(id) => answered.push(id),
                        Err(error) => assert!(error.is_outage(), "{error:?}"),
                    }
                }
                answered
            })
        })
        .collect();
    for _ in 0..3 {
        submit(&*store, queued()).await;
        let server = &server;
        tokio::task::block_in_place(|| {
            server.crash();
            server.again();
        });
        until_it_works(&store).await;
    }
    stop.store(true, Ordering::SeqCst);
    let mut answered = Vec::new();
    for submitter in submitters {
        answered.extend(submitter.await.unwrap());
    }

    assert!(!answered.is_empty());
    let kept = store.list(&everything()).await.unwrap();
    let kept: std::collections::BTreeSet<_> = kept.iter().map(|record| record.task.id).collect();
    let lost = answered.iter().filter(|id| !kept.contains(id)).count();
    assert_eq!(lost, 0, "of {}", answered.len());
    store.check_sums().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_unavailable_in_time_and_then_works() {
    let server = Server::start();
    let name = server.database().await;
    let store = open(&format!("{}&call_timeout=2s", server.url(&name))).await;
    submitted(&store).await.unwrap();
    server.signal(Signal::STOP);

    let begin = Instant::now();
    let calls = (0..20).map(|_| async {
        let wrote = submitted(&store).await.map(drop);
        let read = store.totals().await.map(drop);
        [wrote, read]
    });
    for answer in join_all(calls).await.into_iter().flatten() {
        let Err(StoreError::Unavailable(why)) = answer else {
            panic!("{answer:?}");
        };
        assert!(!why.is_empty());
    }
    let took = begin.elapsed();
    server.signal(Signal::CONT);

    assert!(
        took < Duration::from_secs(8),
        "{took:?} for two calls of 2 s"
    );
    until_it_works(&store).await;
    claim(&store, 1).await;
    store.check_sums().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_ended_by_the_database_are_made_again_unseen() {
    let (store, name) = SHARED.store().await;
    let calls = (0..8).map(|_| store.totals());
    join_all(calls).await;
    assert!(store.told().await.everything);
    let admin = SHARED.admin("postgres").await;
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1";
    let ended: i64 = admin.query_one(sql, &[&name]).await.unwrap().get(0);
    assert!(ended >= 2, "{ended}");

    let ids = join_all((0..8).map(|_| submitted(&store))).await;

    assert!(ids.iter().all(Result::is_ok), "{ids:?}");
    // The connection for wakes, too: what was missed is everything.
    assert!(store.told().await.everything);
    store.check_sums().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_unavailable_and_never_done_twice() {
    for (cut, kept) in [(Cut::Before, 0), (Cut::After, 1)] {
        let name = SHARED.database().await;
        let proxy = Proxy::before(SHARED.port).await;
        let url = SHARED.url(&name);
        let url = url.replace(&SHARED.port.to_string(), &proxy.port.to_string());
        let store = open(&url).await;
        proxy.cut(cut);

        let answer = submitted(&store).await;

        assert!(
            matches!(answer, Err(StoreError::Unavailable(_))),
            "{answer:?}"
        );
        proxy.cut(Cut::Nothing);
        until_it_works(&store).await;
        let tasks = store.list(&everything()).await.unwrap();
        assert_eq!(tasks.len(), kept, "{cut:?}");
        store.check_sums().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_network_ends_calls_in_time_and_a_new_one_works() {
    let name = SHARED.database().await;
    let proxy = Proxy::before(SHARED.port).await;
    let url = SHARED.url(&name);
    let url = url.replace(&SHARED.port.to_string(), &proxy.port.to_string());
    let store = open(&format!("{url}&call_timeout=1s")).await;
    submitted(&store).await.unwrap();
    proxy.cut(Cut::Silence);

    let begin = Instant::now();
    let answer = submitted(&store).await;
    let took = begin.elapsed();

    assert!(
        matches!(answer, Err(StoreError::Unavailable(_))),
        "{answer:?}"
    );
    assert!(took < Duration::from_secs(5), "{took:?}");
    proxy.cut(Cut::Nothing);
    until_it_works(&store).await;
    submitted(&store).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_leaves_leaves_its_commit_whole() {
    let (store, _) = SHARED.store().await;
    let store = Arc::new(store);
    for _ in 0..20 {
        let calls = Arc::clone(&store);
        let call = tokio::spawn(async move { submitted(&calls).await });
        tokio::task::yield_now().await;
        call.abort();
    }
    store.close().await;
    let again = store.totals().await;
    assert!(
        matches!(again, Err(StoreError::Unavailable(_))),
        "{again:?}"
    );
}

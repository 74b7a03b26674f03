//! What a database takes of the disk stays in proportion to what it holds.

use std::sync::atomic::{AtomicBool, Ordering};

use claudepool::store::conformance::fixture::sweep;
use claudepool::task::State;

use super::*;

/// Entries of an agent that says much.
const ENTRIES: usize = 20;

/// Bytes of the database and of its write-ahead log.
fn sizes(path: &Path) -> (u64, u64) {
    let size = |path: PathBuf| std::fs::metadata(path).map_or(0, |file| file.len());
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    (size(path.to_owned()), size(log.into()))
}

/// Makes a task that says and gives much, and ends it.
async fn work(store: &dyn Store) {
    let task = running(store, queued()).await;
    let said = (0..ENTRIES).map(|_| delta(&"x".repeat(4000))).collect();
    store
        .append(fence(&task), said, Note::default(), at(1))
        .await
        .expect("appended");
    let whole = "y".repeat(100_000);
    commit_event(store, &task, success(&task, 7, Some(whole.into())), at(2))
        .await
        .expect("finished");
}

/// Deletes every task that has succeeded.
async fn let_go(store: &dyn Store) {
    loop {
        let old = store.outdated(&[(State::Succeeded, at(99))], 32).await;
        let old = old.expect("read");
        if old.is_empty() {
            return sweep(store).await;
        }
        let deletions = old.iter().map(|task| store.delete(task.id, task.version));
        for deleted in futures_util::future::join_all(deletions).await {
            deleted.expect("deleted");
        }
    }
}

fn ledger(path: &Path) -> (i64, i64, i64) {
    let conn = rusqlite::Connection::open(path).expect("opened");
    conn.query_row(
        "SELECT count(*), sum(cost), sum(CASE kind WHEN 1 THEN reserved ELSE -reserved END)
         FROM ledger",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )
    .expect("read")
}

#[tokio::test]
async fn rounds_of_work_that_is_let_go_do_not_make_the_files_grow() {
    let (_directory, path) = new_path();
    let store = open(&path).await;
    let mut ends = Vec::new();
    for round in 1..=4 {
        for _ in 0..100 {
            work(&store).await;
        }
        let (full, log) = sizes(&path);
        assert!(full > 10_000_000, "the round took room: {full}");
        assert!(log <= 20 << 20, "round {round}: {log}");

        let_go(&store).await;

        store.check_sums().await.expect("the sums agree");
        ends.push(sizes(&path));
    }
    store.close().await;

    let (rest, _) = sizes(&path);
    assert!(rest < 4 << 20, "what is not used is given back: {rest}");
    let (first, last) = (ends[0], ends[3]);
    let total = |(file, log): (u64, u64)| file + log;
    assert!(total(last) <= total(first) * 5 / 4, "{ends:?}");
    // 400 tasks have spent 7 each, and nothing is left of each by itself.
    let (entries, cost, reserved) = ledger(&path);
    assert_eq!((cost, reserved), (2800, 0));
    assert!(entries <= 4, "one a day, kind and estimated: {entries}");
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_sweep_leaves_nothing_unswept() {
    let (_directory, path) = new_path();
    let store = open(&path).await;
    for _ in 0..40 {
        work(&store).await;
    }
    let old = store.outdated(&[(State::Succeeded, at(99))], 99).await;
    for task in old.expect("read") {
        store.delete(task.id, task.version).await.expect("deleted");
    }
    assert!(store.sweep().await.expect("swept"), "there is more");
    drop(store);

    let store = open(&path).await;
    sweep(&store).await;

    store.check_sums().await.expect("the sums agree");
    store.close().await;
    let conn = rusqlite::Connection::open(&path).expect("opened");
    for table in [
        "tasks",
        "task_specs",
        "task_results",
        "task_outputs",
        "events",
        "removed",
    ] {
        let count = conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
            row.get::<_, i64>(0)
        });
        assert_eq!(count.expect("read"), 0, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_are_served_between_the_steps_of_a_sweep() {
    let (_directory, path) = new_path();
    let store = Arc::new(open(&path).await);
    for _ in 0..100 {
        work(&*store).await;
    }
    let old = store.outdated(&[(State::Succeeded, at(99))], 999).await;
    for task in old.expect("read") {
        store.delete(task.id, task.version).await.expect("deleted");
    }
    let (swept, mut steps) = (AtomicBool::new(false), 0);
    let mut served = 0;
    let sweeping = async {
        while store.sweep().await.expect("swept") {
            steps += 1;
        }
        swept.store(true, Ordering::SeqCst);
    };
    let serving = async {
        while !swept.load(Ordering::SeqCst) {
            submit(&*store, queued()).await;
            served += 1;
        }
    };

    tokio::join!(sweeping, serving);

    assert!(steps > 5, "a step is short: {steps}");
    assert!(
        served * 4 >= steps,
        "{served} callers in {steps} steps: one need not wait for many"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_overlap_for_ever_do_not_make_the_log_grow() {
    let (_directory, path) = new_path();
    let store = open(&path).await;
    work(&store).await;
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (stop, path) = (Arc::clone(&stop), path.clone());
            std::thread::spawn(move || {
                let conn = rusqlite::Connection::open(&path).expect("opened");
                while !stop.load(Ordering::SeqCst) {
                    let sum = "SELECT sum(length(hex(bytes)))
                               FROM (SELECT bytes FROM events LIMIT 9)";
                    let read = conn.query_row(sum, [], |row| row.get::<_, i64>(0));
                    read.expect("read");
                }
            })
        })
        .collect();
    let task = running(&store, queued()).await;
    let mut longest = 0;
    for _ in 0..100 {
        let said = (0..8).map(|_| delta(&"x".repeat(60_000))).collect();
        store
            .append(fence(&task), said, Note::default(), at(1))
            .await
            .expect("appended");
        longest = longest.max(sizes(&path).1);
    }
    stop.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.join().expect("it read");
    }

    assert!(longest < 32 << 20, "48 MB were written: {longest}");
}

//! What only a store in a file can do wrong.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use claudepool::id::TaskId;
use claudepool::money::Microdollars;
use claudepool::store::conformance::fixture::{
    at, batch, claim, commit_event, delta, everything, fence, made, queued, running, snapshot,
    submit, success, wish,
};
use claudepool::store::sqlite::Sqlite;
use claudepool::store::{Note, Parts, Store, StoreError};
use claudepool::task::Task;
use tempfile::TempDir;

#[path = "room.rs"]
mod room;

/// A store in a directory that is gone with the test.
async fn in_a_new_directory() -> (Arc<dyn Store>, TempDir) {
    let directory = TempDir::new().expect("a directory");
    let store = open(&directory.path().join("pool.db")).await;
    (Arc::new(store), directory)
}

async fn open(path: &Path) -> Sqlite {
    Sqlite::open(path).await.expect("it opens")
}

claudepool::store_conformance!(conformance, in_a_new_directory());

/// A database path in a directory that is gone with the test.
fn new_path() -> (TempDir, PathBuf) {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("pool.db");
    (directory, path)
}

async fn refusal(path: &Path) -> String {
    match Sqlite::open(path).await {
        Ok(_) => panic!("it must not open"),
        Err(refused) => refused.to_string(),
    }
}

/// Does a little of everything.
async fn live_a_little(store: &dyn Store) {
    store
        .set_budget(Some(Microdollars(50_000)))
        .await
        .expect("set");
    store
        .set_context(0, "key", Some("value"), at(1))
        .await
        .expect("set");
    let task = running(store, queued()).await;
    store
        .append(
            fence(&task),
            vec![delta("a")],
            Note::cost(Microdollars(3)),
            at(1),
        )
        .await
        .expect("appended");
    let long = "long ".repeat(100_000);
    commit_event(store, &task, success(&task, 5, Some(long.into())), at(2))
        .await
        .expect("finished");
    running(store, queued()).await;
    let waiting = Task {
        queue_deadline: Some(at(9)),
        tags: vec!["red".to_owned()],
        ..queued()
    };
    submit(store, waiting).await;
}

#[tokio::test]
async fn a_reopened_store_gives_everything_back() {
    let (_directory, path) = new_path();
    let store = open(&path).await;
    live_a_little(&store).await;
    let before = snapshot(&store).await;
    store.close().await;
    let beside = std::fs::read_dir(path.parent().expect("a directory")).expect("read");
    assert_eq!(beside.count(), 2, "the database and its lock, no log");

    let store = open(&path).await;

    assert_eq!(snapshot(&store).await, before);
    store.check_sums().await.expect("the sums agree");
    assert_eq!(claim(&store, 9).await.tasks.len(), 1);
}

#[tokio::test]
async fn a_dropped_store_gives_everything_back() {
    let (_directory, path) = new_path();
    let store = open(&path).await;
    live_a_little(&store).await;
    let before = snapshot(&store).await;
    drop(store);

    assert_eq!(snapshot(&open(&path).await).await, before);
}

#[tokio::test]
async fn a_command_is_carried_out_though_its_caller_is_gone() {
    let (_directory, path) = new_path();
    let store = open(&path).await;
    let task = queued();
    {
        let mut commit = store.commit(batch(vec![made(task.clone())]));
        tokio::select! {
            biased;
            _ = &mut commit => {}
            () = std::future::ready(()) => {}
        }
    }
    store.close().await;

    let store = open(&path).await;
    let found = store.record(task.id, Parts::ROW).await.expect("read");
    assert!(found.is_some());
}

#[tokio::test]
async fn closing_waits_for_nobody_who_does_not_look() {
    let (_directory, path) = new_path();
    let store = open(&path).await;
    let mut commit = store.commit(batch(vec![made(queued())]));
    let early = tokio::select! {
        biased;
        done = &mut commit => Some(done),
        () = std::future::ready(()) => None,
    };

    // The call is held but not polled; its answer is kept for it.
    store.close().await;

    let done = match early {
        Some(done) => done,
        None => commit.await,
    };
    done.expect("it was carried out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_command_does_not_undo_its_neighbours() {
    let (_directory, path) = new_path();
    let store = Arc::new(open(&path).await);
    let known = submit(&*store, queued()).await;
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let (store, known) = (Arc::clone(&store), known.clone());
            tokio::spawn(async move {
                let new = queued();
                let mut changes = vec![made(new.clone())];
                if n % 2 == 0 {
                    changes.push(made(known));
                }
                let outcome = store.commit(batch(changes)).await;
                assert_eq!(outcome.is_ok(), n % 2 == 1, "{outcome:?}");
                (new.id, outcome.is_ok())
            })
        })
        .collect();
    for call in calls {
        let (id, committed) = call.await.expect("it was answered");
        let found = store.record(id, Parts::ROW).await.expect("read");
        assert_eq!(found.is_some(), committed);
    }
    store.check_sums().await.expect("the sums agree");
}

#[tokio::test]
async fn a_second_opener_is_refused_and_told_who_has_it() {
    let (directory, path) = new_path();
    let store = open(&path).await;
    let link = directory.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).expect("a link");

    for name in [&path, &link] {
        let said = refusal(name).await;
        let holder = format!("in use by process {}, since 20", std::process::id());
        assert!(said.contains(&holder), "{said}");
    }

    store.close().await;
    open(&path).await;
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let (_directory, path) = new_path();
    open(&path).await.close().await;
    let conn = rusqlite::Connection::open(&path).expect("opened");
    conn.pragma_update(None, "user_version", 99).expect("set");
    let sql = "UPDATE claudepool_schema SET compatible_from = 99";
    conn.execute_batch(sql).expect("set");
    drop(conn);

    let said = refusal(&path).await;

    assert!(said.contains("newer claudepool (schema 99"), "{said}");
}

#[tokio::test]
async fn a_newer_schema_that_says_so_is_served_and_left_as_it_is() {
    let (_directory, path) = new_path();
    open(&path).await.close().await;
    let set = |from: i64| {
        let conn = rusqlite::Connection::open(&path).expect("opened");
        let more = "ALTER TABLE tasks ADD COLUMN newer TEXT NOT NULL DEFAULT 'new'";
        // The second time it is there.
        let _ = conn.execute_batch(more);
        let sql = "UPDATE claudepool_schema SET compatible_from = ?";
        conn.execute(sql, [from]).expect("set");
        conn.pragma_update(None, "user_version", 99).expect("set");
    };
    set(6);

    let store = open(&path).await;
    live_a_little(&store).await;
    store.close().await;

    let conn = rusqlite::Connection::open(&path).expect("opened");
    let version = conn.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    assert_eq!(version.expect("read"), 99);
    drop(conn);
    set(99);
    assert!(refusal(&path).await.contains("schema 99"));
}

#[tokio::test]
async fn a_file_of_the_last_schema_is_brought_further_with_all_that_it_holds() {
    let (_directory, path) = new_path();
    let store = open(&path).await;
    live_a_little(&store).await;
    let before = snapshot(&store).await;
    store.close().await;
    let conn = rusqlite::Connection::open(&path).expect("opened");
    let last = "ALTER TABLE tasks DROP COLUMN level; DROP TABLE claudepool_schema;
                PRAGMA user_version = 5";
    conn.execute_batch(last).expect("undone");
    drop(conn);

    let store = open(&path).await;

    assert_eq!(snapshot(&store).await, before);
    submit(&store, queued()).await;
}

#[tokio::test]
async fn the_database_of_another_program_is_refused() {
    let (_directory, path) = new_path();
    let conn = rusqlite::Connection::open(&path).expect("opened");
    conn.execute_batch("CREATE TABLE theirs (x)").expect("made");
    drop(conn);
    let before = std::fs::read(&path).expect("read");

    let said = refusal(&path).await;

    assert!(said.contains("of another program"), "{said}");
    assert_eq!(std::fs::read(&path).expect("read"), before);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let (_directory, path) = new_path();
    for content in ["x", "a text that is somewhat longer than a header"] {
        std::fs::write(&path, content).expect("written");

        let said = refusal(&path).await;

        assert!(said.contains("no SQLite database"), "{said}");
        let found = std::fs::read_to_string(&path).expect("read");
        assert_eq!(found, content);
    }
}

#[tokio::test]
async fn a_damaged_database_is_refused() {
    let (_directory, path) = new_path();
    let store = open(&path).await;
    live_a_little(&store).await;
    store.close().await;
    let whole = std::fs::read(&path).expect("read");
    let cut = whole[..whole.len() / 2].to_vec();
    let mut holed = whole.clone();
    holed[3 * 4096..40 * 4096].fill(0xa5);

    for damaged in [cut, holed] {
        std::fs::write(&path, damaged).expect("written");
        let said = refusal(&path).await;
        assert!(said.contains("restore it from a backup"), "{said}");
    }
    std::fs::write(&path, whole).expect("written");
    open(&path).await;
}

#[tokio::test]
async fn a_bad_row_is_an_error_for_who_reads_it() {
    let (_directory, path) = new_path();
    let store = open(&path).await;
    let (bad, good) = (
        submit(&store, queued()).await,
        submit(&store, queued()).await,
    );
    store.close().await;
    for damage in [
        "UPDATE tasks SET tags = '{' WHERE id = ?",
        "UPDATE tasks SET attempt = -1 WHERE id = ?",
        "UPDATE tasks SET recovery = 77, tags = '[]' WHERE id = ?",
        "UPDATE tasks SET rank = 1000 WHERE id = ?",
        "UPDATE task_specs SET received = x'ff' WHERE task = ?",
        "UPDATE tasks SET id = x'00' WHERE id = ?",
    ] {
        let conn = rusqlite::Connection::open(&path).expect("opened");
        let changed = conn.execute(damage, [bad.id.as_bytes()]);
        assert_eq!(changed.expect("damaged"), 1, "{damage}");
        drop(conn);
        let store = open(&path).await;

        let listed = store.list(&everything()).await.map(drop);
        let claimed = store.claim(wish(2, at(0))).await.map(drop);
        if !damage.contains("task_specs") {
            assert!(matches!(listed, Err(StoreError::Corrupt(_))), "{damage}");
        }
        assert!(matches!(claimed, Err(StoreError::Corrupt(_))), "{damage}");
        let found = store.record(good.id, Parts::ALL).await.expect("read");
        assert!(found.is_some(), "the others can be read");
        store.close().await;
    }
}

#[tokio::test]
async fn a_full_disk_is_unavailable_until_there_is_room() {
    let (_directory, path) = new_path();
    let store = open(&path).await;
    let task = running(&store, queued()).await;
    store.fill_disk(4).await.expect("set");
    let before = snapshot(&store).await;

    let large = vec![delta(&"x".repeat(100_000))];
    let large = store.append(fence(&task), large, Note::cost(Microdollars(9)), at(1));
    let (large, small) = tokio::join!(large, store.commit(batch(vec![made(queued())])));

    assert!(
        matches!(large, Err(StoreError::Unavailable(_))),
        "{large:?}"
    );
    store.check_sums().await.expect("the sums agree");
    if small.is_err() {
        assert_eq!(snapshot(&store).await, before);
    }
    store.fill_disk(1_000_000).await.expect("set");
    commit_event(&store, &task, success(&task, 5, None), at(2))
        .await
        .expect("there is room again");
    store.check_sums().await.expect("the sums agree");
}

#[tokio::test]
async fn a_probe_tells_a_full_disk_and_leaves_nothing() {
    let (_directory, path) = new_path();
    let store = open(&path).await;
    live_a_little(&store).await;
    let before = snapshot(&store).await;
    store.fill_disk(4).await.expect("set");
    store
        .commit(batch(vec![]))
        .await
        .expect("there is room for nothing");

    let probed = store.probe(false).await;

    assert!(
        matches!(probed, Err(StoreError::Unavailable(_))),
        "{probed:?}"
    );
    store.fill_disk(1_000_000).await.expect("set");
    store.probe(false).await.expect("there is room");
    store.probe(true).await.expect("it is whole");
    assert_eq!(snapshot(&store).await, before);
    store.close().await;
    open(&path).await;
}

#[tokio::test]
async fn the_file_is_its_owners_and_its_directory_is_made() {
    let (directory, _) = new_path();
    let path = directory.path().join("new").join("pool.db");
    let store = open(&path).await;
    live_a_little(&store).await;
    for file in ["pool.db", "pool.db-wal", "pool.db-shm", "pool.db.lock"] {
        let file = path.with_file_name(file);
        let mode = std::fs::metadata(&file)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }

    let deeper = directory.path().join("not").join("there").join("pool.db");
    let said = refusal(&deeper).await;
    assert!(said.contains("cannot be used as a directory"), "{said}");
    let said = refusal(directory.path()).await;
    assert!(said.contains("cannot be opened"), "{said}");
}

/// Set in the child: the database that it is to write to.
const CHILD_DATABASE: &str = "CLAUDEPOOL_TEST_CHILD_DATABASE";

/// Makes, runs and ends tasks, and says what was answered, until it is killed.
async fn write_until_killed(path: &Path) {
    let store = Arc::new(open(path).await);
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            loop {
                println!("answered {}", submit(&*store, queued()).await.id);
                for claimed in claim(&*store, 1).await.tasks {
                    let task = claimed.task;
                    let appended =
                        store.append(fence(&task), vec![delta("x")], Note::default(), at(1));
                    appended.await.expect("appended");
                    let done = success(&task, 7, None);
                    commit_event(&*store, &task, done, at(2))
                        .await
                        .expect("finished");
                }
            }
        });
    }
    writers.join_next().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_that_it_has_answered() {
    if let Some(path) = std::env::var_os(CHILD_DATABASE) {
        return write_until_killed(Path::new(&path)).await;
    }
    let (_directory, path) = new_path();
    let test = "sqlite::a_killed_server_loses_nothing_that_it_has_answered";
    let mut child = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(CHILD_DATABASE, &path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the child starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let id = |line: String| -> Option<TaskId> {
        let (_, id) = line.split_once("answered ")?;
        id.parse().ok()
    };
    let mut answered: Vec<TaskId> = lines
        .by_ref()
        .map_while(Result::ok)
        .filter_map(id)
        .take(300)
        .collect();

    child.kill().expect("it is killed");
    child.wait().expect("it is gone");
    answered.extend(lines.map_while(Result::ok).filter_map(id));

    assert!(answered.len() >= 300, "the child worked");
    let store = open(&path).await;
    for id in answered {
        let record = store.record(id, Parts::ALL).await.expect("read");
        let record = record.expect("what was answered is there");
        assert!(record.spec.is_some());
        assert_eq!(record.result.is_some(), record.task.state.is_end());
        let log = store.log(id, 0, usize::MAX).await.expect("read");
        assert!(
            log.iter()
                .map(|entry| entry.sequence)
                .eq(1..=record.task.last_sequence)
        );
    }
    store.check_sums().await.expect("the sums agree");
}

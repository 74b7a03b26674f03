//! The store fails under a server: what its callers see, and that it comes back
//! by itself.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use claudepool::pb::{self, TaskState};
use claudepool::store::Store;
use claudepool::store::faulty::{Faulty, Trouble, When};
use claudepool::store::layer::Call;
use claudepool::store::memory::Memory;
use claudepool::store::sqlite::Sqlite;
use rustix::process::{Resource, Rlimit, prlimit};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

use crate::support::{
    Caller, Harness, PATIENCE, Program, Running, events, finished, refused, request_id,
};

const SERVICES: [&str; 5] = [
    "",
    "claudepool.v1.PoolService",
    "claudepool.v1.OperatorService",
    "claudepool.v1.CatalogService",
    "claudepool.v1.ContextService",
];

/// Waits until health says so for every service.
async fn health(caller: &Caller, wanted: ServingStatus) {
    for service in SERVICES {
        let service = service.to_owned();
        let mut client = caller.health.clone();
        let watch = client.watch(HealthCheckRequest { service }).await;
        let mut said = watch.unwrap().into_inner();
        let until = async { while said.message().await.unwrap().unwrap().status() != wanted {} };
        let seen = tokio::time::timeout(PATIENCE, until).await;
        seen.unwrap_or_else(|_| panic!("health never says {wanted:?}"));
    }
}

async fn submit(caller: &Caller, task: pb::TaskSpec, request_id: &str) -> Result<String, Status> {
    let request = pb::SubmitRequest {
        task: Some(task),
        request_id: request_id.to_owned(),
    };
    let answer = caller.work.clone().submit(request).await?;
    Ok(answer.into_inner().task_id)
}

/// What a caller is told while the store does not answer.
fn no_store<T>(answer: Result<T, Status>) {
    let status = refused(answer, Code::Unavailable, "STORE");
    assert!(status.get_details_retry_info().is_some());
    assert!(!status.message().contains('/'), "{}", status.message());
}

/// How many tasks there are.
async fn tasks(caller: &Caller) -> usize {
    let mut client = caller.work.clone();
    let list = client.list_tasks(pb::ListTasksRequest::default()).await;
    list.unwrap().into_inner().tasks.len()
}

async fn over_a_file() -> (Running, Arc<Sqlite>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Sqlite::open(dir.path().join("store.db")).await.unwrap());
    let server = Harness::new()
        .store(Arc::clone(&store) as Arc<dyn Store>)
        .start()
        .await;
    (server, store, dir)
}

#[tokio::test]
async fn while_the_store_fails_nothing_new_is_taken_and_health_says_so() {
    let store = Arc::new(Faulty::new(Arc::new(Memory::new())));
    let mut server = Harness::new().store(store.clone()).start().await;
    let task = server.say("x");
    let before = server.finish(task).await.task.unwrap().task_id;
    health(&server, ServingStatus::Serving).await;

    store.trouble(Trouble::Writes);
    no_store(submit(&server, server.say("y"), "").await);

    health(&server, ServingStatus::NotServing).await;
    let run = pb::RunRequest {
        task: Some(server.say("y")),
        ..Default::default()
    };
    no_store(server.work.run(run).await);
    let set = pb::SetContextRequest {
        key: "key".into(),
        value: "value".into(),
    };
    no_store(server.context.set_context(set).await);
    let state = server.task(&before).await.state();
    assert_eq!(state, TaskState::Succeeded, "what can be read is told");

    store.trouble(Trouble::None);
    health(&server, ServingStatus::Serving).await;
    let task = server.say("z");
    assert_eq!(server.finish(task).await.result.unwrap().output, "z");
    assert_eq!(tasks(&server).await, 2, "what was refused left nothing");
}

#[tokio::test]
async fn a_request_whose_commit_was_not_answered_is_repeated_without_harm() {
    for when in [When::Before, When::After] {
        let store = Arc::new(Faulty::new(Arc::new(Memory::new())));
        let mut server = Harness::new().store(store.clone()).start().await;
        let id = request_id();
        store.fail(Call::Commit, 1, when);

        no_store(submit(&server, server.paid("x"), &id).await);
        health(&server, ServingStatus::Serving).await;
        let task = loop {
            match submit(&server, server.paid("x"), &id).await {
                Ok(task) => break task,
                Err(status) => no_store::<()>(Err(status)),
            }
            health(&server, ServingStatus::Serving).await;
        };

        assert_eq!(server.result(&task).await.result.unwrap().output, "x");
        let again = submit(&server, server.paid("x"), &id).await.unwrap();
        assert_eq!((again, tasks(&server).await), (task.clone(), 1));
        let cost = server.task(&task).await.cost_microdollars;
        assert_eq!(store.totals().await.unwrap().funds.spent.0, cost);
    }
}

#[tokio::test]
async fn a_full_disk_costs_nothing_that_was_answered() {
    let (mut server, store, _dir) = over_a_file().await;
    let slow = server.slow("late", Duration::from_millis(500));
    let slow = server.submit(slow).await;
    let log = server.watch(&slow, 0).await;

    store.fill_disk(8).await.unwrap();
    let mut answered = vec![slow];
    let large = |n: usize| {
        let mut task = server.say(&n.to_string());
        task.tags = vec![format!("{n}-{}", "x".repeat(60))];
        task.settings = Some(pb::RunSettings {
            append_system_prompt: Some("words ".repeat(2_000)),
            ..Default::default()
        });
        task
    };
    let refusal = loop {
        match submit(&server, large(answered.len()), "").await {
            Ok(task) => answered.push(task),
            Err(status) => break status,
        }
    };
    no_store::<()>(Err(refusal));
    health(&server, ServingStatus::NotServing).await;
    store.check_sums().await.unwrap();

    store.fill_disk(1_000_000).await.unwrap();
    health(&server, ServingStatus::Serving).await;
    assert_eq!(finished(&events(log).await).state(), TaskState::Succeeded);
    assert_eq!(tasks(&server).await, answered.len());
    for task in answered {
        let state = server.result(&task).await.task.unwrap().state();
        assert_eq!(state, TaskState::Succeeded);
    }
    store.check_sums().await.unwrap();
}

#[tokio::test]
async fn a_database_that_another_program_keeps_locked_is_waited_for() {
    let (mut server, _store, dir) = over_a_file().await;
    let other = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();

    no_store(submit(&server, server.say("x"), "").await);
    health(&server, ServingStatus::NotServing).await;
    assert_eq!(tasks(&server).await, 0, "it can be read");
    other.execute_batch("COMMIT").unwrap();

    health(&server, ServingStatus::Serving).await;
    let task = server.say("y");
    assert_eq!(server.finish(task).await.result.unwrap().output, "y");
}

/// Overwrites the page on which a table begins; gives what it was.
fn damage(file: &Path, table: &str) -> (u64, Vec<u8>) {
    let other = rusqlite::Connection::open(file).unwrap();
    let number = |sql: &str| -> u64 {
        other
            .query_row(sql, [], |row| row.get::<_, u32>(0))
            .unwrap()
            .into()
    };
    // So that nobody has the page in memory, and it is read from the file.
    other.execute_batch("CREATE TABLE other (x)").unwrap();
    other.execute_batch("DROP TABLE other").unwrap();
    assert_eq!(number("PRAGMA wal_checkpoint(TRUNCATE)"), 0);
    let size = number("PRAGMA page_size");
    let page = number(&format!(
        "SELECT rootpage FROM sqlite_schema WHERE name = '{table}'"
    ));
    let at = (page - 1) * size;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut whole = vec![0; usize::try_from(size).unwrap()];
    file.read_exact_at(&mut whole, at).unwrap();
    file.write_all_at(&vec![0xa5; whole.len()], at).unwrap();
    (at, whole)
}

#[tokio::test]
async fn a_damaged_file_is_trusted_again_only_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = Arc::new(Sqlite::open(&path).await.unwrap());
    let faults = Arc::new(Faulty::new(store.clone()));
    let mut server = Harness::new().store(faults.clone()).start().await;
    let task = server.say("x");
    let before = server.finish(task).await.task.unwrap().task_id;
    // The probe's writing and what is read again see nothing of the second.
    for table in ["tasks", "events"] {
        let (at, whole) = damage(&path, table);

        no_store(submit(&server, server.say("y"), "").await);
        health(&server, ServingStatus::NotServing).await;
        let mut failed = faults.failed();
        let more = *failed.borrow() + 2;
        let probed = failed.wait_for(|failed| *failed >= more);
        let probed = tokio::time::timeout(PATIENCE, probed).await;
        drop(probed.expect("it goes on being damaged"));
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&whole, at).unwrap();

        health(&server, ServingStatus::Serving).await;
        assert_eq!(server.task(&before).await.state(), TaskState::Succeeded);
        let task = server.say("z");
        assert_eq!(server.finish(task).await.result.unwrap().output, "z");
        store.check_sums().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_whose_files_may_not_grow_takes_nothing_and_comes_back() {
    let program = Program::new().await;
    let mut server = program.serve().await;
    let task = server.caller.say("x");
    let before = server.caller.finish(task).await.task.unwrap().task_id;
    let pid = Some(server.pid());
    let limit = |current| Rlimit {
        current,
        maximum: None,
    };

    let open = prlimit(pid, Resource::Fsize, limit(Some(4096))).unwrap();
    let task = server.caller.say("y");
    no_store(submit(&server.caller, task, "").await);
    health(&server.caller, ServingStatus::NotServing).await;
    assert_eq!(
        server.caller.task(&before).await.state(),
        TaskState::Succeeded
    );
    prlimit(pid, Resource::Fsize, limit(open.current)).unwrap();

    health(&server.caller, ServingStatus::Serving).await;
    let task = server.caller.say("z");
    let answer = server.caller.finish(task).await;
    assert_eq!(answer.result.unwrap().output, "z");
    assert_eq!(tasks(&server.caller).await, 2);
}

//! The schema: made once, by whoever comes first, and never misread.

use claudepool::store::Store;
use claudepool::store::conformance::fixture::{claim, queued, submit};
use claudepool::store::postgres::Postgres;
use futures_util::future::join_all;

use crate::server::{SHARED, open};

async fn refusal(url: &str) -> String {
    match Postgres::open(url).await {
        Ok(_) => panic!("it must not open"),
        Err(refused) => refused.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_start_at_once_make_one_schema() {
    let name = SHARED.database().await;
    let url = SHARED.url(&name);

    let stores = join_all((0..6).map(|_| open(&url))).await;

    submit(&stores[0], queued()).await;
    assert_eq!(
        stores[5]
            .totals()
            .await
            .unwrap()
            .tasks
            .values()
            .sum::<u64>(),
        1
    );
    let admin = SHARED.admin(&name).await;
    let versions = admin
        .query("SELECT version FROM claudepool_schema", &[])
        .await
        .unwrap();
    assert_eq!(versions.len(), 1);
}

#[tokio::test]
async fn what_was_kept_is_there_when_it_is_opened_again() {
    let (store, name) = SHARED.store().await;
    let task = submit(&store, queued()).await;
    store.close().await;

    let store = open(&SHARED.url(&name)).await;

    let found = store
        .record(task.id, claudepool::store::Parts::ROW)
        .await
        .unwrap();
    assert_eq!(found.unwrap().task, task);
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let (store, name) = SHARED.store().await;
    store.close().await;
    let admin = SHARED.admin(&name).await;
    admin
        .batch_execute("UPDATE claudepool_schema SET version = 99, compatible_from = 99")
        .await
        .unwrap();

    let said = refusal(&SHARED.url(&name)).await;

    assert!(said.contains("newer claudepool (schema 99"), "{said}");
    assert_eq!(said.lines().count(), 1);
}

#[tokio::test]
async fn a_newer_schema_that_says_so_is_served_and_left_as_it_is() {
    let (store, name) = SHARED.store().await;
    store.close().await;
    let admin = SHARED.admin(&name).await;
    let newer = "ALTER TABLE tasks ADD COLUMN newer text NOT NULL DEFAULT 'new';
                 UPDATE claudepool_schema SET version = 99, compatible_from = 2";
    admin.batch_execute(newer).await.unwrap();

    let store = open(&SHARED.url(&name)).await;

    submit(&store, queued()).await;
    assert_eq!(claim(&store, 1).await.tasks.len(), 1);
    let sql = "SELECT version FROM claudepool_schema";
    let version: i32 = admin.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(version, 99);
    store.close().await;
    let needed = "UPDATE claudepool_schema SET compatible_from = 99";
    admin.batch_execute(needed).await.unwrap();
    let said = refusal(&SHARED.url(&name)).await;
    assert!(said.contains("newer claudepool (schema 99"), "{said}");
}

#[tokio::test]
async fn the_database_of_another_program_is_refused() {
    let name = SHARED.database().await;
    let admin = SHARED.admin(&name).await;
    admin
        .batch_execute("CREATE TABLE tasks (mine text)")
        .await
        .unwrap();

    let said = refusal(&SHARED.url(&name)).await;

    assert!(said.contains("another program"), "{said}");
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_told_without_the_password() {
    let port = SHARED.port;
    for (url, sentence) in [
        (
            format!("postgres://postgres:secret@127.0.0.1:{port}/absent"),
            "create it first",
        ),
        (
            format!("postgres://nobody:secret@127.0.0.1:{port}/postgres"),
            "nobody",
        ),
        (
            "postgres://u:secret@127.0.0.1:1/d".to_owned(),
            "is it there",
        ),
    ] {
        let said = refusal(&url).await;
        assert!(
            said.contains(sentence) && !said.contains("secret"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[tokio::test]
async fn connections_say_whose_they_are_and_are_no_more_than_said() {
    let (store, name) = SHARED.store().await;
    let calls = (0..64).map(|_| store.totals());
    assert!(join_all(calls).await.iter().all(Result::is_ok));

    let admin = SHARED.admin("postgres").await;
    let sql = "SELECT count(*) FROM pg_stat_activity
               WHERE datname = $1 AND application_name = 'claudepool'";
    let count: i64 = admin.query_one(sql, &[&name]).await.unwrap().get(0);

    // Eight for calls, one for wakes.
    assert!((2..=9).contains(&count), "{count}");
}

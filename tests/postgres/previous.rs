//! The program of the previous schema and today's on one database.

use std::time::Duration;

use claudepool::event;
use claudepool::id::TaskId;
use claudepool::pb::event::Kind;
use claudepool::store::conformance::fixture::{at, claim, delta, queued, row, submit};
use claudepool::store::{Parts, Store};
use claudepool::task::{Level, State};
use prost::Message;
use tokio_postgres::{Client, Statement};

use crate::server::{SHARED, open};
use crate::support::PATIENCE;

/// What the previous program made of an empty database.
const SCHEMA: &str = include_str!("../../src/store/postgres/migrations/0001_initial.sql");
const VERSION: &str = "CREATE TABLE claudepool_schema (version integer NOT NULL);
                       INSERT INTO claudepool_schema VALUES (1)";
/// What it says from then on.
const STATEMENTS: &str = include_str!("previous.sql");
/// What it does in a task's life, a transaction each.
const BLOCKS: [&str; 4] = ["submit", "claim", "append", "finish"];

/// The previous program: its connection, and what it has prepared on it.
struct Previous {
    client: Client,
}

/// A task of it, with the statements of its life.
struct Life {
    id: TaskId,
    blocks: Vec<Vec<Statement>>,
}

/// The statements of a block about a task.
fn block(name: &str, id: TaskId) -> Vec<String> {
    let (_, rest) = STATEMENTS.split_once(&format!("-- {name}\n")).unwrap();
    let block = rest.split("\n-- ").next().unwrap();
    let event = event::encode(1, at(0), delta("a word"));
    let received = asked("say hello");
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let block = block
        .replace("{id}", &id.to_string())
        .replace("{event}", &format!("\\x{}", hex(&event)))
        .replace("{received}", &format!("\\x{}", hex(&received)));
    let statements = block.split(';').map(str::trim).filter(|s| !s.is_empty());
    statements.map(str::to_owned).collect()
}

fn asked(text: &str) -> Vec<u8> {
    crate::support::prompt(text).encode_to_vec()
}

impl Previous {
    /// On a new database; its name.
    async fn begin() -> (Self, String) {
        let name = SHARED.database().await;
        let client = SHARED.admin(&name).await;
        client.batch_execute(VERSION).await.unwrap();
        client.batch_execute(SCHEMA).await.unwrap();
        let previous = Self { client };
        for sql in block("join", TaskId::new()) {
            previous.client.batch_execute(&sql).await.unwrap();
        }
        (previous, name)
    }

    /// Prepares a task's life.
    async fn life(&self) -> Life {
        let id = TaskId::new();
        let mut blocks = Vec::new();
        for name in BLOCKS {
            let mut statements = Vec::new();
            for sql in block(name, id) {
                statements.push(self.client.prepare(&sql).await.unwrap());
            }
            blocks.push(statements);
        }
        Life { id, blocks }
    }

    /// Goes on with a task's life, by so many steps.
    async fn live(&self, life: &mut Life, steps: usize) {
        for block in life.blocks.drain(..steps) {
            self.client.batch_execute("BEGIN").await.unwrap();
            for statement in &block {
                self.client.query(statement, &[]).await.unwrap();
            }
            self.client.batch_execute("COMMIT").await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_previous_program_works_on_while_the_schema_is_brought_further_and_after() {
    let (previous, name) = Previous::begin().await;
    let (mut done, mut runs, mut waits) = (
        previous.life().await,
        previous.life().await,
        previous.life().await,
    );
    previous.live(&mut done, 4).await;
    previous.live(&mut runs, 2).await;
    previous.live(&mut waits, 1).await;
    let url = SHARED.url(&name);

    let opening = tokio::spawn(async move { open(&url).await });
    let mut lives = 0;
    while !opening.is_finished() || lives < 5 {
        let mut life = previous.life().await;
        previous.live(&mut life, 4).await;
        lives += 1;
    }
    let store = opening.await.unwrap();

    // What it has prepared before, it says after.
    previous.live(&mut runs, 2).await;
    let mut late = previous.life().await;
    previous.live(&mut late, 1).await;
    for (life, state) in [
        (&done, State::Succeeded),
        (&runs, State::Succeeded),
        (&waits, State::Queued),
        (&late, State::Queued),
    ] {
        let task = row(&store, life.id).await;
        assert_eq!((task.state, task.level), (state, Level::FIRST));
    }
    let log = store.log(runs.id, 0, usize::MAX).await.unwrap();
    assert_eq!(log.len(), 3);
    let first = event::decode(&log[0].bytes).unwrap();
    assert!(matches!(first.kind, Some(Kind::TextDelta(_))));
    // Each takes what the other has made.
    let claimed = claim(&store, 9).await;
    let ids: Vec<_> = claimed
        .tasks
        .iter()
        .map(|claimed| claimed.task.id)
        .collect();
    assert_eq!(ids, [waits.id, late.id]);
    let spec = store.record(waits.id, Parts::ALL).await.unwrap().unwrap();
    assert_eq!(spec.spec.unwrap().prompt(), "say hello");
    let ours = submit(&store, queued()).await;
    let sql = &block("claim", ours.id)[0];
    let offered = previous.client.query(sql, &[]).await.unwrap();
    assert_eq!(offered.len(), 1);
    store.check_sums().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_somebody_reads_for_long_is_changed_without_holding_up_the_others() {
    let (previous, name) = Previous::begin().await;
    let reader = SHARED.admin(&name).await;
    let reads = "BEGIN; SELECT count(*) FROM tasks";
    reader.batch_execute(reads).await.unwrap();
    let url = SHARED.url(&name);

    let opening = tokio::spawn(async move { open(&url).await });
    let looks = SHARED.admin(&name).await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'relation'
                 AND datname = current_database() AND query LIKE '%ADD COLUMN level%'";
    let waiting = async {
        while looks.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, waiting).await;
    in_time.expect("it waits for the reader");
    let work = async {
        for _ in 0..3 {
            let mut life = previous.life().await;
            previous.live(&mut life, 4).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), work).await;
    in_time.expect("the previous program is held up");
    assert!(!opening.is_finished());

    reader.batch_execute("COMMIT").await.unwrap();

    let store = tokio::time::timeout(PATIENCE, opening).await;
    let store = store.expect("it opens in time").unwrap();
    submit(&store, queued()).await;
}

//! Durable submissions a second.

use std::sync::Arc;
use std::time::Duration;

use claudepool::clock::Clock;
use claudepool::id::CallerId;
use claudepool::pb::pool_service_client::PoolServiceClient;
use claudepool::store::{self, Batch};
use claudepool::task::apply::submit as made;
use claudepool::task::{Spec, Task};
use tonic::transport::Channel;
use uuid::Uuid;

use super::super::submit::{PROMPT, commit};
use super::{BARE, OURS, Place, ROUNDS_MAX};
use crate::database::Database;
use crate::measure::{Calls, Failure, Row, callers};
use crate::recorded::Script;
use crate::server::{Server, spec, submit};

const NAME: &str = "submits";
const COUNTS: [usize; 3] = [1, 16, 64];
const CONNECTIONS: usize = 8;

pub async fn measure(row: &mut Row, place: &Place, database: &Database) -> Result<(), Failure> {
    let url = database.create(NAME).await?;
    let script = record(database, &url).await?;
    let most = COUNTS.into_iter().max().unwrap_or_default();
    let mut bare = Vec::new();
    for (number, client) in database.clients(NAME, most).await?.into_iter().enumerate() {
        bare.push(Arc::new(script.ready(client, number).await?));
    }
    let server = Server::node(&url, "a", 1)?;
    server.occupy(1).await?;
    let alone = Server::talker(&place.dir, 1)?;
    alone.occupy(1).await?;
    let ours = store::open(&url).await?;
    let (on_server, on_alone) = (
        server.connect(CONNECTIONS).await?,
        alone.connect(CONNECTIONS).await?,
    );
    let span = Duration::from_millis(place.size.of(250, 600));
    for _ in 0..place.size.rounds.min(ROUNDS_MAX) {
        for count in COUNTS {
            let what = format!("submits/s, {count} callers");
            let calls = callers(count, span, |number| {
                let bare = Arc::clone(&bare[number]);
                move || {
                    let bare = Arc::clone(&bare);
                    async move { bare.run(vec![Uuid::now_v7()], 1).await.map(drop) }
                }
            });
            row.add(&what, BARE, calls.await?.rate);
            let calls = callers(count, span, |_| {
                let store = Arc::clone(&ours);
                move || commit(Arc::clone(&store))
            });
            row.add(&what, OURS, calls.await?.rate);
            for (way, channels) in [
                ("Submit, PostgreSQL", &on_server),
                ("Submit, SQLite", &on_alone),
            ] {
                let calls = call(channels, count, span).await?;
                row.add(&what, way, calls.rate);
                if count == most {
                    let p99 = format!("p99 ms, {count} callers");
                    row.add(&p99, way, calls.percentile(99.0));
                }
            }
        }
    }
    ours.close().await;
    Ok(())
}

/// What one submission is in the database.
async fn record(database: &Database, url: &str) -> Result<Script, Failure> {
    database.tell_all(NAME, true).await?;
    let store = store::open(url).await?;
    let now = Clock::system().now();
    let task = Task::new(&CallerId::default(), now);
    let id = task.id.to_string();
    let spec = Spec {
        received: spec(PROMPT),
        ..Spec::default()
    };
    let batch = Batch {
        changes: vec![made(task, Arc::new(spec))],
        now,
        ..Batch::default()
    };
    store.commit(batch).await?;
    store.close().await;
    database.tell_all(NAME, false).await?;
    Script::read(&database.told()?, "INSERT INTO tasks", &[id])
}

async fn call(channels: &[Channel], count: usize, span: Duration) -> Result<Calls, Failure> {
    callers(count, span, |number| {
        let client = PoolServiceClient::new(channels[number % channels.len()].clone());
        move || {
            let mut client = client.clone();
            async move {
                client.submit(submit(PROMPT)).await?;
                Ok(())
            }
        }
    })
    .await
}

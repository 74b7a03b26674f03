//! Durable submissions a second, against what the disk allows.

use std::sync::Arc;

use claudepool::clock::Clock;
use claudepool::id::CallerId;
use claudepool::store::{Batch, Store};
use claudepool::task::apply::submit as made;
use claudepool::task::{Spec, Task};

use super::Place;
use crate::disk::{GroupCommit, a_store, sync_time};
use crate::measure::{Bound, Failure, Row, callers};
use crate::raw;
use crate::server::{Kind, Server, spec, submit};

/// Of the length of many.
pub const PROMPT: &str = "Look at the last ten commits and say in one sentence what they change.";
const CONNECTIONS: usize = 8;

pub async fn row(place: Place) -> Result<Row, Failure> {
    let mut row = Row::new(
        "submit",
        "Durable Submit/s",
        "Calls of Submit, each answered once its task is on disk, against SQLite's own group \
         commit on the same disk: one thread, `synchronous = FULL`, one small row in one table a \
         submission, no wire and no application. Between the two, our store by itself: the same \
         rows and indexes, without pool and wire. The queue is long and nothing runs.",
    );
    let server = Server::talker(&place.dir, 1)?;
    server.occupy(1).await?;
    let channels = server.connect(CONNECTIONS).await?;
    let bare = Server::start(&Kind::Bare)?;
    let wires = bare.connect(CONNECTIONS).await?;
    let disk = Arc::new(GroupCommit::start(&place.dir)?);
    let store = a_store(&place.dir).await?;
    let span = place.size.span();
    for _ in 0..place.size.rounds {
        row.add("fdatasync of 4 KiB, ms", "the disk", sync_time(&place.dir)?);
        for count in [1, 16, 64] {
            let what = format!("calls/s, {count} callers");
            let calls = callers(count, span, |_| {
                let disk = Arc::clone(&disk);
                move || disk.submit(PROMPT)
            });
            row.add(&what, "raw group commit", calls.await?.rate);
            let calls = callers(count, span, |_| {
                let store = Arc::clone(&store);
                move || commit(Arc::clone(&store))
            });
            row.add(&what, "our store alone", calls.await?.rate);
            let calls = callers(count, span, |number| {
                let channel = wires[number % CONNECTIONS].clone();
                move || {
                    let channel = channel.clone();
                    async move { raw::unary(&channel).await }
                }
            });
            row.add(&what, "tonic alone", calls.await?.rate);
            let calls = callers(count, span, |number| {
                let channel = channels[number % CONNECTIONS].clone();
                let client = claudepool::pb::pool_service_client::PoolServiceClient::new(channel);
                move || {
                    let mut client = client.clone();
                    async move {
                        client.submit(submit(PROMPT)).await?;
                        Ok(())
                    }
                }
            });
            let calls = calls.await?;
            row.add(&what, "Submit", calls.rate);
            let p99 = format!("p99 ms, {count} callers");
            row.add(&p99, "Submit", calls.percentile(99.0));
        }
        let what = "calls/s, 64 callers";
        row.goal(
            "Submit / raw group commit, 64 callers",
            "",
            Bound::AtLeast,
            0.4,
            row.last(what, "Submit") / row.last(what, "raw group commit"),
        );
    }
    Ok(row)
}

/// Makes a task in a store.
pub async fn commit(store: Arc<dyn Store>) -> Result<(), Failure> {
    let now = Clock::system().now();
    let spec = Spec {
        received: spec(PROMPT),
        ..Spec::default()
    };
    let task = Task::new(&CallerId::default(), now);
    store
        .commit(Batch {
            request: None,
            changes: vec![made(task, Arc::new(spec))],
            now,
        })
        .await?;
    Ok(())
}

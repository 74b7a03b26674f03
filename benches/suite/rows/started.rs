//! From a call to the event that says that the task runs.

use std::time::{Duration, Instant};

use claudepool::pb::run_stream_response::Item;
use claudepool::pb::{self, event::Kind};

use super::Place;
use crate::disk::{a_store, one_commit};
use crate::measure::{Bound, Failure, Row, median, milliseconds, percentile};
use crate::server::{Server, spec};

/// On a worker, as a service's calls are made: from the main thread each answer
/// would be two more changes of threads.
pub async fn row(place: Place) -> Result<Row, Failure> {
    tokio::spawn(measured(place)).await?
}

async fn measured(place: Place) -> Result<Row, Failure> {
    let mut row = Row::new(
        "started",
        "From the call to `started`",
        "RunStream by one caller at an idle slot, one task after the other, on an agent in the \
         server's own process: until the event `started` is there, and until the task has ended. \
         By turns with them, one commit of a store on the same disk.",
    );
    let server = Server::talker(&place.dir, 2)?;
    let mut client = server.client().await?;
    let store = a_store(&place.dir).await?;
    let calls = place.size.of(50, 400);
    for _ in 0..place.size.rounds {
        let (mut started, mut ended) = (Vec::new(), Vec::new());
        let mut commits = Vec::new();
        for _ in 0..calls {
            let request = pb::RunStreamRequest {
                task: Some(spec("say ok")),
                ..Default::default()
            };
            let asked = Instant::now();
            let mut stream = client.run_stream(request).await?.into_inner();
            while let Some(message) = stream.message().await? {
                let Some(Item::Event(event)) = message.item else {
                    continue;
                };
                match event.kind {
                    Some(Kind::Started(_)) => started.push(milliseconds(asked.elapsed())),
                    Some(Kind::Finished(_)) => ended.push(milliseconds(asked.elapsed())),
                    _ => {}
                }
            }
            // The slot is idle again a moment after the end was told.
            tokio::time::sleep(Duration::from_millis(2)).await;
            commits.push(one_commit(&store).await?);
        }
        let commit = median(&commits);
        row.add("p50 ms", "one commit", commit);
        for (way, times) in [("call to started", &started), ("call to its end", &ended)] {
            row.add("p50 ms", way, median(times));
            row.add("p99 ms", way, percentile(times, 99.0));
        }
        row.goal(
            "call to `started`, p50, less one commit",
            "ms",
            Bound::AtMost,
            1.0,
            median(&started) - commit,
        );
    }
    Ok(row)
}

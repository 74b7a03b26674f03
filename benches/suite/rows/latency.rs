//! From what the agent says to who watches.

use std::time::Duration;

use claudepool::clock::Clock;
use claudepool::pb::event::Kind;
use claudepool::{event, pb};
use tonic::transport::Channel;

use super::Place;
use crate::disk::{a_store, one_commit};
use crate::measure::{Bound, Failure, Row, median, percentile};
use crate::raw;
use crate::server::{Server, submit};

/// From one piece to the next.
const PACE_MICROS: u64 = 2_000;

pub async fn row(place: Place) -> Result<Row, Failure> {
    let mut row = Row::new(
        "latency",
        "From the agent's line to a watcher",
        "An agent in the server's own process says a piece every 2 ms, with the time; watchers \
         in another process compare it with theirs when the event arrives, which is after its \
         commit. For a thousand tasks each says a piece a second, each with one watcher. One \
         commit is that of a store on the same disk, as often, just before.",
    );
    let store = a_store(&place.dir).await?;
    let server = Server::talker(&place.dir, 2)?;
    let many = Server::talker(&place.dir, 1000)?;
    let pieces = place.size.of(100, 500);
    for _ in 0..place.size.rounds {
        let mut commits = Vec::new();
        let mut pace = tokio::time::interval(Duration::from_micros(PACE_MICROS));
        for _ in 0..pieces {
            pace.tick().await;
            commits.push(one_commit(&store).await?);
        }
        let commit = median(&commits);
        row.add("p50 ms", "one commit", commit);
        row.add("p99 ms", "one commit", percentile(&commits, 99.0));
        for watchers in [1, 100] {
            let prompt = format!("paced {pieces} {PACE_MICROS}");
            let times = watched(&server, &prompt, 1, watchers).await?;
            let way = format!("1 task, {watchers} watchers");
            row.add("p50 ms", &way, median(&times));
            row.add("p99 ms", &way, percentile(&times, 99.0));
            if watchers == 1 {
                let goal = "p50 less one commit, 1 watcher";
                row.goal(goal, "ms", Bound::AtMost, 0.5, median(&times) - commit);
                let ratio = percentile(&times, 99.0) / (commit + 0.5);
                let goal = "p99 / (one commit + 0.5 ms), 1 watcher";
                row.goal(goal, "", Bound::AtMost, 5.0, ratio);
            }
        }
        let prompt = format!("paced {} 1000000", place.size.of(2, 4));
        let tasks = place.size.of(200, 1000);
        let times = watched(&many, &prompt, tasks, 1).await?;
        let way = format!("{tasks} tasks, 1 watcher each");
        row.add("p50 ms", &way, median(&times));
        row.add("p99 ms", &way, percentile(&times, 99.0));
    }
    Ok(row)
}

/// Times from saying to hearing, in milliseconds.
async fn watched(
    server: &Server,
    prompt: &str,
    tasks: usize,
    watchers: usize,
) -> Result<Vec<f64>, Failure> {
    let channels = server.connect(10).await?;
    let mut client = server.client().await?;
    let mut hearing = Vec::new();
    for _ in 0..tasks {
        let id = client.submit(submit(prompt)).await?.into_inner().task_id;
        for _ in 0..watchers {
            let channel = channels[hearing.len() % channels.len()].clone();
            hearing.push(tokio::spawn(hear(channel, id.clone())));
        }
    }
    let mut times = Vec::new();
    for heard in hearing {
        times.extend(heard.await??);
    }
    Ok(times)
}

/// The times until a watcher heard what a task said.
pub async fn hear(channel: Channel, task: String) -> Result<Vec<f64>, Failure> {
    let clock = Clock::system();
    let mut stream = raw::watch(&channel, &task).await?;
    let begun = clock.now();
    let mut times = Vec::new();
    while let Some(message) = stream.message().await? {
        let now = clock.now();
        let Some(event) = message.event.and_then(|bytes| event::decode(&bytes)) else {
            continue;
        };
        if let Some(Kind::TextDelta(pb::TextDelta { text, .. })) = event.kind {
            let said = text.split(';').filter_map(|time| time.parse::<i64>().ok());
            // What was said before is history.
            let live = said.filter(|time| *time > begun.0);
            times.extend(live.map(|time| (now.0 - time) as f64 / 1e3));
        }
    }
    Ok(times)
}

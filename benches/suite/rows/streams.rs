//! Events a second to those who watch one task, against tonic alone.

use std::sync::Arc;
use std::time::Instant;

use claudepool::event::wire::WatchTaskResponse;
use claudepool::pb;
use tokio::sync::Barrier;
use tonic::Streaming;

use super::Place;
use crate::measure::{Bound, Failure, Row};
use crate::raw::{self, Wanted};
use crate::server::{Kind, Server, submit};

/// Bytes of text in an event, and of the whole stored event about.
const TEXT_BYTES: u32 = 150;
const EVENT_BYTES: u32 = 190;
const CONNECTIONS: usize = 10;

pub async fn row(place: Place) -> Result<Row, Failure> {
    let mut row = Row::new(
        "streams",
        "Events a second to watchers of one task",
        "An agent in the server's own process says everything at once, in events of about 190 \
         bytes; they are committed and sent to all who watch, on ten connections. tonic alone \
         sends the same number of messages of the same size out of memory to as many readers. \
         Then the same log once more, read from the beginning after its task has ended.",
    );
    let (server, bare) = (Server::talker(&place.dir, 1)?, Server::start(&Kind::Bare)?);
    for _ in 0..place.size.rounds {
        for (watchers, events) in [
            (1, place.size.of(5_000, 50_000)),
            (100, place.size.of(500, 5_000)),
        ] {
            let what = format!("events/s to all, {watchers} watchers");
            let wanted = Wanted {
                count: events,
                bytes: EVENT_BYTES,
                streams: watchers,
            };
            let mut streams = Vec::new();
            let channels = bare.connect(CONNECTIONS).await?;
            for number in 0..watchers as usize {
                streams.push(raw::stream(&channels[number % CONNECTIONS], wanted).await?);
            }
            let alone = rate(streams, events).await?;
            row.add(&what, "tonic alone", alone);

            // A queued task, so that all are there before it says anything.
            let mut client = server.client().await?;
            let hang = client.submit(submit("hang")).await?.into_inner().task_id;
            let prompt = format!("burst {events} {TEXT_BYTES}");
            let task = client.submit(submit(&prompt)).await?.into_inner().task_id;
            let channels = server.connect(CONNECTIONS).await?;
            let streams = watch(&channels, &task, watchers).await?;
            let cancel = pb::CancelRequest {
                target: Some(pb::cancel_request::Target::TaskId(hang)),
            };
            client.cancel(cancel).await?;
            let live = rate(streams, events).await?;
            row.add(&what, "WatchTask, live", live);
            let again = watch(&channels, &task, watchers).await?;
            let history = rate(again, events).await?;
            row.add(&what, "WatchTask, history", history);
            if watchers == 100 {
                let goal = "WatchTask, live / tonic alone, 100 watchers";
                row.goal(goal, "", Bound::AtLeast, 0.25, live / alone);
            }
        }
    }
    Ok(row)
}

async fn watch(
    channels: &[tonic::transport::Channel],
    task: &str,
    watchers: u32,
) -> Result<Vec<Streaming<WatchTaskResponse>>, Failure> {
    let mut streams = Vec::new();
    for number in 0..watchers as usize {
        streams.push(raw::watch(&channels[number % CONNECTIONS], task).await?);
    }
    Ok(streams)
}

/// Messages a second to all, from the moment at which the first reader has its
/// second message to the end of the last. The first message was there before.
async fn rate(streams: Vec<Streaming<WatchTaskResponse>>, events: u32) -> Result<f64, Failure> {
    let ready = Arc::new(Barrier::new(streams.len()));
    let count = streams.len();
    let readers: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            let ready = Arc::clone(&ready);
            tokio::spawn(async move {
                stream.message().await?;
                ready.wait().await;
                stream.message().await?;
                let begun = Instant::now();
                let mut heard = 2;
                while stream.message().await?.is_some() {
                    heard += 1;
                }
                Ok::<_, Failure>((begun, Instant::now(), heard))
            })
        })
        .collect();
    let (mut begun, mut ended) = (None::<Instant>, None::<Instant>);
    for reader in readers {
        let (from, to, heard) = reader.await??;
        if heard < events {
            return Err(format!("{heard} of {events} events came").into());
        }
        begun = Some(begun.map_or(from, |b| b.min(from)));
        ended = Some(ended.map_or(to, |e| e.max(to)));
    }
    let (begun, ended) = begun.zip(ended).ok_or("nobody read")?;
    let span = ended.duration_since(begun).as_secs_f64();
    Ok(f64::from(events) * count as f64 / span)
}

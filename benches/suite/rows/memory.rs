//! What waiting costs: tasks in the queue, watches that say nothing.

use claudepool::pb;
use claudepool::pb::pool_service_client::PoolServiceClient;
use tonic::transport::Channel;

use super::Place;
use crate::measure::{Bound, Failure, Row};
use crate::raw::{self, Wanted};
use crate::server::{Kind, Server, submit};

const CONNECTIONS: usize = 50;
const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * 1024.0;

pub async fn row(place: Place) -> Result<Row, Failure> {
    let mut row = Row::new(
        "memory",
        "Memory of what waits",
        "Resident memory of the server's process that no file backs, before and after: tasks \
         with prompts of 1 KiB in the queue; idle watches, each of a task of its own, on 50 \
         connections. tonic alone holds as many streams that have said one thing and wait.",
    );
    for _ in 0..place.size.rounds.min(3) {
        round(&mut row, &place).await?;
    }
    Ok(row)
}

/// Once on new servers: memory that was had before is not asked for again.
async fn round(row: &mut Row, place: &Place) -> Result<(), Failure> {
    let tasks = place.size.of(5_000, 100_000);
    let watches = place.size.of(500, 5_000);
    let server = Server::talker(&place.dir, 1)?;
    server.occupy(1).await?;
    let channels = server.connect(CONNECTIONS).await?;
    let empty = server.memory();
    let ids = submit_many(&channels, tasks).await?;
    let queued = server.memory();
    let per_task = (queued - empty) / tasks as f64 / KIB;
    row.add("KiB a queued task", "claudepool", per_task);
    let goal = "KiB in memory a queued task, its prompt included";
    row.goal(goal, "KiB", Bound::AtMost, 2.0, per_task);

    let mut streams = Vec::new();
    for (number, id) in ids.iter().take(watches).enumerate() {
        let mut stream = raw::watch(&channels[number % CONNECTIONS], id).await?;
        stream.message().await?;
        streams.push(stream);
    }
    let per_watch = (server.memory() - queued) / watches as f64 / KIB;
    row.add("KiB an idle stream", "claudepool", per_watch);
    let all = server.resident() / MIB;
    row.add("MiB in all", "claudepool", all);
    let goal = "MiB of a server with 100,000 queued tasks and 5,000 watches";
    row.goal(goal, "MiB", Bound::AtMost, 400.0, all);

    let bare = Server::start(&Kind::Bare)?;
    let channels = bare.connect(CONNECTIONS).await?;
    let empty = bare.memory();
    let mut others = Vec::new();
    for number in 0..watches {
        let wanted = Wanted {
            count: 0,
            bytes: 100,
            streams: 1,
        };
        let mut stream = raw::stream(&channels[number % CONNECTIONS], wanted).await?;
        stream.message().await?;
        others.push(stream);
    }
    let alone = (bare.memory() - empty) / watches as f64 / KIB;
    row.add("KiB an idle stream", "tonic alone", alone);
    let goal = "an idle watch / an idle stream of tonic alone";
    row.goal(goal, "", Bound::AtMost, 2.0, per_watch / alone);
    Ok(())
}

async fn submit_many(channels: &[Channel], tasks: usize) -> Result<Vec<String>, Failure> {
    const CALLERS: usize = 64;
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let mut client = PoolServiceClient::new(channels[number % channels.len()].clone());
            tokio::spawn(async move {
                let mut ids = Vec::new();
                let prompt = "x".repeat(1024);
                for _ in (number..tasks).step_by(CALLERS) {
                    let answer: pb::SubmitResponse =
                        client.submit(submit(&prompt)).await?.into_inner();
                    ids.push(answer.task_id);
                }
                Ok::<_, Failure>(ids)
            })
        })
        .collect();
    let mut ids = Vec::new();
    for caller in callers {
        ids.extend(caller.await??);
    }
    Ok(ids)
}

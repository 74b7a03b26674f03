//! Durable job systems on the same jobs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use claudepool::pb::pool_service_client::PoolServiceClient;

use super::Place;
use super::no_op;
use crate::database::Database;
use crate::measure::{Bound, Failure, Row, callers};
use crate::peers;
use crate::server::{Server, submit};

/// Places to run, and how many times as many jobs as BullMQ are to be done on them:
/// with more places a claim is one of more tasks.
const PLACES: [(u32, f64); 2] = [(16, 1.0), (64, 2.5)];
/// Those that keep their jobs in a database.
const DATABASES: [&str; 3] = ["graphile-worker", "procrastinate", "apalis"];
const PROMPT: &str = "Look at the last ten commits and say in one sentence what they change.";

pub async fn row(place: Place) -> Result<Row, Failure> {
    let mut row = Row::new(
        "peers-queue",
        "Peers: durable queues",
        "Jobs with the same short payload, each acknowledged when it is on disk: BullMQ 6.7.0 on \
         Redis 7.0 with `appendfsync always`, graphile-worker 0.16.6 and procrastinate 3.10.0 on \
         PostgreSQL 15 as it comes, apalis 1.0.0 on SQLite with `synchronous = FULL`, and Submit \
         over gRPC. Then jobs that do nothing, from the first submission to \
         the last end, with 64 callers and 16 or 64 places to run; ours on an agent in the \
         server's own process, where slots that are free together are claimed together.",
    );
    let redis = peers::redis(&place.dir)?;
    let postgres = Database::start(&place.dir).await?;
    let systems = [
        ("BullMQ", "bullmq", redis.port),
        (DATABASES[0], "graphile", postgres.port()),
    ];
    let file = tempfile::tempdir_in(&place.dir)?.keep().join("apalis.db");
    let others = [
        (DATABASES[1], procrastinate(postgres.port())?),
        (DATABASES[2], apalis(&file)?),
    ];
    let busy = Server::talker(&place.dir, 1)?;
    busy.occupy(1).await?;
    let channels = busy.connect(8).await?;
    let mut servers = Vec::new();
    for (places, goal) in PLACES {
        let server = Server::talker(&place.dir, places)?;
        let channels = server.connect(8).await?;
        servers.push((places, goal, server, channels));
    }
    let span = place.size.span();
    let jobs = place.size.of(500, 4_000);
    for _ in 0..place.size.rounds.min(3) {
        for count in [16, 64] {
            let what = format!("submissions/s, {count} callers");
            for (way, system, port) in systems {
                let first = count.to_string();
                let second = span.as_secs_f64().to_string();
                row.add(&what, way, queue(system, port, "submit", &first, &second)?);
            }
            for (way, (program, args)) in &others {
                let mut command = Command::new(program);
                command.args(args).arg(count.to_string());
                let said = peers::run(command.arg(span.as_secs_f64().to_string()))?;
                row.add(&what, way, rate(&said)?);
            }
            let calls = callers(count, span, |number| {
                let client = PoolServiceClient::new(channels[number % channels.len()].clone());
                move || {
                    let mut client = client.clone();
                    async move {
                        client.submit(submit(PROMPT)).await?;
                        Ok(())
                    }
                }
            });
            row.add(&what, "claudepool", calls.await?.rate);
        }
        for (places, goal, server, channels) in &servers {
            let what = format!("jobs that do nothing/s, {places} places");
            for (way, system, port) in systems {
                let (first, second) = (jobs.to_string(), places.to_string());
                let rate = queue(system, port, "tasks", &first, &second)?;
                row.add(&what, way, rate);
            }
            let begun = Instant::now();
            no_op::run(server, channels, jobs).await?;
            let rate = jobs as f64 / begun.elapsed().as_secs_f64();
            row.add(&what, "claudepool", rate);
            let of = format!("{what} / BullMQ's");
            let rate = rate / row.last(&what, "BullMQ");
            row.goal(&of, "", Bound::AtLeast, *goal, rate);
        }
        let best = |way: &str| {
            let of = |count| row.last(&format!("submissions/s, {count} callers"), way);
            of(16).max(of(64))
        };
        let (ours, bullmq) = (best("claudepool"), best("BullMQ"));
        let database = DATABASES.map(best).into_iter().fold(0.0, f64::max);
        row.goal(
            "Submit/s / BullMQ's, each at its best",
            "",
            Bound::AtLeast,
            1.5,
            ours / bullmq,
        );
        let goal = "Submit/s / the best one's on a database, each at its best";
        row.goal(goal, "", Bound::AtLeast, 8.0, ours / database);
    }
    Ok(row)
}

fn queue(system: &str, port: u16, what: &str, first: &str, second: &str) -> Result<f64, Failure> {
    let said = peers::run(
        Command::new("node")
            .arg(peers::folder()?.join("queue.mjs"))
            .args([system, &port.to_string(), what, first, second]),
    )?;
    rate(&said)
}

/// What a peer said.
fn rate(said: &serde_json::Value) -> Result<f64, Failure> {
    let rate = said["rate"].as_f64();
    rate.ok_or_else(|| "a peer said no rate".into())
}

/// A program and its first arguments; callers and seconds follow.
type Submitting = (PathBuf, Vec<OsString>);

fn procrastinate(port: u16) -> Result<Submitting, Failure> {
    let folder = peers::folder()?;
    let args = vec![folder.join("submit.py").into(), port.to_string().into()];
    Ok((folder.join("python/bin/python"), args))
}

fn apalis(file: &Path) -> Result<Submitting, Failure> {
    let program = peers::folder()?.join("rust-target/release/peers");
    Ok((program, vec!["apalis".into(), file.into()]))
}

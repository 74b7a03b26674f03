//! A fan-out of 10,000.

use std::time::{Duration, Instant};

use claudepool::pb;
use claudepool::pb::fan_out_response::Item;

use super::Place;
use crate::measure::{Bound, Failure, Row};
use crate::proc::anonymous;
use crate::server::{Server, spec};

const MIB: f64 = 1024.0 * 1024.0;

pub async fn row(place: Place) -> Result<Row, Failure> {
    let mut row = Row::new(
        "fan-out",
        "A fan-out of 10,000",
        "FanOut on four slots of an agent in the server's own process, from the call to the \
         last outcome, against the same number of tasks in fan-outs of 500, one after the \
         other, half of them before it and half after: the steady state. Memory is the growth \
         from the start to the peak, of the server's process and of the caller's, which keeps \
         no outcome.",
    );
    let all = place.size.of(1_000, 10_000);
    for _ in 0..place.size.rounds.min(3) {
        let server = Server::talker(&place.dir, 4)?;
        run(&server, 200).await?;
        let mut steady = half(&server, all).await?;
        let (before, own) = (server.memory(), anonymous(std::process::id()));
        let begun = Instant::now();
        let (peak, own_peak) = run(&server, all).await?;
        let rate = all as f64 / begun.elapsed().as_secs_f64();
        // Before and after: the machine is quicker and slower by turns.
        steady += half(&server, all).await?;
        let steady = all as f64 / steady.as_secs_f64();
        row.add("tasks/s", "fan-outs of 500", steady);
        row.add("tasks/s", "one fan-out", rate);
        let grown = (peak - before) / all as f64 / 1024.0;
        row.add(
            "server's MiB more at its peak",
            "one fan-out",
            (peak - before) / MIB,
        );
        row.add(
            "caller's MiB more at its peak",
            "one fan-out",
            (own_peak - own) / MIB,
        );
        row.goal(
            "one fan-out / steady state",
            "",
            Bound::AtLeast,
            0.9,
            rate / steady,
        );
        row.goal(
            "server's KiB more a task, at its peak",
            "KiB",
            Bound::AtMost,
            2.0,
            grown,
        );
    }
    Ok(row)
}

/// How long half of the tasks take in fan-outs of 500.
async fn half(server: &Server, all: usize) -> Result<Duration, Failure> {
    let begun = Instant::now();
    for _ in 0..all / 1000 {
        run(server, 500).await?;
    }
    Ok(begun.elapsed())
}

/// Runs one; the highest memory meanwhile, of the server and of its caller, as
/// far as it was seen.
async fn run(server: &Server, tasks: usize) -> Result<(f64, f64), Failure> {
    let mut client = server.client().await?.max_decoding_message_size(64 << 20);
    let request = pb::FanOutRequest {
        tasks: (0..tasks).map(|_| spec("say ok")).collect(),
        ..Default::default()
    };
    let mut stream = client.fan_out(request).await?.into_inner();
    let (mut done, mut peak, mut own) = (0, 0.0_f64, 0.0_f64);
    while let Some(message) = stream.message().await? {
        if let Some(Item::Finished(_)) = message.item {
            done += 1;
            if done % 100 == 0 {
                peak = peak.max(server.memory());
                own = own.max(anonymous(std::process::id()));
            }
        }
    }
    if done < tasks {
        return Err(format!("{done} of {tasks} outcomes came").into());
    }
    Ok((peak, own))
}

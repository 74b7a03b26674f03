//! One way's share of a round.

use std::time::{Duration, Instant};

use claudepool::pb;
use claudepool::pb::pool_service_client::PoolServiceClient;
use tonic::transport::Channel;

use crate::bare::{Bare, PROMPT};
use crate::measure::{Failure, Row, median, milliseconds, percentile};
use crate::proc::{Usage, busy};
use crate::server::{Server, spec};

/// Processor time of the CLI.
pub const PROCESSOR: &str = "CPU ms a task: the CLI";
/// Of the server alone.
const SERVER: &str = "CPU ms a task: the server";
/// Of all that ran, callers and the stand-in of the Messages API included.
const MACHINE: &str = "CPU ms a task: the machine";

/// One way's round: every task's time, the time of all, and the processor time
/// that was used meanwhile, by those who were measured and by the machine.
#[derive(Default)]
pub struct Round {
    pub times: Vec<f64>,
    pub all: Duration,
    pub used: Usage,
    pub machine: Duration,
}

impl Round {
    /// Both as one.
    pub fn join(&mut self, next: Self) {
        self.times.extend(next.times);
        self.all += next.all;
        self.used.own += next.used.own;
        self.used.below += next.used.below;
        self.machine += next.machine;
    }

    /// Tasks a second.
    pub fn rate(&self) -> f64 {
        self.times.len() as f64 / self.all.as_secs_f64()
    }

    /// A time divided among the tasks, in milliseconds.
    pub fn per_task(&self, of: Duration) -> f64 {
        milliseconds(of) / self.times.len() as f64
    }

    /// Adds what a throughput round tells.
    pub fn tell(&self, row: &mut Row, way: &str, slots: usize, own: bool) {
        row.add(&format!("tasks/s, {slots} slots"), way, self.rate());
        for (name, time) in [
            ("p50", median(&self.times)),
            ("p99", percentile(&self.times, 99.0)),
        ] {
            row.add(&format!("{name} ms, {slots} slots"), way, time);
        }
        let of = match slots {
            // A processor is idle: nothing to look for.
            1 => return,
            2 => String::new(),
            _ => format!(", {slots} slots"),
        };
        let mut used = vec![(PROCESSOR, self.used.below), (MACHINE, self.machine)];
        if own {
            used.push((SERVER, self.used.own));
        }
        for (name, time) in used {
            row.add(&format!("{name}{of}"), way, self.per_task(time));
        }
    }
}

/// Our way: some callers, one task after the other each.
pub async fn ours(server: &Server, callers: usize, tasks: usize) -> Result<Round, Failure> {
    let clients = server.connect(callers).await?;
    let (begun, used, machine) = (Instant::now(), server.usage(), busy());
    let callers: Vec<_> = clients
        .into_iter()
        .map(|channel| {
            tokio::spawn(async move {
                let mut client = PoolServiceClient::new(channel);
                let mut times = Vec::new();
                for _ in 0..tasks / callers {
                    times.push(run(&mut client).await?);
                }
                Ok::<_, Failure>(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for caller in callers {
        times.extend(caller.await??);
    }
    // The last resets are a part of it, as with bare processes.
    server
        .wait(|status| status.slots_idle == status.slots_total)
        .await?;
    let all = begun.elapsed();
    let (used, machine) = (server.usage().since(used), busy() - machine);
    Ok(Round {
        times,
        all,
        used,
        machine,
    })
}

/// One task over the wire, and its time.
pub async fn run(client: &mut PoolServiceClient<Channel>) -> Result<f64, Failure> {
    let request = pb::RunRequest {
        task: Some(spec(PROMPT)),
        ..Default::default()
    };
    let asked = Instant::now();
    let answer = client.run(request).await?.into_inner();
    let time = milliseconds(asked.elapsed());
    match answer.result.is_some_and(|result| result.success) {
        true => Ok(time),
        false => Err("a task failed".into()),
    }
}

/// Bare processes, a thread each.
pub fn together(bare: &mut [Bare], tasks: usize) -> Result<Round, Failure> {
    let each = tasks / bare.len().max(1);
    let before = used_by(bare);
    let mut round = in_parallel(bare, |process| {
        let mut times = Vec::new();
        for _ in 0..each {
            let asked = Instant::now();
            process.turn(PROMPT)?;
            // Who asks again at once waits for the reset, as with ours.
            process.turn("/clear")?;
            times.push(milliseconds(asked.elapsed()));
        }
        Ok(times)
    })?;
    round.used.below = used_by(bare).saturating_sub(before);
    Ok(round)
}

/// Processor time of bare processes until now.
fn used_by(bare: &[Bare]) -> Duration {
    bare.iter()
        .map(|process| Usage::of(process.pid()))
        .map(|used| used.own + used.below)
        .sum()
}

/// A thread for each.
pub fn in_parallel<T: Send>(
    slots: &mut [T],
    work: impl Fn(&mut T) -> Result<Vec<f64>, Failure> + Sync,
) -> Result<Round, Failure> {
    let us = std::process::id();
    let (begun, used, machine) = (Instant::now(), Usage::of(us), busy());
    let mut times = Vec::new();
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads = slots.iter_mut().map(|slot| scope.spawn(|| work(slot)));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    for result in results {
        times.extend(result.map_err(|_| "a thread panicked")??);
    }
    let all = begun.elapsed();
    let (used, machine) = (Usage::of(us).since(used), busy() - machine);
    Ok(Round {
        times,
        all,
        used,
        machine,
    })
}

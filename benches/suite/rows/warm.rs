//! What the pool adds to a warm process, and what it saves over a process per
//! task, on the real CLI.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use claudepool::demo::StandIn;
use claudepool::pb;
use claudepool::pb::pool_service_client::PoolServiceClient;
use claudepool::store::Store;
use tonic::transport::Channel;

use super::{Place, outside};
use crate::bare::{Bare, PROMPT, Template};
use crate::disk::{a_store, commit_time, one_commit};
use crate::measure::{Bound, Failure, Row, median, milliseconds, percentile};
use crate::proc::{Usage, busy};
use crate::server::{Kind, Server, claude, spec};

/// Turns that the ways take within a round, with one slot and with more: what the
/// machine does besides changes within seconds and is to befall all of them, and
/// where processors are full, changes are larger.
const TURNS: [usize; 2] = [4, 8];
/// Memory of a slot's process after some hundred tasks.
pub const PROCESS: &str = "MiB a process";
/// Processor time of the CLI.
pub const PROCESSOR: &str = "CPU ms a task: the CLI";
/// Of the server alone.
const SERVER: &str = "CPU ms a task: the server";
/// Of all that ran, callers and the stand-in of the Messages API included.
const MACHINE: &str = "CPU ms a task: the machine";
pub const CLAUDEPOOL: &str = "claudepool";
const MIB: f64 = 1024.0 * 1024.0;

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
    fn join(&mut self, next: Self) {
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
    fn tell(&self, row: &mut Row, way: &str, slots: usize, own: bool) {
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

pub async fn row(place: Place) -> Result<Row, Failure> {
    let mut row = Row::new(
        "warm",
        "Tasks on the real CLI",
        "The same tasks, in turns, against the same stand-in of the Messages API on loopback: \
         `claude -p`, a process per task; bare, as many warm processes as slots, started as ours \
         are and reset between tasks, driven by a loop that does nothing else; claudepool, `Run` \
         over gRPC on SQLite, its server in a process of its own. Throughput with as many callers \
         as slots, and the times of its tasks, in which each waits for a reset; times with one \
         caller on two slots, a bare task and one of ours by turns, so that whichever serves, \
         another is reset; by turns with them, one commit of a store on the same disk.",
    );
    let program = place.claude()?;
    let api = StandIn::start("127.0.0.1:0".parse()?).await?;
    let dir = tempfile::tempdir_in(&place.dir)?.keep();
    let outside = outside()?;
    let work = outside.path().to_owned();
    let agent = claude(&dir.join("template"), &program, &api.base_url())?;
    let template = Template::of(&agent, &work).await?;
    let store = a_store(&dir).await?;
    let tasks = place.size.of(40, 160);
    for slots in [1, 2, 4] {
        let server = Server::start(&Kind::Claude {
            slots: slots as u32,
            dir: tempfile::tempdir_in(&dir)?.keep(),
            work: work.clone(),
            program: program.clone(),
            api: api.base_url(),
        })?;
        let home = |number| dir.join(format!("bare-{slots}-{number}"));
        let start = |number| Bare::start(&template, &template.args, &home(number));
        let mut bare = (0..slots).map(start).collect::<Result<Vec<_>, _>>()?;
        // Everything once, so that no way pays for being first.
        ours(&server, slots, 10 * slots).await?;
        together(&mut bare, 10 * slots)?;
        for _ in 0..place.size.rounds {
            let (mut theirs, mut round) = (Round::default(), Round::default());
            for _ in 0..TURNS[usize::from(slots > 1)] {
                theirs.join(together(&mut bare, tasks / TURNS[0])?);
                round.join(ours(&server, slots, tasks / TURNS[0]).await?);
            }
            theirs.tell(&mut row, "bare", slots, false);
            round.tell(&mut row, CLAUDEPOOL, slots, true);
            let goal = format!("tasks/s / bare, {slots} slots");
            row.goal(&goal, "", Bound::AtLeast, 0.9, round.rate() / theirs.rate());
            if slots != 2 {
                continue;
            }
            let used = round.used.own + round.used.below;
            let ratio = round.per_task(used) / theirs.per_task(theirs.used.below);
            row.goal("CPU a task / bare", "", Bound::AtMost, 1.1, ratio);

            let cold = cold(&program, &template, &dir, place.size.of(4, 24))?;
            cold.tell(&mut row, "claude -p", slots, false);
            let alone = commit_time(&store).await?;
            let times = one_by_one(&mut bare, &server, &store, tasks).await?;
            let commit = median(&times.commits);
            let ways = [
                ("bare", &times.bare),
                ("claudepool", &times.ours),
                ("claude -p", &cold.times),
                ("one commit", &times.commits),
            ];
            for (way, each) in ways {
                row.add("p50 ms, 1 caller", way, median(each));
                row.add("p99 ms, 1 caller", way, percentile(each, 99.0));
            }
            row.add(
                "p50 ms, 1 caller",
                "one commit, nothing else at work",
                alone,
            );
            let added = median(&times.ours) - median(&times.bare) - 2.0 * commit;
            let goal = "p50 of Run less bare and two commits";
            row.goal(goal, "ms", Bound::AtMost, 1.0, added);
            // The goal is from a machine on which bare takes 22 ms.
            let goal = "the same / p50 of bare";
            let part = added / median(&times.bare);
            row.goal(goal, "", Bound::AtMost, 1.0 / 22.0, part);
        }
        if slots == 2 {
            row.add(
                PROCESS,
                CLAUDEPOOL,
                server.memory_below() / MIB / slots as f64,
            );
        }
        drop((server, bare));
        if slots == 2 {
            flags(&mut row, &place, &template, &dir)?;
        }
    }
    Ok(row)
}

/// What the flags cost that a process is started with.
fn flags(row: &mut Row, place: &Place, template: &Template, dir: &Path) -> Result<(), Failure> {
    let ways = [
        ("bare: our flags", template.args.clone()),
        ("bare: our flags, sessions saved", template.saving()),
        ("bare: no flags", template.plain()),
    ];
    let mut processes = Vec::new();
    for (number, (way, args)) in ways.iter().enumerate() {
        let home = dir.join(format!("flags-{number}"));
        processes.push((way, [Bare::start(template, args, &home)?]));
    }
    let tasks = place.size.of(20, 80);
    for _ in 0..place.size.rounds {
        for (way, process) in &mut processes {
            let round = together(process, tasks)?;
            row.add("tasks/s, 1 process", way, round.rate());
        }
    }
    Ok(())
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
async fn run(client: &mut PoolServiceClient<Channel>) -> Result<f64, Failure> {
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
fn together(bare: &mut [Bare], tasks: usize) -> Result<Round, Failure> {
    let each = tasks / bare.len();
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

/// Times of single tasks, in milliseconds.
#[derive(Default)]
struct ByTurns {
    bare: Vec<f64>,
    ours: Vec<f64>,
    commits: Vec<f64>,
}

/// One task at a time, a bare one and one of ours by turns, each on another
/// process than the one before: whichever serves, one of the others is reset.
/// Before each a commit of the bench's own, which meets the same processors.
async fn one_by_one(
    bare: &mut [Bare],
    server: &Server,
    store: &Arc<dyn Store>,
    tasks: usize,
) -> Result<ByTurns, Failure> {
    let client = server.client().await?;
    let mut times = ByTurns::default();
    for process in bare.iter_mut() {
        process.write("/clear")?;
    }
    let count = bare.len();
    for i in 0..tasks {
        let process = &mut bare[i % count];
        process.read()?;
        times.commits.push(commit(store).await?);
        let asked = Instant::now();
        process.turn(PROMPT)?;
        times.bare.push(milliseconds(asked.elapsed()));
        process.write("/clear")?;
        times.commits.push(commit(store).await?);
        // On a worker, as a service's calls are made.
        let mut client = client.clone();
        let ours = tokio::spawn(async move { run(&mut client).await });
        times.ours.push(ours.await??);
    }
    for process in bare.iter_mut() {
        process.read()?;
    }
    Ok(times)
}

/// The time of a commit that a worker waits for, as a server does.
async fn commit(store: &Arc<dyn Store>) -> Result<f64, Failure> {
    let store = Arc::clone(store);
    tokio::spawn(async move { one_commit(&store).await }).await?
}

fn cold(program: &Path, template: &Template, dir: &Path, tasks: usize) -> Result<Round, Failure> {
    let mut homes = [dir.join("cold-0"), dir.join("cold-1")];
    let each = tasks / homes.len();
    in_parallel(&mut homes, |home| {
        let tasks = (0..each).map(|_| template.cold(program, home).map(milliseconds));
        tasks.collect()
    })
}

/// A thread for each.
fn in_parallel<T: Send>(
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

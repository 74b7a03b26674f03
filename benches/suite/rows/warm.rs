//! What the pool adds to a warm process, and what it saves over a process per
//! task, on the real CLI.

mod round;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use claudepool::demo::StandIn;
use claudepool::store::Store;

use super::{Place, outside};
use crate::bare::{Bare, PROMPT, Template};
use crate::disk::{a_store, commit_time, one_commit};
use crate::measure::{Bound, Failure, Row, median, milliseconds, percentile};
use crate::server::{Kind, Server, claude};
pub use round::{PROCESSOR, Round, ours};
use round::{in_parallel, run, together};

/// Turns that the ways take within a round, with one slot and with more: what the
/// machine does besides changes within seconds and is to befall all of them, and
/// where processors are full, changes are larger.
const TURNS: [usize; 2] = [4, 8];
/// Tasks that each process serves before it is measured.
const WARM: usize = 20;
/// Memory of a slot's process after the tasks of a round, 180 each in a whole run.
pub const PROCESS: &str = "MiB a process";
/// What two sets of bare processes differ by is what a round cannot tell from nothing.
const CONTROL: &str = "bare, other processes";
pub const CLAUDEPOOL: &str = "claudepool";
const MIB: f64 = 1024.0 * 1024.0;

pub async fn row(place: Place) -> Result<Row, Failure> {
    let mut row = Row::new(
        "warm",
        "Tasks on the real CLI",
        "The same tasks, in turns, against the same stand-in of the Messages API on loopback: \
         `claude -p`, a process per task; bare, as many warm processes as slots, started as ours \
         are and reset between tasks, driven by a loop that does nothing else; claudepool, `Run` \
         over gRPC on SQLite, its server in a process of its own. All are started anew for each \
         round and serve 20 tasks first, and a second set of bare processes tells what a round \
         cannot tell from nothing. Throughput with as many callers \
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
        for number in 0..place.size.rounds {
            let kind = Kind::Claude {
                slots: slots as u32,
                dir: tempfile::tempdir_in(&dir)?.keep(),
                work: work.clone(),
                program: program.clone(),
                api: api.base_url(),
            };
            let begin = |name: &str, count: usize| {
                let home = |at| dir.join(format!("{name}-{slots}-{number}-{at}"));
                let start = |at| Bare::start(&template, &template.args, &home(at));
                (0..count).map(start).collect::<Result<Vec<_>, _>>()
            };
            // By turns, so that no way is always the first.
            let (server, mut bare) = match number % 2 {
                0 => (Server::start(&kind)?, begin("bare", slots)?),
                _ => {
                    let bare = begin("bare", slots)?;
                    (Server::start(&kind)?, bare)
                }
            };
            let mut control = begin("control", if slots == 2 { slots } else { 0 })?;
            ours(&server, slots, WARM * slots).await?;
            together(&mut bare, WARM * slots)?;
            together(&mut control, WARM * slots)?;
            let [mut theirs, mut round, mut others] = [(); 3].map(|()| Round::default());
            let each = tasks / TURNS[0];
            // Each follows another: who becomes idle tidies up for a while, beside who is next.
            for _ in 0..TURNS[usize::from(slots > 1)] {
                theirs.join(together(&mut bare, each)?);
                round.join(ours(&server, slots, each).await?);
                others.join(together(&mut control, each)?);
            }
            theirs.tell(&mut row, "bare", slots, false);
            round.tell(&mut row, CLAUDEPOOL, slots, true);
            let goal = format!("tasks/s / bare, {slots} slots");
            row.goal(&goal, "", Bound::AtLeast, 0.9, round.rate() / theirs.rate());
            if slots != 2 {
                continue;
            }
            others.tell(&mut row, CONTROL, slots, false);
            let used = round.used.own + round.used.below;
            let ratio = round.per_task(used) / theirs.per_task(theirs.used.below);
            row.goal("CPU a task / bare", "", Bound::AtMost, 1.1, ratio);
            row.add("CPU a task / bare", CLAUDEPOOL, ratio);
            let ratio = others.per_task(others.used.below) / theirs.per_task(theirs.used.below);
            row.add("CPU a task / bare", CONTROL, ratio);
            row.add(
                PROCESS,
                CLAUDEPOOL,
                server.memory_below() / MIB / slots as f64,
            );

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

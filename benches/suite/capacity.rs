//! What many slots need, computed from what was measured.

use std::fmt::Write;
use std::path::Path;

use super::measure::{Failure, Row, median};
use super::page::number;
use super::rows::postgres::{APPEND, APPENDS, CLAIMS, IDLE, LIFE, OURS, SUBMITS, WAKES};
use super::rows::warm::{CLAUDEPOOL, PROCESS, PROCESSOR};

const SLOTS: f64 = 10_000.0;
/// Memory of a machine that is for processes.
const MACHINE_MIB: f64 = 64.0 * 1024.0;
/// The most that a server has (`pool.max_slots`).
const SLOTS_MAX: f64 = 1000.0;
/// Where no process was measured: ready ones were seen at 165 to 304 MB.
const PROCESS_MIB: f64 = 300.0;
/// Connections of a server: for calls, and one for wakes.
const CONNECTIONS: f64 = 17.0;
/// Between two renewals of a lease, in seconds.
const RENEWAL: f64 = 5.0;

/// How the slots work.
struct Work {
    name: &'static str,
    /// Mean time of a task in a slot, in seconds.
    turn: f64,
    /// Pieces of an answer a second.
    pieces: f64,
}

const WORK: [Work; 2] = [
    Work {
        name: "turns of 30 s, a piece a second",
        turn: 30.0,
        pieces: 1.0,
    },
    Work {
        name: "turns of 5 s, 5 pieces a second",
        turn: 5.0,
        pieces: 5.0,
    },
];

/// Something that the database is asked for.
struct Need {
    what: &'static str,
    of: &'static str,
    /// With each kind of work.
    needed: [f64; WORK.len()],
    had: f64,
}

impl Need {
    /// What part of what was had is needed.
    fn part(&self, work: usize) -> f64 {
        self.needed[work] / self.had
    }
}

/// What the rows say.
struct Seen<'r>(&'r [Row]);

impl Seen<'_> {
    fn of(&self, row: &str, what: &str, way: &str) -> Option<f64> {
        let row = self.0.iter().find(|known| known.name == row)?;
        let same = |f: &&super::measure::Figure| f.what == what && f.way == way;
        Some(median(&row.figures.iter().find(same)?.values))
    }
}

/// Of things that are whole.
fn count(value: f64) -> String {
    match number(value.round()).split_once('.') {
        Some((whole, _)) => whole.to_owned(),
        None => number(value.round()),
    }
}

/// Writes `docs/capacity.md`, if what it is computed from was measured.
pub fn write(root: &Path, rows: &[Row], machine: &[String]) -> Result<(), Failure> {
    match page(&Seen(rows), machine) {
        Some(page) => Ok(std::fs::write(root.join("docs/capacity.md"), page)?),
        None => {
            println!("docs/capacity.md stays: its rows were not measured.");
            Ok(())
        }
    }
}

fn page(seen: &Seen<'_>, machine: &[String]) -> Option<String> {
    let process = seen.of("warm", PROCESS, CLAUDEPOOL);
    let memory = process.unwrap_or(PROCESS_MIB);
    let slots = (MACHINE_MIB / memory).floor().clamp(1.0, SLOTS_MAX);
    let machines = (SLOTS / slots).ceil();
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let life = |what| seen.of("postgres-load", what, LIFE);
    let queue = |what| seen.of("postgres", what, OURS);
    let idle = |what| seen.of("postgres-load", what, IDLE);
    let (processor, log) = (life("processor ms")?, life("KiB of log")?);
    let (append, at_rest) = (queue(APPEND)?, idle("processor ms/s")?);
    let tasks = WORK.map(|work| SLOTS / work.turn);
    let pieces = WORK.map(|work| SLOTS * work.pieces);
    let used = |work: usize| {
        (tasks[work] * processor + pieces[work] * append + machines * at_rest) / 1000.0
    };
    let needs = [
        Need {
            what: "submits a second",
            of: "slots / turn",
            needed: tasks,
            had: queue(SUBMITS)?,
        },
        Need {
            what: "claims a second",
            of: "slots / turn",
            needed: tasks,
            had: queue(CLAIMS)?,
        },
        Need {
            what: "whole tasks a second",
            of: "slots / turn",
            needed: tasks,
            had: life("tasks/s")?,
        },
        Need {
            what: "appends a second",
            of: "slots × pieces a second",
            needed: pieces,
            had: queue(APPENDS)?,
        },
        Need {
            what: "cores of the database",
            of: "tasks × ms + appends × ms + machines × ms at rest",
            needed: [used(0), used(1)],
            had: cores,
        },
    ];

    let mut page = String::from(
        "# What 10,000 slots need\n\nWritten by `make bench` from the rows `postgres`, \
         `postgres-load` and `warm` of [the benchmarks](benchmarks.md): do not edit. What is had is \
         what one database did there, sharing its machine with the servers and the callers that \
         asked it; what is needed is computed. Nobody has run 10,000 slots.\n\n",
    );
    for line in machine {
        let _ = writeln!(page, "{line}");
    }
    let from = match process {
        Some(_) => "measured after 180 tasks each (row `warm`); 274 MiB were seen after 1,200",
        None => "not measured in this run: ready ones were seen at 165 to 304 MB",
    };
    let _ = writeln!(
        page,
        "\n## Machines\n\n\
         | what | value | from |\n| --- | --- | --- |\n\
         | memory of a slot's processes | {} MiB | {from} |\n\
         | slots of a machine with 64 GiB for them | {} | memory; `pool.max_slots` is at most 1,000 |\n\
         | machines | {} | slots / slots of a machine |",
        number(memory),
        count(slots),
        count(machines),
    );
    if let Some(cli) = seen.of("warm", PROCESSOR, CLAUDEPOOL) {
        for (work, tasks) in WORK.iter().zip(tasks) {
            let each = tasks * cli / 1000.0 / machines;
            let _ = writeln!(
                page,
                "| cores of each machine, {} | {} | tasks a second × {} ms of the CLI, for answers \
                 that take it no time |",
                work.name,
                number(each),
                number(cli)
            );
        }
    }
    let _ = writeln!(
        page,
        "\n## One database\n\nA task is submitted, claimed and ended; a piece of its answer is an \
         append, which is a transaction of its own; pieces that come while one is under way join \
         the next.\n\n\
         | what | computed as | {} | {} | had | parts needed |\n\
         | --- | --- | --- | --- | --- | --- |",
        WORK[0].name, WORK[1].name,
    );
    for need in &needs {
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} × and {} × |",
            need.what,
            need.of,
            number(need.needed[0]),
            number(need.needed[1]),
            number(need.had),
            number(need.part(0)),
            number(need.part(1)),
        );
    }
    beside(&mut page, seen, machines, tasks, log)?;
    let _ = writeln!(page, "\n## The first limit\n");
    for (place, work) in WORK.iter().enumerate() {
        let by_part = |a: &&Need, b: &&Need| a.part(place).total_cmp(&b.part(place));
        let first = needs.iter().max_by(by_part)?;
        let part = first.part(place);
        let carried = (SLOTS / part).min(SLOTS);
        let _ = writeln!(
            page,
            "- With {}: **{}**: {} needed, {} had, {} ×. The database of this machine carries {} \
             such slots{}.",
            work.name,
            first.what,
            number(first.needed[place]),
            number(first.had),
            number(part),
            count(carried),
            if part <= 1.0 { ": all of them" } else { "" },
        );
    }
    let _ = writeln!(
        page,
        "\nMemory decides how many machines there are, and is no limit of the whole: another \
         machine is another server. The database is one. Where appends or cores come first, give \
         it a machine of its own with the cores above and a disk with fast durable writes; where \
         that ends, callers who do not need pieces of answers make most of the load go away, and \
         several pools, each with a database of its own, divide what is left.",
    );
    Some(page)
}

/// What is no limit by itself.
fn beside(
    page: &mut String,
    seen: &Seen<'_>,
    machines: f64,
    tasks: [f64; 2],
    log: f64,
) -> Option<()> {
    let wakes = |what| seen.of("postgres-load", what, WAKES);
    let (told, heard) = (wakes("wakes/s")?, wakes("heard/s")?);
    let at_rest = seen.of("postgres-load", "transactions/s", IDLE)?;
    let _ = writeln!(
        page,
        "\nBeside these:\n\n\
         | what | value | computed as |\n| --- | --- | --- |\n\
         | renewals of leases a second | {} | machines / {RENEWAL} s, one statement each |\n\
         | transactions a second of servers at rest, these included | {} | machines × {} |\n\
         | connections | {} | machines × ({} + 1 for wakes) by default: `max_connections` above it |\n\
         | MiB of its log a second, without appends | {} and {} | tasks × {} KiB |\n\
         | wait of a wake when all servers tell at once | {} ms | machines / {} wakes a second with 50 \
         listeners ({} heard); a server tells one at a time, and what comes meanwhile joins the next |",
        number(machines / RENEWAL),
        number(machines * at_rest),
        number(at_rest),
        count(machines * CONNECTIONS),
        CONNECTIONS - 1.0,
        number(tasks[0] * log / 1024.0),
        number(tasks[1] * log / 1024.0),
        number(log),
        number(machines / told * 1000.0),
        number(told),
        number(heard),
    );
    Some(())
}

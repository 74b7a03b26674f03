//! What people use today for the same tasks on the real CLI.

use std::path::Path;
use std::time::Duration;

use claudepool::demo::StandIn;

use super::warm::{Round, ours};
use super::{Place, outside};
use crate::bare::{PROMPT, Template};
use crate::measure::{Bound, Failure, Row, median};
use crate::peers;
use crate::proc::Usage;
use crate::server::{Kind, Server, claude};

const SLOTS: usize = 2;

pub async fn row(place: Place) -> Result<Row, Failure> {
    let mut row = Row::new(
        "peers-cli",
        "Peers: tasks on the real CLI",
        "The same tasks two at a time, against the same stand-in of the Messages API, each with \
         its own HOME and a cleared environment: the crate claude-pool 0.4.0, the Python \
         claude-agent-sdk 0.2.184 (a `query` per task; a `ClaudeSDKClient` per slot that is \
         kept) and claude-wrapper 0.14.9's duplex session, kept as well. What is kept is never \
         reset: each of its tasks sees all earlier ones. Processor time is that of the peer and \
         of the CLI, their start included, and of our server and its CLI.",
    );
    let program = place.claude()?;
    let api = StandIn::start("127.0.0.1:0".parse()?).await?;
    let dir = tempfile::tempdir_in(&place.dir)?.keep();
    let outside = outside()?;
    let work = outside.path().to_owned();
    let agent = claude(&dir.join("template"), &program, &api.base_url())?;
    let template = Template::of(&agent, &work).await?;
    let server = Server::start(&Kind::Claude {
        slots: SLOTS as u32,
        dir: dir.join("ours"),
        work: work.clone(),
        program: program.clone(),
        api: api.base_url(),
    })?;
    ours(&server, SLOTS, 20).await?;
    let folder = peers::folder()?;
    let rust = folder.join("rust-target/release/peers");
    let python = folder.join("python/bin/python");
    let script = folder.join("cli.py");
    let tasks = place.size.of((4, 20), (16, 100));
    let ways: [(&str, &Path, Vec<&Path>, usize); 4] = [
        ("claude-pool", &rust, vec![Path::new("pool")], tasks.0),
        (
            "agent SDK, query",
            &python,
            vec![&script, Path::new("query")],
            tasks.0,
        ),
        (
            "agent SDK, kept client",
            &python,
            vec![&script, Path::new("client")],
            tasks.1,
        ),
        (
            "duplex session, kept",
            &rust,
            vec![Path::new("duplex")],
            tasks.1,
        ),
    ];
    for _ in 0..place.size.rounds.min(3) {
        for (way, interpreter, args, tasks) in &ways {
            let home = tempfile::tempdir_in(&dir)?;
            let mut command = template.alone(interpreter, home.path());
            command.args(args).arg(&program).arg(tasks.to_string());
            command.arg(SLOTS.to_string()).arg(&work).arg(PROMPT);
            let before = Usage::of(std::process::id()).below;
            let said = peers::run(&mut command)?;
            let used = Usage::of(std::process::id()).below.saturating_sub(before);
            let times = said["times"].as_array().ok_or("a peer told no times")?;
            let round = Round {
                times: times.iter().filter_map(serde_json::Value::as_f64).collect(),
                all: Duration::from_secs_f64(said["seconds"].as_f64().ok_or("no time")?),
                used: Usage {
                    own: Duration::ZERO,
                    below: used,
                },
                ..Round::default()
            };
            tell(&mut row, way, &round);
        }
        let round = ours(&server, SLOTS, tasks.1).await?;
        tell(&mut row, "claudepool", &round);
        let of = |way| row.last("tasks/s", way);
        let ratio = of("claudepool") / of("claude-pool");
        row.goal("tasks/s / claude-pool's", "", Bound::AtLeast, 8.0, ratio);
    }
    Ok(row)
}

fn tell(row: &mut Row, way: &str, round: &Round) {
    row.add("tasks/s", way, round.rate());
    row.add("p50 ms", way, median(&round.times));
    let used = round.used.own + round.used.below;
    row.add("CPU ms a task", way, round.per_task(used));
}

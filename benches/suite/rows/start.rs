//! The program itself: its size, its start, what it adds to a process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use claudepool::demo::StandIn;

use super::Place;
use super::fill::database;
use crate::measure::{Bound, Failure, Row, milliseconds};
use crate::proc::{children, proportional, resident};

const PROGRAM: &str = env!("CARGO_BIN_EXE_claudepool");
const MIB: f64 = 1024.0 * 1024.0;

pub async fn row(place: Place) -> Result<Row, Failure> {
    let mut row = Row::new(
        "start",
        "From the start to SERVING",
        "The program, `claudepool serve` with two slots of the real CLI, from its start to the \
         line that says that it takes work, which is when health says SERVING. The size is that \
         of the release build with every feature, symbols included.",
    );
    let claude = place.claude()?;
    let api = StandIn::start("127.0.0.1:0".parse()?).await?;
    let (large, queue) = place.size.of((100_000, 10_000), (1_000_000, 100_000));
    let size = std::fs::metadata(PROGRAM)?.len() as f64 / MIB;
    row.add("MiB", "the program's file", size);
    for (finished, queued) in [(1_000, 0), (large, 0), (1_000, queue)] {
        let filled = database(&place.dir, finished, queued).await?;
        let way = match queued {
            0 => format!("{finished} finished"),
            _ => format!("{finished} finished, {queued} queued"),
        };
        for round in 0..place.size.rounds.min(3) {
            let home = place.dir.join(format!("start-{finished}-{queued}-{round}"));
            std::fs::create_dir_all(&home)?;
            let begun = Instant::now();
            let mut serving = serve(&home, &filled, &claude, &api.base_url())?;
            let took = milliseconds(begun.elapsed());
            row.add("ms to SERVING", &way, took);
            row.add(
                "MiB resident at SERVING",
                &way,
                resident(serving.0.id()) / MIB,
            );
            if finished == large {
                let goal = format!("start to SERVING with {large} tasks");
                row.goal(&goal, "ms", Bound::AtMost, 2000.0, took);
            }
            if finished == 1_000 && queued == 0 {
                let guard = guard(&mut serving.0).await?;
                row.add("MiB of ours a slot", "its launch shim", guard / MIB);
            }
        }
    }
    Ok(row)
}

/// Killed when dropped; what is below it goes by itself.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the program and returns when it takes work.
fn serve(home: &Path, database: &Path, claude: &Path, api: &str) -> Result<Serving, Failure> {
    let child = Command::new(PROGRAM)
        .args(["serve", "--listen", "127.0.0.1:0", "--status-listen", "off"])
        .arg("--store")
        .arg(format!("sqlite:{}", database.display()))
        .arg("--claude-bin")
        .arg(claude)
        .arg("--working-dir")
        .arg(home)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("ANTHROPIC_API_KEY", "dummy")
        .env("ANTHROPIC_BASE_URL", api)
        .env("CLAUDEPOOL_LOG", "error")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut serving = Serving(child);
    let mut line = String::new();
    let stdout = serving.0.stdout.take().ok_or("no stdout")?;
    BufReader::new(stdout).read_line(&mut line)?;
    if !line.contains("serving") {
        return Err(format!("the program did not start: {line}").into());
    }
    Ok(serving)
}

/// Memory of a slot's launch shim, once there is one.
async fn guard(server: &mut Child) -> Result<f64, Failure> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        let shim = children(server.id()).into_iter().find(|pid| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.windows(6).any(|word| word == b"__slot") && !children(*pid).is_empty()
        });
        if let Some(shim) = shim {
            return Ok(proportional(shim));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("no slot has a process".into())
}

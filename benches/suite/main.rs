//! The benchmark: every row side by side with what it is compared to, in one
//! run, whose output is a page.
//!
//! `make bench` runs all rows and writes `docs/benchmarks.md`, and what follows for
//! many slots, `docs/capacity.md`. One row alone:
//! `make bench ROWS="submit unary"`; a look in about a minute: `QUICK=1`. A row is
//! kept as JSON in `target/bench/rows/`, which is all that the page is made of.
#![allow(missing_docs)]

mod agent;
mod bare;
mod capacity;
mod database;
mod disk;
mod machine;
mod measure;
mod page;
mod peers;
mod plot;
mod proc;
mod raw;
mod recorded;
mod rows;
mod server;

use std::path::{Path, PathBuf};
use std::time::Instant;

use claudepool::agent::claude::shim;
use claudepool::clock::Clock;

use measure::{Failure, Row, Size};
use rows::{PEERS, Place, ROWS};

/// Rows that were kept longer ago belong to another run.
const RUN_SECONDS_MAX: i64 = 3 * 3600;

fn main() -> Result<(), Failure> {
    shim::intercept();
    if server::intercept()? {
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Cargo's own directory for what benchmarks write.
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let kept = scratch.with_file_name("bench").join("rows");
    std::fs::create_dir_all(&kept)?;
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let every = || PEERS.iter().chain(ROWS);
    let known = |name: &String| *name == "page" || every().any(|(row, _)| row == name);
    if let Some(name) = wanted.iter().find(|name| !known(name)) {
        let names: Vec<_> = every().map(|(name, _)| *name).collect();
        return Err(format!("there is no row {name}: there are {}", names.join(", ")).into());
    }
    let size = Size::from_env();
    let dir = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(scratch)?;
    let mut failed = Vec::new();
    for (name, measure) in every() {
        let is_wanted = match wanted.is_empty() {
            true => ROWS.iter().any(|(row, _)| row == name),
            false => wanted.iter().any(|wanted| wanted == name),
        };
        if !is_wanted {
            continue;
        }
        let place = Place {
            dir: dir.path().to_owned(),
            size,
            claude: std::env::var_os("CLAUDEPOOL_TEST_CLAUDE").map(PathBuf::from),
        };
        // What fails now must not show what was seen before.
        let _ = std::fs::remove_file(kept.join(format!("{name}.json")));
        let disk_ms = disk::sync_time(dir.path())?;
        let begun = Instant::now();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        // On no worker: a row waits for bare processes, and the stand-in that
        // they ask is a task of this runtime.
        match runtime.block_on(measure(place)) {
            Ok(mut row) => {
                row.seconds = begun.elapsed().as_secs_f64();
                row.quick = size.quick;
                row.disk_ms = disk_ms;
                row.time = Clock::system().now().0 / 1_000_000;
                keep(&kept, &row)?;
                println!("{}", page::section(&row, 2));
            }
            Err(error) => {
                eprintln!("error: row {name}: {error}");
                failed.push(*name);
            }
        }
    }
    match size.quick {
        true => println!("No page is written: a look is no result."),
        false => {
            let rows = read(&kept)?;
            let machine = machine::describe(&rows)?;
            page::write(root, &rows, &machine)?;
            capacity::write(root, &rows, &machine)?;
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("rows that failed: {}", failed.join(", ")).into()),
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0");
    let address = listener.and_then(|listener| listener.local_addr());
    address.expect("loopback has ports").port()
}

fn keep(kept: &Path, row: &Row) -> Result<(), Failure> {
    let file = kept.join(format!("{}.json", row.name));
    Ok(std::fs::write(file, serde_json::to_vec_pretty(row)?)?)
}

/// What was kept, in the page's order. What is older than a run takes belongs to
/// another.
fn read(kept: &Path) -> Result<Vec<Row>, Failure> {
    let mut found = Vec::new();
    for (name, _) in ROWS.iter().chain(PEERS) {
        let file = kept.join(format!("{name}.json"));
        if file.exists() {
            found.push(serde_json::from_slice::<Row>(&std::fs::read(file)?)?);
        }
    }
    let now = Clock::system().now().0 / 1_000_000;
    found.retain(|row| now - row.time < RUN_SECONDS_MAX && !row.quick);
    Ok(found)
}

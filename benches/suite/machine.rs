//! Where and with what it was measured.

use std::process::Command;

use super::measure::{Failure, Figure, Row};
use super::page;

/// One line each.
pub fn describe(rows: &[Row]) -> Result<Vec<String>, Failure> {
    let cpu = line("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = line("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let disk = Figure {
        what: String::new(),
        way: String::new(),
        values: rows.iter().map(|row| row.disk_ms).collect(),
    };
    let mut lines = vec![
        format!("- machine: {cpu}, {cores} cores, {memory}"),
        format!("- Linux {}", kernel.trim()),
        format!(
            "- fdatasync of 4 KiB on the disk of the run, before each row: {} ms",
            page::cell(&disk)
        ),
        format!("- claudepool {}, release build", env!("CARGO_PKG_VERSION")),
        format!("- SQLite {}", rusqlite::version()),
    ];
    for (name, program) in [
        ("rustc", Some("rustc".into())),
        ("PostgreSQL", Some("psql".into())),
        ("Claude Code", std::env::var_os("CLAUDEPOOL_TEST_CLAUDE")),
    ] {
        if let Some(program) = program
            && let Ok(output) = Command::new(program).arg("--version").output()
        {
            let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            lines.push(format!("- {name}: {version}"));
        }
    }
    Ok(lines)
}

fn line(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
}

//! Installs the pinned CLI for the demo, with npm, into the data folder.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::process::Command;

use super::failure::Failure;
use super::{program, render};

/// The npm package and the version that this release was tested with.
const PACKAGE: &str = "@anthropic-ai/claude-code@2.1.330";

/// What it takes on disk: where the progress bar ends.
const INSTALLED_BYTES: u64 = 381_500_000;

/// Bytes of the files below `dir`.
fn size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Installs the CLI and gives its program.
pub(super) async fn install(data_dir: &Path) -> Result<PathBuf, Failure> {
    let dir = program::install_dir(data_dir);
    std::fs::create_dir_all(&dir)
        .map_err(|error| Failure::failed(format!("{} cannot be made: {error}", dir.display())))?;
    render::line(&format!(
        "   installing {PACKAGE} with npm into {} (some 380 MB)",
        dir.display()
    ));
    // Drawn only on a terminal.
    let bar = ProgressBar::new(INSTALLED_BYTES);
    if let Ok(style) = ProgressStyle::with_template("   {bar:30} {bytes} of {total_bytes}") {
        bar.set_style(style);
    }
    let mut npm = std::pin::pin!(npm(&dir));
    let done = loop {
        tokio::select! {
            done = &mut npm => break done,
            // npm tells nothing while it works, but what it writes can be seen.
            () = tokio::time::sleep(Duration::from_millis(200)) => {
                bar.set_position(size(&dir).min(INSTALLED_BYTES));
            }
        }
    };
    bar.finish_and_clear();
    done?;

    let program = program::installed(data_dir);
    if program.is_file() {
        Ok(program)
    } else {
        Err(Failure::failed(format!(
            "{PACKAGE} has no program for this machine ({}): install Claude Code in another way \
             and say where it is with --claude-bin",
            program::platform_package()
        )))
    }
}

async fn npm(dir: &Path) -> Result<(), Failure> {
    // The package's own install script only links the program to its place in
    // the wrapper; the program is run directly, so no script needs to run.
    let child = Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--ignore-scripts"])
        .args(["--loglevel", "error", "--prefix"])
        .arg(dir)
        .arg(PACKAGE)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let child = child.map_err(|error| {
        Failure::failed(if error.kind() == std::io::ErrorKind::NotFound {
            "there is neither `claude` nor `npm` in PATH: install Node.js with npm, or install \
             Claude Code and say where it is with --claude-bin"
                .to_owned()
        } else {
            format!("npm does not start: {error}")
        })
    })?;
    let output = child
        .wait_with_output()
        .await
        .map_err(|error| Failure::failed(format!("npm failed: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let why = said
        .lines()
        .map(|line| line.trim_start_matches("npm error").trim())
        .find(|line| !line.is_empty() && !line.starts_with("code "))
        .unwrap_or("it gave no reason");
    Err(Failure::failed(format!(
        "npm could not install {PACKAGE}: {}; see to that, or install Claude Code in another way \
         and say where it is with --claude-bin",
        render::glimpse(why)
    )))
}

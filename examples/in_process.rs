//! The pool without gRPC, in a program of one's own.
//!
//! ```sh
//! cargo run --example in_process -- "Say hello."
//! ```

use std::error::Error;

use claudepool::agent::claude::{Claude, ClaudeOptions, shim};
use claudepool::pool::Pool;

fn main() -> Result<(), Box<dyn Error>> {
    // First of all: this program is also started as the launch shim of its
    // processes, and must become one before any thread starts.
    shim::intercept();
    tokio::runtime::Runtime::new()?.block_on(run())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let prompt = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "Say hello.".to_owned());
    let state = tempfile::tempdir()?;
    let mut options = ClaudeOptions::new(state.path());
    if let Some(program) = std::env::var_os("CLAUDEPOOL_CLAUDE_BIN") {
        options.program = program.into();
    }

    let pool = Pool::builder(Claude::open(options)?)
        .slots(2)
        .working_dir(std::env::current_dir()?)
        .build()
        .await?;

    // Two at once: a pool is cheap to clone.
    let other = pool.clone();
    let (first, second) = tokio::join!(pool.run(prompt.as_str()), other.run("And goodbye."));
    for task in [first?, second?] {
        let result = task.result.unwrap_or_default();
        let dollars = result.cost_microdollars as f64 / 1e6;
        println!("{} (${dollars:.4})", result.output);
    }
    pool.shutdown().await;
    Ok(())
}

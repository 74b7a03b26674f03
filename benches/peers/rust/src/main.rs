//! Rust libraries on the same tasks; prints JSON.
//!
//! `peers pool|duplex CLAUDE TASKS SLOTS DIR PROMPT`
//! `peers apalis FILE CALLERS SECONDS`

mod apalis;

use std::time::Instant;

use claude_wrapper::duplex::{DuplexOptions, DuplexSession};
use tokio::sync::Barrier;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [_, file, callers, seconds] = &args[..] {
        let rate = apalis::submissions(file, callers.parse()?, seconds.parse()?).await?;
        println!("{}", serde_json::json!({ "rate": rate }));
        return Ok(());
    }
    let [mode, claude, tasks, slots, dir, prompt] = &args[..] else {
        return Err("peers pool|duplex CLAUDE TASKS SLOTS DIR PROMPT, or apalis FILE CALLERS SECONDS".into());
    };
    let (tasks, slots): (usize, usize) = (tasks.parse()?, slots.parse()?);
    let (times, seconds) = match mode.as_str() {
        "pool" => pool(claude, tasks, slots, dir, prompt).await?,
        _ => duplex(claude, tasks, slots, dir, prompt).await?,
    };
    println!("{}", serde_json::json!({ "times": times, "seconds": seconds }));
    Ok(())
}

type Seen = (Vec<f64>, f64);

async fn pool(claude: &str, tasks: usize, slots: usize, dir: &str, prompt: &str) -> Result<Seen, Failure> {
    let claude = claude_wrapper_of_pool::Claude::builder().binary(claude).working_dir(dir).build()?;
    let pool = claude_pool::Pool::builder(claude).slots(slots).build().await?;
    let begun = Instant::now();
    let callers: Vec<_> = (0..slots)
        .map(|_| {
            let (pool, prompt) = (pool.clone(), prompt.to_owned());
            tokio::spawn(async move {
                let mut times = Vec::new();
                for _ in 0..tasks / slots {
                    let asked = Instant::now();
                    let result = pool.run(prompt.clone()).await?;
                    times.push(asked.elapsed().as_secs_f64() * 1e3);
                    if !result.success {
                        return Err::<_, Failure>("a task failed".into());
                    }
                }
                Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for caller in callers {
        times.extend(caller.await??);
    }
    Ok((times, begun.elapsed().as_secs_f64()))
}

/// Sessions kept, whose conversations go on: there is no reset.
async fn duplex(claude: &str, tasks: usize, slots: usize, dir: &str, prompt: &str) -> Result<Seen, Failure> {
    let claude = claude_wrapper::Claude::builder().binary(claude).working_dir(dir).build()?;
    let ready = std::sync::Arc::new(Barrier::new(slots));
    let callers: Vec<_> = (0..slots)
        .map(|_| {
            let (claude, prompt, ready) = (claude.clone(), prompt.to_owned(), ready.clone());
            tokio::spawn(async move {
                let session = DuplexSession::spawn(&claude, DuplexOptions::default()).await?;
                session.send(prompt.clone()).await?;
                ready.wait().await;
                let begun = Instant::now();
                let mut times = Vec::new();
                for _ in 0..tasks / slots {
                    let asked = Instant::now();
                    session.send(prompt.clone()).await?;
                    times.push(asked.elapsed().as_secs_f64() * 1e3);
                }
                let span = begun.elapsed().as_secs_f64();
                session.close().await?;
                Ok::<_, Failure>((times, span))
            })
        })
        .collect();
    let (mut times, mut longest) = (Vec::new(), 0.0_f64);
    for caller in callers {
        let (some, span) = caller.await??;
        times.extend(some);
        longest = longest.max(span);
    }
    Ok((times, longest))
}

//! What the pool adds to a warm process, and what it saves over a process per
//! task: everything side by side, in one run, on the real CLI.
//!
//! Three ways to do the same tasks on two slots, in turns, against the same
//! stand-in of the Messages API:
//!
//! - `claude -p`: a process per task, as the closest peer does it;
//! - bare: two warm processes, reset between tasks, driven by a loop that does
//!   nothing else;
//! - claudepool: `Run` over gRPC, on SQLite.
//!
//! Throughput is measured with as many callers as slots, latency with one
//! caller, so that a process is reset while the other one serves.
//!
//! Needs `CLAUDEPOOL_TEST_CLAUDE`, the path of the CLI's native program.
#![allow(missing_docs)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use claudepool::agent::claude::{Claude, ClaudeOptions, shim};
use claudepool::agent::{Agent, Launch, Placement, Profile};
use claudepool::clock::Timestamp;
use claudepool::demo::StandIn;
use claudepool::pb::pool_service_client::PoolServiceClient;
use claudepool::pb::{RunRequest, TaskSpec, task_spec::Input};
use claudepool::pool::{Options, Pool};
use claudepool::rpc;
use claudepool::store::{self, Store};

const SLOTS: usize = 2;
const PROMPT: &str = "Say something short.";

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How many tasks and rounds: `QUICK=1` for a look.
struct Size {
    tasks: usize,
    cold_tasks: usize,
    rounds: usize,
}

/// One way's round: every task's latency, the time of all, and the processor
/// time that was spent meanwhile.
struct Round {
    latencies: Vec<Duration>,
    all: Duration,
    spent: Spent,
}

impl Round {
    fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.all.as_secs_f64()
    }

    /// Processor time a task, in milliseconds: of this process, and of the
    /// CLI's processes.
    fn per_task(&self, of: fn(&Spent) -> Duration) -> f64 {
        of(&self.spent).as_secs_f64() * 1e3 / self.latencies.len() as f64
    }

    fn p50(&self) -> f64 {
        let all = self.latencies.iter();
        median(all.map(|d| d.as_secs_f64() * 1e3).collect())
    }
}

/// Processor time, user and system: of this process (server, client and
/// stand-in together), and of the processes below it that live.
#[derive(Clone, Copy)]
struct Spent {
    here: Duration,
    below: Duration,
}

impl Spent {
    fn now() -> Self {
        let mut stats = HashMap::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            if let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok())
                && let Ok(stat) = std::fs::read_to_string(entry.path().join("stat"))
                && let Some(stat) = Stat::read(&stat)
            {
                stats.insert(pid, stat);
            }
        }
        let us = std::process::id();
        let is_below = |mut pid: u32| {
            while let Some(stat) = stats.get(&pid) {
                if stat.parent == us {
                    return true;
                }
                pid = stat.parent;
            }
            false
        };
        // Linux counts in hundredths of a second on every machine of today.
        let time = |ticks: u64| Duration::from_millis(ticks * 10);
        let (here, reaped) = stats.get(&us).map_or((0, 0), |us| (us.own, us.reaped));
        let below = stats.iter().filter(|(pid, _)| is_below(**pid));
        let below: u64 = below.map(|(_, stat)| stat.own + stat.reaped).sum();
        Self {
            here: time(here),
            below: time(below + reaped),
        }
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            here: self.here.saturating_sub(earlier.here),
            below: self.below.saturating_sub(earlier.below),
        }
    }
}

/// A line of `/proc/PID/stat`: times in ticks.
struct Stat {
    parent: u32,
    own: u64,
    reaped: u64,
}

impl Stat {
    fn read(line: &str) -> Option<Self> {
        // The name may hold blanks: what follows its bracket is regular.
        let fields: Vec<_> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own: ticks(11)? + ticks(12)?,
            reaped: ticks(13)? + ticks(14)?,
        })
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<(), Failure> {
    shim::intercept();
    let Some(program) = std::env::var_os("CLAUDEPOOL_TEST_CLAUDE").map(PathBuf::from) else {
        return Err("set CLAUDEPOOL_TEST_CLAUDE to the CLI's native program".into());
    };
    let quick = std::env::var_os("QUICK").is_some();
    let (tasks, cold_tasks, rounds) = if quick { (100, 4, 3) } else { (200, 40, 5) };
    let size = Size {
        tasks,
        cold_tasks,
        rounds,
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(claudepool::cli::worker_threads())
        .enable_all()
        .build()?
        .block_on(bench(&program, &size))
}

async fn bench(program: &Path, size: &Size) -> Result<(), Failure> {
    let temp = tempfile::tempdir()?;
    let work = temp.path().join("work");
    std::fs::create_dir(&work)?;
    let stand_in = StandIn::start("127.0.0.1:0".parse()?).await?;
    let agent = |name: &str| {
        let mut options = ClaudeOptions::new(temp.path().join(name));
        options.program = program.to_owned();
        options.lend_credentials = false;
        let env = [
            ("ANTHROPIC_API_KEY", "dummy".to_owned()),
            ("ANTHROPIC_BASE_URL", stand_in.base_url()),
        ];
        options
            .env
            .extend(env.map(|(name, value)| (name.to_owned(), value)));
        Claude::open(options)
    };

    let template = Template::of(&agent("template")?, &work).await?;
    let database = temp.path().join("pool.db");
    let store = store::open(&format!("sqlite:{}", database.display())).await?;
    let options = Options {
        slots: SLOTS as u32,
        spares: 0,
        process_attempts_max: 1_000_000,
        process_memory_max: u64::MAX,
        ..Options::default()
    };
    let pool = Pool::builder(agent("pool")?)
        .store(Arc::clone(&store))
        .options(options)
        .working_dir(&work)
        .build()
        .await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async {
        let _ = stopped.await;
    };
    let server = tokio::spawn(rpc::serve(
        pool.clone(),
        listener,
        rpc::Options::default(),
        stopped,
    ));

    let mut bare = [
        Bare::start(&template, temp.path(), 0)?,
        Bare::start(&template, temp.path(), 1)?,
    ];
    // Everything once, so that no way pays for being first.
    ours(&address, SLOTS, 20).await?;
    bare_round(&mut bare, 20)?;
    let mut figures = Figures::default();
    for _ in 0..size.rounds {
        figures.bare.push(bare_round(&mut bare, size.tasks)?);
        figures.ours.push(ours(&address, SLOTS, size.tasks).await?);
        figures.bare_alone.push(bare_alone(&mut bare, size.tasks)?);
        figures
            .ours_alone
            .push(ours(&address, 1, size.tasks).await?);
        figures.cold.push(cold_round(
            program,
            &template,
            temp.path(),
            size.cold_tasks,
        )?);
        figures.commits.push(commit_time(&store).await?);
    }
    figures.report();

    let _ = stop.send(());
    server.await??;
    pool.shutdown().await;
    Ok(())
}

/// Everything measured, a round each.
#[derive(Default)]
struct Figures {
    cold: Vec<Round>,
    bare: Vec<Round>,
    ours: Vec<Round>,
    bare_alone: Vec<Round>,
    ours_alone: Vec<Round>,
    commits: Vec<f64>,
}

impl Figures {
    fn report(self) {
        let rate = |rounds: &[Round]| median(rounds.iter().map(Round::rate).collect());
        let p50 = |rounds: &[Round]| median(rounds.iter().map(Round::p50).collect());
        let cpu =
            |rounds: &[Round], of| median(rounds.iter().map(|round| round.per_task(of)).collect());
        let (bare, ours) = (&self.bare, &self.ours);
        let (bare_alone, ours_alone) = (&self.bare_alone, &self.ours_alone);
        println!(
            "| way | tasks/s, {SLOTS} callers | p50 ms, 1 caller | CPU ms a task: CLI | and the rest |"
        );
        println!("| --- | --- | --- | --- | --- |");
        let rows = [
            ("claude -p", &self.cold, &self.cold),
            ("bare reset process", bare, bare_alone),
            ("claudepool Run", ours, ours_alone),
        ];
        for (way, together, alone) in rows {
            println!(
                "| {way} | {:.1} | {:.1} | {:.1} | {:.1} |",
                rate(together),
                p50(alone),
                cpu(together, |spent| spent.below),
                cpu(together, |spent| spent.here),
            );
        }
        let commit = median(self.commits.clone());
        println!();
        println!(
            "tasks/s: {:.2} x bare (goal 0.9), {:.1} x claude -p",
            paired(ours, bare, |a, b| a.rate() / b.rate()),
            paired(ours, &self.cold, |a, b| a.rate() / b.rate()),
        );
        println!(
            "p50: bare + {:.2} ms (goal: two commits of {commit:.2} ms + 1 ms = {:.2} ms)",
            paired(ours_alone, bare_alone, |a, b| a.p50() - b.p50()),
            2.0 * commit + 1.0,
        );
    }
}

/// Neighbouring rounds are compared with each other: a slow moment of the
/// machine slows both.
fn paired(a: &[Round], b: &[Round], compare: fn(&Round, &Round) -> f64) -> f64 {
    median(a.iter().zip(b).map(|(a, b)| compare(a, b)).collect())
}

/// Our way: some callers, one task after the other each.
async fn ours(address: &str, callers: usize, tasks: usize) -> Result<Round, Failure> {
    let (begun, spent) = (Instant::now(), Spent::now());
    let count = callers;
    let callers = (0..count).map(|_| {
        let address = address.to_owned();
        tokio::spawn(async move {
            let mut client = PoolServiceClient::connect(address).await?;
            let mut latencies = Vec::new();
            for _ in 0..tasks / count {
                let task = TaskSpec {
                    input: Some(Input::Prompt(PROMPT.into())),
                    ..TaskSpec::default()
                };
                let request = RunRequest {
                    task: Some(task),
                    ..RunRequest::default()
                };
                let asked = Instant::now();
                let answer = client.run(request).await?.into_inner();
                latencies.push(asked.elapsed());
                if !answer.result.is_some_and(|result| result.success) {
                    return Err::<_, Failure>("a task failed".into());
                }
            }
            Ok(latencies)
        })
    });
    let mut latencies = Vec::new();
    for caller in callers.collect::<Vec<_>>() {
        latencies.extend(caller.await??);
    }
    let all = begun.elapsed();
    let spent = Spent::now().since(spent);
    Ok(Round {
        latencies,
        all,
        spent,
    })
}

/// One commit of the store, as long as it takes here and now, in milliseconds.
async fn commit_time(store: &Arc<dyn Store>) -> Result<f64, Failure> {
    let mut times = Vec::new();
    for i in 0..100 {
        let revision = store.context().await?.revision;
        let begun = Instant::now();
        store
            .set_context(revision, "bench", Some(&i.to_string()), Timestamp(0))
            .await?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(times))
}

/// How our own processes are started: the same arguments and environment serve
/// the bare ones.
struct Template {
    args: Vec<String>,
    env: Vec<(String, String)>,
    dir: PathBuf,
}

impl Template {
    async fn of(agent: &Claude, work: &Path) -> Result<Self, Failure> {
        let placement = Placement {
            working_dir: work.to_owned(),
            system_prompt: None,
            append_system_prompt: None,
        };
        let launch = Launch {
            profile: Profile::default(),
            placement: Some(placement),
            resume: None,
        };
        let mut session = agent.launch(launch).await?;
        let read = |name: &str| std::fs::read(format!("/proc/{}/{name}", session.pid()));
        let args = words(&read("cmdline")?);
        let env = words(&read("environ")?);
        session.end(Duration::from_secs(1)).await;
        Ok(Self {
            args,
            env: env
                .iter()
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            dir: work.to_owned(),
        })
    }

    fn command(&self, program: &str, args: &[String], home: &Path) -> Result<Command, Failure> {
        std::fs::create_dir_all(home)?;
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .envs(self.env.iter().cloned())
            .env("HOME", home)
            .env("CLAUDE_CONFIG_DIR", home)
            .current_dir(&self.dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Ok(command)
    }
}

/// The words of a file under /proc; an empty argument is one too.
fn words(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let words = bytes.split(|byte| *byte == 0);
    words
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// A warm process with nothing around it.
struct Bare {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Bare {
    fn start(template: &Template, temp: &Path, number: usize) -> Result<Self, Failure> {
        let home = temp.join(format!("bare-{number}"));
        let (program, args) = template.args.split_first().ok_or("no arguments")?;
        let mut command = template.command(program, args, &home)?;
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        let lines = BufReader::with_capacity(1 << 16, child.stdout.take().ok_or("no stdout")?);
        let mut bare = Self { child, lines };
        bare.turn(PROMPT)?;
        bare.turn("/clear")?;
        Ok(bare)
    }

    /// Writes a prompt and reads to its result, understanding nothing else.
    fn turn(&mut self, prompt: &str) -> Result<(), Failure> {
        self.write(prompt)?;
        self.read()
    }

    fn write(&mut self, prompt: &str) -> Result<(), Failure> {
        let line = serde_json::json!({
            "type": "user", "message": { "role": "user", "content": prompt }
        });
        let stdin = self.child.stdin.as_mut().ok_or("no stdin")?;
        writeln!(stdin, "{line}")?;
        Ok(stdin.flush()?)
    }

    fn read(&mut self) -> Result<(), Failure> {
        let mut said = String::new();
        loop {
            said.clear();
            if self.lines.read_line(&mut said)? == 0 {
                return Err("a bare process ended".into());
            }
            if said.contains("\"type\":\"result\"") {
                return Ok(());
            }
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bare_round(bare: &mut [Bare; SLOTS], tasks: usize) -> Result<Round, Failure> {
    in_parallel(bare, |process| {
        let mut latencies = Vec::new();
        for _ in 0..tasks / SLOTS {
            let asked = Instant::now();
            process.turn(PROMPT)?;
            latencies.push(asked.elapsed());
            process.turn("/clear")?;
        }
        Ok(latencies)
    })
}

/// One task at a time, on the two processes in turn: each is reset while the
/// other one serves.
fn bare_alone(bare: &mut [Bare; SLOTS], tasks: usize) -> Result<Round, Failure> {
    let (begun, spent) = (Instant::now(), Spent::now());
    let mut latencies = Vec::new();
    for process in bare.iter_mut() {
        process.write("/clear")?;
    }
    for i in 0..tasks {
        let process = &mut bare[i % SLOTS];
        process.read()?;
        let asked = Instant::now();
        process.turn(PROMPT)?;
        latencies.push(asked.elapsed());
        process.write("/clear")?;
    }
    for process in bare.iter_mut() {
        process.read()?;
    }
    let all = begun.elapsed();
    let spent = Spent::now().since(spent);
    Ok(Round {
        latencies,
        all,
        spent,
    })
}

fn cold_round(
    program: &Path,
    template: &Template,
    temp: &Path,
    tasks: usize,
) -> Result<Round, Failure> {
    let mut homes: [PathBuf; SLOTS] = [temp.join("cold-0"), temp.join("cold-1")];
    in_parallel(&mut homes, |home| {
        let args = ["-p", PROMPT, "--output-format", "json"].map(String::from);
        let mut latencies = Vec::new();
        for _ in 0..tasks / SLOTS {
            let asked = Instant::now();
            let mut command = template.command(&program.to_string_lossy(), &args, home)?;
            let output = command.stdin(Stdio::null()).output()?;
            if !output.status.success() {
                return Err("claude -p failed".into());
            }
            latencies.push(asked.elapsed());
        }
        Ok(latencies)
    })
}

/// One thread per slot.
fn in_parallel<T: Send>(
    slots: &mut [T; SLOTS],
    work: impl Fn(&mut T) -> Result<Vec<Duration>, Failure> + Sync,
) -> Result<Round, Failure> {
    let (begun, spent) = (Instant::now(), Spent::now());
    let mut latencies = Vec::new();
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads = slots.iter_mut().map(|slot| scope.spawn(|| work(slot)));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    for result in results {
        latencies.extend(result.map_err(|_| "a thread panicked")??);
    }
    let all = begun.elapsed();
    let spent = Spent::now().since(spent);
    Ok(Round {
        latencies,
        all,
        spent,
    })
}

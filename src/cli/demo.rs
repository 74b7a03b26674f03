//! `claudepool demo`: everything once, on this machine, as a user would.
//!
//! It starts a server as `serve` does, on a store of its own that is removed at
//! the end, and speaks to it through its port with the client commands' code.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use tempfile::TempDir;

use super::args::Remote;
use super::client::Client;
use super::failure::Failure;
use super::render::{self, Live, line};
use super::serve::{self, Serving};
use super::signals::Signals;
use super::watch::{Run, finished, follow_fan_out};
use super::{install, program};
use crate::config::{Config, Listen, Redacted, StatusListen, StoreUrl};
use crate::demo::StandIn;
use crate::pb;
use crate::pb::run_stream_response::Item;

/// Flags of `demo`.
#[derive(Args)]
pub(super) struct DemoArgs {
    /// The Claude Code CLI [default: `claude` in PATH, else one is installed].
    #[arg(long, value_name = "PATH", env = "CLAUDEPOOL_CLAUDE_BIN")]
    claude_bin: Option<PathBuf>,
    /// Loopback address or unix:/path to serve on; port 0 is any free port.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: Listen,
    /// Use the stand-in with canned answers even where there are credentials.
    #[arg(long)]
    canned: bool,
    /// Model to ask, where there are credentials.
    #[arg(long, default_value = "haiku")]
    model: String,
    /// The most that the demo may spend, in US dollars.
    #[arg(long, value_name = "X", default_value_t = 2.0)]
    budget_usd: f64,
    /// Leave the server running until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

/// Everything that lives as long as the demo.
struct Stage {
    serving: Serving,
    stand_in: Option<StandIn>,
    // Removed with what is in it, last.
    _dir: TempDir,
}

/// Prompts for canned answers: each line that begins with `::` is an order to
/// the stand-in.
const CANNED: Prompts = Prompts {
    run: "Say hello and count to ten.\n\
          ::think A greeting and ten numbers: that is easy.\n\
          ::echo Hello from a warm process. This answer is canned: the prompt held its script.\n\
          ::slow 10 80",
    item: "Say something about the number {n}.\n::echo {n} is a number.\n::slow 3 60",
    long: "Count for a long time.\n::slow 3000 50",
};

/// Prompts for a real model.
const REAL: Prompts = Prompts {
    run: "Say hello in one short sentence, then count from one to ten.",
    item: "Say one thing about the number {n}, in one short sentence.",
    long: "Count from 1 to 500 in words, one number per line. Use no tools.",
};

struct Prompts {
    run: &'static str,
    item: &'static str,
    long: &'static str,
}

/// Shows everything once.
pub(super) async fn run(args: DemoArgs) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let stage = tokio::select! {
        stage = Stage::set(&args) => stage?,
        () = signals.next() => return Err(Failure::cancelled()),
    };
    let told = tokio::select! {
        told = stage.tell(&args) => told,
        () = signals.next() => Err(Failure::cancelled()),
    };
    let Stage {
        serving,
        stand_in,
        _dir,
    } = stage;
    let ended = if args.keep && told.is_ok() {
        line("The server goes on until Ctrl-C.");
        serving.until(signals).await
    } else {
        serving.stop().await
    };
    if let Some(stand_in) = stand_in {
        stand_in.shutdown().await;
    }
    told.and(ended)
}

fn heading(text: &str) {
    line(&format!("\n{text}"));
}

impl Stage {
    /// Finds or installs the CLI, finds or replaces the model, starts the server.
    async fn set(args: &DemoArgs) -> Result<Self, Failure> {
        heading("1. The Claude Code CLI");
        let program = match program::find(args.claude_bin.as_deref()) {
            Ok(program) => program,
            Err(sentence) if args.claude_bin.is_some() => return Err(Failure::failed(sentence)),
            Err(_) => {
                line("   there is no `claude` in PATH");
                install::install(&program::data_dir().map_err(Failure::failed)?).await?
            }
        };
        line(&format!("   {}", program.display()));

        heading("2. The model");
        let mut config = Config::default();
        let stand_in = if args.canned || !has_credentials() {
            let stand_in = StandIn::start(SocketAddr::from(([127, 0, 0, 1], 0))).await;
            let stand_in = stand_in.map_err(|error| {
                Failure::failed(format!(
                    "the stand-in of the Messages API cannot listen: {error}"
                ))
            })?;
            let why = if args.canned {
                "asked for"
            } else {
                "no credentials were found"
            };
            line(&format!(
                "   {why}: a stand-in of the Messages API on {} gives canned answers;\n   \
                 costs are computed from made-up token counts, nothing is paid",
                stand_in.base_url()
            ));
            // Nothing of the operator's reaches the CLI, a proxy least of all.
            config.agent.env_allow = ["PATH", "LANG", "LC_ALL", "TZ", "TMPDIR"]
                .map(String::from)
                .to_vec();
            config.agent.lend_credentials = false;
            for (name, value) in [
                ("ANTHROPIC_BASE_URL", stand_in.base_url()),
                ("ANTHROPIC_API_KEY", "canned".to_owned()),
            ] {
                config.agent.env.insert(name.to_owned(), Redacted(value));
            }
            Some(stand_in)
        } else {
            line(&format!(
                "   your credentials, model {}: this costs some cents, at most ${}",
                args.model, args.budget_usd
            ));
            config.pool.settings.model = Some(args.model.clone());
            None
        };

        heading("3. The server");
        let dir = tempfile::Builder::new()
            .prefix("claudepool-demo-")
            .tempdir()
            .map_err(|error| Failure::failed(format!("no temporary directory: {error}")))?;
        let work = dir.path().join("work");
        std::fs::create_dir(&work)
            .map_err(|error| Failure::failed(format!("{}: {error}", work.display())))?;
        config.server.listen = args.listen.clone();
        config.status.listen = Some(StatusListen::Off);
        config.agent.program = Some(program);
        config.store = Some(StoreUrl(format!(
            "sqlite:{}",
            dir.path().join("claudepool.db").display()
        )));
        config.pool.working_dir = work;
        config.pool.budget_usd = Some(args.budget_usd);
        config.pool.default_task_budget_usd = args.budget_usd / 8.0;
        config
            .check()
            .map_err(|error| Failure::usage(error.to_string()))?;
        let slots = config.pool.slots;
        let before = Instant::now();
        let serving = serve::start(config).await?;
        line(&format!(
            "   serving on {} with {slots} slots and a store on disk, after {:.1} s",
            serving.url(),
            before.elapsed().as_secs_f64()
        ));
        Ok(Self {
            serving,
            stand_in,
            _dir: dir,
        })
    }

    /// The story, through the port.
    async fn tell(&self, args: &DemoArgs) -> Result<(), Failure> {
        let remote = Remote {
            server: self.serving.url(),
            ..Remote::default()
        };
        let mut client = Client::connect(&remote).await?;
        let prompts = if self.stand_in.is_some() {
            CANNED
        } else {
            REAL
        };
        one_prompt(&mut client, prompts.run).await?;
        ten_prompts(&mut client, prompts.item).await?;
        one_cancel(&mut client, prompts.long).await?;
        costs(&mut client, self.stand_in.is_some()).await?;
        self.what_next(args.keep);
        Ok(())
    }

    fn what_next(&self, keep: bool) {
        let me = std::env::args()
            .next()
            .unwrap_or_else(|| "claudepool".to_owned());
        let url = if keep {
            self.serving.url()
        } else {
            "http://127.0.0.1:50051".to_owned()
        };
        heading("8. What to type next");
        if !keep {
            if self.stand_in.is_some() {
                line("   # a server with canned answers");
                line(&format!("   {me} demo --keep --listen 127.0.0.1:50051"));
                line("   # a real one: log in with `claude`, or export ANTHROPIC_API_KEY=…");
            }
            line(&format!("   {me} serve"));
            line("   # then, in another terminal");
        }
        let server = if keep {
            format!(" --server {url}")
        } else {
            String::new()
        };
        line(&format!("   {me} run{server} \"Say hello.\""));
        line(&format!("   {me} status{server}"));
        let plain = url.strip_prefix("http://").unwrap_or(&url);
        line(&format!(
            "   grpcurl -plaintext -d '{{\"task\":{{\"prompt\":\"Say hello.\"}}}}' {plain} \
             claudepool.v1.PoolService/RunStream\n"
        ));
    }
}

/// Whether the CLI would find credentials of its own.
fn has_credentials() -> bool {
    let given = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let keys = [
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "CLAUDE_CODE_OAUTH_TOKEN",
    ];
    let dir = std::env::var_os("CLAUDE_CONFIG_DIR")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".claude")));
    keys.into_iter().any(given) || dir.is_some_and(|dir| dir.join(".credentials.json").is_file())
}

fn spec(prompt: String) -> pb::TaskSpec {
    pb::TaskSpec {
        input: Some(pb::task_spec::Input::Prompt(prompt)),
        tags: vec!["demo".to_owned()],
        ..pb::TaskSpec::default()
    }
}

fn run_request(prompt: &str) -> pb::RunStreamRequest {
    pb::RunStreamRequest {
        task: Some(spec(prompt.to_owned())),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..pb::RunStreamRequest::default()
    }
}

/// A demo that shows a failure has failed.
fn expect(state: pb::TaskState, wanted: pb::TaskState) -> Result<(), Failure> {
    if state == wanted {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "the task {} where it should have {}: what is above says why; `claudepool serve --log debug` \
         shows more",
        render::state(state),
        render::state(wanted)
    )))
}

async fn one_prompt(client: &mut Client, prompt: &str) -> Result<(), Failure> {
    heading("4. A prompt, answered as it is written");
    let mut live = Live::new(true, true);
    let mut run = Run::new(run_request(prompt));
    let end = loop {
        if let Item::Event(event) = run.next(client).await? {
            live.event(&event);
            if let Some(end) = finished(event) {
                break end;
            }
        }
    };
    render::summary(end.state, &end.result, &run.task_id);
    expect(end.state, pb::TaskState::Succeeded)
}

async fn ten_prompts(client: &mut Client, prompt: &str) -> Result<(), Failure> {
    heading("5. Ten prompts at once, on two slots");
    let request = pb::FanOutRequest {
        tasks: (1..=10)
            .map(|n| spec(prompt.replace("{n}", &n.to_string())))
            .collect(),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..pb::FanOutRequest::default()
    };
    let before = Instant::now();
    let total = follow_fan_out(client, request, false).await?;
    line(&format!(
        "{}, {:.1} s",
        total.line(),
        before.elapsed().as_secs_f64()
    ));
    if total.succeeded == total.tasks {
        Ok(())
    } else {
        Err(Failure::failed(
            "not all of the ten succeeded: what is above says why",
        ))
    }
}

async fn one_cancel(client: &mut Client, prompt: &str) -> Result<(), Failure> {
    heading("6. A task cancelled while it runs");
    let mut live = Live::new(true, true);
    let mut run = Run::new(run_request(prompt));
    let mut asked: Option<Instant> = None;
    let mut first: Option<Instant> = None;
    let end = loop {
        let Item::Event(event) = run.next(client).await? else {
            continue;
        };
        live.event(&event);
        let is_text = matches!(event.kind, Some(pb::event::Kind::TextDelta(_)));
        let since = first
            .filter(|_| is_text)
            .or_else(|| is_text.then(Instant::now));
        first = first.or(since);
        // Some text is shown first.
        if asked.is_none() && since.is_some_and(|at| at.elapsed() > Duration::from_millis(600)) {
            asked = Some(Instant::now());
            run.cancel(client).await?;
        }
        if let Some(end) = finished(event) {
            break end;
        }
    };
    render::summary(end.state, &end.result, &run.task_id);
    expect(end.state, pb::TaskState::Cancelled)?;
    if let Some(asked) = asked {
        line(&format!(
            "it ended {} ms after the cancel, and its slot takes the next task",
            asked.elapsed().as_millis()
        ));
    }
    Ok(())
}

async fn costs(client: &mut Client, canned: bool) -> Result<(), Failure> {
    heading("7. What it cost");
    let answer = client
        .pool
        .get_status(pb::GetStatusRequest::default())
        .await;
    let answer = answer.map_err(|s| client.failure(&s))?.into_inner();
    let status = answer.status.unwrap_or_default();
    super::table::status(&status);
    if canned {
        line("the answers were canned: nothing was paid");
    }
    Ok(())
}

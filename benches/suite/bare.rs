//! The real CLI with nothing around it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use claudepool::agent::claude::Claude;
use claudepool::agent::{Agent, Launch, Placement, Profile};

use super::measure::Failure;

/// What every task asks.
pub const PROMPT: &str = "Say something short.";

/// How our own processes are started: the same arguments and environment serve
/// the bare ones.
pub struct Template {
    /// The program and its arguments.
    pub args: Vec<String>,
    env: Vec<(String, String)>,
    dir: PathBuf,
}

impl Template {
    /// As the agent does it.
    pub async fn of(agent: &Claude, work: &Path) -> Result<Self, Failure> {
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
        let pid = session.pid();
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}"));
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

    /// The same with its sessions saved on disk.
    pub fn saving(&self) -> Vec<String> {
        let saves = |arg: &&String| *arg != "--no-session-persistence";
        self.args.iter().filter(saves).cloned().collect()
    }

    /// Only what it takes to speak to a live process.
    pub fn plain(&self) -> Vec<String> {
        let args = [
            "-p",
            "--input-format",
            "stream-json",
            "--output-format",
            "stream-json",
            "--verbose",
        ];
        let program = self.args.iter().take(1).cloned();
        program.chain(args.map(String::from)).collect()
    }

    /// Another program with the same environment and a home of its own.
    pub fn alone(&self, program: &Path, home: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(self.env.iter().cloned())
            .env_remove("CLAUDE_CONFIG_DIR")
            .env("HOME", home)
            .current_dir(&self.dir);
        command
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

    /// A process for one task.
    pub fn cold(&self, program: &Path, home: &Path) -> Result<Duration, Failure> {
        let args = ["-p", PROMPT, "--output-format", "json"].map(String::from);
        let asked = Instant::now();
        let mut command = self.command(&program.to_string_lossy(), &args, home)?;
        let output = command.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            return Err("claude -p failed".into());
        }
        Ok(asked.elapsed())
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
pub struct Bare {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Bare {
    /// Starts one, and has it serve a turn.
    pub fn start(template: &Template, args: &[String], home: &Path) -> Result<Self, Failure> {
        let (program, args) = args.split_first().ok_or("no arguments")?;
        let mut command = template.command(program, args, home)?;
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        let lines = BufReader::with_capacity(1 << 16, child.stdout.take().ok_or("no stdout")?);
        let mut bare = Self { child, lines };
        bare.turn(PROMPT)?;
        bare.turn("/clear")?;
        Ok(bare)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a prompt and reads to its result, understanding nothing else.
    pub fn turn(&mut self, prompt: &str) -> Result<(), Failure> {
        self.write(prompt)?;
        self.read()
    }

    /// Writes a prompt.
    pub fn write(&mut self, prompt: &str) -> Result<(), Failure> {
        let line = serde_json::json!({
            "type": "user", "message": { "role": "user", "content": prompt }
        });
        let stdin = self.child.stdin.as_mut().ok_or("no stdin")?;
        writeln!(stdin, "{line}")?;
        Ok(stdin.flush()?)
    }

    /// Reads to a result.
    pub fn read(&mut self) -> Result<(), Failure> {
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

//! The README's examples with other people's tools, as they stand there.
//!
//! `CLAUDEPOOL_TEST_GRPCURL`, `CLAUDEPOOL_TEST_BUF` and
//! `CLAUDEPOOL_TEST_HEALTH_PROBE` name the tools; `make test-readme` installs them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_claudepool");

/// One command of the README and what it is said to answer.
struct Example {
    command: String,
    answer: String,
}

/// The commands of the README's console blocks that begin with one of `tools`.
fn examples(tools: &[&str]) -> Vec<Example> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let text = text.unwrap();
    let mut examples: Vec<Example> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if !inside {
        } else if let Some(command) = line.strip_prefix("$ ") {
            examples.push(Example {
                command: command.to_owned(),
                answer: String::new(),
            });
        } else if let Some(last) = examples.last_mut() {
            last.answer += &format!("{line}\n");
        }
    }
    examples.retain(|e| {
        tools
            .iter()
            .any(|tool| e.command.starts_with(&format!("{tool} ")))
    });
    examples
}

/// The words of a command line, as a shell takes them: quotes are single.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The names of fields in a text, in order.
fn fields(text: &str) -> Vec<&str> {
    let quoted = text
        .split('"')
        .skip(1)
        .step_by(2)
        .zip(text.split('"').skip(2).step_by(2));
    quoted
        .filter(|(_, after)| after.trim_start().starts_with(':'))
        .map(|(name, _)| name)
        .collect()
}

/// Ids of the README, and those that stand for them here.
type Ids = BTreeMap<String, String>;

fn ids(text: &str) -> Vec<&str> {
    text.split('"')
        .filter(|word| word.len() == 36 && word.matches('-').count() == 4)
        .collect()
}

struct Server {
    child: Child,
    address: String,
    _home: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let fake = Path::new(PROGRAM)
            .parent()
            .unwrap()
            .join("examples/fake_claude");
        assert!(
            fake.is_file(),
            "run `cargo build --example fake_claude` first"
        );
        let home = tempfile::tempdir().unwrap();
        let mut child = Command::new(PROGRAM)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home.path())
            .args([
                "serve",
                "--log",
                "error",
                "--listen",
                "127.0.0.1:0",
                "--claude-bin",
            ])
            .arg(&fake)
            .arg("--working-dir")
            .arg(home.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut ready)
            .unwrap();
        let address = ready
            .trim()
            .strip_prefix("claudepool is serving on http://");
        let address = address.unwrap_or_else(|| panic!("{ready}")).to_owned();
        Self {
            child,
            address,
            _home: home,
        }
    }

    /// The command, with this server's address and this run's ids.
    fn command(&self, example: &Example, tools: &Tools, ids: &Ids) -> Command {
        let mut line = example.command.replace("127.0.0.1:50051", &self.address);
        for (there, here) in ids {
            line = line.replace(there, here);
        }
        let words = words(&line);
        let mut command = Command::new(&tools[words[0].as_str()]);
        command.args(&words[1..]).stdin(Stdio::null());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Tools = BTreeMap<&'static str, PathBuf>;

fn tools() -> Tools {
    let named = [
        ("grpcurl", "CLAUDEPOOL_TEST_GRPCURL"),
        ("buf", "CLAUDEPOOL_TEST_BUF"),
        ("grpc-health-probe", "CLAUDEPOOL_TEST_HEALTH_PROBE"),
    ];
    let path = |variable| std::env::var_os(variable).unwrap_or_else(|| panic!("set {variable}"));
    named
        .map(|(tool, variable)| (tool, PathBuf::from(path(variable))))
        .into()
}

/// What a stream says, until it has said what the README shows of it.
fn beginning(mut command: Command, example: &Example) -> String {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while missing(&said, &example.answer).is_some() {
        let line = lines
            .next()
            .unwrap_or_else(|| panic!("{}: {said}", example.command));
        said += &format!("{}\n", line.unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    said
}

/// A field or a word that the README shows and the answer lacks.
fn missing<'a>(said: &str, answer: &'a str) -> Option<&'a str> {
    let names = fields(answer);
    if names.is_empty() {
        // Words, not JSON: every line stands as it is, up to an ellipsis.
        let lines = answer
            .lines()
            .map(|line| line.split('…').next().unwrap().trim());
        return lines
            .filter(|line| !line.is_empty())
            .find(|line| !said.contains(*line));
    }
    // The answer's fields in any order, as often as they are shown.
    let mut there = fields(said);
    names
        .into_iter()
        .find(|name| match there.iter().position(|field| field == name) {
            Some(at) => {
                there.swap_remove(at);
                false
            }
            None => true,
        })
}

#[test]
fn what_other_peoples_tools_are_said_to_do_they_do() {
    let tools = tools();
    let server = Server::start();
    let examples = examples(&["grpcurl", "buf", "grpc-health-probe"]);
    for tool in tools.keys() {
        let used = examples.iter().any(|e| e.command.starts_with(tool));
        assert!(used, "the README shows nothing with {tool}");
    }
    let mut known = Ids::new();
    for example in &examples {
        let mut command = server.command(example, &tools, &known);
        if example.answer.trim_end().ends_with('…') {
            beginning(command, example);
            continue;
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let beside = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}: {said}{beside}",
            example.command
        );
        let all = format!("{said}{beside}");
        assert_eq!(
            missing(&all, &example.answer),
            None,
            "{}: {all}",
            example.command
        );
        for (there, here) in ids(&example.answer).into_iter().zip(ids(&said)) {
            known.insert(there.to_owned(), here.to_owned());
        }
    }
}

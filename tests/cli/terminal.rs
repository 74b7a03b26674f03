//! What people see: the commands on a terminal.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use super::{PROGRAM, Server, program};

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command on a terminal of its own, which `script` of util-linux makes: it
/// types what it is given and shows what is printed.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    shown: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn of(server: &Server, args: &[&str]) -> Self {
        let quoted = args.iter().map(|arg| format!("'{arg}'"));
        let words: Vec<_> = quoted.collect();
        // A shell in between would die of an interrupt, too.
        let line = format!(
            "exec '{PROGRAM}' {} --server {}",
            words.join(" "),
            server.url
        );
        let plain = program(server.home.path());
        // What runs the tests may ignore interrupts, as a shell has it for what it
        // starts in the background.
        let mut command = Command::new("env");
        command
            .env_clear()
            .envs(
                plain
                    .get_envs()
                    .filter_map(|(key, value)| Some((key, value?))),
            )
            .env("TERM", "xterm")
            .env("SHELL", "/bin/sh")
            .args(["--default-signal=INT", "script"])
            .args(["-q", "-f", "-e", "-c", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .expect("there is no `env`: install coreutils 8.31 or newer");
        let keys = child.stdin.take().unwrap();
        let mut out = child.stdout.take().unwrap();
        let (show, shown) = sync_channel(1024);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = out.read(&mut bytes) {
                if show.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            keys,
            shown,
            seen: String::new(),
        }
    }

    /// Waits until this is shown; what came before it is behind us.
    fn until(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.shown.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("no {text:?} ({error}): {}", self.seen),
            }
        }
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits for its end.
    fn ended(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const INTERRUPT: &str = "\u{3}";

#[test]
fn a_run_shows_that_it_works_and_its_text_as_it_comes() {
    let server = Server::start();
    let mut terminal = Terminal::of(&server, &["run", "::slow 30 100"]);

    terminal.until("task ");
    terminal.until("working");
    terminal.until("tick");
    assert!(!terminal.seen.contains("succeeded"), "{}", terminal.seen);
    terminal.until("succeeded");
    terminal.until("$0.");

    assert!(terminal.child.wait().unwrap().success());
}

#[test]
fn a_fan_out_and_a_chain_show_how_far_they_are() {
    let server = Server::start();
    let mut fan_out = Terminal::of(
        &server,
        &["fan-out", "::slow 5 200", "::echo b", "::echo c"],
    );
    fan_out.until("of 3 done");
    fan_out.until("3 of 3 succeeded");
    assert!(fan_out.child.wait().unwrap().success());

    let mut chain = Terminal::of(&server, &["chain", "::slow 5 200", "::echo end"]);
    chain.until("of 2 done");
    chain.until("step_1");
    chain.until("end");
    assert!(chain.child.wait().unwrap().success());
}

#[test]
fn an_interrupted_run_is_cancelled_only_when_that_is_meant() {
    let server = Server::start();
    let mut terminal = Terminal::of(&server, &["run", "::slow 400 200"]);
    terminal.until("tick");

    terminal.types(INTERRUPT);
    terminal.until("cancel the task?");
    terminal.types("n\n");
    terminal.until("tick");
    terminal.types(INTERRUPT);
    terminal.until("cancel the task?");
    terminal.types("y\n");
    terminal.until("cancelled");

    assert_eq!(terminal.child.wait().unwrap().code(), Some(3));
}

#[test]
fn an_interrupt_leaves_a_watch_and_says_how_to_come_back() {
    let server = Server::start();
    let task = server.client(&["submit", "::slow 400 200"]).out;
    let mut terminal = Terminal::of(&server, &["watch", task.trim()]);
    terminal.until("tick");

    terminal.types(INTERRUPT);

    terminal.until("claudepool watch");
    let ended = terminal.ended();
    assert!(ended.code().is_some(), "{ended}");
}

#[test]
fn a_watched_status_is_a_screen_until_it_is_left() {
    let server = Server::start();
    let mut terminal = Terminal::of(&server, &["status", "--watch"]);
    terminal.until("slot-0");
    terminal.until("Ctrl-C ends this view");
    server.client(&["run", "::echo one"]);
    terminal.until("1 succeeded");

    terminal.types(INTERRUPT);

    assert!(terminal.ended().code().is_some());
}

//! The program as a user meets it, over the scripted CLI.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_claudepool");

/// The scripted CLI, which plain `cargo test` builds.
fn fake_claude() -> PathBuf {
    let path = Path::new(PROGRAM)
        .parent()
        .unwrap()
        .join("examples/fake_claude");
    let hint = "run `cargo build --example fake_claude` first, or plain `cargo test`";
    assert!(path.is_file(), "{hint}");
    path
}

/// The program in an environment that holds nothing of the tester's.
fn program(home: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home)
        // Tests run at the same time: the port after a server's may be taken.
        .env("CLAUDEPOOL_STATUS_LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null());
    command
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn said(output: &Output) -> Said {
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout.clone()).unwrap(),
        err: String::from_utf8(output.stderr.clone()).unwrap(),
    }
}

fn run(home: &Path, args: &[&str]) -> Said {
    said(&program(home).args(args).output().unwrap())
}

/// `claudepool serve` on a free port.
struct Server {
    child: Child,
    url: String,
    home: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(args: &[&str]) -> Self {
        Self::start_to(Stdio::inherit(), &[&["--log", "error"], args].concat())
    }

    /// With its log going somewhere else.
    fn start_to(log: Stdio, args: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut child = program(home.path())
            .env("CLAUDEPOOL_LISTEN", "127.0.0.1:0")
            .arg("serve")
            .arg("--claude-bin")
            .arg(fake_claude())
            .arg("--working-dir")
            .arg(home.path())
            .args(args)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut ready)
            .unwrap();
        let url = ready.trim().strip_prefix("claudepool is serving on ");
        let url = url.unwrap_or_else(|| panic!("{ready}")).to_owned();
        Self { child, url, home }
    }

    fn client(&self, args: &[&str]) -> Said {
        let mut all = args.to_vec();
        all.extend(["--server", &self.url]);
        run(self.home.path(), &all)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn terminate(mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn run_prints_the_answer_alone_and_succeeds() {
    let server = Server::start();

    let said = server.client(&["run", "::echo good morning"]);

    assert_eq!(
        (said.code, said.out.as_str()),
        (0, "good morning\n"),
        "{}",
        said.err
    );
    assert!(said.err.contains("succeeded"), "{}", said.err);
}

#[test]
fn a_prompt_can_come_from_stdin_or_a_file() {
    let server = Server::start();
    let file = server.home.path().join("prompt");
    std::fs::write(&file, "::echo from a file").unwrap();

    let from_file = server.client(&["run", "--file", file.to_str().unwrap()]);
    let mut child = program(server.home.path())
        .args(["run", "-", "--server", &server.url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"::echo from stdin")
        .unwrap();
    let from_stdin = said(&child.wait_with_output().unwrap());

    assert_eq!(from_file.out, "from a file\n");
    assert_eq!(from_stdin.out, "from stdin\n");
}

#[test]
fn json_is_one_object_per_line_from_accepted_to_finished() {
    let server = Server::start();

    let said = server.client(&["run", "--json", "::echo hi"]);

    let lines: Vec<Value> = said
        .out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert!(lines[0]["taskId"].is_string(), "{}", said.out);
    let end = &lines.last().unwrap()["finished"];
    assert_eq!(end["state"], "TASK_STATE_SUCCEEDED");
    assert_eq!(end["result"]["output"], "hi");
    assert!(end["result"]["costMicrodollars"].is_string(), "{end}");
}

#[test]
fn a_failed_task_exits_1_and_says_why() {
    let server = Server::start();

    let said = server.client(&["run", "::error 400"]);

    assert_eq!(said.code, 1);
    assert!(said.err.contains("INVALID_REQUEST"), "{}", said.err);
}

#[test]
fn a_refused_call_exits_4_and_names_reason_and_field() {
    let server = Server::start();

    let said = server.client(&["run", ""]);

    assert_eq!(said.code, 4);
    assert!(said.err.contains("INVALID_FIELD"), "{}", said.err);
    assert!(said.err.contains("task.prompt"), "{}", said.err);
}

#[test]
fn a_server_that_is_not_there_exits_5() {
    let home = tempfile::tempdir().unwrap();

    let said = run(home.path(), &["status", "--server", "http://127.0.0.1:1"]);

    assert_eq!(said.code, 5);
    assert!(said.err.contains("claudepool serve"), "{}", said.err);
}

#[test]
fn an_unknown_flag_exits_2() {
    let home = tempfile::tempdir().unwrap();

    assert_eq!(run(home.path(), &["run", "--colour", "x"]).code, 2);
}

#[test]
fn a_running_task_is_cancelled_and_its_result_exits_3() {
    let server = Server::start();
    let task = server.client(&["submit", "::slow 10000 50"]).out;
    let task = task.trim();

    let cancel = server.client(&["cancel", task]);
    let result = server.client(&["result", task, "--wait", "20s"]);

    assert_eq!(cancel.code, 0, "{}", cancel.err);
    assert_eq!(result.code, 3, "{}", result.err);
}

#[test]
fn an_interrupt_cancels_the_run() {
    let server = Server::start();
    let mut child = program(server.home.path())
        .args(["run", "--json", "::slow 10000 50", "--server", &server.url])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started = |line: &String| line.contains("\"textDelta\"");
    lines.by_ref().map(Result::unwrap).find(started).unwrap();

    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();

    let last = lines.map(Result::unwrap).last().unwrap();
    assert!(last.contains("TASK_STATE_CANCELLED"), "{last}");
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn fan_out_prints_a_line_per_item_and_the_sum() {
    let server = Server::start();

    let said = server.client(&["fan-out", "::echo one", "::echo two", "::echo three"]);

    assert_eq!(said.code, 0, "{}", said.err);
    let mut lines: Vec<&str> = said.out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines.len(), 3, "{}", said.out);
    assert!(
        lines[1].starts_with("[1] succeeded") && lines[1].ends_with("two"),
        "{}",
        said.out
    );
    assert!(said.err.contains("3 of 3 succeeded"), "{}", said.err);
}

#[test]
fn lists_and_status_show_what_there_is() {
    let server = Server::start();
    let task = server.client(&["submit", "::echo x", "--tag", "blue"]).out;
    server.client(&["result", task.trim(), "--wait", "20s"]);

    let tasks = server
        .client(&["tasks", "--tag", "blue", "--state", "succeeded"])
        .out;
    let status = server.client(&["status"]).out;
    let slots = server.client(&["slots"]).out;
    let set = server.client(&["context", "set", "tone", "short"]);
    let context = server.client(&["context"]).out;

    assert!(
        tasks.contains(task.trim()) && tasks.contains("blue"),
        "{tasks}"
    );
    assert!(status.contains("1 succeeded"), "{status}");
    assert!(
        slots.contains("slot-0") && slots.contains("slot-1"),
        "{slots}"
    );
    assert_eq!(set.code, 0, "{}", set.err);
    assert_eq!(context, "tone = short\n");
}

#[test]
fn the_configuration_shown_holds_no_secret() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("claudepool.toml");
    std::fs::write(
        &file,
        "[pool]\nslots = 1\n[agent.env]\nANTHROPIC_API_KEY = 'sk-secret'\n",
    )
    .unwrap();
    let server = Server::start_with(&["--config", file.to_str().unwrap()]);

    let shown = server.client(&["status", "--config"]).out;

    assert!(shown.contains("slots = 1"), "{shown}");
    assert!(shown.contains("ANTHROPIC_API_KEY = \"***\""), "{shown}");
    assert!(!shown.contains("sk-secret"), "{shown}");
}

#[test]
fn what_was_done_is_there_after_a_restart() {
    let mut server = Server::start();
    let task = server.client(&["submit", "::echo kept"]).out;
    let task = task.trim();
    assert_eq!(server.client(&["result", task, "--wait", "20s"]).code, 0);
    let db = server
        .home
        .path()
        .join(".local/share/claudepool/claudepool.db");
    assert!(db.is_file(), "the default store is in the data folder");
    server.signal(rustix::process::Signal::TERM);
    assert!(server.child.wait().unwrap().success());

    let again = Server::start_with(&["--store", &format!("sqlite:{}", db.display())]);

    assert_eq!(again.client(&["result", task]).out, "kept\n");
}

#[test]
fn a_run_goes_on_over_a_server_that_is_killed_and_started_again() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let listen = port.to_string();
    let mut server = Server::start_with(&["--listen", &listen]);
    let mut child = program(server.home.path())
        .args(["run", "--json", "::slow 30 50", "--server", &server.url])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    lines
        .by_ref()
        .find(|line| line.contains("textDelta"))
        .unwrap();
    let db = server
        .home
        .path()
        .join(".local/share/claudepool/claudepool.db");
    server.child.kill().unwrap();
    server.child.wait().unwrap();

    let store = format!("sqlite:{}", db.display());
    let _again = Server::start_with(&["--listen", &listen, "--store", &store]);

    let rest: Vec<String> = lines.collect();
    assert!(
        rest.last().unwrap().contains("TASK_STATE_SUCCEEDED"),
        "{rest:?}"
    );
    let sequence = |line: &String| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["sequence"].as_str().unwrap().parse::<u64>().unwrap()
    };
    let sequences: Vec<u64> = rest.iter().map(sequence).collect();
    assert!(
        sequences.windows(2).all(|two| two[1] == two[0] + 1),
        "{sequences:?}"
    );
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_log_that_cannot_be_written_harms_nothing() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let server = Server::start_to(full.into(), &["--log", "trace"]);

    let said = server.client(&["run", "::echo all the same"]);

    assert_eq!(said.out, "all the same\n", "{}", said.err);
}

#[test]
fn sigterm_drains_and_exits_0() {
    let server = Server::start();

    assert!(server.terminate().success());
}

#[test]
fn a_unix_socket_is_served_to_its_owner_alone_and_removed() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool.sock");
    let listen = format!("unix:{}", path.display());
    let server = Server::start_with(&["--listen", &listen]);

    let said = server.client(&["run", "::echo over a socket"]);

    assert_eq!(said.out, "over a socket\n", "{}", said.err);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o077, 0);
    assert!(server.terminate().success());
    assert!(!path.exists());
}

#[test]
fn serve_says_that_a_port_is_taken() {
    let home = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();

    let fake = fake_claude();
    let args = [
        "serve",
        "--listen",
        &address,
        "--claude-bin",
        fake.to_str().unwrap(),
    ];
    let said = run(home.path(), &args);

    assert_eq!(said.code, 1);
    assert_eq!(
        said.err,
        format!(
            "claudepool: {address} is in use: stop what listens there, or choose another with --listen\n"
        )
    );
}

#[test]
fn serve_says_that_the_status_port_is_taken() {
    let home = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let fake = fake_claude();
    let mut args = vec!["serve", "--listen", "127.0.0.1:0", "--claude-bin"];
    args.extend([fake.to_str().unwrap(), "--status-listen", &address]);

    let said = run(home.path(), &args);

    assert_eq!(said.code, 1);
    assert_eq!(
        said.err,
        format!(
            "claudepool: the status port {address} is in use: stop what listens there, choose \
             another with --status-listen, or have none with --status-listen off\n"
        )
    );
}

#[test]
fn the_log_is_as_the_file_says_unless_the_environment_or_a_flag_says_otherwise() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("config.toml");
    let text = "[log]\nformat = 'json'\nfilter = 'warn'\n[status]\nlisten = 'off'\n";
    std::fs::write(&file, text).unwrap();
    let args = ["--config", file.to_str().unwrap(), "--log", "error"];
    let server = Server::start_to(Stdio::null(), &args);

    let shown = server.client(&["status", "--config"]).out;

    assert!(shown.contains("format = \"json\""), "{shown}");
    assert!(shown.contains("filter = \"error\""), "{shown}");
    let status = shown.split_once("[status]").unwrap().1;
    assert!(status.starts_with("\nlisten = \"127.0.0.1:"), "{shown}");
}

#[test]
fn what_cannot_be_logged_or_exported_is_refused_with_its_key() {
    let home = tempfile::tempdir().unwrap();
    for (args, key) in [
        (["--log", "a=b=c"], "log.filter"),
        (["--otel-endpoint", "collector:4317"], "otel.endpoint"),
        (
            ["--otel-endpoint", "http://me:secret@host"],
            "otel.endpoint",
        ),
    ] {
        let said = run(home.path(), &[&["serve"], &args[..]].concat());

        assert_eq!(said.code, 2, "{}", said.err);
        assert!(said.err.contains(key), "{}", said.err);
        assert!(!said.err.contains("secret"), "{}", said.err);
        assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    }
}

#[test]
fn a_second_server_on_one_store_is_refused() {
    let server = Server::start();
    let db = server
        .home
        .path()
        .join(".local/share/claudepool/claudepool.db");
    let store = format!("sqlite:{}", db.display());

    let fake = fake_claude();
    let fake = fake.to_str().unwrap();
    let args = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--store",
        &store,
        "--claude-bin",
        fake,
    ];
    let said = run(server.home.path(), &args);

    assert_eq!(said.code, 1);
    assert_eq!(said.err.lines().count(), 1, "one sentence: {}", said.err);
    assert!(
        said.err.contains(&server.child.id().to_string()),
        "names the holder: {}",
        said.err
    );
}

/// The page on which a table begins, from 1.
fn root_page(db: &Path, table: &str) -> usize {
    let db = rusqlite::Connection::open(db).unwrap();
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?";
    let page = db.query_row(sql, [table], |row| row.get::<_, u32>(0));
    page.unwrap() as usize
}

/// Runs `work` without the right of root to write what is read-only.
fn as_anybody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
    let anybody = || {
        if rustix::process::geteuid().is_root() {
            // Of this thread and of what it starts, for good.
            remove_capability_from_bounding_set(CapabilitySet::DAC_OVERRIDE).unwrap();
        }
        work()
    };
    std::thread::scope(|scope| scope.spawn(anybody).join().unwrap())
}

#[test]
fn serve_refuses_a_store_that_it_cannot_use_in_one_sentence() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start();
    let home = server.home.path().to_owned();
    let dir = home.join(".local/share/claudepool");
    assert_eq!(server.client(&["run", "::echo x"]).code, 0);
    server.signal(rustix::process::Signal::TERM);
    let mut server = server;
    server.child.wait().unwrap();
    let whole = std::fs::read(dir.join("claudepool.db")).unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    let mut damaged = whole.clone();
    // A page that nothing but a check reads at the start.
    let page = root_page(&dir.join("claudepool.db"), "events");
    damaged[(page - 1) * 4096..page * 4096].fill(0xa5);
    let newer = {
        let file = home.join("newer.db");
        std::fs::write(&file, &whole).unwrap();
        let conn = rusqlite::Connection::open(&file).unwrap();
        let sql = "UPDATE claudepool_schema SET compatible_from = 99; PRAGMA user_version = 99";
        conn.execute_batch(sql).unwrap();
        conn.close().unwrap();
        std::fs::read(&file).unwrap()
    };

    for (name, content, sentence) in [
        ("text", b"no database".to_vec(), "no SQLite database"),
        (
            "cut",
            whole[..whole.len() / 2].to_vec(),
            "restore it from a backup",
        ),
        ("damaged", damaged, "restore it from a backup"),
        ("newer", newer, "newer claudepool (schema 99"),
        ("file", whole.clone(), "cannot be opened: Permission denied"),
        ("dir", whole, "cannot be locked: Permission denied"),
    ] {
        let place = home.join(name);
        std::fs::create_dir(&place).unwrap();
        let db = place.join("pool.db");
        std::fs::write(&db, content).unwrap();
        match name {
            "file" => mode(&db, 0o400),
            "dir" => mode(&place, 0o500),
            _ => {}
        }
        let store = format!("sqlite:{}", db.display());
        let fake = fake_claude();
        let args = ["serve", "--listen", "127.0.0.1:0", "--store", &store];
        let args = [&args[..], &["--claude-bin", fake.to_str().unwrap()]].concat();

        let said = as_anybody(|| run(&home, &args));

        mode(&place, 0o700);
        assert_eq!(said.code, 1, "{name}: {}", said.err);
        assert_eq!(said.err.lines().count(), 1, "{name}: {}", said.err);
        assert!(said.err.contains(sentence), "{name}: {}", said.err);
        assert!(said.err.contains(db.to_str().unwrap()), "{}", said.err);
    }
}

#[test]
fn a_wrong_key_in_the_file_is_named_with_file_and_line() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("claudepool.toml");
    std::fs::write(&file, "[pool]\nslotz = 3\n").unwrap();

    let said = run(home.path(), &["serve", "--config", file.to_str().unwrap()]);

    assert_eq!(said.code, 2);
    let begin = format!(
        "claudepool: {}, line 2 (slotz): unknown field",
        file.display()
    );
    assert!(said.err.starts_with(&begin), "{}", said.err);
}

#[test]
fn a_flag_wins_over_the_environment_which_wins_over_the_file() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("claudepool.toml");
    std::fs::write(&file, "[pool]\nslots = 2000\n").unwrap();
    let refused = |flag: &[&str], env: Option<&str>| {
        let mut command = program(home.path());
        command.args(["serve", "--config"]).arg(&file).args(flag);
        command.env("CLAUDEPOOL_LISTEN", "127.0.0.1:0");
        if let Some(slots) = env {
            command.env("CLAUDEPOOL_SLOTS", slots);
        }
        said(&command.output().unwrap()).err.contains("pool.slots")
    };

    assert!(refused(&[], None), "the file's value is too large");
    assert!(!refused(&[], Some("2")), "the environment mends it");
    assert!(
        refused(&["--slots", "3000"], Some("2")),
        "the flag spoils it"
    );
}

#[test]
fn serve_without_a_cli_says_how_to_get_one() {
    let home = tempfile::tempdir().unwrap();

    let mut command = program(home.path());
    let said = said(
        &command
            .env("PATH", "/nowhere")
            .arg("serve")
            .output()
            .unwrap(),
    );

    assert_eq!(said.code, 1);
    assert!(said.err.contains("claudepool demo"), "{}", said.err);
}

#[test]
fn the_demo_shows_everything_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    let tmp = home.path().join("tmp");
    std::fs::create_dir(&tmp).unwrap();

    let mut command = program(home.path());
    command
        .env("TMPDIR", &tmp)
        .arg("demo")
        .arg("--claude-bin")
        .arg(fake_claude());
    let said = said(&command.output().unwrap());

    assert_eq!(said.code, 0, "{}\n{}", said.out, said.err);
    for expected in [
        "canned answers",
        "serving on http://127.0.0.1:",
        "Hello from a warm process.",
        "10 of 10 succeeded",
        "after the cancel",
        "11 succeeded, 1 cancelled",
        "nothing was paid",
        "grpcurl -plaintext",
    ] {
        assert!(said.out.contains(expected), "{expected}: {}", said.out);
    }
    assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0);
}

#[test]
fn the_demo_without_a_cli_and_without_npm_says_so() {
    let home = tempfile::tempdir().unwrap();

    let mut command = program(home.path());
    let said = said(
        &command
            .env("PATH", "/nowhere")
            .arg("demo")
            .output()
            .unwrap(),
    );

    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("npm") && said.err.contains("--claude-bin"),
        "{}",
        said.err
    );
}

#[test]
fn the_demo_says_what_a_program_that_is_not_the_cli_did() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let script = home.path().join("claude");
    std::fs::write(&script, "#!/bin/sh\nexit 3\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();

    let mut command = program(home.path());
    let said = said(
        &command
            .arg("demo")
            .arg("--claude-bin")
            .arg(&script)
            .output()
            .unwrap(),
    );

    assert_eq!(said.code, 1);
    assert_eq!(said.err.lines().count(), 1, "one sentence: {}", said.err);
}

#[test]
fn a_reader_that_goes_ends_the_command() {
    let server = Server::start();
    let mut child = program(server.home.path())
        .args(["run", "--json", "::slow 10000 5", "--server", &server.url])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut byte = [0];
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut byte).unwrap();

    drop(out);

    assert!(child.wait().unwrap().success());
}

#[path = "cli/chains.rs"]
mod chains;
#[path = "cli/operate.rs"]
mod operate;
#[path = "cli/secure.rs"]
mod secure;
#[path = "cli/terminal.rs"]
mod terminal;

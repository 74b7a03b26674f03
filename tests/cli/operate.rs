//! What operators do from the command line, and how a caller is known.

use super::*;

#[test]
fn the_number_of_slots_is_set_and_changed() {
    let server = Server::start();

    let to = server.client(&["scale", "3"]);
    let up = server.client(&["scale", "+1"]);
    let down = server.client(&["scale", "-2"]);
    let wrong = server.client(&["scale", "many"]);

    assert!(to.out.starts_with("3 slots wanted"), "{}{}", to.out, to.err);
    assert!(up.out.starts_with("4 slots wanted"), "{}{}", up.out, up.err);
    assert!(
        down.out.starts_with("2 slots wanted"),
        "{}{}",
        down.out,
        down.err
    );
    assert_eq!(wrong.code, 2);
}

#[test]
fn a_slot_is_restarted_by_its_name() {
    let server = Server::start();

    let known = server.client(&["slots", "--restart", "slot-0"]);
    let unknown = server.client(&["slots", "--restart", "slot-99"]);

    assert!(known.out.contains("slot-0"), "{}{}", known.out, known.err);
    assert_eq!(unknown.code, 4);
}

#[test]
fn the_budget_is_shown_set_and_lifted() {
    let server = Server::start();

    let none = server.client(&["budget"]).out;
    let set = server.client(&["budget", "2.5"]).out;
    let shown = server.client(&["budget"]).out;
    let refused = server.client(&["run", "::echo x", "--budget-usd", "3"]);
    let lifted = server.client(&["budget", "none"]).out;

    assert!(none.starts_with("no limit; $0.0000 spent"), "{none}");
    assert!(set.starts_with("$2.50;"), "{set}");
    assert_eq!(set, shown);
    assert_eq!(refused.code, 4);
    assert!(refused.err.contains("BUDGET_EXHAUSTED"), "{}", refused.err);
    assert!(lifted.starts_with("no limit"), "{lifted}");
}

#[test]
fn a_paused_pool_refuses_until_it_is_resumed() {
    let server = Server::start();

    server.client(&["pause", "maintenance"]);
    let refused = server.client(&["submit", "::echo x"]);
    let status = server.client(&["status"]).out;
    server.client(&["resume"]);
    let taken = server.client(&["run", "::echo x"]);

    assert_eq!(refused.code, 4);
    assert!(status.contains("paused"), "{status}");
    assert_eq!(taken.out, "x\n", "{}", taken.err);
}

#[test]
fn a_finished_task_is_run_anew() {
    let server = Server::start();
    let first = server.client(&["submit", "::echo again"]).out;
    let first = first.trim();
    assert_eq!(server.client(&["result", first, "--wait", "20s"]).code, 0);

    let second = server.client(&["retry", first]).out;

    assert_ne!(first, second.trim());
    let result = server.client(&["result", second.trim(), "--wait", "20s"]);
    assert_eq!(result.out, "again\n");
}

#[test]
fn a_status_that_is_watched_is_a_line_per_change_when_piped() {
    let server = Server::start();
    let mut child = program(server.home.path())
        .args(["status", "--watch", "--server", &server.url])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let first = lines.next().unwrap();

    server.client(&["run", "::echo x"]);
    let later = lines.find(|line| line.contains("1 succeeded"));

    assert!(first.starts_with("slots 2"), "{first}");
    assert!(later.is_some());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_interrupted_watch_leaves_the_task_and_says_how_to_come_back() {
    let server = Server::start();
    let task = server.client(&["submit", "::slow 10000 50"]).out;
    let task = task.trim().to_owned();
    let mut child = program(server.home.path())
        .args(["watch", &task, "--server", &server.url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut byte)
        .unwrap();

    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let said = said(&child.wait_with_output().unwrap());

    assert_eq!(said.code, 0, "{}", said.err);
    let back = format!("claudepool watch {task} --after ");
    let (_, after) = said
        .err
        .split_once(&back)
        .unwrap_or_else(|| panic!("{}", said.err));
    assert!(after.trim().parse::<u64>().unwrap() > 0, "{}", said.err);
    let still = server.client(&["tasks", "--state", "running"]).out;
    assert!(still.contains(&task), "{still}");
    server.client(&["cancel", &task]);
}

#[test]
fn a_token_is_read_from_its_file_and_never_sent_in_the_open() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    std::fs::write(&file, "secret-token\n").unwrap();
    let file = file.to_str().unwrap();
    let server = Server::start();

    let near = server.client(&["status", "--token-file", file]);
    let open = run(
        home.path(),
        &[
            "status",
            "--token-file",
            file,
            "--server",
            "http://pool.example:1",
        ],
    );
    let missing = server.client(&["status", "--token-file", "/nowhere"]);

    assert_eq!(near.code, 0, "{}", near.err);
    assert_eq!((open.code, missing.code), (2, 2));
    assert!(!open.err.contains("secret-token"), "{}", open.err);
}

#[test]
fn every_shell_gets_its_completion() {
    let home = tempfile::tempdir().unwrap();

    for shell in ["bash", "zsh", "fish"] {
        let said = run(home.path(), &["completion", shell]);
        assert_eq!(said.code, 0);
        assert!(said.out.contains("fan-out"), "{shell}");
    }
}

//! Servers that die, and those that come after them.

use std::path::Path;
use std::process::Stdio;

use claudepool::agent::claude::Claude;
use claudepool::agent::conformance::{
    GRACE, Kit, Roll, has_ended, placement, profile, ready, spread, succeed, within,
};
use claudepool::agent::{Agent, AgentError, Launch, Session};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::kit::{self, fake};

const STATE_DIR: &str = "CLAUDEPOOL_TEST_STATE_DIR";

async fn start(claude: &Claude, dir: &Path) -> Box<dyn Session> {
    let launch = Launch {
        profile: profile(),
        placement: Some(placement(dir)),
        resume: None,
    };
    claude.launch(launch).await.unwrap()
}

/// Not a test: the server that the tests below kill.
#[tokio::test]
#[ignore = "a part of the other tests, which run it as a process"]
async fn a_server() {
    let dir = std::env::var_os(STATE_DIR).expect("run by another test");
    let dir = Path::new(&dir);
    let claude = Claude::open(kit::options(&dir.join("state"))).unwrap();
    let mut session = start(&claude, dir).await;
    let mut roll = Roll::open(dir);
    spread(&mut *session, &mut roll).await;
    println!("\nready {}", session.pid());
    std::future::pending::<()>().await;
}

/// A server with one busy process: itself, and the pid of its CLI process.
async fn server(dir: &Path) -> (tokio::process::Child, i32) {
    let mut server = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "servers::a_server", "--ignored", "--nocapture"])
        .env(STATE_DIR, dir)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    loop {
        let line = within("the server", lines.next_line()).await.unwrap();
        if let Some(pid) = line.expect("it lives").strip_prefix("ready ") {
            return (server, pid.parse().unwrap());
        }
    }
}

fn handle(pid: i32) -> std::os::fd::OwnedFd {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap()
}

fn parent_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let mut fields = stat.rsplit(") ").next().unwrap().split(' ');
    fields.nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn nothing_of_a_killed_server_is_alive_once_the_next_has_settled() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, pid) = server(dir.path()).await;
    let cli = handle(pid);

    server.kill().await.unwrap();
    let claude = Claude::open(kit::options(&dir.path().join("state"))).unwrap();
    within("the settling", claude.settle()).await.unwrap();

    assert!(has_ended(&cli));
    let left = |part: &str| {
        std::fs::read_dir(dir.path().join("state").join(part))
            .unwrap()
            .count()
    };
    assert_eq!((left("run"), left("config")), (0, 0));
}

#[tokio::test]
async fn a_tree_whose_server_and_shim_were_killed_is_swept_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, pid) = server(dir.path()).await;
    let (cli, shim) = (handle(pid), handle(parent_of(pid)));

    rustix::process::pidfd_send_signal(&shim, rustix::process::Signal::STOP).unwrap();
    server.kill().await.unwrap();
    rustix::process::pidfd_send_signal(&shim, rustix::process::Signal::KILL).unwrap();
    let claude = Claude::open(kit::options(&dir.path().join("state"))).unwrap();
    within("the settling", claude.settle()).await.unwrap();

    assert!(has_ended(&cli) && has_ended(&shim));
}

#[tokio::test]
async fn settling_leaves_our_own_processes_alone() {
    let kit = fake().await;
    let mut session = ready(&kit).await;

    within("the settling", kit.agent().settle()).await.unwrap();

    assert_eq!(succeed(&mut *session, "::echo x").await.end.output, "x");
    session.end(GRACE).await;
}

#[tokio::test]
async fn a_state_directory_in_use_is_refused() {
    let kit = fake().await;

    let Err(AgentError::Unusable(sentence)) = Claude::open(kit::options(&kit.state_dir())) else {
        panic!("another server uses it");
    };

    assert!(sentence.contains("another server"), "{sentence}");
}

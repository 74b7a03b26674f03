//! Tasks that attack what guards them: nothing of them is left, and the slot
//! serves the next.

use std::time::{Duration, Instant};

use claudepool::agent::conformance::{Roll, ends, has_ended};
use claudepool::pb::{FailureReason, TaskState};
use tokio::time::timeout;

use crate::support::{Harness, PATIENCE, Running, events, finished, prompt, request_id};

async fn one_slot() -> Running {
    let harness = Harness::with_processes().options(|o| {
        o.slots = 1;
        o.spares = 0;
        o.settings.allowed_tools = vec!["Bash".into()];
    });
    harness.start().await
}

async fn serves(server: &mut Running) {
    let task = server.say("and goes on");
    let answer = server.finish(task).await;
    assert_eq!(answer.result.unwrap().output, "and goes on");
}

/// Kills the shim above the CLI above the tool's shell.
const KILL_SHIM: &str = "kill -9 $(sed 's/.*) . \\([0-9]*\\) .*/\\1/' /proc/$PPID/stat)";

#[tokio::test]
async fn a_task_that_kills_its_shim_dies_with_all_it_started() {
    let mut server = one_slot().await;
    let mut roll = Roll::open(server.working_dir());
    let teller = roll.teller();
    // The second has shed all that marks it, its parents included.
    let script = format!(
        "::bash setsid {teller} & ( env -i PATH=\"$PATH\" setsid {teller} & ); \
         sleep 0.3; {KILL_SHIM}; tail -f /dev/null"
    );
    let id = server.submit(prompt(script)).await;
    // A process that died is tried once more.
    let tree = roll.next(4).await;

    let log = events(server.watch(&id, 0).await).await;

    let failure = finished(&log).result.clone().unwrap().failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::ProcessDied);
    for process in tree {
        assert!(ends(process, PATIENCE).await);
    }
    serves(&mut server).await;
}

/// Processes that carry a variable in their environment.
fn marked(variable: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let carries = |path: std::path::PathBuf| {
        let environ = std::fs::read(path.join("environ")).unwrap_or_default();
        let mut variables = environ.split(|byte| *byte == 0);
        variables.any(|it| it == variable.as_bytes())
    };
    processes.filter(|it| carries(it.path())).count()
}

/// Longest life of the bomb, should nobody end it: longer than it may take to go off.
const BOMB: Duration = PATIENCE.saturating_mul(3);
/// Processes of the bomb that sit in sessions of their own, and those that are
/// never the same process for longer than a fork.
const SITTING: usize = 200;
const HOPPING: usize = 50;

#[tokio::test]
async fn a_task_that_forks_without_end_is_ended_with_all_it_forked() {
    let mut server = one_slot().await;
    let mut roll = Roll::open(server.working_dir());
    let teller = roll.teller();
    let mark = format!("BOMB={}", request_id());
    let bomb = format!(
        "end=$(($(date +%s) + {})); hop() {{ [ $(date +%s) -lt $end ] && hop & }}; \
         i=0; while [ $i -lt {SITTING} ]; do setsid {teller} & i=$((i + 1)); done; \
         i=0; while [ $i -lt {HOPPING} ]; do hop & i=$((i + 1)); done; {teller}",
        BOMB.as_secs()
    );
    std::fs::write(server.working_dir().join("bomb.sh"), bomb).unwrap();
    let begun = Instant::now();
    let id = server
        .submit(prompt(format!("::bash {mark} sh bomb.sh")))
        .await;
    let mut sitting = Vec::new();
    let told = timeout(PATIENCE, async {
        while sitting.len() <= SITTING {
            sitting.extend(roll.next(1).await);
        }
    });
    let told = told.await;
    assert!(told.is_ok(), "{} of {SITTING} are there", sitting.len());

    server.cancel(&id).await;
    let log = events(server.watch(&id, 0).await).await;

    assert!(sitting.iter().all(has_ended));
    assert_eq!(marked(&mark), 0, "after {:?}", begun.elapsed());
    assert!(begun.elapsed() < BOMB, "it ended by itself");
    assert_eq!(finished(&log).state(), TaskState::Cancelled);
    serves(&mut server).await;
}

//! Whoever sees the end of a task or of a server may rely on the processes
//! being gone, whatever a tool did to outlive them.

use std::time::Duration;

use claudepool::agent::conformance::{Roll, ends, has_ended};
use claudepool::pb::event::Kind;
use claudepool::pb::{self, TaskState};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::support::{
    Caller, Harness, Program, assert_same_bytes, events, finished, next_event, prompt,
};

/// How often each promise is held to.
const TIMES: usize = 20;
/// Processes that [`spread`] leaves.
const SPREAD: usize = 6;
/// Longest life of a process whose server was killed.
const ORPHAN_MAX: Duration = Duration::from_secs(10);

/// A task whose tool leaves processes in every way a shell has: below it,
/// without a parent, in a session of their own, deaf to a hangup, without the
/// variables they were given; and stays itself.
fn spread(roll: &Roll) -> pb::TaskSpec {
    let teller = roll.teller();
    prompt(format!(
        "::bash setsid {teller} & ( ( {teller} & ) & ); ( setsid {teller} & ); \
         ( nohup {teller} > /dev/null 2>&1 & ); ( env -i PATH=\"$PATH\" setsid {teller} & ); {teller}"
    ))
}

#[tokio::test]
async fn every_process_of_a_cancelled_task_is_gone_when_its_end_is_seen() {
    let mut server = Harness::with_processes()
        .options(|o| o.settings.allowed_tools = vec!["Bash".into()])
        .start()
        .await;
    let mut roll = Roll::open(server.working_dir());
    for time in 1..=TIMES {
        let task_id = server.submit(spread(&roll)).await;
        let log = server.watch(&task_id, 0).await;
        let handles = roll.next(SPREAD).await;

        server.cancel(&task_id).await;

        let log = events(log).await;
        let left = handles.iter().filter(|handle| !has_ended(handle)).count();
        assert_eq!(finished(&log).state(), TaskState::Cancelled);
        assert_eq!(left, 0, "time {time}");
    }

    let task = server.say("and goes on");
    let answer = server.finish(task).await;
    assert_eq!(answer.result.unwrap().output, "and goes on");
}

/// What a server said about a task that has ended.
struct Known {
    id: String,
    task: pb::Task,
    log: Vec<pb::Event>,
}

async fn known(server: &mut Caller, id: &str) -> Known {
    server.result(id).await;
    let log = server.watch(id, 0).await;
    Known {
        id: id.to_owned(),
        task: server.task(id).await,
        log: events(log).await,
    }
}

/// The log of a running task until its tool runs.
async fn until_tool_runs(server: &mut Caller, id: &str) -> Vec<pb::Event> {
    let mut log = server.watch(id, 0).await;
    let mut seen = Vec::new();
    while !matches!(
        seen.last(),
        Some(pb::Event {
            kind: Some(Kind::ToolUse(_)),
            ..
        })
    ) {
        seen.push(next_event(&mut log).await.expect("it goes on"));
    }
    seen
}

#[tokio::test]
async fn a_killed_server_leaves_no_process_and_loses_nothing_it_told() {
    let program = Program::new().await;
    let mut roll = Roll::open(&program.working_dir());
    let mut told: Vec<Known> = Vec::new();
    let mut server = program.serve().await;
    for time in 1..=TIMES {
        let caller = &mut server.caller;
        let done = caller.submit(caller.paid("done")).await;
        told.push(known(caller, &done).await);
        let killed = caller
            .submit(pb::TaskSpec {
                recovery: pb::RecoveryPolicy::Fail as i32,
                ..spread(&roll)
            })
            .await;
        let mut processes = roll.next(SPREAD).await;
        let queued = caller.submit(caller.say("still there")).await;
        let seen = until_tool_runs(caller, &killed).await;
        let pid = caller.status().await.slots[0].pid.and_then(Pid::from_raw);
        processes.push(pidfd_open(pid.unwrap(), PidfdFlags::empty()).unwrap());

        server.kill().await;

        for process in processes {
            assert!(ends(process, ORPHAN_MAX).await, "time {time}");
        }
        server = program.serve().await;
        let caller = &mut server.caller;
        for earlier in &told {
            let now = known(caller, &earlier.id).await;
            assert_eq!(now.task, earlier.task, "time {time}");
            assert_same_bytes(&now.log, &earlier.log, &format!("time {time}"));
        }
        let killed = known(caller, &killed).await;
        assert_eq!(killed.task.state(), TaskState::Failed, "time {time}");
        let before = &killed.log[..seen.len()];
        assert_same_bytes(before, &seen, &format!("time {time}"));
        let queued = known(caller, &queued).await;
        assert_eq!(queued.task.state(), TaskState::Succeeded, "time {time}");
        told.extend([killed, queued]);
    }
}

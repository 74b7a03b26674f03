//! Whoever sees the end of a task or of a server may rely on the processes
//! being gone, whatever a tool did to outlive them.

use claudepool::agent::conformance::{Roll, has_ended};
use claudepool::pb::{self, TaskState};

use crate::support::{Harness, events, finished, prompt};

/// How often each promise is held to.
const TIMES: usize = 20;
/// Processes that [`spread`] leaves.
const SPREAD: usize = 6;

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

//! A peer that is gone without a word: nothing comes from it any more, and what
//! is sent to it is lost.

use std::time::{Duration, Instant};

use claudepool::pb::{self, TaskState};
use claudepool_client::Options;
use tokio::process::Command;
use tonic::Code;

use crate::site::{ASKED, AWAY, Site, TOKEN, on};
use crate::support::{PATIENCE, finished, next_event, prompt};

/// What clients/README.md says: silence before a client asks, and its wait.
const CLIENT_ASKS: Duration = Duration::from_secs(30);
const CLIENT_WAITS: Duration = Duration::from_secs(20);
/// How late a loaded machine may be.
const LATE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_finds_out_in_time_that_its_server_is_gone_and_watches_on_when_it_is_back() {
    let site = Site::new().await;
    let mut a = site.serve("a", 11, "work").await;
    let b = site.serve("b", 12, "calls").await;
    let options = Options {
        token: Some(TOKEN.to_owned()),
        tls: Some(site.trust()),
    };
    let client = claudepool_client::connect(&format!("https://{}", b.addr), options).unwrap();
    // Of a task of the other server, which goes on.
    let gate = site.file("gate");
    let wait = format!("until [ -e '{}' ]; do sleep 0.05; done", gate.display());
    let task = on(
        "work",
        prompt(format!("::echo one\n::bash {wait}\n::echo two")),
    );
    let id = client.submit(task).await.unwrap();
    let request = pb::WatchTaskRequest {
        task_id: id.clone(),
        ..pb::WatchTaskRequest::default()
    };
    let watch = client.pool.clone().watch_task(request).await.unwrap();
    let mut watch = watch.into_inner();
    let seen = next_event(&mut watch).await.expect("it is queued").sequence;
    a.said(&id).await;

    site.network.cut(&b.place);
    let cut = Instant::now();
    let broken = async {
        loop {
            if let Err(status) = watch.message().await {
                return status;
            }
        }
    };
    let bound = CLIENT_ASKS + CLIENT_WAITS + LATE;
    let broken = tokio::time::timeout(bound, broken).await;
    let broken = broken.unwrap_or_else(|_| panic!("nothing for {:?}", cut.elapsed()));
    assert!(
        matches!(broken.code(), Code::Unavailable | Code::Unknown),
        "{broken:?}"
    );

    site.network.mend(&b.place);
    std::fs::write(gate, "").unwrap();
    let mut rest = client.watch(id, seen);
    let mut sequence = seen;
    let rest = async {
        while let Some(event) = rest.next().await.unwrap() {
            sequence += 1;
            assert_eq!(event.sequence, sequence, "nothing is left out");
        }
        sequence
    };
    let last = tokio::time::timeout(PATIENCE, rest).await;
    assert!(last.expect("the task ends in time") > seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_caller_is_attached_to_ends_in_time_when_the_caller_is_gone() {
    let site = Site::new().await;
    let mut a = site.serve("a", 11, "work").await;
    let place = site.network.place(20);
    let mut run = Command::from(site.command(&place, a.addr))
        .args(["run", "::echo word\n::hang"])
        .kill_on_drop(true)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    a.until(|status| status.slots_busy == 1).await;
    let list = pb::ListTasksRequest::default();
    let list = a.caller.work.list_tasks(list).await.unwrap().into_inner();
    let id = list.tasks[0].task_id.clone();
    a.said(&id).await;

    site.network.cut(&place);
    let cut = Instant::now();
    let log = a.log(&id).await;
    assert_eq!(finished(&log).state(), TaskState::Cancelled);
    let bound = 2 * ASKED + AWAY + LATE;
    assert!(cut.elapsed() < bound, "{:?}", cut.elapsed());
    assert!(run.try_wait().unwrap().is_none(), "the caller still waits");
}

//! Three servers on one database, of which one is killed and one is stopped, while
//! callers go on: every task has one fate, nothing runs twice at a time, and no
//! more is spent than there is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use claudepool::pb::event::Kind;
use claudepool::pb::{self, FailureReason, TaskState};
use rustix::process::Signal;
use tokio::task::JoinHandle;
use tonic::Streaming;

use crate::nodes::{Stubborn, count, hangs_once, named, names, on, statuses, until};
use crate::record;
use crate::server::SHARED;
use crate::support::{
    Caller, assert_same_bytes, events, finished, lazily, next, next_event, prompt,
};

const TASKS: usize = 2_000;
/// Where the first tasks run, which are in the middle of it when their servers are
/// killed and stopped.
const CAUGHT: [&str; 2] = ["b", "c"];
/// The next ones are made by one call, the others one by one.
const FANNED_OUT: std::ops::Range<usize> = 2..1_000;
const SUBMITTERS: usize = 20;
/// What an attempt costs, the most that a task may, and what all may.
const PRICE: i64 = 1_000;
const CAP: i64 = 3 * PRICE;
const BUDGET: i64 = 1_850 * PRICE;

/// A task as a watcher at a server that lives has seen it, from its begin.
struct Fate {
    id: String,
    number: usize,
    log: Vec<pb::Event>,
}

impl Fate {
    fn count(&self, of: impl Fn(&Kind) -> bool) -> usize {
        let kinds = self.log.iter().filter_map(|event| event.kind.as_ref());
        kinds.filter(|kind| of(kind)).count()
    }

    /// The servers that its attempts ran on.
    fn nodes(&self) -> impl Iterator<Item = &str> {
        self.log.iter().filter_map(|event| match &event.kind {
            Some(Kind::Started(started)) => Some(started.node_id.as_str()),
            _ => None,
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_killed_and_stopped_servers_leave_is_done_once_by_the_others() {
    let name = SHARED.database().await;
    let url = SHARED.url(&name);
    let dir = tempfile::tempdir().unwrap();
    let (one, two, three) = (
        named("a", 4, &url).await,
        named("b", 4, &url).await,
        named("c", 4, &url).await,
    );
    let (mut a, mut b, mut c) = (one.serve().await, two.serve().await, three.serve().await);
    let servers = [a.addr, b.addr, c.addr];
    let budget = pb::SetBudgetRequest {
        budget_microdollars: Some(BUDGET),
    };
    a.caller.operator.set_budget(budget).await.unwrap();
    let money = tokio::spawn(keeps_to_the_budget(a.caller.clone()));
    let first = (0..CAUGHT.len()).collect();
    let caught = submit(a.caller.clone(), servers, dir.path().to_owned(), first).await;
    let all_at_once = fan_out(&mut a.caller, dir.path()).await;
    let submitters: Vec<_> = (0..SUBMITTERS)
        .map(|first| {
            let numbers = (FANNED_OUT.end + first..TASKS).step_by(SUBMITTERS);
            let dir = dir.path().to_owned();
            tokio::spawn(submit(a.caller.clone(), servers, dir, numbers.collect()))
        })
        .collect();

    for round in 1..=2 {
        until(&mut a.caller, |status| {
            count(status, TaskState::Succeeded) >= 400 * round
        })
        .await;
        b.kill().await;
        c.signal(Signal::STOP);
        if round == 1 {
            until(&mut a.caller, |status| names(status) == ["a"]).await;
        }
        // Now its lease has passed; the second time it waits for that.
        b = two.serve_at(servers[1]).await;
        until(&mut a.caller, |status| names(status) == ["a", "b"]).await;
        c.signal(Signal::CONT);
        until(&mut a.caller, |status| names(status) == ["a", "b", "c"]).await;
    }

    let mut fates = all_at_once.await.unwrap();
    let mut watches = caught;
    for submitter in submitters {
        watches.extend(submitter.await.unwrap());
    }
    for watch in watches {
        fates.push(watch.await.unwrap());
    }
    each_has_one_fate(&fates, dir.path());
    assert!(!money.is_finished(), "it has seen more than the budget");
    money.abort();
    let status = a.caller.status().await;
    assert_eq!(status.reserved_microdollars, 0);
    let spent = status.spent_microdollars;
    // All of it that covers another task.
    assert!(spent > BUDGET - CAP && spent <= BUDGET, "{spent}");
    ledger_keeps_to_the_budget(&name, spent).await;
    // The other servers say the same.
    for server in [&mut b.caller, &mut c.caller] {
        assert_eq!(server.status().await.spent_microdollars, spent);
        for fate in fates.iter().step_by(97) {
            let log = events(server.watch(&fate.id, 0).await).await;
            assert_same_bytes(&log, &fate.log, &fate.id);
        }
    }
}

/// The task of that number.
fn task(dir: &Path, number: usize) -> pb::TaskSpec {
    let costs = "::tokens 0 0\n::cost 0.001\n::echo done";
    let task = match CAUGHT.get(number) {
        Some(node) => on(node, hangs_once(dir, number, costs)),
        None => {
            let file = dir.join(number.to_string());
            prompt(format!("::record {}\n::slow 3 20\n{costs}", file.display()))
        }
    };
    pb::TaskSpec {
        settings: Some(pb::RunSettings {
            budget_microdollars: Some(CAP),
            ..pb::RunSettings::default()
        }),
        ..task
    }
}

/// Makes the first tasks durable in one call, and follows each, and the call: it
/// tells each end once, and is never cut.
async fn fan_out(caller: &mut Caller, dir: &Path) -> JoinHandle<Vec<Fate>> {
    let request = pb::FanOutRequest {
        tasks: FANNED_OUT.map(|number| task(dir, number)).collect(),
        ..pb::FanOutRequest::default()
    };
    let mut answers = caller.work.fan_out(request).await.unwrap().into_inner();
    let first = next(&mut answers).await.unwrap().unwrap().item;
    let Some(pb::fan_out_response::Item::Accepted(made)) = first else {
        panic!("{first:?}");
    };
    let mut caller = caller.clone();
    tokio::spawn(async move {
        let mut watches = Vec::new();
        for (number, id) in FANNED_OUT.zip(made.task_ids) {
            let log = caller.watch(&id, 0).await;
            watches.push(tokio::spawn(watch(id, number, log)));
        }
        let mut told = BTreeSet::new();
        while let Some(answer) = next(&mut answers).await.unwrap() {
            if let Some(pb::fan_out_response::Item::Finished(item)) = answer.item {
                assert!(told.insert(item.index), "{} was told twice", item.index);
            }
        }
        assert_eq!(told.len(), FANNED_OUT.len());
        let mut fates = Vec::new();
        for watch in watches {
            fates.push(watch.await.unwrap());
        }
        fates
    })
}

/// Makes these tasks durable at one server or another, and has each watched at the
/// first of them.
async fn submit(
    like: Caller,
    servers: [SocketAddr; 3],
    dir: PathBuf,
    numbers: Vec<usize>,
) -> Vec<JoinHandle<Fate>> {
    let mut submitter = Stubborn::new(&like, &servers, 0);
    let mut watcher = like.elsewhere(lazily(servers[0]));
    let mut watches = Vec::new();
    for number in numbers {
        submitter.next = number;
        let (_, id) = submitter.submit(task(&dir, number)).await;
        let log = watcher.watch(&id, 0).await;
        watches.push(tokio::spawn(watch(id, number, log)));
    }
    watches
}

/// Follows a log to its end: dense, and never cut.
async fn watch(id: String, number: usize, mut log: Streaming<pb::WatchTaskResponse>) -> Fate {
    let mut seen = Vec::new();
    while let Some(event) = next_event(&mut log).await {
        assert_eq!(event.sequence, seen.len() as u64 + 1, "{id}");
        seen.push(event);
    }
    Fate {
        id,
        number,
        log: seen,
    }
}

/// Looks at what was spent and set aside until that is more than there is.
async fn keeps_to_the_budget(mut caller: Caller) {
    let mut watch = statuses(&mut caller).await;
    while let Some(message) = next(&mut watch).await.unwrap() {
        if let Some(pb::watch_status_response::Item::Status(status)) = message.item {
            let given = status.spent_microdollars + status.reserved_microdollars;
            assert!(given <= BUDGET, "{given}");
        }
    }
}

/// By their logs, and by what the agents have recorded of what they ran.
fn each_has_one_fate(fates: &[Fate], dir: &Path) {
    let numbers: BTreeMap<_, _> = fates.iter().map(|fate| (fate.number, &fate.id)).collect();
    assert_eq!(numbers.len(), TASKS);
    let (mut done, mut lost, mut killed) = (0, 0, 0);
    let mut losers = BTreeSet::new();
    for fate in fates {
        let id = &fate.id;
        assert_eq!(
            fate.count(|kind| matches!(kind, Kind::Finished(_))),
            1,
            "{id}"
        );
        let attempts = fate.count(|kind| matches!(kind, Kind::Started(_)));
        let again = fate.count(|kind| matches!(kind, Kind::Requeued(_)));
        lost += again;
        losers.extend(fate.nodes().take(again));

        let record = record::read(&dir.join(fate.number.to_string()));
        assert!(record.is_of_one_at_a_time(), "{id}: {record:?}");
        // One may have been lost before its agent was told anything.
        assert!(record.turns.len() <= attempts, "{id}: {record:?}");
        // And what was given back had ended.
        let given_back = fate
            .log
            .iter()
            .filter(|event| matches!(event.kind, Some(Kind::Requeued(_))));
        for event in given_back {
            let moment = record::at(event.time.as_ref().unwrap());
            assert!(record.is_quiet_at(moment), "{id}: {record:?}, {event:?}");
        }
        killed += record.turns.len() - record.ended();
        let end = finished(&fate.log);
        if end.state() == TaskState::Succeeded {
            done += 1;
            assert_eq!(attempts, again + 1, "{id}");
            assert!(record.turns.last().is_some_and(|turn| turn.ended), "{id}");
        } else {
            let failure = end
                .result
                .as_ref()
                .and_then(|result| result.failure.clone());
            let failure = failure.unwrap_or_else(|| panic!("{id}: {end:?}"));
            assert_eq!(failure.reason(), FailureReason::BudgetExhausted, "{id}");
            assert_eq!(attempts, again, "{id}");
        }
    }
    // It was not in vain: both servers had work, and were in the middle of it.
    assert!(
        losers.is_superset(&BTreeSet::from(["b", "c"])),
        "{losers:?}"
    );
    assert!(killed >= CAUGHT.len(), "{killed}");
    let covered = usize::try_from(BUDGET / PRICE).unwrap();
    assert!(done <= covered && done >= covered - lost - 3, "{done}");
}

/// Replays the ledger: at no entry was more given away than there is.
async fn ledger_keeps_to_the_budget(name: &str, spent: i64) {
    let admin = SHARED.admin(name).await;
    let sql = "SELECT max(given)::bigint, max(booked)::bigint FROM (SELECT
            sum(CASE kind WHEN 1 THEN reserved WHEN 2 THEN cost - reserved ELSE cost END)
                OVER (ORDER BY id) AS given,
            sum(CASE kind WHEN 1 THEN 0 ELSE cost END) OVER (ORDER BY id) AS booked
        FROM ledger) AS entries";
    let row = admin.query_one(sql, &[]).await.unwrap();
    let (given, booked): (i64, i64) = (row.get(0), row.get(1));
    assert!(given <= BUDGET, "{given}");
    assert_eq!(booked, spent);
}

//! Whole servers whose database, or the way to it, fails: what they have answered
//! is kept, nothing runs at two places, and they recover by themselves.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use claudepool::pb::event::Kind;
use claudepool::pb::{self, TaskState};
use rustix::process::{Pid, test_kill_process};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

use crate::nodes::{Stubborn, hangs_once, named, names, on, until};
use crate::proxy::{Cut, Proxy};
use crate::record::{self, Turn};
use crate::server::{SHARED, Server};
use crate::support::{Caller, PATIENCE, events, finished, next, prompt, refused};

/// A call of a server ends by then if its database is silent for longer.
const CALL: Duration = Duration::from_secs(2);

/// Waits until it is so.
async fn wait_for(what: &str, so: impl Fn() -> bool) {
    let looking = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let looked = tokio::time::timeout(PATIENCE, looking).await;
    looked.unwrap_or_else(|_| panic!("{what}, in time"));
}

/// The moment at which the node's lease ends, until it is buried; by the record's
/// clock, and rather earlier.
async fn lease_end(database: String, node: &str) -> i64 {
    let admin = SHARED.admin(&database).await;
    let sql = "SELECT lease_end - (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
        FROM nodes WHERE id = $1";
    let mut end = 0;
    loop {
        let asked = record::now();
        match admin.query_opt(sql, &[&node]).await.unwrap() {
            Some(row) => end = asked + row.get::<_, i64>(0) * 1_000,
            None => return end,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asks for new work until told to stop: all that is said is that there is no
/// store now. How often, and the longest wait for it.
fn refuses(mut caller: Caller, stop: watch::Receiver<bool>) -> JoinHandle<(usize, Duration)> {
    tokio::spawn(async move {
        let (mut count, mut longest) = (0, Duration::ZERO);
        while !*stop.borrow() {
            let began = Instant::now();
            let request = pb::SubmitRequest {
                task: Some(on("nowhere", caller.say("hello"))),
                ..pb::SubmitRequest::default()
            };
            let answer = caller.work.submit(request).await;
            let status = refused(answer, Code::Unavailable, "STORE");
            assert!(status.get_details_retry_info().is_some(), "{status:?}");
            longest = longest.max(began.elapsed());
            count += 1;
        }
        (count, longest)
    })
}

/// Waits until the server says that it does not serve.
async fn until_it_does_not_serve(caller: &mut Caller) {
    let watch = caller.health.watch(HealthCheckRequest::default());
    let mut watch = watch.await.unwrap().into_inner();
    while next(&mut watch).await.unwrap().unwrap().status() != ServingStatus::NotServing {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_a_silent_network_cuts_off_ends_its_work_before_another_has_it() {
    cut_off(Cut::Silence).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_connections_break_ends_its_work_before_another_has_it() {
    cut_off(Cut::Down).await;
}

async fn cut_off(cut: Cut) {
    let name = SHARED.database().await;
    let proxy = Proxy::before(SHARED.port).await;
    let url = format!("{}&call_timeout={}s", SHARED.url(&name), CALL.as_secs());
    let through = url.replace(&SHARED.port.to_string(), &proxy.port.to_string());
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (named("a", 2, &url).await, named("b", 2, &through).await);
    let mut b = two.serve().await;
    let mut ids = Vec::new();
    for number in 0..2 {
        ids.push(
            b.caller
                .submit(hangs_once(dir.path(), number, "::echo done"))
                .await,
        );
    }
    let seen = |number| dir.path().join(format!("{number}.seen")).exists();
    wait_for("both are in their tools", || seen(0) && seen(1)).await;
    let mut a = one.serve().await;
    until(&mut a.caller, |status| names(status) == ["a", "b"]).await;

    proxy.cut(cut);
    let (stop, stopped) = watch::channel(false);
    let refusing = refuses(b.caller.clone(), stopped);
    let lease_end = lease_end(name, "b").await;

    // Nobody has it any more; by its record it has ended before.
    let records = || [0, 1].map(|number| record::read(&dir.path().join(number.to_string())));
    for record in records() {
        let first = &record.turns[0];
        assert!(
            first.last < lease_end && !first.ended,
            "{record:?}, {lease_end}"
        );
        is_gone(first);
    }
    for id in &ids {
        let log = events(a.caller.watch(id, 0).await).await;
        assert_eq!(finished(&log).state(), TaskState::Succeeded, "{id}");
        let places: Vec<_> = log
            .iter()
            .filter_map(|event| match &event.kind {
                Some(Kind::Started(started)) => Some(started.node_id.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(places, ["b", "a"], "{id}");
    }
    for record in records() {
        assert_eq!(record.turns.len(), 2, "{record:?}");
        assert!(record.is_of_one_at_a_time(), "{record:?}");
        assert!(
            lease_end <= record.turns[1].begin,
            "{record:?}, {lease_end}"
        );
    }
    // What was asked of it meanwhile was refused, and soon.
    until_it_does_not_serve(&mut b.caller).await;
    stop.send_replace(true);
    let (refusals, longest) = refusing.await.unwrap();
    assert!(
        refusals > 2 && longest < 4 * CALL,
        "{refusals} in {longest:?}"
    );

    proxy.cut(Cut::Nothing);
    until(&mut a.caller, |status| names(status) == ["a", "b"]).await;
    let mut b = Stubborn::new(&b.caller, &[b.addr], 0);
    let (_, again) = b.submit(on("b", a.caller.say("again"))).await;
    let log = events(a.caller.watch(&again, 0).await).await;
    assert_eq!(finished(&log).state(), TaskState::Succeeded);
    let started = log
        .iter()
        .any(|event| matches!(&event.kind, Some(Kind::Started(started)) if started.node_id == "b"));
    assert!(started, "{log:?}");
    assert!(b.failures.iter().all(is_no_store), "{:?}", b.failures);
}

/// Whether a turn's process is none any more.
#[track_caller]
fn is_gone(turn: &Turn) {
    let pid = Pid::from_raw(turn.pid).unwrap();
    assert!(test_kill_process(pid).is_err(), "{turn:?} lives");
}

fn is_no_store(status: &Status) -> bool {
    let info = status.get_details_error_info();
    status.code() == Code::Unavailable && info.is_some_and(|info| info.reason == "STORE")
}

/// What a caller knows of one request of its own.
struct Asked {
    number: usize,
    request: String,
    task: pb::TaskSpec,
    id: String,
}

/// Submits one task after the other, waits for each, and goes on when it is told
/// that there is no store.
async fn ask_on(
    mut caller: Stubborn,
    dir: PathBuf,
    begun: watch::Sender<usize>,
    stop: watch::Receiver<bool>,
) -> (Vec<Asked>, usize) {
    let mut asked = Vec::new();
    while !*stop.borrow() {
        let mut number = 0;
        begun.send_modify(|begun| number = std::mem::replace(begun, *begun + 1));
        let file = dir.join(number.to_string());
        let task = prompt(format!(
            "::record {}\n::slow 3 15\n::echo done",
            file.display()
        ));
        let (request, id) = caller.submit(task.clone()).await;
        caller.result(&id).await;
        asked.push(Asked {
            number,
            request,
            task,
            id,
        });
    }
    for status in &caller.failures {
        assert!(is_no_store(status), "{status:?}");
    }
    (asked, caller.failures.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_started_again_under_load_loses_nothing_that_was_answered() {
    let server = Server::start();
    let url = server.url(&server.database().await);
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (named("a", 3, &url).await, named("b", 3, &url).await);
    let (mut a, b) = (one.serve().await, two.serve().await);
    let (begun, (stop, stopped)) = (watch::Sender::new(0), watch::channel(false));
    let callers: Vec<_> = (0..12)
        .map(|first| {
            let caller = Stubborn::new(&a.caller, &[a.addr, b.addr], first);
            let dir = dir.path().to_owned();
            tokio::spawn(ask_on(caller, dir, begun.clone(), stopped.clone()))
        })
        .collect();
    for mode in ["fast", "immediate"] {
        goes_on(&begun).await;
        tokio::task::block_in_place(|| server.restart(mode));
    }
    goes_on(&begun).await;
    stop.send_replace(true);
    let (mut asked, mut failures) = (Vec::new(), 0);
    for caller in callers {
        let (own, failed) = caller.await.unwrap();
        asked.extend(own);
        failures += failed;
    }

    assert!(failures > 0, "nobody noticed");
    let mut again = Stubborn::new(&a.caller, &[b.addr], 0);
    let mut ids = BTreeSet::new();
    for one in &asked {
        let id = &one.id;
        assert!(ids.insert(id.clone()), "{id} is of two requests");
        let log = events(a.caller.watch(id, 0).await).await;
        assert_eq!(finished(&log).state(), TaskState::Succeeded, "{id}");
        assert!(
            log.iter()
                .map(|event| event.sequence)
                .eq(1..=log.len() as u64)
        );
        let ends = log
            .iter()
            .filter(|event| matches!(event.kind, Some(Kind::Finished(_))));
        assert_eq!(ends.count(), 1, "{id}");
        let record = record::read(&dir.path().join(one.number.to_string()));
        assert!(
            record.is_of_one_at_a_time() && record.ended() > 0,
            "{id}: {record:?}"
        );
        assert_eq!(again.submit_as(&one.request, one.task.clone()).await, *id);
    }
    // However often it was asked for, it is one task.
    assert_eq!(all(&mut a.caller).await, ids);
    let status = a.caller.status().await;
    assert_eq!(status.reserved_microdollars, 0);
}

/// Waits until so many more have begun that some of them have ended.
async fn goes_on(begun: &watch::Sender<usize>) {
    let mut begun = begun.subscribe();
    let enough = *begun.borrow() + 60;
    let reached = begun.wait_for(|begun| *begun >= enough);
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.expect("work goes on in time").unwrap();
}

/// All tasks that there are.
async fn all(caller: &mut Caller) -> BTreeSet<String> {
    let mut request = pb::ListTasksRequest {
        page_size: 1_000,
        ..pb::ListTasksRequest::default()
    };
    let mut ids = BTreeSet::new();
    loop {
        let page = caller.work.list_tasks(request.clone()).await.unwrap();
        let page = page.into_inner();
        ids.extend(page.tasks.into_iter().map(|task| task.task_id));
        if page.next_page_token.is_empty() {
            return ids;
        }
        request.page_token = page.next_page_token;
    }
}

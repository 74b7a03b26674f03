//! Servers that work for each other, and one whose link is cut.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use claudepool::pb::event::Kind;
use claudepool::pb::{self, TaskState};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::task::JoinHandle;

use crate::site::{LEASE, Site, names, on};
use crate::support::{PATIENCE, assert_same_bytes, finished, prompt};

/// Where a task's attempts ran, in their order.
fn nodes(log: &[pb::Event]) -> Vec<&str> {
    log.iter()
        .filter_map(|event| match event.kind.as_ref() {
            Some(Kind::Started(started)) => Some(started.node_id.as_str()),
            _ => None,
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_work_for_each_other_over_the_network_alone() {
    let site = Site::new().await;
    let (mut a, mut b, mut c) = (
        site.serve("a", 11, "work").await,
        site.serve("b", 12, "work").await,
        site.serve("c", 13, "work").await,
    );
    a.until(|status| names(status) == ["a", "b", "c"]).await;

    // Asked for at one, done at another, seen at all.
    let id = a.caller.submit(on("b", a.caller.say("hello"))).await;
    let log = a.log(&id).await;
    assert_eq!(finished(&log).state(), TaskState::Succeeded);
    assert_eq!(nodes(&log), ["b"]);
    for other in [&mut b, &mut c] {
        let there = other.log(&id).await;
        assert_same_bytes(&log, &there, "another server");
    }
    // Said at one while it is watched at another, and ended from a third.
    let id = a.caller.submit(on("b", a.caller.hang("word"))).await;
    c.said(&id).await;
    c.caller.cancel(&id).await;
    let log = a.log(&id).await;
    assert_eq!(finished(&log).state(), TaskState::Cancelled);

    let places: BTreeSet<IpAddr> = [&a, &b, &c].map(|node| node.addr.ip()).into();
    assert_eq!(site.users().await, places, "each comes by its own address");
    for node in [&a, &b, &c] {
        assert!(!node.place.has_loopback(), "{}", node.addr);
    }
}

/// Waits for the process that a tool of a task tells of; then for its end.
async fn process(told: &Path) -> JoinHandle<()> {
    let begin = Instant::now();
    let pid = loop {
        // A new file tells nobody.
        let pid = std::fs::read_to_string(told).ok();
        let pid = pid.and_then(|pid| pid.strip_suffix('\n')?.parse().ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            break pid;
        }
        assert!(begin.elapsed() < PATIENCE, "the tool does not run");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    tokio::task::spawn_blocking(move || {
        let patience = PATIENCE.try_into().unwrap();
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        let found = poll(&mut ended, Some(&patience)).unwrap();
        assert_eq!(found, 1, "it does not end");
    })
}

/// The first attempt tells who it is and goes on for long; the second finds out
/// whether the first still lives.
const ALONE: &str = "if [ ! -f \"$F\" ]; then echo $$ > \"$F\"; exec sleep 1000; fi; \
    if kill -0 $(cat \"$F\") 2>/dev/null; then echo alive > \"$F.bad\"; fi";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_ends_its_work_before_others_take_it_up_and_comes_back() {
    let site = Site::new().await;
    // Work that b begins, for it is the only one there.
    let mut a = site.serve("a", 11, "calls").await;
    let b = site.serve("b", 12, "work").await;
    let files = ["one", "two"].map(|name| site.file(name));
    let (mut ids, mut running) = (Vec::new(), Vec::new());
    for file in &files {
        let script = format!("::bash F='{}'; {ALONE}", file.display());
        ids.push(a.caller.submit(on("work", prompt(script))).await);
        running.push(process(file).await);
    }
    let _c = site.serve("c", 13, "work").await;
    a.until(|status| names(status) == ["a", "b", "c"]).await;

    site.network.cut(&b.place);
    let cut = Instant::now();
    for process in running {
        process.await.unwrap();
    }
    let left = site.lease_left("b").await;
    assert!(
        left.is_some_and(|left| left > 0.0),
        "ended {:?} after the cut, when its work was others': {left:?}",
        cut.elapsed()
    );
    assert!(cut.elapsed() < LEASE);

    for (id, file) in ids.iter().zip(&files) {
        let log = a.log(id).await;
        assert_eq!(finished(&log).state(), TaskState::Succeeded, "{log:?}");
        assert_eq!(nodes(&log), ["b", "c"]);
        let bad = file.with_extension("bad");
        assert!(!bad.exists(), "two attempts of a task lived at a time");
    }
    a.until(|status| names(status) == ["a", "c"]).await;

    site.network.mend(&b.place);
    a.until(|status| names(status) == ["a", "b", "c"]).await;
    let again = a.caller.submit(on("b", a.caller.say("again"))).await;
    let log = a.log(&again).await;
    assert_eq!(finished(&log).state(), TaskState::Succeeded);
    assert_eq!(nodes(&log), ["b"]);
}

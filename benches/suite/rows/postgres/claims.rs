//! Claims and appends a second, by stores that nothing is around.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use claudepool::clock::{Clock, Timestamp};
use claudepool::id::{CallerId, NodeId, SlotId};
use claudepool::money::Microdollars;
use claudepool::pb;
use claudepool::pb::event::Kind;
use claudepool::store::{self, Batch, ClaimRequest, ClaimedTask, Fence, Note, Store};
use claudepool::task::apply::submit as made;
use claudepool::task::{Level, Spec, Task};

use super::super::submit::PROMPT;
use super::{APPEND, APPENDS, BARE, CLAIMS, OURS, Place, ROUNDS_MAX, SQLITE};
use crate::database::Database;
use crate::disk::a_store;
use crate::measure::{Calls, Failure, Row, callers};
use crate::recorded::{Bare, Script};
use crate::server::spec;

const NAME: &str = "claims";
const NODES: usize = 3;
/// Tasks of one claim.
const SLOTS: usize = 8;
/// Tasks whose appends are measured.
const TASKS: usize = 64;
/// Tasks made in one transaction.
const BATCH: usize = 400;
/// Nobody renews it.
const LEASE: Duration = Duration::from_secs(3600);

/// A store as one node of many, or alone.
#[derive(Clone)]
struct One {
    store: Arc<dyn Store>,
    node: NodeId,
}

pub async fn measure(row: &mut Row, place: &Place, database: &Database) -> Result<(), Failure> {
    // Nothing is ready later than what was recorded.
    let ready = Clock::system().now();
    let url = database.create(NAME).await?;
    let bare = record(database, &url, ready).await?;
    let mut nodes = Vec::new();
    for number in 0..NODES {
        nodes.push(One::join(&url, &format!("node-{number}")).await?);
    }
    let alone = [One {
        store: a_store(&place.dir).await?,
        node: NodeId::from("alone"),
    }];
    let tasks = place.size.of(160, 1600);
    let span = Duration::from_millis(place.size.of(250, 600));
    // Tasks that wait in each.
    let (mut shared, mut own) = (0, 0);
    for _ in 0..place.size.rounds.min(ROUNDS_MAX) {
        for count in [1, NODES] {
            let what = match count {
                1 => format!("claims/s, 1 node of {SLOTS} slots"),
                _ => CLAIMS.to_owned(),
            };
            fill(&nodes[0], tasks - shared, ready).await?;
            let some = replayed(&bare[..count], span).await?;
            shared = tasks - some.count;
            row.add(&what, BARE, some.rate());
            fill(&nodes[0], tasks - shared, ready).await?;
            let some = claimed(&nodes[..count], span).await?;
            shared = tasks - some.count;
            row.add(&what, OURS, some.rate());
            if count == 1 {
                fill(&alone[0], tasks - own, ready).await?;
                let some = claimed(&alone, span).await?;
                own = tasks - some.count;
                row.add(&what, SQLITE, some.rate());
            }
        }
        for (way, one) in [(OURS, &nodes[0]), (SQLITE, &alone[0])] {
            let fences = under_way(one, ready).await?;
            let before = database.processor()?;
            let calls = appends(one, &fences, span).await?;
            row.add(APPENDS, way, calls.rate);
            if way == OURS {
                let used = database.processor()? - before;
                row.add(APPEND, way, used / calls.times.len() as f64);
            }
        }
    }
    for one in nodes.iter().chain(&alone) {
        one.store.close().await;
    }
    Ok(())
}

impl One {
    async fn join(url: &str, name: &str) -> Result<Self, Failure> {
        let (store, node) = (store::open(url).await?, NodeId::from(name));
        let cluster = store.cluster().ok_or("a store of one server")?;
        let waits = cluster.join(&node, &BTreeSet::new(), LEASE).await?;
        match waits {
            None => Ok(Self { store, node }),
            Some(_) => Err(format!("there is a node {name} already").into()),
        }
    }

    async fn claim(&self) -> Result<Vec<ClaimedTask>, Failure> {
        let request = ClaimRequest {
            slots: (0..SLOTS).map(|n| SlotId(format!("slot-{n}"))).collect(),
            keeps: Default::default(),
            node: self.node.clone(),
            labels: Default::default(),
            level: Level::OWN,
            lease: self.store.cluster().map(|_| LEASE),
            context_revision: 0,
            now: Clock::system().now(),
        };
        Ok(self.store.claim(request).await?.tasks)
    }
}

/// Makes tasks that are ready.
async fn fill(one: &One, tasks: usize, now: Timestamp) -> Result<(), Failure> {
    let mut left = tasks;
    while left > 0 {
        let some = left.min(BATCH);
        let change = || {
            let task = Task {
                budget: Microdollars(5_000_000),
                ..Task::new(&CallerId::default(), now)
            };
            let spec = Spec {
                received: spec(PROMPT),
                ..Spec::default()
            };
            made(task, Arc::new(spec))
        };
        let batch = Batch {
            changes: (0..some).map(|_| change()).collect(),
            now,
            ..Batch::default()
        };
        one.store.commit(batch).await?;
        left -= some;
    }
    Ok(())
}

/// For each node what its claim is in the database.
async fn record(
    database: &Database,
    url: &str,
    ready: Timestamp,
) -> Result<Vec<Arc<Bare>>, Failure> {
    let mut scripts = Vec::new();
    database.tell_all(NAME, true).await?;
    for number in 0..NODES {
        let one = One::join(url, &format!("recorded-{number}")).await?;
        fill(&one, SLOTS, ready).await?;
        let tasks = one.claim().await?;
        let ids: Vec<_> = tasks.iter().map(|c| c.task.id.to_string()).collect();
        scripts.push(Script::read(&database.told()?, "UPDATE tasks t SET", &ids)?);
        one.store.close().await;
    }
    database.tell_all(NAME, false).await?;
    let clients = database.clients(NAME, NODES).await?;
    let mut bare = Vec::new();
    for (number, (script, client)) in scripts.iter().zip(clients).enumerate() {
        bare.push(Arc::new(script.ready(client, number).await?));
    }
    Ok(bare)
}

/// What was claimed, and the time it took.
struct Taken {
    count: usize,
    time: Duration,
}

impl Taken {
    fn rate(&self) -> f64 {
        self.count as f64 / self.time.as_secs_f64()
    }
}

/// Claims until the time is over or there is nothing left for all slots.
async fn claimed(nodes: &[One], span: Duration) -> Result<Taken, Failure> {
    let begun = Instant::now();
    let claiming = nodes.iter().cloned().map(|one| {
        tokio::spawn(async move {
            let mut all = 0;
            loop {
                let some = one.claim().await?.len();
                all += some;
                if some < SLOTS || begun.elapsed() > span {
                    return Ok::<_, Failure>(all);
                }
            }
        })
    });
    sum(claiming.collect(), begun).await
}

/// The same of what was recorded.
async fn replayed(bare: &[Arc<Bare>], span: Duration) -> Result<Taken, Failure> {
    let begun = Instant::now();
    let claiming = bare.iter().cloned().map(|bare| {
        tokio::spawn(async move {
            let mut all = 0;
            loop {
                let some = bare.run(Vec::new(), SLOTS).await?;
                all += some;
                if some < SLOTS || begun.elapsed() > span {
                    return Ok::<_, Failure>(all);
                }
            }
        })
    });
    sum(claiming.collect(), begun).await
}

async fn sum(
    all: Vec<tokio::task::JoinHandle<Result<usize, Failure>>>,
    begun: Instant,
) -> Result<Taken, Failure> {
    let mut count = 0;
    for some in all {
        count += some.await??;
    }
    let time = begun.elapsed();
    Ok(Taken { count, time })
}

/// Tasks that have been claimed.
async fn under_way(one: &One, ready: Timestamp) -> Result<Vec<Fence>, Failure> {
    fill(one, TASKS, ready).await?;
    let mut fences = Vec::new();
    while fences.len() < TASKS {
        let tasks = one.claim().await?;
        if tasks.is_empty() {
            return Err("the tasks are gone".into());
        }
        fences.extend(tasks.iter().map(|claimed| Fence {
            task: claimed.task.id,
            attempt: claimed.task.attempt,
        }));
    }
    Ok(fences)
}

/// Appends to them.
async fn appends(one: &One, fences: &[Fence], span: Duration) -> Result<Calls, Failure> {
    callers(TASKS, span, |number| {
        let (store, fence) = (Arc::clone(&one.store), fences[number]);
        move || {
            let store = Arc::clone(&store);
            async move {
                let piece = Kind::TextDelta(pb::TextDelta {
                    text: "about as long as a piece of an answer is".to_owned(),
                    ..pb::TextDelta::default()
                });
                let now = Clock::system().now();
                store
                    .append(fence, vec![piece], Note::default(), now)
                    .await?;
                Ok(())
            }
        }
    })
    .await
}

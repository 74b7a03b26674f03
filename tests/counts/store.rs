//! Changes and looks of the store. Each change is a commit: on a disk that takes
//! 4 ms for one, they are what an operation costs.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use claudepool::pb;
use claudepool::pb::task_spec::Input;
use claudepool::pool::{Pool, Target};
use claudepool::store::layer::{Call, Layer, Layered};
use claudepool::store::memory::Memory;
use claudepool::store::{Filter, StoreError};
use tokio::sync::RwLockReadGuard;

use crate::{QUIET, idle, pool, until};

/// Counts calls.
#[derive(Default)]
struct Counter {
    changes: AtomicU64,
    appends: AtomicU64,
    looks: AtomicU64,
}

impl Layer for Counter {
    async fn around<T: Send>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let counter = match call {
            Call::Commit | Call::Claim | Call::Change => &self.changes,
            Call::Append => &self.appends,
            Call::Read | Call::Probe => &self.looks,
        };
        counter.fetch_add(1, Ordering::SeqCst);
        work.await
    }
}

/// How often a store was called.
#[derive(Debug, PartialEq, Eq)]
struct Count {
    changes: u64,
    appends: u64,
    looks: u64,
}

struct Counted {
    _not_quiet: RwLockReadGuard<'static, ()>,
    pool: Pool,
    store: Arc<Layered<Counter>>,
}

impl Counted {
    async fn new(slots: u32) -> Self {
        let not_quiet = QUIET.read().await;
        let counter = Arc::new(Counter::default());
        let store = Arc::new(Layered::over(Arc::new(Memory::new()), counter));
        let pool = pool(store.clone(), slots).await;
        // What is done at the start is done when a task has run.
        pool.run("say once").await.unwrap();
        idle(&pool).await;
        Self {
            _not_quiet: not_quiet,
            pool,
            store,
        }
    }

    /// With its one slot taken, so that what is submitted waits.
    async fn busy() -> Self {
        let counted = Self::new(1).await;
        counted.pool.submit("hang").await.unwrap();
        until(&counted.pool, |status| status.slots_busy == 1).await;
        counted
    }

    fn now(&self) -> Count {
        let counter = self.store.layer();
        let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
        Count {
            changes: read(&counter.changes),
            appends: read(&counter.appends),
            looks: read(&counter.looks),
        }
    }

    /// Counts what is done meanwhile.
    async fn during<T>(&self, work: impl Future<Output = T>) -> Count {
        let before = self.now();
        work.await;
        let after = self.now();
        Count {
            changes: after.changes - before.changes,
            appends: after.appends - before.appends,
            looks: after.looks - before.looks,
        }
    }
}

fn count(changes: u64, appends: u64, looks: u64) -> Count {
    Count {
        changes,
        appends,
        looks,
    }
}

fn spec(prompt: &str) -> pb::TaskSpec {
    pb::TaskSpec {
        input: Some(Input::Prompt(prompt.to_owned())),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_submit_to_a_busy_pool_is_one_change() {
    let counted = Counted::busy().await;

    let submit = counted.during(counted.pool.submit("say later")).await;

    assert_eq!(submit, count(1, 0, 0));
}

#[tokio::test]
async fn a_run_at_an_idle_slot_is_two_changes() {
    let counted = Counted::new(1).await;

    let run = counted.during(async {
        counted.pool.run("say now").await.unwrap();
        idle(&counted.pool).await;
    });
    let run = run.await;

    // Submitted and claimed in one; its end. What it said goes along.
    assert_eq!((run.changes, run.appends), (2, 0));
}

#[tokio::test]
async fn who_waits_for_or_watches_a_task_of_its_own_call_reads_nothing() {
    let counted = Counted::new(1).await;
    let pool = &counted.pool;

    let run = counted.during(pool.run("say now")).await;
    idle(pool).await;
    let watched = counted.during(async {
        let (_running, mut log) = pool.start_watched("say now", 0).await.unwrap();
        while log.next().await.unwrap().is_some() {}
    });
    let watched = watched.await;

    assert_eq!((run.looks, watched.looks), (0, 0));
}

#[tokio::test]
async fn tasks_that_wait_are_three_changes_each() {
    const TASKS: u64 = 20;
    let counted = Counted::busy().await;
    let hangs = counted.pool.tasks(Filter::default(), 1, "", false).await;
    let hangs = hangs.unwrap().tasks[0].task.id;

    let all = counted.during(async {
        let mut last = None;
        for _ in 0..TASKS {
            last = Some(counted.pool.submit("say later").await.unwrap());
        }
        counted.pool.cancel(Target::Task(hangs)).await.unwrap();
        let mut end = counted.pool.watch(last.unwrap(), 0).await.unwrap();
        while end.next().await.unwrap().is_some() {}
        idle(&counted.pool).await;
    });
    let all = all.await;

    // Submitted, claimed, ended. The cancel and its end are two, and a slot may
    // have looked once more in vain.
    let least = 3 * TASKS + 2;
    assert!((least..=least + 2).contains(&all.changes), "{all:?}");
}

#[tokio::test]
async fn a_fan_out_is_one_change_and_then_those_of_its_tasks() {
    const TASKS: usize = 100;
    let counted = Counted::busy().await;

    let specs = (0..TASKS).map(|_| spec("say later")).collect();
    let made = counted
        .during(counted.pool.fan_out(specs, None, true))
        .await;

    assert_eq!((made.changes, made.appends), (1, 0));
}

#[tokio::test]
async fn a_cancel_of_what_waits_is_one_change() {
    let counted = Counted::busy().await;
    let task = counted.pool.submit("say never").await.unwrap();

    let cancel = counted
        .during(counted.pool.cancel(Target::Task(task)))
        .await;

    assert_eq!((cancel.changes, cancel.appends), (1, 0));
}

#[tokio::test]
async fn who_looks_changes_nothing_and_looks_once() {
    let counted = Counted::new(1).await;
    let task = counted.pool.run("say so").await.unwrap().task.id;
    idle(&counted.pool).await;
    let pool = &counted.pool;

    let status = counted.during(pool.status()).await;
    let list = counted.during(pool.tasks(Filter::default(), 0, "", false));
    let list = list.await;
    let result = counted.during(pool.result(task, std::time::Duration::ZERO));
    let result = result.await;

    assert_eq!(status, count(0, 0, 1));
    assert_eq!(list, count(0, 0, 1));
    assert_eq!(result, count(0, 0, 1));
}

#[tokio::test]
async fn what_nobody_reads_is_not_appended_piece_by_piece() {
    let counted = Counted::new(1).await;
    let prompt = "say word\n".repeat(1000);

    let run = counted.during(counted.pool.run(prompt)).await;

    assert!(run.appends <= 2, "{run:?}");
}

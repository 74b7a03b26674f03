//! Tasks and what happens to them, for tests of stores.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::id::{CallerId, NodeId, SlotId, TaskId};
use crate::money::Microdollars;
use crate::pb::event::Kind;
use crate::pb::{self, ProcessOrigin};
use crate::store::{
    Batch, ClaimRequest, Claimed, Committed, Context, Due, Fence, LogEntry, Parts, Query, Store,
    StoreError, Totals,
};
use crate::task::apply::{Outcome, submit as submission};
use crate::task::{Bill, Change, Level, Record, Spec, Task, TaskEvent, apply};

/// A moment, `seconds` after the tests' beginning of time.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp(1_700_000_000_000_000 + seconds * 1_000_000)
}

/// A task that is ready at once and may cost a cent.
pub fn queued() -> Task {
    Task {
        budget: Microdollars(10_000),
        ..Task::new(&CallerId::from("alice"), at(0))
    }
}

/// What is asked of a task.
pub fn spec(prompt: &str) -> Arc<Spec> {
    Arc::new(Spec {
        received: pb::TaskSpec {
            input: Some(pb::task_spec::Input::Prompt(prompt.to_owned())),
            ..pb::TaskSpec::default()
        },
        ..Spec::default()
    })
}

/// The change that makes a task.
pub fn made(task: Task) -> Change {
    submission(task, spec("say hello"))
}

/// A batch without a request.
pub fn batch(changes: Vec<Change>) -> Batch {
    Batch {
        request: None,
        changes,
        now: at(0),
    }
}

/// Makes a task.
pub async fn submit(store: &dyn Store, task: Task) -> Task {
    let id = task.id;
    let committed = store.commit(batch(vec![made(task)])).await;
    committed.expect("a new task is committed");
    row(store, id).await
}

/// Makes a task for each.
pub async fn submit_all(store: &dyn Store, tasks: &[Task]) {
    let changes = tasks.iter().cloned().map(made).collect();
    store
        .commit(batch(changes))
        .await
        .expect("new tasks are committed");
}

/// The row as it is now.
pub async fn row(store: &dyn Store, id: TaskId) -> Task {
    let record = store.record(id, Parts::ROW).await.expect("it is read");
    record.expect("the task is there").task
}

/// How long the tests' claims hold.
pub const LEASE: Duration = Duration::from_secs(500);

/// A wish for `slots` tasks at a moment.
pub fn wish(slots: usize, now: Timestamp) -> ClaimRequest {
    ClaimRequest {
        slots: (0..slots).map(|n| SlotId(format!("slot-{n}"))).collect(),
        keeps: Default::default(),
        node: NodeId::from("node"),
        labels: Default::default(),
        level: Level::OWN,
        lease: Some(LEASE),
        context_revision: 3,
        now,
    }
}

/// Claims tasks for that many slots.
pub async fn claim(store: &dyn Store, slots: usize) -> Claimed {
    store.claim(wish(slots, at(0))).await.expect("it claims")
}

/// Makes a task and claims it; it must be the only ready one.
pub async fn running(store: &dyn Store, task: Task) -> Task {
    let id = task.id;
    submit(store, task).await;
    let claimed = claim(store, 1).await;
    assert_eq!(claimed.tasks.len(), 1, "the task was claimed");
    row(store, id).await
}

/// Commits what an event does to a task as it was read.
pub async fn commit_event(
    store: &dyn Store,
    task: &Task,
    event: TaskEvent,
    now: Timestamp,
) -> Result<Vec<Committed>, StoreError> {
    let change = apply(task, event, now).expect("the event fits");
    let changes = change.into_iter().collect();
    store
        .commit(Batch {
            request: None,
            changes,
            now,
        })
        .await
}

/// The event that ends a task well.
pub fn success(task: &Task, cost: i64, output: Option<Arc<str>>) -> TaskEvent {
    TaskEvent::Finish(Outcome {
        attempt: task.attempt,
        result: pb::TaskResult {
            output: "hello".to_owned(),
            success: true,
            session_id: "session".to_owned(),
            ..pb::TaskResult::default()
        },
        output,
        bill: Bill {
            cost: Microdollars(cost),
            ..Bill::default()
        },
        origin: ProcessOrigin::Unspecified,
    })
}

/// Makes a task, runs it and ends it well; it must be the only ready one.
pub async fn ended(store: &dyn Store, task: Task) -> Task {
    let task = running(store, task).await;
    let done = success(&task, 700, None);
    commit_event(store, &task, done, at(2))
        .await
        .expect("it is finished");
    row(store, task.id).await
}

/// Gives back all room that deleted tasks took.
pub async fn sweep(store: &dyn Store) {
    while store.sweep().await.expect("swept") {}
}

/// The fence of a task's attempt.
pub fn fence(task: &Task) -> Fence {
    Fence {
        task: task.id,
        attempt: task.attempt,
    }
}

/// A piece of an answer.
pub fn delta(text: &str) -> Kind {
    Kind::TextDelta(pb::TextDelta {
        text: text.to_owned(),
        ..pb::TextDelta::default()
    })
}

/// A query for everything, steps included.
pub fn everything() -> Query {
    let mut query = Query {
        filter: crate::store::Filter::default(),
        before: None,
        limit: 10_000,
        parts: Parts::ROW,
    };
    query.filter.include_steps = true;
    query
}

/// Everything that a store shows, requests apart.
#[derive(Debug, PartialEq)]
pub struct Snapshot {
    records: Vec<Record>,
    logs: Vec<Vec<LogEntry>>,
    outputs: Vec<Option<Vec<u8>>>,
    due: Due,
    totals: Totals,
    context: Context,
}

/// What a store shows now. Small stores only.
pub async fn snapshot(store: &dyn Store) -> Snapshot {
    let mut whole = everything();
    whole.parts = Parts::ALL;
    let records = store.list(&whole).await.expect("read");
    let (mut logs, mut outputs) = (Vec::new(), Vec::new());
    for record in &records {
        let id = record.task.id;
        logs.push(store.log(id, 0, usize::MAX).await.expect("read"));
        let output = store.output(id, 0, usize::MAX).await.expect("read");
        outputs.push(output.map(Vec::from));
    }
    let mut totals = store.totals().await.expect("read");
    totals.tasks.retain(|_, count| *count > 0);
    Snapshot {
        records,
        logs,
        outputs,
        due: store
            .due(at(1_000_000), Level::OWN, 10_000)
            .await
            .expect("read"),
        totals,
        context: store.context().await.expect("read"),
    }
}

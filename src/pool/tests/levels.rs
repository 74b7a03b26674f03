//! Programs of two versions on one store, while servers are replaced.

use super::*;
use crate::id::NodeId;
use crate::pb::{ChainOptions, ChainStep, chain_step::Action};

/// Takes over what is gone, and looks, in less than this.
const SOON: Duration = Duration::from_secs(60);

/// A program that knows so much, with one slot.
async fn node(name: &str, store: Memory, level: Level) -> Rig {
    let agent = Scripted::default();
    let store: Arc<dyn Store> = Arc::new(store);
    let pool = Pool::builder(agent.clone())
        .store(Arc::clone(&store))
        .options(slots(1))
        .node(NodeId::from(name))
        .working_dir("/tmp")
        .clock(Clock::tokio())
        .level(level)
        .build()
        .await
        .expect("built");
    Rig { pool, agent, store }
}

/// A program that does not know what today's tasks need, and where others may
/// join it.
async fn older() -> (Rig, Memory) {
    let mut handles = Memory::for_nodes(2);
    let (own, other) = (handles.remove(0), handles.remove(0));
    (node("older", own, Level(0)).await, other)
}

async fn newer(store: Memory) -> Rig {
    node("newer", store, Level::OWN).await
}

fn step(name: &str, prompt: &str) -> ChainStep {
    ChainStep {
        name: name.to_owned(),
        action: Some(Action::Prompt(prompt.to_owned())),
        ..ChainStep::default()
    }
}

async fn row(rig: &Rig, id: TaskId) -> Task {
    rig.sees().task(id).await.expect("there").task
}

#[tokio::test(start_paused = true)]
async fn a_task_that_needs_more_waits_for_a_node_that_knows_it() {
    let (older, free) = older().await;
    let id = older.pool.submit("say hello").await.expect("made");
    tokio::time::sleep(SOON).await;
    assert_eq!(row(&older, id).await.state, State::Queued);

    let newer = newer(free).await;

    assert_eq!(output(&older.end(id).await), "hello");
    assert_eq!((older.agent.turns(), newer.agent.turns()), (0, 1));
    assert_eq!(older.log(id, 0).await, newer.log(id, 0).await);
    let listed = older.pool.tasks(Filter::default(), 0, "", false).await;
    assert_eq!(listed.expect("read").tasks.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_needs_more_is_cancelled_and_deleted_by_any_node() {
    let (older, _free) = older().await;
    let id = older.pool.submit("say hello").await.expect("made");

    let cancelled = older.pool.cancel(Target::Task(id)).await;

    cancelled.expect("queued");
    assert_eq!(older.end(id).await.task.state, State::Cancelled);
    let again = older.pool.retry(id, None).await;
    assert!(
        matches!(again, Err(Error::NewerServerNeeded)),
        "it would lose what is not known: {again:?}"
    );
    older.pool.delete_task(id).await.expect("ended");
}

#[tokio::test(start_paused = true)]
async fn what_a_newer_node_leaves_is_put_back_and_waits() {
    let (older, free) = older().await;
    let gone = newer(free.another()).await;
    let id = older.pool.submit("say x\nhang").await.expect("made");
    older.said(id).await;

    // Its lease passes, and what it ran is nobody's.
    gone.store.close().await;
    let requeued = |kind: &Kind| matches!(kind, Kind::Requeued(_));
    older.until(id, requeued).await;

    assert_eq!(row(&older, id).await.state, State::Queued);
    assert_eq!(older.agent.turns(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_needs_more_goes_on_at_nodes_that_know_it() {
    let (older, free) = older().await;
    let newer = newer(free).await;
    let busy = newer.pool.submit("hang").await.expect("made");
    newer.started(busy).await;
    let steps = vec![step("a", "say one"), step("b", "say two")];
    let options = Some(ChainOptions::default());
    let chain = older.pool.submit_chain(steps, options, None).await;
    let chain = chain.expect("made");
    let steps = Filter {
        parent: Some(chain),
        ..Filter::default()
    };
    let first = older.pool.tasks(steps, 0, "", false).await;
    let first = first
        .expect("read")
        .tasks
        .first()
        .expect("it is made")
        .task
        .id;

    let cancelled = older.pool.cancel(Target::Task(first)).await;

    cancelled.expect("queued");
    assert_eq!(row(&older, first).await.state, State::Cancelling);
    // Whoever knows what follows ends it, though its slot is taken.
    assert_eq!(older.end(first).await.task.state, State::Cancelled);
    let end = older.end(chain).await;
    assert_eq!(end.task.state, newer.end(chain).await.task.state);
    assert!(end.task.state.is_end());
    assert_eq!(older.agent.turns(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_needs_more_is_cancelled_by_any_node() {
    let (older, _free) = older().await;
    let steps = vec![step("a", "say one"), step("b", "say two")];
    let chain = older.pool.submit_chain(steps, None, None).await;
    let chain = chain.expect("made");

    older.pool.cancel_chain(chain, true).await.expect("queued");

    assert_eq!(older.end(chain).await.task.state, State::Cancelled);
}

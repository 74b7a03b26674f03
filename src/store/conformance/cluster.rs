//! What many nodes on one store may rely on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::fixture::{at, batch, claim, commit_event, made, queued, row, submit, wish};
use crate::id::{CallerId, ConversationId, NodeId, TaskId};
use crate::money::Microdollars;
use crate::pb::{FailureReason, RequeueReason};
use crate::store::cluster::{Cluster, Control, Told};
use crate::store::{ClaimRequest, Store, StoreError};
use crate::task::apply::Requeue;
use crate::task::{Bill, Level, State, Task, TaskEvent};

/// Handles of one empty store.
pub type Handles = Vec<Arc<dyn Store>>;

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);
/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

fn cluster(store: &Arc<dyn Store>) -> &dyn Cluster {
    store.cluster().expect("a store for many nodes")
}

async fn join(store: &Arc<dyn Store>, node: &str) {
    let (name, labels) = (NodeId::from(node), BTreeSet::new());
    let joined = cluster(store).join(&name, &labels, LONG);
    assert_eq!(joined.await.expect("joined"), None, "{node} is free");
}

fn wish_of(node: &str, slots: usize) -> ClaimRequest {
    ClaimRequest {
        node: NodeId::from(node),
        ..wish(slots, at(0))
    }
}

/// Claims the only ready task for a node.
async fn taken(store: &Arc<dyn Store>, node: &str) -> Task {
    let claimed = store.claim(wish_of(node, 1)).await.expect("it claims");
    claimed.tasks.into_iter().next().expect("it is ready").task
}

/// Waits until it was told what is looked for; gives all that was told.
async fn told(store: &Arc<dyn Store>, is_it: impl Fn(&Told) -> bool) -> Told {
    let mut all = Told::default();
    let wait = async {
        while !is_it(&all) && !all.everything {
            all.merge(cluster(store).told().await);
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, wait).await;
    in_time.expect("it is told");
    all
}

/// Waits until a node's lease has passed and it is buried.
async fn buried(store: &Arc<dyn Store>, node: &str) {
    let wait = async {
        loop {
            let gone = cluster(store).bury().await.expect("buried");
            if gone.contains(&NodeId::from(node)) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, wait).await;
    in_time.expect("its lease passes");
}

pub(super) async fn a_name_belongs_to_one_living_node(nodes: Handles) {
    join(&nodes[0], "a").await;
    let again = || async {
        let (name, labels) = (NodeId::from("a"), BTreeSet::new());
        let joined = cluster(&nodes[1]).join(&name, &labels, LONG).await;
        joined.expect("answered")
    };
    let left = again().await.expect("it lives");
    assert!(!left.is_zero() && left <= LONG);

    cluster(&nodes[0]).leave().await.expect("left");

    assert_eq!(again().await, None);
    let late = cluster(&nodes[0]).renew(LONG, None).await;
    assert!(matches!(late, Err(StoreError::Fenced)), "{late:?}");
}

pub(super) async fn a_node_whose_lease_has_passed_can_do_nothing(nodes: Handles) {
    let short = Duration::from_millis(1);
    let (name, labels) = (NodeId::from("a"), BTreeSet::new());
    let joined = cluster(&nodes[0]).join(&name, &labels, short).await;
    joined.expect("joined");
    submit(&*nodes[0], queued()).await;

    buried(&nodes[1], "a").await;

    let renewed = cluster(&nodes[0]).renew(LONG, None).await;
    assert!(matches!(renewed, Err(StoreError::Fenced)), "{renewed:?}");
    let claimed = nodes[0].claim(wish_of("a", 1)).await;
    assert!(matches!(claimed, Err(StoreError::Fenced)), "{claimed:?}");
    join(&nodes[0], "a").await;
    taken(&nodes[0], "a").await;
}

pub(super) async fn a_renewed_lease_holds(nodes: Handles) {
    let (name, labels) = (NodeId::from("a"), BTreeSet::new());
    let joined = cluster(&nodes[0]).join(&name, &labels, PATIENCE).await;
    joined.expect("joined");

    let renewed = cluster(&nodes[0]).renew(LONG, None).await;

    renewed.expect("in time");
    let left = cluster(&nodes[1]).join(&name, &labels, LONG).await;
    assert!(left.expect("answered").expect("it lives") > PATIENCE);
    assert!(cluster(&nodes[1]).bury().await.expect("none").is_empty());
}

pub(super) async fn what_a_node_ran_is_orphaned_when_it_is_gone(nodes: Handles) {
    join(&nodes[0], "a").await;
    join(&nodes[1], "b").await;
    let task = submit(&*nodes[0], queued()).await;
    taken(&nodes[0], "a").await;
    submit(&*nodes[1], queued()).await;
    taken(&nodes[1], "b").await;
    let orphans = || async {
        let orphans = cluster(&nodes[1])
            .orphans(Level::OWN, 9)
            .await
            .expect("read");
        orphans.iter().map(|task| task.id).collect::<Vec<_>>()
    };
    assert!(orphans().await.is_empty());

    cluster(&nodes[0]).leave().await.expect("left");

    assert_eq!(orphans().await, [task.id]);
}

pub(super) async fn a_step_that_needs_more_is_no_orphan_of_an_older_node(nodes: Handles) {
    const NEWER: Level = Level(Level::OWN.0 + 1);
    join(&nodes[0], "a").await;
    let newer = || Task {
        level: NEWER,
        ..queued()
    };
    let alone = submit(&*nodes[0], newer()).await;
    let step = Task {
        parent: Some(TaskId::new()),
        ..newer()
    };
    let step = submit(&*nodes[0], step).await;
    let knows = ClaimRequest {
        level: NEWER,
        ..wish_of("a", 2)
    };
    let claimed = nodes[0].claim(knows).await.expect("it claims");
    assert_eq!(claimed.tasks.len(), 2);
    cluster(&nodes[0]).leave().await.expect("left");
    let orphans = async |level| {
        let orphans = cluster(&nodes[1]).orphans(level, 9).await.expect("read");
        orphans.iter().map(|task| task.id).collect::<Vec<_>>()
    };

    assert_eq!(orphans(Level::OWN).await, [alone.id]);
    assert_eq!(orphans(NEWER).await, [alone.id, step.id]);
}

pub(super) async fn nodes_are_listed_with_what_they_tell(nodes: Handles) {
    let labels = BTreeSet::from(["gpu".to_owned()]);
    let name = NodeId::from("b");
    let joined = cluster(&nodes[1]).join(&name, &labels, LONG).await;
    joined.expect("joined");
    join(&nodes[0], "a").await;
    let report = Bytes::from_static(b"well");

    let renewed = cluster(&nodes[1]).renew(LONG, Some(report.clone())).await;

    renewed.expect("renewed");
    // What was told stays until something else is.
    let renewed = cluster(&nodes[1]).renew(LONG, None).await;
    renewed.expect("renewed");
    let listed = cluster(&nodes[0]).nodes().await.expect("read");
    let names: Vec<_> = listed.iter().map(|node| node.id.0.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!((&listed[1].labels, &listed[1].report), (&labels, &report));
    assert!(told(&nodes[0], |told| told.nodes).await.nodes);
}

pub(super) async fn a_task_that_asks_for_a_label_goes_to_a_node_that_has_it(nodes: Handles) {
    let wants = Task {
        node_label: Some("gpu".to_owned()),
        ..queued()
    };
    let wants = submit(&*nodes[0], wants).await;
    let other = submit(&*nodes[0], queued()).await;

    let claimed = claim(&*nodes[0], 2).await;

    let ids: Vec<_> = claimed
        .tasks
        .iter()
        .map(|claimed| claimed.task.id)
        .collect();
    assert_eq!(ids, [other.id]);
    let carries = ClaimRequest {
        labels: BTreeSet::from(["gpu".to_owned(), "big".to_owned()]),
        ..wish_of("b", 1)
    };
    let claimed = nodes[1].claim(carries).await.expect("it claims");
    assert_eq!(claimed.tasks[0].task.id, wants.id);
}

fn handed_back() -> TaskEvent {
    TaskEvent::Requeue(Requeue {
        attempt: 1,
        reason: RequeueReason::Interrupted,
        burn: false,
        ready_time: at(0),
        bill: Bill::default(),
        failure_reason: FailureReason::Unspecified,
        message: String::new(),
    })
}

/// Whether a node that joined as "b" is given the only ready task, and which.
async fn offered(store: &Arc<dyn Store>) -> Option<TaskId> {
    let claimed = store.claim(wish_of("b", 1)).await.expect("it claims");
    claimed.tasks.first().map(|claimed| claimed.task.id)
}

pub(super) async fn an_attempt_that_goes_on_waits_for_the_node_of_its_session(nodes: Handles) {
    join(&nodes[0], "a").await;
    join(&nodes[1], "b").await;
    let saves = Task {
        saves_session: true,
        ..queued()
    };
    let task = submit(&*nodes[0], saves).await;
    let running = taken(&nodes[0], "a").await;
    assert_eq!(running.home, Some(NodeId::from("a")));
    let done = commit_event(&*nodes[0], &running, handed_back(), at(0)).await;
    done.expect("handed back");

    assert_eq!(offered(&nodes[1]).await, None, "its home lives");
    cluster(&nodes[0]).leave().await.expect("left");

    assert_eq!(offered(&nodes[1]).await, Some(task.id));
    let row = row(&*nodes[0], task.id).await;
    assert_eq!(row.home, Some(NodeId::from("b")));
}

pub(super) async fn a_conversation_goes_on_where_its_session_is(nodes: Handles) {
    join(&nodes[0], "a").await;
    join(&nodes[1], "b").await;
    let part = || Task {
        saves_session: true,
        conversation: Some(ConversationId::of_key("k")),
        ..queued()
    };
    submit(&*nodes[0], part()).await;
    let running = taken(&nodes[0], "a").await;
    let done = super::fixture::success(&running, 0, None);
    let done = commit_event(&*nodes[0], &running, done, at(1)).await;
    done.expect("ended");
    let next = submit(&*nodes[1], part()).await;

    assert_eq!(offered(&nodes[1]).await, None, "its session is on a");
    cluster(&nodes[0]).leave().await.expect("left");

    assert_eq!(offered(&nodes[1]).await, Some(next.id));
}

pub(super) async fn the_control_is_changed_at_its_revision_only(nodes: Handles) {
    let before = cluster(&nodes[0]).control().await.expect("read");
    assert_eq!(before, Control::default());
    let paused = Control {
        paused: Some("night".to_owned()),
        hold: Bytes::from_static(b"held"),
        ..before.clone()
    };

    let revision = cluster(&nodes[0]).set_control(paused.clone()).await;

    let revision = revision.expect("set");
    let late = cluster(&nodes[1]).set_control(before).await;
    assert!(matches!(late, Err(StoreError::Conflict)), "{late:?}");
    told(&nodes[1], |told| told.control).await;
    let now = cluster(&nodes[1]).control().await.expect("read");
    assert_eq!(now, Control { revision, ..paused });
}

pub(super) async fn the_control_tells_of_context_and_budget(nodes: Handles) {
    let set = nodes[0].set_context(0, "key", Some("value"), at(1)).await;
    let revision = set.expect("set");
    let limit = Some(Microdollars(5));
    nodes[0].set_budget(limit).await.expect("set");

    told(&nodes[1], |told| told.control).await;

    let now = cluster(&nodes[1]).control().await.expect("read");
    assert_eq!((now.context_revision, now.has_budget), (revision, true));
}

pub(super) async fn a_question_is_given_once_and_its_answer_too(nodes: Handles) {
    join(&nodes[0], "a").await;
    join(&nodes[1], "b").await;
    let (asker, asked) = (cluster(&nodes[0]), cluster(&nodes[1]));
    let name = NodeId::from("b");
    let ask = asker.ask(&name, Bytes::from_static(b"how?"), LONG);
    let id = ask.await.expect("asked");
    told(&nodes[1], |told| told.questions).await;
    assert!(asker.asked().await.expect("none").is_empty());
    assert_eq!(asker.answered(id).await.expect("none"), None);

    let questions = asked.asked().await.expect("taken");

    assert_eq!((questions.len(), questions[0].id), (1, id));
    assert_eq!(&questions[0].bytes[..], b"how?");
    assert!(asked.asked().await.expect("none").is_empty());
    let answer = Bytes::from_static(b"so");
    asked.answer(id, answer.clone()).await.expect("answered");
    told(&nodes[0], |told| told.questions).await;
    assert_eq!(asker.answered(id).await.expect("read"), Some(answer));
    assert_eq!(asker.answered(id).await.expect("none"), None);
}

pub(super) async fn others_are_told_of_what_is_committed(nodes: Handles) {
    let task = submit(&*nodes[0], queued()).await;

    let heard = told(&nodes[1], |told| told.queue && !told.tasks.is_empty()).await;

    assert!(heard.everything || heard.tasks.contains(&task.id));
    // Dropped before anything came.
    assert!(futures_util::FutureExt::now_or_never(cluster(&nodes[1]).told()).is_none());
    let claimed = claim(&*nodes[0], 1).await;
    let running = claimed.tasks[0].task.clone();
    told(&nodes[1], |told| told.tasks.contains(&task.id)).await;
    let fence = super::fixture::fence(&running);
    let delta = vec![super::fixture::delta("word")];
    let appended = nodes[0]
        .append(fence, delta, Default::default(), at(1))
        .await;
    appended.expect("appended");
    told(&nodes[1], |told| told.tasks.contains(&task.id)).await;
}

pub(super) async fn queued_tasks_are_counted_by_caller(nodes: Handles) {
    let bobs = || Task {
        caller: CallerId::from("bob"),
        ..queued()
    };
    let tasks = [queued(), bobs(), bobs()];
    let changes = tasks.iter().cloned().map(made).collect();
    nodes[0].commit(batch(changes)).await.expect("made");
    claim(&*nodes[0], 1).await;

    let queued = cluster(&nodes[1]).queued().await.expect("counted");

    let of = |caller| queued.get(&CallerId::from(caller)).copied();
    assert_eq!((of("alice"), of("bob")), (None, Some(2)));
    let first = row(&*nodes[1], tasks[0].id).await;
    assert_eq!(first.state, State::Running);
}

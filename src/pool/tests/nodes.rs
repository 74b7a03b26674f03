//! Many pools on one store: the same promises, whichever is asked.

use super::*;
use crate::id::NodeId;
use crate::pb::RequeueReason;
use crate::store::layer::{Call, Layer, Layered};

const LEASE: Duration = Duration::from_secs(10);

/// So many nodes with one slot and an agent of their own each. Each carries its
/// own name as a label, and "any".
pub(super) async fn nodes(count: usize) -> Vec<Rig> {
    let mut rigs = Vec::new();
    for (number, store) in Memory::for_nodes(count).into_iter().enumerate() {
        rigs.push(node(number, Arc::new(store), slots(1)).await);
    }
    rigs
}

async fn node(number: usize, store: Arc<dyn Store>, options: Options) -> Rig {
    let agent = Scripted::default();
    let name = format!("node-{number}");
    let pool = Pool::builder(agent.clone())
        .store(Arc::clone(&store))
        .options(Options {
            node_lease: LEASE,
            node_labels: [name.clone(), "any".to_owned()].into(),
            ..options
        })
        .node(NodeId(name))
        .working_dir("/tmp")
        .clock(Clock::tokio())
        .build()
        .await
        .expect("built");
    Rig { pool, agent, store }
}

/// Work that runs on one node alone.
fn on(number: usize, prompt: &str) -> Work {
    let mut work = Work::from(prompt);
    work.spec.node_label = format!("node-{number}");
    work
}

/// Why work is refused, as soon as it is.
async fn until_refused(rig: &Rig) -> Error {
    loop {
        match rig.pool.submit("say x").await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(refused) => return refused,
        }
    }
}

fn requeued(kind: &Kind) -> Option<RequeueReason> {
    match kind {
        Kind::Requeued(requeued) => Some(requeued.reason()),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_runs_on_another_node_is_run_watched_and_read_as_if_it_ran_here() {
    let nodes = nodes(2).await;
    let (here, there) = (&nodes[0], &nodes[1]);

    let record = here.pool.run(on(1, "say a\nwait 50\nsay b")).await;

    let record = record.expect("ran");
    assert_eq!(output(&record), "ab");
    assert_eq!((here.agent.turns(), there.agent.turns()), (0, 1));
    let id = record.task.id;
    assert_eq!(here.log(id, 0).await, there.log(id, 0).await);
    let late = there.pool.submit(on(1, "say c\nwait 5000\nsay d")).await;
    let late = late.expect("made");
    here.said(late).await;
    assert_eq!(there.agent.under_way(), 1, "it was told while it ran");
    assert_eq!(output(&here.end(late).await), "cd");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_the_node_that_runs_the_task() {
    let nodes = nodes(2).await;
    let id = nodes[0].pool.submit(on(1, "hang")).await.expect("made");
    nodes[0].started(id).await;

    nodes[0]
        .pool
        .cancel(Target::Task(id))
        .await
        .expect("running");

    assert_eq!(nodes[0].end(id).await.task.state, State::Cancelled);
    assert_eq!(nodes[1].agent.under_way(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_fan_out_is_told_of_members_that_end_on_other_nodes() {
    let nodes = nodes(3).await;
    let specs = (0..9).map(|i| on(i % 3, "wait 20\nsay x").spec).collect();
    let mut fan_out = nodes[0]
        .pool
        .fan_out(specs, None, false)
        .await
        .expect("made");

    let mut places = Vec::new();
    while let Some((place, record)) = fan_out.next().await.expect("told") {
        assert_eq!(output(&record), "x");
        places.push(place);
    }

    places.sort_unstable();
    assert_eq!(places, (0..9).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_stops_its_work_before_another_takes_it_up() {
    let nodes = nodes(2).await;
    let mut work = Work::from("say x\nhang");
    work.spec.node_label = "any".to_owned();
    // Both are kept busy, so that it is known who takes it.
    let blocker = nodes[0].pool.submit(on(0, "hang")).await.expect("made");
    nodes[0].started(blocker).await;
    let id = nodes[0].pool.submit(work).await.expect("made");
    nodes[0].started(id).await;
    assert_eq!(nodes[1].agent.under_way(), 1);
    nodes[0]
        .pool
        .cancel(Target::Task(blocker))
        .await
        .expect("running");

    nodes[1].store.close().await;
    let taken_up = |kind: &Kind| requeued(kind) == Some(RequeueReason::Interrupted);
    nodes[0].until(id, taken_up).await;

    assert_eq!(nodes[1].agent.under_way(), 0, "its lease had passed before");
    nodes[0]
        .until(
            id,
            |kind| matches!(kind, Kind::Started(s) if s.attempt == 2),
        )
        .await;
    assert_eq!(nodes[0].agent.under_way(), 1);
    let refused = nodes[1].pool.submit("say y").await;
    assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn no_process_of_a_node_is_without_a_lease_not_even_before_the_first_renewal() {
    let nodes = nodes(2).await;

    nodes[0].pool.run("say x").await.expect("ran");

    for node in nodes {
        assert!(node.agent.launches() > 0);
        assert_eq!(node.agent.unbounded(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_drains_leaves_its_work_to_the_others() {
    let nodes = nodes(2).await;
    let mut work = Work::from("wait 60000\nsay x");
    work.spec.node_label = "any".to_owned();
    let blocker = nodes[0].pool.submit(on(0, "hang")).await.expect("made");
    nodes[0].started(blocker).await;
    let id = nodes[0].pool.submit(work).await.expect("made");
    nodes[0].started(id).await;

    nodes[1].pool.drain(Duration::ZERO).await.expect("drained");
    nodes[1].pool.shutdown().await;
    nodes[0]
        .pool
        .cancel(Target::Task(blocker))
        .await
        .expect("running");

    assert_eq!(output(&nodes[0].end(id).await), "x");
    let others = nodes[0].store.cluster().expect("many").nodes().await;
    assert_eq!(others.expect("read").len(), 1, "it has left");
}

#[tokio::test(start_paused = true)]
async fn work_whose_caller_was_attached_to_a_node_that_is_gone_ends_unless_it_comes_back() {
    let nodes = nodes(3).await;
    let left = nodes[1].pool.start(on(2, "hang")).await.expect("made");
    let stays = nodes[0].pool.start(on(2, "say x")).await.expect("made");
    nodes[0].started(left.task).await;

    nodes[1].store.close().await;

    let abandoned = nodes[0].end(left.task).await;
    assert_eq!(abandoned.task.state, State::Cancelled);
    assert_eq!(output(&nodes[0].end(stays.task).await), "x");
}

#[tokio::test(start_paused = true)]
async fn a_pause_a_budget_and_the_context_hold_on_every_node() {
    let nodes = nodes(2).await;
    nodes[0].pool.pause("night").await.expect("set");
    let refused = until_refused(&nodes[1]).await;
    assert!(matches!(refused, Error::Paused), "{refused:?}");
    nodes[1].pool.resume().await.expect("set");
    nodes[0]
        .pool
        .set_context("rule", "be brief")
        .await
        .expect("set");

    let told = nodes[1].pool.run(on(1, "about")).await.expect("ran");

    assert!(output(&told).contains("be brief"), "{}", output(&told));
    let nothing = Some(Microdollars::ZERO);
    nodes[1].pool.set_budget(nothing).await.expect("set");
    let refused = until_refused(&nodes[0]).await;
    assert!(matches!(refused, Error::BudgetExhausted), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_providers_limit_holds_every_node_and_one_of_them_goes_ahead() {
    let nodes = nodes(3).await;
    nodes[0].agent.limit(true);
    let limited = nodes[0].pool.submit(on(0, "limited")).await.expect("made");
    let is_limited = |kind: &Kind| requeued(kind) == Some(RequeueReason::RateLimited);
    nodes[0].until(limited, is_limited).await;
    let waiting: Vec<_> = nodes.iter().enumerate().collect();
    let mut ids = Vec::new();
    for (number, rig) in waiting {
        let held = async {
            while rig.pool.status().await.expect("told").hold.is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        held.await;
        ids.push(rig.pool.submit(on(number, "hang")).await.expect("made"));
    }

    nodes[0].agent.limit(false);
    tokio::time::sleep(Duration::from_secs(200)).await;

    let under_way: usize = nodes.iter().map(|rig| rig.agent.under_way()).sum();
    assert_eq!(under_way, 1, "one goes ahead and has no answer yet");
}

#[tokio::test(start_paused = true)]
async fn the_status_is_the_sum_of_all_and_each_can_be_asked_for() {
    let nodes = nodes(3).await;
    nodes[2]
        .pool
        .scale(Scale::To(2), None, Duration::ZERO)
        .await
        .expect("bounds");
    let total = |status: &pb::PoolStatus| status.slots_total;

    let all = async {
        loop {
            let status = nodes[0].pool.status().await.expect("told");
            if total(&status) == 4 {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let all = tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .expect("summed");

    let names: Vec<_> = all.nodes.iter().map(|node| node.node_id.as_str()).collect();
    assert_eq!(names, ["node-0", "node-1", "node-2"]);
    assert_eq!(all.slots.len(), 4);
    let one = nodes[0].pool.status_of("node-2").await.expect("there");
    assert_eq!((total(&one), one.node_id.as_str()), (2, "node-2"));
    assert!(nodes[0].pool.status_of("node-9").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_conversation_goes_on_where_it_is_kept() {
    let nodes = nodes(3).await;
    let part = |prompt: &str| {
        let mut work = Work::from(prompt);
        let key = pb::ContinueConversation {
            key: "k".to_owned(),
        };
        let kind = pb::conversation::Kind::ContinueConversation(key);
        work.spec.conversation = Some(pb::Conversation { kind: Some(kind) });
        work
    };
    nodes[0].pool.run(part("first")).await.expect("ran");

    for number in [1, 2, 0] {
        let record = nodes[number].pool.run(part("about")).await.expect("ran");
        assert!(output(&record).contains("first"), "{}", output(&record));
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_without_an_idle_slot_lets_another_go_ahead() {
    let nodes = nodes(2).await;
    let busy = nodes[0].pool.submit(on(0, "hang")).await.expect("made");
    nodes[0].started(busy).await;
    nodes[0].pool.submit(on(0, "say y")).await.expect("made");
    nodes[1].agent.limit(true);
    let limited = nodes[1].pool.submit(on(1, "limited")).await.expect("made");
    let is_limited = |kind: &Kind| requeued(kind) == Some(RequeueReason::RateLimited);
    nodes[1].until(limited, is_limited).await;
    nodes[1]
        .pool
        .cancel(Target::Task(limited))
        .await
        .expect("queued");
    // The wait is over, and the one that has work has no slot for it.
    tokio::time::sleep(Duration::from_secs(100)).await;

    let late = nodes[1].pool.submit(on(1, "say x")).await.expect("made");

    let ended = tokio::time::timeout(Duration::from_secs(300), nodes[1].end(late)).await;
    assert_eq!(output(&ended.expect("it goes ahead")), "x");
}

/// Calls that begin late, and calls whose answers are late.
struct Slow {
    before: (Call, Duration),
    after: (Call, Duration),
}

impl Layer for Slow {
    async fn around<T: Send>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        pause(call, self.before).await;
        let answer = work.await;
        pause(call, self.after).await;
        answer
    }
}

async fn pause(call: Call, (slow, time): (Call, Duration)) {
    if call == slow {
        tokio::time::sleep(time).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_being_made_is_not_taken_for_one_that_was_deleted() {
    let mut stores = Memory::for_nodes(2).into_iter();
    let (here, there) = (stores.next().expect("two"), stores.next().expect("two"));
    // All that is listened to is looked at during a commit, and a look is answered
    // when what it has not found is committed.
    let slow = Slow {
        before: (Call::Commit, Duration::from_secs(6)),
        after: (Call::Read, Duration::from_secs(2)),
    };
    let slow = Layered::over(Arc::new(here), Arc::new(slow));
    let here = node(0, Arc::new(slow), slots(1)).await;
    let there = node(1, Arc::new(there), slots(1)).await;

    let record = here.pool.run(on(1, "say a")).await;
    let (_running, mut log) = (here.pool.start_watched(on(1, "say b"), 0).await).expect("made");

    assert_eq!(output(&record.expect("not deleted")), "a");
    while log.next().await.expect("not deleted").is_some() {}
    assert_eq!(there.agent.turns(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_a_task_whose_claim_is_not_answered_yet() {
    let mut stores = Memory::for_nodes(2).into_iter();
    let (here, there) = (stores.next().expect("two"), stores.next().expect("two"));
    let here = node(0, Arc::new(here), slots(1)).await;
    let slow = Slow {
        before: (Call::Claim, Duration::ZERO),
        after: (Call::Claim, Duration::from_millis(50)),
    };
    let slow = Layered::over(Arc::new(there), Arc::new(slow));
    let _there = node(1, Arc::new(slow), slots(1)).await;
    let id = here.pool.submit(on(1, "hang")).await.expect("made");
    here.started(id).await;

    here.pool.cancel(Target::Task(id)).await.expect("claimed");

    // Sooner than everything is looked at.
    let ended = tokio::time::timeout(Duration::from_secs(1), here.end(id)).await;
    assert_eq!(ended.expect("told").task.state, State::Cancelled);
}

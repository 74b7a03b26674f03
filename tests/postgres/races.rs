//! What happens at the same time, on one handle and on several.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use claudepool::id::{ConversationId, NodeId, RequestId, TaskId};
use claudepool::money::Microdollars;
use claudepool::store::Cluster;
use claudepool::store::conformance::fixture::{
    at, batch, claim, commit_event, everything, made, queued, submit, submit_all, success, wish,
};
use claudepool::store::postgres::Postgres;
use claudepool::store::{Parts, Request, Store, StoreError};
use claudepool::task::{State, Task};
use futures_util::future::join_all;
use tokio_postgres::Client;

use crate::server::{SHARED, open};

/// Several servers' stores over one new database.
async fn handles(count: usize) -> (Vec<Arc<Postgres>>, String) {
    let name = SHARED.database().await;
    let url = SHARED.url(&name);
    // At once: all of them want to make the schema.
    let opened = (0..count).map(|_| open(&url));
    let stores = join_all(opened).await.into_iter().map(Arc::new);
    (stores.collect(), name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_claim_at_once_never_get_one_task_twice() {
    let (stores, _) = handles(3).await;
    let tasks: Vec<_> = (0..300).map(|_| queued()).collect();
    submit_all(&*stores[0], &tasks).await;

    let claimers = stores.iter().cycle().take(9).map(|store| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claimed = claim(&*store, 4).await;
                if claimed.tasks.is_empty() && claimed.next_ready.is_none() {
                    return mine;
                }
                mine.extend(claimed.tasks.into_iter().map(|claimed| claimed.task.id));
            }
        })
    });
    let mut given = Vec::new();
    for claimer in join_all(claimers).await {
        given.extend(claimer.unwrap());
    }

    assert_eq!(given.len(), tasks.len(), "every task was given");
    let distinct: BTreeSet<TaskId> = given.into_iter().collect();
    assert_eq!(distinct.len(), tasks.len(), "and none twice");
    stores[0].check_sums().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reservation_passes_the_budget_whoever_claims() {
    let (stores, _) = handles(3).await;
    stores[1]
        .set_budget(Some(Microdollars(1_000)))
        .await
        .unwrap();
    let tasks: Vec<_> = (0..60)
        .map(|_| Task {
            budget: Microdollars(40),
            ..queued()
        })
        .collect();
    submit_all(&*stores[0], &tasks).await;

    let claims = stores.iter().cycle().take(12).map(|store| async {
        let claimed = store.claim(wish(4, at(0))).await.unwrap();
        claimed.tasks.len()
    });
    let given: usize = join_all(claims).await.into_iter().sum();

    assert_eq!(given, 25, "as many as 1,000 covers");
    let funds = stores[2].totals().await.unwrap().funds;
    assert_eq!(funds.reserved, Microdollars(1_000));
    stores[0].check_sums().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_has_one_task_at_a_time_whoever_claims() {
    let (stores, _) = handles(3).await;
    for _ in 0..12 {
        let task = Task {
            conversation: Some(ConversationId::of_key("a")),
            ..queued()
        };
        submit(&*stores[0], task).await;
    }
    let mut order = Vec::new();
    while order.len() < 12 {
        let claims = stores.iter().map(|store| claim(&**store, 3));
        let claimed = join_all(claims).await;
        let mut claimed = claimed.into_iter().flat_map(|claimed| claimed.tasks);
        if let Some(one) = claimed.next() {
            assert!(claimed.next().is_none(), "two at a time");
            order.push(one.task.id);
            commit_event(&*stores[1], &one.task, success(&one.task, 1, None), at(1))
                .await
                .unwrap();
        }
    }
    assert!(order.is_sorted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_submitters_do_not_wait_for_each_other() {
    let (stores, name) = handles(2).await;
    let submitters = (0..64).map(|n: usize| {
        let store = Arc::clone(&stores[n % 2]);
        tokio::spawn(async move {
            for _ in 0..20 {
                store.commit(batch(vec![made(queued())])).await.unwrap();
            }
        })
    });
    for submitter in join_all(submitters).await {
        submitter.unwrap();
    }
    let totals = stores[0].totals().await.unwrap();
    assert_eq!(totals.tasks[&State::Queued], 64 * 20);
    stores[1].check_sums().await.unwrap();

    // What is held of the money stands in no submission's way.
    let admin = SHARED.admin(&name).await;
    admin
        .batch_execute("BEGIN; SELECT 1 FROM budget FOR UPDATE")
        .await
        .unwrap();
    let commits = (0..8).map(|_| stores[0].commit(batch(vec![made(queued())])));
    assert!(join_all(commits).await.iter().all(Result::is_ok));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_who_make_one_request_make_one_task() {
    let (stores, _) = handles(3).await;
    let id = RequestId::new();
    let callers = (0..100).map(|n: usize| {
        let store = Arc::clone(&stores[n % 3]);
        tokio::spawn(async move {
            let task = Task {
                request: Some(id),
                ..queued()
            };
            let mut batch = batch(vec![made(task.clone())]);
            batch.request = Some(Request {
                caller: task.caller.clone(),
                id,
                fingerprint: [1; 32],
                task: task.id,
                group: None,
                expire_time: at(100),
                deleted: false,
            });
            match store.commit(batch).await {
                Ok(_) => (true, task.id),
                Err(StoreError::RequestExists(known)) => (false, known.task),
                Err(error) => panic!("{error:?}"),
            }
        })
    });
    let answers: Vec<_> = join_all(callers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();

    assert_eq!(answers.iter().filter(|(made, _)| *made).count(), 1);
    let ids: BTreeSet<_> = answers.into_iter().map(|(_, id)| id).collect();
    assert_eq!(ids.len(), 1, "all were told of the same");
    assert_eq!(stores[0].list(&everything()).await.unwrap().len(), 1);
}

/// Waits until a statement that begins so waits for a lock.
async fn until_it_waits(admin: &Client, begin: &str) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND wait_event_type = 'Lock' AND query LIKE $1 || '%'";
    let looking = async {
        loop {
            let row = admin.query_one(sql, &[&begin]).await.unwrap();
            if row.get::<_, i64>(0) > 0 {
                return;
            }
        }
    };
    let looked = tokio::time::timeout(Duration::from_secs(30), looking).await;
    looked.unwrap_or_else(|_| panic!("{begin} waits in time"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_has_under_way_delays_no_renewal_but_whoever_joins_in_its_name() {
    let (stores, name) = handles(2).await;
    let (node, labels) = (NodeId("n".to_owned()), BTreeSet::new());
    let span = Duration::from_secs(2);
    stores[0].join(&node, &labels, span).await.unwrap();
    let limit = Some(Microdollars(1_000_000));
    stores[0].set_budget(limit).await.unwrap();
    let task = submit(&*stores[0], queued()).await;
    let (one, other) = (SHARED.admin(&name).await, SHARED.admin(&name).await);
    let lock = "BEGIN; SELECT 1 FROM budget FOR UPDATE";
    one.batch_execute(lock).await.unwrap();
    let claiming = {
        let store = Arc::clone(&stores[0]);
        tokio::spawn(async move { claim(&*store, 1).await })
    };
    until_it_waits(&other, "SELECT budget_limit").await;

    let renewed = tokio::time::timeout(Duration::from_secs(5), stores[0].renew(span, None));
    renewed.await.expect("at once").unwrap();

    // The lease passes while the claim is still under way.
    let joining = {
        let store = Arc::clone(&stores[1]);
        tokio::spawn(async move {
            while let Some(left) = store.join(&node, &labels, span).await.unwrap() {
                tokio::time::sleep(left).await;
            }
        })
    };
    until_it_waits(&other, "SELECT 1 FROM nodes").await;
    assert!(stores[1].bury().await.unwrap().is_empty());
    one.batch_execute("COMMIT").await.unwrap();
    let claimed = claiming.await.unwrap();
    assert_eq!(claimed.tasks[0].task.id, task.id);
    let joined = tokio::time::timeout(Duration::from_secs(30), joining);
    joined.await.expect("in time").unwrap();
    // It has seen what the first one did; that one is a node no more.
    let record = stores[1].record(task.id, Parts::ROW).await.unwrap();
    assert_eq!(record.unwrap().task.state, State::Running);
    let fenced = stores[0].renew(span, None).await;
    assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_passes_by_what_somebody_else_holds_and_comes_back_for_it() {
    let (stores, name) = handles(1).await;
    let first = submit(&*stores[0], queued()).await;
    let second = submit(&*stores[0], queued()).await;
    let admin = SHARED.admin(&name).await;
    let hold = format!(
        "BEGIN; SELECT 1 FROM tasks WHERE id = '{}' FOR UPDATE",
        first.id
    );
    admin.batch_execute(&hold).await.unwrap();

    let claimed = claim(&*stores[0], 1).await;
    assert_eq!(claimed.tasks[0].task.id, second.id);
    let claimed = claim(&*stores[0], 1).await;
    assert!(claimed.tasks.is_empty() && claimed.next_ready.is_some());

    admin.batch_execute("COMMIT").await.unwrap();
    let claimed = claim(&*stores[0], 1).await;
    assert_eq!(claimed.tasks[0].task.id, first.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_set_when_what_is_reserved_without_one_is_known() {
    let (stores, name) = handles(2).await;
    let task = submit(&*stores[0], queued()).await;
    let (one, other) = (SHARED.admin(&name).await, SHARED.admin(&name).await);
    let hold = "BEGIN; LOCK TABLE ledger IN EXCLUSIVE MODE";
    one.batch_execute(hold).await.unwrap();
    let claiming = {
        let store = Arc::clone(&stores[0]);
        tokio::spawn(async move { claim(&*store, 1).await })
    };
    until_it_waits(&other, "INSERT INTO ledger").await;

    let limiting = {
        let store = Arc::clone(&stores[1]);
        tokio::spawn(async move { store.set_budget(Some(Microdollars(1))).await })
    };
    until_it_waits(&other, "UPDATE budget").await;
    one.batch_execute("COMMIT").await.unwrap();

    limiting.await.unwrap().unwrap();
    assert_eq!(claiming.await.unwrap().tasks[0].task.id, task.id);
    let funds = stores[1].totals().await.unwrap().funds;
    assert_eq!(funds.reserved, task.budget);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_told_to_other_servers_and_not_to_its_own() {
    let (stores, _) = handles(2).await;
    // Both begin with all that they may have missed.
    assert!(stores[0].told().await.everything);
    assert!(stores[1].told().await.everything);

    let task = submit(&*stores[0], queued()).await;

    let told = stores[1].told().await;
    assert!(told.queue && told.tasks.contains(&task.id), "{told:?}");
    // What the other does next comes first: nothing of its own was before it.
    let other = submit(&*stores[1], queued()).await;
    let told = stores[0].told().await;
    assert_eq!(told.tasks, BTreeSet::from([other.id]));
}

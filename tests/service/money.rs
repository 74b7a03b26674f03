//! Budgets hold, whoever asks at the same time and however.

use std::sync::Arc;

use claudepool::pb::{self, FailureReason, RunSettings, TaskState, fan_out_response};
use claudepool::pb::{run_stream_response, watch_task_response};
use claudepool::store::sqlite::Sqlite;
use tonic::Code;

use crate::support::{Caller, Harness, PATIENCE, Running, next, refused};

/// What a task may cost, and what the pool may spend.
const CAP: i64 = 500_000;
const BUDGET: i64 = 600_000;
/// What one request of a dear task costs: a cap is passed by no more.
const REQUEST: i64 = 200_000;
/// Who asks at the same time.
const CALLERS: usize = 40;

async fn rich() -> Running {
    let harness = Harness::new().options(|o| {
        o.settings.allowed_tools = vec!["Bash".into()];
        o.budget_usd = Some(0.6);
    });
    harness.start().await
}

/// A task that wants far more than it may cost.
fn greedy(server: &Caller) -> pb::TaskSpec {
    let settings = RunSettings {
        budget_microdollars: Some(CAP),
        ..RunSettings::default()
    };
    pb::TaskSpec {
        settings: Some(settings),
        ..server.dear(5)
    }
}

fn reason(result: Option<&pb::TaskResult>) -> FailureReason {
    let failure = result.and_then(|result| result.failure.as_ref());
    failure.map_or(FailureReason::Unspecified, pb::Failure::reason)
}

/// One was stopped at its cap, the others never ran, and the ledger says so.
async fn one_ran(server: &mut Caller, reasons: &[FailureReason]) {
    let count = |wanted| reasons.iter().filter(|reason| **reason == wanted).count();
    assert_eq!(count(FailureReason::Budget), 1, "{reasons:?}");
    let never_ran = count(FailureReason::BudgetExhausted);
    assert_eq!(never_ran, CALLERS - 1, "{reasons:?}");
    let status = server.status().await;
    let spent = status.spent_microdollars;
    assert!(
        (CAP..=CAP + REQUEST).contains(&spent),
        "at most the request in flight above the cap: {spent}"
    );
    assert!(spent <= BUDGET + REQUEST);
    assert_eq!(status.reserved_microdollars, 0);
}

#[tokio::test]
async fn a_fan_out_spends_the_budget_and_at_most_the_request_in_flight() {
    let mut server = rich().await;
    let request = pb::FanOutRequest {
        tasks: vec![greedy(&server); CALLERS],
        ..Default::default()
    };

    let mut stream = server.work.fan_out(request).await.unwrap().into_inner();

    let mut reasons = Vec::new();
    while let Some(message) = next(&mut stream).await.unwrap() {
        if let Some(fan_out_response::Item::Finished(item)) = message.item {
            reasons.push(reason(item.result.as_ref()));
        }
    }
    one_ran(&mut server, &reasons).await;
}

/// How a RunStream ends: with a result, or refused.
async fn run_stream(mut caller: Caller, task: pb::TaskSpec) -> FailureReason {
    let request = pb::RunStreamRequest {
        task: Some(task),
        ..Default::default()
    };
    let mut stream = match caller.work.run_stream(request).await {
        Ok(stream) => stream.into_inner(),
        refusal => {
            refused(refusal, Code::ResourceExhausted, "BUDGET_EXHAUSTED");
            return FailureReason::BudgetExhausted;
        }
    };
    let mut end = FailureReason::Unspecified;
    while let Some(message) = next(&mut stream).await.unwrap() {
        if let Some(run_stream_response::Item::Event(event)) = message.item
            && let Some(pb::event::Kind::Finished(finished)) = event.kind
        {
            end = reason(finished.result.as_ref());
        }
    }
    end
}

#[tokio::test]
async fn forty_who_run_at_once_spend_the_budget_and_at_most_the_request_in_flight() {
    let mut server = rich().await;
    let calls: Vec<_> = (0..CALLERS)
        .map(|_| tokio::spawn(run_stream(server.clone(), greedy(&server))))
        .collect();

    let mut reasons = Vec::new();
    for call in calls {
        reasons.push(call.await.unwrap());
    }
    one_ran(&mut server, &reasons).await;
}

#[tokio::test]
async fn chains_spend_the_budget_and_at_most_the_request_in_flight() {
    let mut server = rich().await;
    let Some(pb::task_spec::Input::Prompt(prompt)) = greedy(&server).input else {
        panic!("a prompt");
    };
    let step = |name: &str| pb::ChainStep {
        name: name.to_owned(),
        action: Some(pb::chain_step::Action::Prompt(prompt.clone())),
        ..Default::default()
    };
    let chain = pb::ChainRequest {
        steps: vec![step("a"), step("b")],
    };
    let options = pb::ChainOptions {
        settings: greedy(&server).settings,
        ..Default::default()
    };
    let request = pb::FanOutChainsRequest {
        chains: vec![chain; CALLERS],
        options: Some(options),
        ..Default::default()
    };

    let made = server.work.fan_out_chains(request).await.unwrap();

    let mut reasons = Vec::new();
    for task_id in made.into_inner().task_ids {
        let ended = server.result(&task_id).await;
        let chain = ended.result.unwrap().chain.unwrap();
        reasons.push(chain.steps[0].failure_reason());
        assert!(chain.steps[1].skipped);
    }
    one_ran(&mut server, &reasons).await;
}

/// What one of many callers does, by its number.
async fn mixed(mut caller: Caller, number: usize) {
    let task = match number % 4 {
        0 => caller.paid("x"),
        1 => caller.refused(),
        2 => caller.dear(3),
        _ => caller.hang("x"),
    };
    let settings = RunSettings {
        budget_microdollars: Some(CAP),
        ..RunSettings::default()
    };
    let submit = pb::SubmitRequest {
        task: Some(pb::TaskSpec {
            settings: Some(settings),
            ..task
        }),
        ..Default::default()
    };
    let Ok(made) = caller.work.submit(submit).await else {
        return;
    };
    let task_id = made.into_inner().task_id;
    if number % 4 == 3 {
        let mut log = caller.watch(&task_id, 0).await;
        while let Some(message) = next(&mut log).await.unwrap() {
            if let Some(watch_task_response::Item::Event(event)) = message.item
                && let Some(pb::event::Kind::TextDelta(_)) = event.kind
            {
                caller.cancel(&task_id).await;
            }
        }
    }
    caller.result(&task_id).await;
}

#[tokio::test]
async fn whatever_sixty_four_callers_do_the_books_are_right() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.db");
    let store = Arc::new(Sqlite::open(&file).await.unwrap());
    let harness = Harness::new().store(store.clone()).options(|o| {
        o.settings.allowed_tools = vec!["Bash".into()];
        o.slots = 4;
        o.budget_usd = Some(3.0);
    });
    let mut server = harness.start().await;
    let (limit, slots) = (3_000_000, 4);
    let calls: Vec<_> = (0..64)
        .map(|number| tokio::spawn(mixed(server.clone(), number)))
        .collect();

    let mut statuses = server
        .work
        .watch_status(pb::WatchStatusRequest::default())
        .await
        .unwrap()
        .into_inner();
    let books = tokio::spawn(async move {
        let mut spent = 0;
        while let Ok(Some(message)) = statuses.message().await {
            let Some(pb::watch_status_response::Item::Status(now)) = message.item else {
                continue;
            };
            assert!(now.spent_microdollars >= spent, "it never decreases");
            spent = now.spent_microdollars;
            let reserved = now.reserved_microdollars;
            assert!(spent + reserved <= limit + slots * REQUEST);
            assert!(reserved <= slots * CAP);
        }
    });
    for call in calls {
        tokio::time::timeout(2 * PATIENCE, call)
            .await
            .unwrap()
            .unwrap();
    }

    let list = pb::ListTasksRequest {
        page_size: 1000,
        ..Default::default()
    };
    let tasks = server
        .work
        .list_tasks(list)
        .await
        .unwrap()
        .into_inner()
        .tasks;
    let costs: i64 = tasks.iter().map(|task| task.cost_microdollars).sum();
    let status = server.status().await;
    assert!(tasks.iter().all(|task| task.end_time.is_some()));
    assert_eq!(status.spent_microdollars, costs);
    assert_eq!(status.reserved_microdollars, 0);
    assert!(
        tasks
            .iter()
            .any(|task| task.state() == TaskState::Succeeded)
    );
    store.check_sums().await.unwrap();
    drop(server);
    // Whoever watched fails the test by what it has seen.
    tokio::time::timeout(PATIENCE, books)
        .await
        .unwrap()
        .unwrap();
}

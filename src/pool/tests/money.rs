//! What attempts cost, to the letter, on paused time with the scripted agent.

use super::*;
use crate::pb::RecoveryPolicy;

fn capped(prompt: &str, microdollars: i64) -> Work {
    let settings = RunSettings {
        budget_microdollars: Some(microdollars),
        ..RunSettings::default()
    };
    work(prompt, settings)
}

async fn spent(rig: &Rig) -> (i64, i64) {
    let status = rig.pool.status().await.expect("told");
    (status.spent_microdollars, status.reserved_microdollars)
}

#[tokio::test(start_paused = true)]
async fn a_task_with_nothing_to_spend_asks_nobody() {
    let rig = rig(slots(1)).await;
    let record = rig.pool.run(capped("say x", 0)).await.expect("ran");
    assert_eq!(failure(&record), FailureReason::Budget);
    assert_eq!(rig.agent.turns(), 0);
    assert_eq!(spent(&rig).await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_retry_has_what_the_attempts_before_have_left() {
    let rig = rig(slots(1)).await;
    let record = rig.pool.run(capped("cost 60\nfail 529", 100)).await;
    let record = record.expect("ran");
    // 60, then at most 40 more and the request in flight; then nothing is left.
    assert_eq!(failure(&record), FailureReason::Budget);
    assert_eq!((record.task.attempt, record.task.cost.0), (2, 120));
    assert_eq!(spent(&rig).await, (120, 0));
}

#[tokio::test(start_paused = true)]
async fn what_ends_without_telling_its_cost_is_an_estimate() {
    let rig = rig(slots(1)).await;
    let told = async |prompt: &str| {
        let result = rig.pool.run(prompt).await.expect("ran").result;
        let result = result.expect("ended");
        (result.cost_microdollars, result.cost_estimated)
    };
    assert_eq!(told("cost 7\nsay x").await, (7, false));
    assert_eq!(told("cost 7\nfail 400").await, (7, false));
    assert_eq!(told("cost 7\nviolate").await, (7, true));
    assert_eq!(told("say x\nviolate").await, (0, true), "nothing is known");
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_attempt_that_tells_its_cost_is_no_estimate() {
    let rig = rig(slots(1)).await;
    let id = rig.pool.submit("say x\ncost 70\nwait 9000\nsay y").await;
    let id = id.expect("made");
    rig.until(id, |kind| matches!(kind, Kind::Usage(_))).await;
    rig.pool
        .restart_slot(&"slot-0".into())
        .await
        .expect("there");

    let record = rig.end(id).await;

    assert_eq!((record.task.attempt, record.task.cost.0), (2, 140));
    assert!(!record.task.cost_estimated);
}

#[tokio::test(start_paused = true)]
async fn a_resumed_session_corrects_what_an_interrupted_attempt_was_booked_at() {
    let rig = rig(slots(1)).await;
    for (told, spends, in_all) in [(200, 500, 500), (500, 200, 500)] {
        let before = spent(&rig).await.0;
        let prompt = format!("cost {told}\nspend {spends}\nsay x\nstuck");
        let mut work = Work::from(prompt);
        work.spec.recovery = RecoveryPolicy::Resume as i32;
        let id = rig.pool.submit(work).await.expect("made");
        rig.said(id).await;
        rig.pool
            .restart_slot(&"slot-0".into())
            .await
            .expect("there");

        let record = rig.end(id).await;

        assert_eq!(record.task.state, State::Succeeded);
        assert_eq!((record.task.attempt, record.task.cost.0), (2, in_all));
        assert_eq!(spent(&rig).await, (before + in_all, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_continued_conversation_is_corrected_by_its_own_part_alone() {
    let rig = rig(slots(1)).await;
    let part = |prompt: &str| {
        let mut work = Work::from(prompt);
        work.spec.conversation = Some(pb::Conversation {
            kind: Some(pb::conversation::Kind::ContinueConversation(
                pb::ContinueConversation { key: "mine".into() },
            )),
        });
        work
    };
    let first = rig.pool.run(part("cost 1000\nsay x")).await.expect("ran");
    assert_eq!(first.task.cost, Microdollars(1000));
    let id = rig.pool.submit(part("cost 30\nspend 50\nsay x\nstuck"));
    let id = id.await.expect("made");
    rig.said(id).await;
    rig.pool
        .restart_slot(&"slot-0".into())
        .await
        .expect("there");

    let record = rig.end(id).await;

    assert_eq!((record.task.attempt, record.task.cost.0), (2, 50));
    assert_eq!(spent(&rig).await, (1050, 0));
}

#[tokio::test(start_paused = true)]
async fn usage_per_model_is_that_of_every_attempt() {
    let rig = rig(slots(1)).await;
    let record = rig.pool.run("cost 7\nfail 529").await.expect("ran");
    let usage = record.result.expect("ended").usage.clone();
    let by_model = usage
        .iter()
        .map(|u| (u.model.as_str(), u.cost_microdollars));
    assert_eq!(by_model.collect::<Vec<_>>(), [("scripted", 21)]);
}

#[tokio::test(start_paused = true)]
async fn more_unaffordable_tasks_than_one_look_sees_all_fail() {
    let rig = rig(slots(2)).await;
    let running = rig.pool.submit(capped("cost 50\nsay x\nhang", 60)).await;
    let running = running.expect("made");
    rig.said(running).await;
    rig.pool
        .set_budget(Some(Microdollars(149)))
        .await
        .expect("set");
    let specs = vec![capped("say y", 100).spec; 200];
    let mut waiting = rig.pool.fan_out(specs, None, true).await.expect("made");
    // While something is reserved they wait.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let queued = rig.pool.status().await.expect("told");
    let queued = queued
        .tasks
        .iter()
        .find(|c| c.state() == pb::TaskState::Queued);
    assert_eq!(queued.map(|c| c.count), Some(200));

    rig.pool.cancel(Target::Task(running)).await.expect("done");

    let mut failed = 0;
    while let Some((_, record)) = waiting.next().await.expect("readable") {
        failed += usize::from(failure(&record) == FailureReason::BudgetExhausted);
    }
    assert_eq!(failed, 200);
}

#[tokio::test(start_paused = true)]
async fn a_budget_below_what_is_reserved_takes_nothing_back() {
    let rig = rig(slots(2)).await;
    let running = rig
        .pool
        .submit(capped("say x\ncost 50\nwait 9000\nsay y", 100));
    let running = running.await.expect("made");
    rig.said(running).await;

    let funds = rig.pool.set_budget(Some(Microdollars(60))).await;

    assert_eq!(funds.expect("set").reserved, Microdollars(100));
    let waits = rig.pool.submit(capped("say z", 60)).await.expect("made");
    let record = rig.end(running).await;
    assert_eq!(record.task.state, State::Succeeded, "it goes on");
    let record = rig.end(waits).await;
    assert_eq!(failure(&record), FailureReason::BudgetExhausted);
    assert_eq!((record.task.attempt, spent(&rig).await), (0, (50, 0)));
    let refused = rig.pool.submit(capped("say z", 11)).await;
    assert!(matches!(refused, Err(Error::BudgetExhausted)));
    let fits = rig.pool.run(capped("say z", 10)).await.expect("ran");
    assert_eq!(fits.task.state, State::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_task_without_a_budget_reserves_the_pools_default() {
    let rig = rig(Options {
        default_task_budget_usd: 0.25,
        ..slots(1)
    })
    .await;
    let id = rig.pool.submit("say x\nhang").await.expect("made");
    rig.said(id).await;
    assert_eq!(spent(&rig).await, (0, 250_000));
}

#[tokio::test(start_paused = true)]
async fn a_budget_set_at_the_last_moment_lets_nothing_past() {
    let rig = rig(slots(1)).await;
    rig.pool.run("say warm").await.expect("ran");
    // Its slot is idle and nothing waits: what comes now is claimed at once.
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The pool has not heard of it: as if it was set between look and claim.
    let limit = Some(Microdollars(100));
    rig.store.set_budget(limit).await.expect("set");

    let id = rig.pool.submit(capped("cost 5\nsay x", 101)).await;

    let record = rig.end(id.expect("made")).await;
    assert_eq!(failure(&record), FailureReason::BudgetExhausted);
    assert_eq!(record.task.attempt, 0);
    let record = rig.pool.run(capped("cost 5\nsay x", 100)).await;
    assert_eq!(record.expect("ran").task.cost, Microdollars(5));
}

#[tokio::test(start_paused = true)]
async fn a_chain_tells_its_cost_as_it_goes_and_its_usage_in_the_end() {
    let rig = rig(slots(1)).await;
    let step = |name: &str, prompt: &str| pb::ChainStep {
        name: name.to_owned(),
        action: Some(pb::chain_step::Action::Prompt(prompt.to_owned())),
        ..pb::ChainStep::default()
    };
    let steps = vec![step("a", "cost 5\nsay x"), step("b", "say y\ncost 7\nhang")];
    let id = rig
        .pool
        .submit_chain(steps, None, None)
        .await
        .expect("made");
    rig.until(id, |kind| matches!(kind, Kind::StepFinished(_)))
        .await;
    let chain = rig.pool.task(id).await.expect("there");
    assert_eq!(chain.task.cost, Microdollars(5));
    rig.until(
        id,
        |kind| matches!(kind, Kind::StepStarted(step) if step.step_index == 1),
    )
    .await;

    rig.pool.cancel(Target::Task(id)).await.expect("accepted");

    let record = rig.end(id).await;
    let result = record.result.expect("ended");
    let usage: i64 = result.usage.iter().map(|u| u.cost_microdollars).sum();
    assert_eq!(record.task.cost.0, result.cost_microdollars);
    assert_eq!(usage, result.cost_microdollars);
    assert_eq!(spent(&rig).await, (usage, 0));
}

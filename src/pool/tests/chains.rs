//! Chains, on paused time with the scripted agent.

use super::*;
use crate::pb::{ChainOptions, ChainStatus, ChainStep, FailurePolicy, chain_step::Action};

fn step(name: &str, prompt: &str) -> ChainStep {
    ChainStep {
        name: name.to_owned(),
        action: Some(Action::Prompt(prompt.to_owned())),
        ..ChainStep::default()
    }
}

fn with_policy(mut step: ChainStep, retries: i32, recovery: &str) -> ChainStep {
    step.on_failure = Some(FailurePolicy {
        retries,
        recovery_prompt: recovery.to_owned(),
        ..FailurePolicy::default()
    });
    step
}

impl Rig {
    async fn chain(&self, steps: Vec<ChainStep>) -> TaskId {
        self.pool
            .submit_chain(steps, None, None)
            .await
            .expect("made")
    }

    async fn chain_end(&self, id: TaskId) -> (State, pb::ChainResult) {
        let record = self.end(id).await;
        let result = record.result.and_then(|result| result.chain.clone());
        (record.task.state, result.expect("a chain's result"))
    }

    async fn snapshots(&self, id: TaskId) -> Vec<pb::ChainProgress> {
        let mut watch = self.pool.watch_chain(id).await.expect("there");
        let mut seen = Vec::new();
        while let Some(progress) = watch.next().await.expect("readable") {
            seen.push(progress);
        }
        seen
    }
}

#[tokio::test(start_paused = true)]
async fn each_step_gets_what_the_steps_before_gave() {
    let rig = rig(slots(1)).await;
    let id = rig
        .chain(vec![
            step("a", "say one"),
            step("b", "say {previous_output} two"),
            step("c", "say {steps.a}, {steps.b} and {code}"),
        ])
        .await;

    let (state, result) = rig.chain_end(id).await;

    assert_eq!(state, State::Succeeded);
    assert_eq!(result.final_output, "one, one two and {code}");
    assert!(result.steps.iter().all(|step| step.success));
}

#[tokio::test(start_paused = true)]
async fn what_a_step_says_is_never_a_reference() {
    let rig = rig(slots(1)).await;
    let id = rig
        .chain(vec![
            step("secret", "say hidden"),
            step("b", "quote steps.secret"),
            step("c", "say {steps.b}"),
        ])
        .await;
    let (_, result) = rig.chain_end(id).await;
    assert_eq!(result.final_output, "{steps.secret}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_step_skips_the_rest_and_tells_why() {
    let rig = rig(slots(1)).await;
    let id = rig
        .chain(vec![
            step("a", "say one"),
            step("b", "fail 400"),
            step("c", "say three"),
        ])
        .await;

    let (state, result) = rig.chain_end(id).await;

    assert_eq!(state, State::Failed);
    assert!(!result.steps[1].success && !result.steps[1].skipped);
    assert_eq!(
        result.steps[1].failure_reason(),
        FailureReason::InvalidRequest
    );
    assert!(result.steps[2].skipped);
    assert_eq!(result.final_output, "one", "what was done can be read");
    assert_eq!(failure(&rig.end(id).await), FailureReason::StepFailed);
}

#[tokio::test(start_paused = true)]
async fn a_step_is_tried_again_with_backoff_as_often_as_it_may() {
    let rig = rig(slots(1)).await;
    let begun = tokio::time::Instant::now();
    let id = rig
        .chain(vec![with_policy(step("a", "cost 5\nfail 500"), 2, "")])
        .await;

    let (state, result) = rig.chain_end(id).await;

    assert_eq!(state, State::Failed);
    assert_eq!(result.steps[0].retries_used, 2);
    assert_eq!(result.total_cost_microdollars, 15, "every attempt is paid");
    assert!(begun.elapsed() >= Duration::from_secs(3), "1 s, then 2 s");
}

#[tokio::test(start_paused = true)]
async fn a_recovery_prompt_runs_once_retries_are_used_up() {
    let rig = rig(slots(1)).await;
    let id = rig
        .chain(vec![
            with_policy(step("a", "fail 400"), 0, "say mended: {error}"),
            step("b", "say {steps.a}!"),
        ])
        .await;

    let (state, result) = rig.chain_end(id).await;

    assert_eq!(state, State::Succeeded);
    assert!(result.steps[0].recovered);
    assert_eq!(result.final_output, "mended: API Error: 400!");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_chain_completes_its_step_and_skips_the_rest() {
    let rig = rig(slots(1)).await;
    let id = rig
        .chain(vec![
            step("a", "say one\nwait 5000\nsay  more"),
            step("b", "say two"),
        ])
        .await;
    rig.until(id, |kind| matches!(kind, Kind::StepStarted(_)))
        .await;

    rig.pool.cancel_chain(id, false).await.expect("accepted");
    let (state, result) = rig.chain_end(id).await;

    assert_eq!(state, State::Cancelled);
    assert!(result.steps[0].success, "the current step completed");
    assert!(result.steps[1].skipped);
    rig.pool.cancel_chain(id, false).await.expect("harmless");
}

#[tokio::test(start_paused = true)]
async fn a_chain_cancelled_now_ends_its_step_too() {
    let rig = rig(slots(1)).await;
    let id = rig
        .chain(vec![step("a", "say one\nhang"), step("b", "say two")])
        .await;
    rig.until(id, |kind| matches!(kind, Kind::StepStarted(_)))
        .await;
    rig.pool.cancel_chain(id, true).await.expect("accepted");
    let (state, result) = rig.chain_end(id).await;
    assert_eq!(state, State::Cancelled);
    assert!(!result.steps[0].success && result.steps[1].skipped);
    rig.pool.run("say x").await.expect("the slot is usable");
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_waits_is_cancelled_at_once() {
    let rig = rig(slots(1)).await;
    let blocker = rig.pool.submit("say x\nhang").await.expect("made");
    rig.said(blocker).await;
    let id = rig.chain(vec![step("a", "say one")]).await;
    rig.pool.cancel(Target::Task(id)).await.expect("accepted");
    let (state, result) = rig.chain_end(id).await;
    assert_eq!(state, State::Cancelled);
    assert!(result.steps[0].task_id.is_empty() || !result.steps[0].success);
}

#[tokio::test(start_paused = true)]
async fn watchers_of_a_chain_see_ordered_changes_that_end_in_its_result() {
    let rig = rig(slots(1)).await;
    let id = rig
        .chain(vec![
            step("a", "say one\nwait 100\nsay !"),
            step("b", "say two"),
        ])
        .await;

    let (live, (state, result)) = tokio::join!(rig.snapshots(id), rig.chain_end(id));
    let late = rig.snapshots(id).await;

    assert_eq!(state, State::Succeeded);
    assert!(live.is_sorted_by(|a, b| a.sequence < b.sequence));
    let last = live.last().expect("told");
    assert_eq!(last.status(), ChainStatus::Succeeded);
    let told = last
        .completed_steps
        .iter()
        .map(|step| (&step.task_id, step.success));
    let gave = result
        .steps
        .iter()
        .map(|step| (&step.task_id, step.success));
    assert!(told.eq(gave));
    assert_eq!(
        late.as_slice(),
        std::slice::from_ref(last),
        "the present first"
    );
    let now = rig.pool.chain_progress(id).await.expect("there");
    assert_eq!(now.completed_steps, result.steps);
}

#[tokio::test(start_paused = true)]
async fn progress_tells_what_the_current_step_has_said() {
    let rig = rig(slots(1)).await;
    let id = rig.chain(vec![step("a", "say halfway\nhang")]).await;
    rig.until(id, |kind| matches!(kind, Kind::StepStarted(_)))
        .await;
    let step = loop {
        let progress = rig.pool.chain_progress(id).await.expect("there");
        if progress.partial_output == "halfway" {
            break progress;
        }
        let step = progress.current_step_task_id.parse().expect("an id");
        rig.said(step).await;
    };
    assert_eq!(step.current_step_name, "a");
    assert_eq!(step.total_steps, 1);
}

#[tokio::test(start_paused = true)]
async fn chains_that_have_begun_go_before_those_that_have_not() {
    let rig = rig(slots(4)).await;
    let chain = pb::ChainRequest {
        steps: (0..5)
            .map(|i| step(&format!("s{i}"), "wait 100\nsay x"))
            .collect(),
    };
    let (group, ids) = rig
        .pool
        .fan_out_chains(vec![chain; 20], None, None)
        .await
        .expect("made");
    assert_eq!(ids.len(), 20);
    let watched = futures_util::future::join_all(ids.iter().map(|id| rig.snapshots(*id))).await;
    for (id, seen) in ids.iter().zip(watched) {
        let (state, result) = rig.chain_end(*id).await;
        assert_eq!(state, State::Succeeded);
        // The log of a chain has nothing but changes: dense from the first.
        let numbers: Vec<u64> = seen.iter().map(|progress| progress.sequence).collect();
        assert!(
            numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "{numbers:?}"
        );
        let last = seen.last().expect("told");
        assert_eq!(last.completed_steps.len(), result.steps.len());
        let progress = rig.pool.chain_progress(*id).await.expect("there");
        assert_eq!(progress.completed_steps, result.steps);
    }
    let chains = rig.store.group(group, Parts::ROW).await.expect("read");
    let mut moments: Vec<(_, i32)> = Vec::new();
    for record in &chains {
        moments.push((record.task.start_time.expect("begun"), 1));
        moments.push((record.task.end_time.expect("ended"), -1));
    }
    // An end and a begin of the same moment: the end came first.
    moments.sort_unstable();
    let mut live = 0;
    let most = moments.iter().map(|(_, change)| {
        live += change;
        live
    });
    assert!(most.max() <= Some(4), "at most as many chains as slots");
    let first_end = chains.iter().filter_map(|r| r.task.end_time).min();
    let last_begin = chains.iter().filter_map(|r| r.task.start_time).max();
    assert!(first_end < last_begin);
}

#[tokio::test(start_paused = true)]
async fn wrong_steps_are_named_and_nothing_is_made() {
    let rig = rig(slots(1)).await;
    let fields = |refused: Error| match refused {
        Error::Invalid(found) => found.into_iter().map(|v| v.field).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    for (steps, field) in [
        (vec![], "steps"),
        (vec![step("a", "x"), step("a", "y")], "steps[1].name"),
        (
            vec![step("a", "{steps.b}"), step("b", "y")],
            "steps[0].prompt",
        ),
    ] {
        let refused = rig.pool.submit_chain(steps, None, None).await;
        let found = fields(refused.expect_err("refused"));
        assert!(found.iter().any(|f| f == field), "{field}: {found:?}");
    }
    let mut bad = step("a", "x");
    bad.settings = Some(RunSettings {
        max_turns: Some(0),
        ..RunSettings::default()
    });
    let refused = rig.pool.submit_chain(vec![bad], None, None).await;
    let found = fields(refused.expect_err("refused"));
    assert_eq!(found, ["steps[0].settings.max_turns"]);
    let all = rig
        .pool
        .tasks(Filter::default(), 0, "", false)
        .await
        .expect("listed");
    assert!(all.tasks.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_repeated_chain_runs_once() {
    let rig = rig(slots(1)).await;
    let request = Some(RequestId::new());
    let make = || {
        rig.pool.submit_chain(
            vec![step("a", "say x")],
            Some(ChainOptions::default()),
            request,
        )
    };
    let (first, second) = (make().await.expect("made"), make().await.expect("the same"));
    assert_eq!(first, second);
    let other = rig
        .pool
        .submit_chain(vec![step("a", "say y")], None, request)
        .await;
    assert!(matches!(other, Err(Error::RequestIdReused)));
}

#[tokio::test(start_paused = true)]
async fn a_drained_chain_goes_on_in_the_next_pool() {
    let first = rig(slots(1)).await;
    let id = first
        .chain(vec![
            step("a", "say one"),
            step("b", "say two\nwait 60000\nsay !"),
            step("c", "say {steps.a} {steps.b}"),
        ])
        .await;
    first
        .until(
            id,
            |kind| matches!(kind, Kind::StepStarted(s) if s.step_index == 1),
        )
        .await;
    first.pool.drain(Duration::ZERO).await.expect("drained");

    let second = over(Arc::clone(&first.store), slots(1)).await;

    let (state, result) = second.chain_end(id).await;
    assert_eq!(state, State::Succeeded);
    assert_eq!(result.final_output, "one two!");
}

#[tokio::test(start_paused = true)]
async fn a_chain_whose_next_step_is_forbidden_meanwhile_fails_and_holds_no_slot() {
    let first = rig(slots(1)).await;
    let mut dear = step("b", "say two");
    dear.settings = Some(RunSettings {
        budget_microdollars: Some(5_000_000),
        ..RunSettings::default()
    });
    let id = first
        .chain(vec![step("a", "say one\nwait 60000"), dear])
        .await;
    first
        .until(id, |kind| matches!(kind, Kind::StepStarted(_)))
        .await;
    first.pool.drain(Duration::ZERO).await.expect("drained");

    let mut stricter = slots(1);
    stricter.policy.task_budget_max_usd = 1.0;
    let second = over(Arc::clone(&first.store), stricter).await;

    let (state, result) = second.chain_end(id).await;
    assert_eq!(state, State::Failed);
    assert!(result.steps[0].success && result.steps[1].skipped);
    assert_eq!(failure(&second.end(id).await), FailureReason::StepFailed);
    second.pool.run("say x").await.expect("the slot is usable");
}

#[tokio::test(start_paused = true)]
async fn a_chain_and_its_steps_are_deleted_together() {
    let rig = rig(slots(1)).await;
    let id = rig
        .chain(vec![step("a", "say x"), step("b", "say y")])
        .await;
    let (_, result) = rig.chain_end(id).await;
    let step: TaskId = result.steps[0].task_id.parse().expect("an id");
    rig.pool.delete_task(id).await.expect("deleted");
    for gone in [id, step] {
        assert!(matches!(
            rig.pool.task(gone).await,
            Err(Error::NotFound(Missing::Task))
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn a_built_in_workflow_runs_as_a_chain() {
    let rig = rig(slots(1)).await;
    let arguments = [("target".to_owned(), "src".to_owned())].into();
    let id = rig
        .pool
        .submit_workflow("refactor_and_test", arguments, None, None)
        .await;
    let id = match id {
        Ok(id) => id,
        Err(error) => panic!("{error}"),
    };
    let (state, result) = rig.chain_end(id).await;
    assert_eq!(state, State::Succeeded);
    assert!(result.steps.len() > 1);
    let spec = rig.pool.task(id).await.expect("there").spec.expect("read");
    let plan = spec.chain.as_ref().expect("its steps can be read");
    assert_eq!(plan.workflow, "refactor_and_test");
}

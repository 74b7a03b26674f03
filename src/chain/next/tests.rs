use super::*;
use crate::chain::{Arguments, Limits, Progress, STEP_OUTPUT_BYTES_MAX, accept};
use crate::pb::{ChainStep, FailurePolicy, TaskState, chain_step::Action, event::Kind};
use proptest::prelude::*;

const LIMIT: usize = 1 << 20;

fn step(name: &str, prompt: &str) -> ChainStep {
    ChainStep {
        name: name.into(),
        action: Some(Action::Prompt(prompt.into())),
        ..ChainStep::default()
    }
}

fn recovering(mut step: ChainStep, prompt: &str) -> ChainStep {
    step.on_failure = Some(FailurePolicy {
        recovery_prompt: prompt.into(),
        ..FailurePolicy::default()
    });
    step
}

fn chain(steps: &[ChainStep]) -> pb::ChainSpec {
    let limits = Limits {
        prompt_bytes_max: LIMIT,
        chain_bytes_max: LIMIT,
    };
    accept(steps, "steps", &Arguments::new(), &|_| None, limits).expect("a good chain")
}

fn ended(step_index: usize, recovery: bool, outcome: Outcome, output: &str) -> StepEnd {
    StepEnd {
        step_index,
        recovery,
        task: TaskId::new(),
        outcome,
        output: Some(output.into()),
        structured: None,
        cost: Microdollars(10),
        duration: Duration::from_secs(1),
        retries_used: 1,
    }
}

fn good(step_index: usize, output: &str) -> StepEnd {
    ended(step_index, false, Outcome::Succeeded, output)
}

fn bad(step_index: usize, message: &str) -> StepEnd {
    let outcome = Outcome::Failed {
        reason: FailureReason::Agent,
        message: message.into(),
    };
    ended(step_index, false, outcome, "half a text")
}

fn run(step_index: usize, recovery: bool, prompt: &str) -> Next {
    Next::Run {
        step_index,
        recovery,
        prompt: prompt.into(),
    }
}

#[test]
fn each_step_sees_what_the_ones_before_it_gave() {
    let mut plan = step("plan", "Plan.");
    plan.output_vars = [("file".into(), "files.0".into())].into();
    let spec = chain(&[
        plan,
        step("do", "Edit {steps.plan.file}."),
        step("check", "{previous_output}|{steps.plan}|{json: {steps.do}}"),
    ]);
    let json = r#"{"files": ["a.rs"]}"#;

    assert_eq!(next(&spec, &[], false, LIMIT), run(0, false, "Plan."));
    let one = good(0, json);
    assert_eq!(
        next(&spec, std::slice::from_ref(&one), false, LIMIT),
        run(1, false, "Edit a.rs.")
    );
    // In any order.
    let two = [good(1, "done"), one];
    let third = format!("done|{json}|{{json: done}}");
    assert_eq!(next(&spec, &two, false, LIMIT), run(2, false, &third));
}

#[test]
fn an_answer_that_looks_like_a_reference_stays_text() {
    let spec = chain(&[
        step("secret", "Say it."),
        step("a", "A."),
        step("b", "{previous_output} {steps.secret}"),
    ]);
    let ends = [good(0, "{steps.a}"), good(1, "{steps.secret} {error}")];
    assert_eq!(
        next(&spec, &ends, false, LIMIT),
        run(2, false, "{steps.secret} {error} {steps.a}")
    );
}

#[test]
fn a_failed_step_without_recovery_ends_the_chain_and_skips_the_rest() {
    let spec = chain(&[step("a", "A"), step("b", "B"), step("c", "C")]);
    let ends = [good(0, "fine"), bad(1, "broken")];

    assert_eq!(next(&spec, &ends, false, LIMIT), Next::End(Ending::Failed));
    let result = result(&spec, &ends, false, LIMIT);
    assert!(!result.success);
    assert_eq!(result.final_output, "fine");
    assert_eq!(result.total_cost_microdollars, 20);
    assert_eq!(result.steps[1].failure_reason(), FailureReason::Agent);
    assert_eq!(result.steps[1].failure_message, "broken");
    assert_eq!(result.steps[1].output, "half a text");
    assert!(result.steps[2].skipped && result.steps[2].task_id.is_empty());
}

#[test]
fn a_recovery_that_succeeds_is_the_steps_success() {
    let spec = chain(&[
        recovering(step("a", "A"), "Mend {error} {steps}"),
        step("b", "Got {previous_output}"),
    ]);
    let mut ends = vec![bad(0, "{steps.a} broke")];
    assert_eq!(
        next(&spec, &ends, false, LIMIT),
        run(0, true, "Mend {steps.a} broke {steps}")
    );
    ends.push(ended(0, true, Outcome::Succeeded, "mended"));
    assert_eq!(
        next(&spec, &ends, false, LIMIT),
        run(1, false, "Got mended")
    );
    ends.push(good(1, "end"));
    let result = result(&spec, &ends, false, LIMIT);
    assert!(result.success && result.steps[0].recovered);
    assert_eq!(result.steps[0].task_id, ends[1].task.to_string());
    assert_eq!(result.steps[0].cost_microdollars, 20);
    assert_eq!(result.steps[0].retries_used, 2);
    assert_eq!(result.steps[0].duration.map(|d| d.seconds), Some(2));
}

#[test]
fn a_recovery_that_fails_too_says_both_failures() {
    let spec = chain(&[recovering(step("a", "A"), "Mend it")]);
    let mut second = bad(0, "second");
    second.recovery = true;
    let ends = [bad(0, "first"), second];
    assert_eq!(next(&spec, &ends, false, LIMIT), Next::End(Ending::Failed));
    let message = &result(&spec, &ends, false, LIMIT).steps[0].failure_message;
    assert!(message.contains("first") && message.contains("second"));
}

#[test]
fn a_missing_variable_fails_the_step() {
    let mut a = step("a", "A");
    a.output_vars = [("v".into(), "deep.er".into())].into();
    let spec = chain(&[recovering(a, "Answer with JSON: {error}")]);
    let Next::Run {
        recovery: true,
        prompt,
        ..
    } = next(&spec, &[good(0, "{}")], false, LIMIT)
    else {
        panic!("a recovery is due");
    };
    assert!(prompt.contains("output_vars[v]"), "{prompt}");
    let again = [good(0, "{}"), ended(0, true, Outcome::Succeeded, "no JSON")];
    let result = result(&spec, &again, false, LIMIT);
    assert_eq!(result.steps[0].failure_reason(), FailureReason::Schema);
}

#[test]
fn a_prompt_that_grew_too_long_or_is_blank_fails_the_step() {
    let spec = chain(&[step("a", "A"), step("b", "{previous_output}")]);
    for text in ["x".repeat(101), " \n".into()] {
        let ends = [good(0, &text)];
        assert_eq!(next(&spec, &ends, false, 100), Next::End(Ending::Failed));
        let result = result(&spec, &ends, false, 100);
        assert_eq!(
            result.steps[1].failure_reason(),
            FailureReason::InvalidRequest
        );
        assert_eq!(
            (result.steps[1].skipped, &*result.steps[1].task_id),
            (false, "")
        );
    }
}

#[test]
fn a_cancelled_chain_runs_nothing_more_and_stays_cancelled() {
    let spec = chain(&[recovering(step("a", "A"), "Mend"), step("b", "B")]);
    let cancelled = Next::End(Ending::Cancelled);
    for ends in [
        vec![],
        vec![good(0, "x")],
        vec![bad(0, "x")],
        vec![good(0, "x"), good(1, "y")],
        vec![good(0, "x"), bad(1, "y")],
    ] {
        assert_eq!(next(&spec, &ends, true, LIMIT), cancelled, "{ends:?}");
    }
    let partial = result(&spec, &[bad(0, "no")], true, LIMIT);
    assert_eq!(partial.steps[0].failure_message, "no");
    assert!(partial.steps[1].skipped && !partial.success);
    let stopped = [good(0, "x"), ended(1, false, Outcome::Cancelled, "")];
    assert_eq!(next(&spec, &stopped, false, LIMIT), cancelled);
    assert_eq!(result(&spec, &stopped, true, LIMIT).final_output, "x");
}

#[test]
fn a_long_text_is_cut_in_the_result_and_whole_in_the_next_prompt() {
    let spec = chain(&[step("a", "A"), step("b", "{previous_output}")]);
    let long = "é".repeat(20_000);
    let ends = [good(0, &format!("x{long}"))];
    assert_eq!(
        next(&spec, &ends, false, LIMIT),
        run(1, false, &format!("x{long}"))
    );
    let first = &result(&spec, &ends, false, LIMIT).steps[0];
    assert!(first.output_truncated);
    assert_eq!(first.output_bytes, 40_001);
    assert_eq!(first.output.len(), STEP_OUTPUT_BYTES_MAX - 1);
}

fn any_chain() -> impl Strategy<Value = pb::ChainSpec> {
    prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 1..6).prop_map(|kinds| {
        let steps: Vec<ChainStep> = kinds
            .into_iter()
            .enumerate()
            .map(|(i, (recovers, wants, refers))| {
                let prompt = if refers && i > 0 {
                    "{previous_output}"
                } else {
                    "Go"
                };
                let mut step = step(&format!("s{i}"), prompt);
                if wants {
                    step.output_vars = [("v".into(), "v".into())].into();
                }
                if recovers {
                    step = recovering(step, "Mend {error}");
                }
                step
            })
            .collect();
        chain(&steps)
    })
}

fn any_end() -> impl Strategy<Value = (u8, String)> {
    let text = prop::sample::select(vec!["", "x", r#"{"v": "{steps.s0}"}"#, r#"{"v": null}"#]);
    (0..8u8, text.prop_map(str::to_owned))
}

fn event(progress: &mut Progress, kind: Kind) {
    let sequence = progress.snapshot().sequence + 1;
    progress.apply(&pb::Event {
        sequence,
        time: None,
        kind: Some(kind),
    });
}

proptest! {
    /// Runs a chain as the pool does, with the outcomes that chance gives.
    #[test]
    fn a_chain_ends_and_runs_nothing_twice_and_progress_equals_the_result(
        spec in any_chain(),
        outcomes in prop::collection::vec(any_end(), 12),
        cancel_after in prop::option::of(0..6usize),
    ) {
        let mut ends: Vec<StepEnd> = Vec::new();
        let mut progress = Progress::new("chain", &spec);
        let mut told = 0;
        let mut cancelling = false;
        let ending = loop {
            if cancel_after == Some(ends.len()) && !cancelling {
                cancelling = true;
                event(&mut progress, Kind::Cancelling(pb::Cancelling::default()));
            }
            let now = standing(&spec, &ends, cancelling, LIMIT);
            prop_assert!(now.steps.len() >= told, "what ended stays ended");
            for step in &now.steps[told..] {
                event(&mut progress, Kind::StepFinished(pb::StepFinished {
                    result: Some(step.clone()),
                }));
            }
            told = now.steps.len();
            match now.next {
                Next::End(ending) => break ending,
                Next::Run { step_index, recovery, .. } => {
                    prop_assert!(!cancelling, "nothing runs after a cancel");
                    prop_assert!(
                        !ends.iter().any(|e| (e.step_index, e.recovery) == (step_index, recovery)),
                        "nothing runs twice"
                    );
                    prop_assert_eq!(step_index, now.steps.len());
                    event(&mut progress, Kind::StepStarted(pb::StepStarted {
                        step_index: step_index as i32,
                        ..pb::StepStarted::default()
                    }));
                    prop_assert_eq!(progress.snapshot().current_step as usize, step_index);
                    let (kind, text) = &outcomes[ends.len()];
                    let outcome = match kind {
                        0..=4 => Outcome::Succeeded,
                        5..=6 => Outcome::Failed {
                            reason: FailureReason::Agent,
                            message: text.clone(),
                        },
                        _ => Outcome::Cancelled,
                    };
                    ends.push(ended(step_index, recovery, outcome, text));
                }
            }
        };
        prop_assert!(ends.len() <= 2 * spec.steps.len());
        let result = result(&spec, &ends, ending == Ending::Cancelled, LIMIT);
        prop_assert_eq!(result.steps.len(), spec.steps.len());
        prop_assert_eq!(&result.steps[..told], &progress.snapshot().completed_steps[..]);
        prop_assert!(result.steps[told..].iter().all(|s| s.skipped));
        prop_assert_eq!(result.total_cost_microdollars, 10 * ends.len() as i64);
        match ending {
            Ending::Succeeded => prop_assert!(result.success),
            Ending::Failed => prop_assert!(!result.success),
            Ending::Cancelled => {}
        }
        event(&mut progress, Kind::Finished(pb::Finished {
            state: TaskState::Failed as i32,
            result: Some(pb::TaskResult {
                chain: Some(result.clone()),
                ..pb::TaskResult::default()
            }),
            ..pb::Finished::default()
        }));
        prop_assert_eq!(&progress.snapshot().completed_steps, &result.steps);
    }
}

#[test]
fn what_follows_is_the_same_without_the_texts_that_nothing_refers_to() {
    let mut a = step("a", "one");
    a.output_vars = [("v".into(), "x".into())].into();
    let d = recovering(
        step("d", "{steps.a} {previous_output}"),
        "{steps.b} {error}",
    );
    let steps = [
        a,
        step("b", "{steps.a.v}"),
        step("c", "three"),
        d,
        step("e", "{steps.c}"),
    ];
    let plan = chain(&steps);
    let ends = [
        good(0, r#"{"x": 1}"#),
        good(1, "of b"),
        good(2, "of c"),
        bad(3, "it broke"),
    ];
    let wanted: [&[usize]; 4] = [&[0], &[0, 1, 2], &[0, 1, 2], &[0, 1, 2, 3]];
    for (last, wanted) in wanted.into_iter().enumerate() {
        let needed = needs(&plan, last);
        assert!(
            needed.iter().all(|place| wanted.contains(place)),
            "{needed:?}"
        );
        let whole = &ends[..=last];
        let mut part = whole.to_vec();
        for end in &mut part {
            if !needed.contains(&end.step_index) {
                end.output = None;
            }
        }
        let follows = |ends: &[StepEnd]| next(&plan, ends, false, LIMIT);
        assert_eq!(follows(&part), follows(whole), "after {last}");
    }
    assert_eq!(needs(&plan, 0), [0].into(), "the step before, no more");
}

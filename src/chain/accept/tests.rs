use super::*;
use crate::pb::{ChainStep, FailurePolicy, SkillCall};
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    prompt_bytes_max: 10_000,
    chain_bytes_max: 100_000,
};

fn step(name: &str, prompt: &str) -> ChainStep {
    ChainStep {
        name: name.into(),
        action: Some(Action::Prompt(prompt.into())),
        ..ChainStep::default()
    }
}

fn call(name: &str, skill: &str, arguments: &[(&str, &str)]) -> ChainStep {
    ChainStep {
        name: name.into(),
        action: Some(Action::Skill(SkillCall {
            name: skill.into(),
            arguments: pairs(arguments),
        })),
        ..ChainStep::default()
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Arguments {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn review(name: &str) -> Option<Arc<pb::Skill>> {
    (name == "review").then(|| {
        Arc::new(pb::Skill {
            name: "review".into(),
            prompt: "Review {target} for {focus}; {steps.x} {previous_output} {other}".into(),
            arguments: vec![
                pb::Argument {
                    name: "target".into(),
                    required: true,
                    ..pb::Argument::default()
                },
                pb::Argument {
                    name: "focus".into(),
                    default_value: "{target} and {steps.a}".into(),
                    ..pb::Argument::default()
                },
            ],
            ..pb::Skill::default()
        })
    })
}

fn try_accept(steps: &[ChainStep]) -> Result<pb::ChainSpec, Vec<Violation>> {
    accept(steps, "steps", &Arguments::new(), &review, LIMITS)
}

fn fields(steps: &[ChainStep]) -> Vec<String> {
    match try_accept(steps) {
        Ok(_) => panic!("violations expected"),
        Err(found) => found.into_iter().map(|v| v.field).collect(),
    }
}

fn prompt(spec: &pb::ChainSpec, index: usize) -> &str {
    match &spec.steps[index].action {
        Some(Action::Prompt(prompt)) => prompt,
        other => panic!("a prompt expected, got {other:?}"),
    }
}

/// What the places of a step's prompt hold.
fn places(spec: &pb::ChainSpec, index: usize) -> Vec<&str> {
    spec.references
        .iter()
        .filter(|r| r.step_index as usize == index && !r.recovery)
        .map(|r| &prompt(spec, index)[r.offset as usize..][..r.length as usize])
        .collect()
}

#[test]
fn a_reference_to_a_step_that_cannot_have_run_is_refused() {
    for (prompt, why) in [
        ("{previous_output}", "first step"),
        ("{steps.a}", "itself"),
        ("{steps.b}", "later"),
        ("{steps.c}", "no such step"),
        ("{steps.c.v}", "no such step"),
    ] {
        let found = try_accept(&[step("a", prompt), step("b", "B")]).expect_err(prompt);
        assert_eq!(found[0].field, "steps[0].prompt");
        assert!(found[0].message.contains(why), "{}", found[0].message);
    }
}

#[test]
fn a_variable_that_the_step_does_not_declare_is_refused() {
    let mut a = step("a", "A");
    a.output_vars = pairs(&[("v", "x.0")]);
    assert!(try_accept(&[a.clone(), step("b", "{steps.a.v}")]).is_ok());
    assert_eq!(fields(&[a, step("b", "{steps.a.w}")]), ["steps[1].prompt"]);
}

#[test]
fn every_wrong_field_is_named_by_its_path() {
    let mut bad = step("b", "fine");
    bad.output_vars = pairs(&[("a.b", "x"), ("v", "a..b")]);
    bad.on_failure = Some(FailurePolicy {
        retries: 11,
        backoff: Some(prost_types::Duration {
            seconds: 3600,
            nanos: 1,
        }),
        recovery_prompt: " ".into(),
    });
    let mut none = step("c", "");
    none.action = None;
    let steps = [
        step("", "{previous_output}"),
        bad,
        none,
        step("c", "\n"),
        call("d", "unknown", &[]),
        call("e", "review", &[("focus", "x"), ("zoom", "y")]),
        call("f", "review", &[("target", "{steps.g}")]),
        step("g", &"x".repeat(10_001)),
    ];
    assert_eq!(
        fields(&steps),
        [
            "steps[0].name",
            "steps[0].prompt",
            "steps[1].output_vars[a.b]",
            "steps[1].output_vars[v]",
            "steps[1].on_failure.retries",
            "steps[1].on_failure.backoff",
            "steps[1].on_failure.recovery_prompt",
            "steps[2].prompt",
            "steps[3].name",
            "steps[3].prompt",
            "steps[4].skill.name",
            "steps[5].skill.arguments[zoom]",
            "steps[5].skill.arguments[target]",
            "steps[6].skill.arguments[target]",
            "steps[7].prompt",
        ]
    );
}

#[test]
fn a_chain_has_one_to_a_hundred_steps() {
    let many: Vec<ChainStep> = (0..101).map(|i| step(&format!("s{i}"), "x")).collect();
    assert_eq!(fields(&[]), ["steps"]);
    assert_eq!(fields(&many), ["steps"]);
    assert!(try_accept(&many[..100]).is_ok());
}

#[test]
fn all_prompts_together_are_bounded() {
    let big = "x".repeat(10_000);
    let steps: Vec<ChainStep> = (0..11).map(|i| step(&format!("s{i}"), &big)).collect();
    assert_eq!(fields(&steps), ["steps[10].prompt"]);
}

#[test]
fn references_are_bounded() {
    let many = "{steps.s0}".repeat(1000);
    let mut steps = vec![step("s0", "x")];
    steps.extend((1..12).map(|i| step(&format!("s{i}"), &many)));
    let limits = Limits {
        chain_bytes_max: 1_000_000,
        ..LIMITS
    };
    let found = accept(&steps, "steps", &Arguments::new(), &review, limits)
        .map(|_| ())
        .expect_err("too many");
    assert_eq!(found[0].field, "steps[11]");
}

#[test]
fn the_error_is_known_in_a_recovery_prompt_only() {
    let mut a = step("a", "Print {error}.");
    a.on_failure = Some(FailurePolicy {
        recovery_prompt: "Mend {error}.".into(),
        ..FailurePolicy::default()
    });
    let spec = try_accept(&[a]).expect("good");
    assert_eq!(
        spec.references,
        [pb::ChainReference {
            step_index: 0,
            recovery: true,
            offset: 5,
            length: 7,
        }]
    );
}

#[test]
fn a_skill_is_expanded_and_only_the_steps_own_references_live() {
    let steps = [
        step("a", "A"),
        call("b", "review", &[("target", "<{steps.a}{focus}>")]),
    ];
    let spec = try_accept(&steps).expect("good");
    assert_eq!(
        prompt(&spec, 1),
        "Review <{steps.a}{focus}> for {target} and {steps.a}; {steps.x} {previous_output} {other}"
    );
    assert_eq!(places(&spec, 1), ["{steps.a}"]);
    assert_eq!(spec.references[0].offset, 8);
}

#[test]
fn a_workflows_argument_reaches_prompts_and_skills_as_data() {
    let arguments = pairs(&[("what", "{steps.a} {target} {previous_output}")]);
    let steps = [
        step("a", "Do {what}"),
        call("b", "review", &[("target", "{what}, {steps.a}")]),
    ];
    let spec = accept(&steps, "steps", &arguments, &review, LIMITS).expect("good");
    assert_eq!(prompt(&spec, 0), "Do {steps.a} {target} {previous_output}");
    assert_eq!(places(&spec, 0), [""; 0]);
    assert!(prompt(&spec, 1).starts_with(
        "Review {steps.a} {target} {previous_output}, {steps.a} for {target} and {steps.a};"
    ));
    assert_eq!(places(&spec, 1), ["{steps.a}"]);
}

proptest! {
    /// Whatever a workflow's argument holds, exactly the places that its author
    /// wrote are replaced when the step runs, and the argument comes out as it
    /// went in.
    #[test]
    fn an_argument_is_never_scanned_at_submit_or_later(
        argument in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "{steps.a}", "{previous_output}", "{what}", "{target}", "steps.a",
                "{error}", "é", ".", "x",
            ]),
            0..12,
        ).prop_map(|pieces| pieces.concat()),
        answer in prop::sample::select(vec!["{steps.a}", "{what}", "plain", "{"]),
    ) {
        let arguments = [("what".to_owned(), argument.clone())].into();
        let steps = [
            step("a", "x{what}"),
            step("b", "[{what}{steps.a}{what}]"),
            call("c", "review", &[("target", "{what}{steps.b}")]),
        ];
        let spec = accept(&steps, "steps", &arguments, &review, LIMITS).expect("good");
        prop_assert_eq!(spec.references.len(), 2);

        let end = |step_index| crate::chain::StepEnd {
            step_index,
            recovery: false,
            task: crate::id::TaskId::new(),
            outcome: crate::chain::Outcome::Succeeded,
            output: Some(answer.into()),
            structured: None,
            cost: crate::money::Microdollars::ZERO,
            duration: Duration::ZERO,
            retries_used: 0,
        };
        let ran = |ends: &[crate::chain::StepEnd]| match crate::chain::next(&spec, ends, false, 10_000) {
            crate::chain::Next::Run { prompt, .. } => prompt,
            crate::chain::Next::End(ending) => panic!("ended: {ending:?}"),
        };
        prop_assert_eq!(ran(&[]), format!("x{argument}"));
        prop_assert_eq!(ran(&[end(0)]), format!("[{argument}{answer}{argument}]"));
        prop_assert_eq!(
            ran(&[end(0), end(1)]),
            format!(
                "Review {argument}{answer} for {{target}} and {{steps.a}}; \
                 {{steps.x}} {{previous_output}} {{other}}"
            )
        );
    }
}

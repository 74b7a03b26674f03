use super::*;
use proptest::prelude::*;

const LIMIT: usize = 1 << 20;

fn found(template: &str) -> Vec<Reference<'_>> {
    references(template).into_iter().map(|(_, r)| r).collect()
}

#[test]
fn only_the_known_forms_are_references() {
    assert_eq!(
        found("{previous_output} {steps.a} {steps.a.b} {error} {x-1}"),
        [
            Reference::PreviousOutput,
            Reference::Step("a"),
            Reference::Variable("a", "b"),
            Reference::Error,
            Reference::Argument("x-1"),
        ]
    );
    for code in [
        "{}",
        "{ x }",
        "{\"a\": 1}",
        "{steps.}",
        "{steps.a.}",
        "{steps.a.b.c}",
        "{steps.a b}",
        "{ä}",
        "{x",
        "x}",
        "}{",
        "{{",
        "{\n}",
        "${{ steps.build.outputs.x }}",
    ] {
        assert_eq!(found(code), [], "{code}");
    }
}

#[test]
fn a_reference_inside_other_braces_is_found() {
    assert_eq!(found("{{steps.a}}"), [Reference::Step("a")]);
    assert_eq!(found("{\"k\": {steps.a}}"), [Reference::Step("a")]);
    assert_eq!(found("{steps.{steps.a}"), [Reference::Step("a")]);
}

#[test]
fn a_name_too_long_is_text() {
    let template = format!("{{{}}}", "x".repeat(NAME_BYTES_MAX + 1));
    assert_eq!(found(&template), []);
}

#[test]
fn pieces_that_only_together_look_like_a_reference_are_none() {
    let text = render("{{a}{b}", LIMIT, |r| match r {
        Reference::Argument("a") => Some("steps.x".into()),
        Reference::Argument("b") => Some("}".into()),
        _ => None,
    });
    assert_eq!(text.as_deref(), Ok("{steps.x}"));
}

#[test]
fn a_text_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let lookup = |_: Reference<'_>| Some(Cow::Borrowed("12345"));
    assert_eq!(render("{a}{a}", 10, lookup).as_deref(), Ok("1234512345"));
    assert_eq!(render("{a}{a}", 9, lookup), Err(TooLong { limit: 9 }));
}

#[test]
fn stored_places_that_make_no_sense_stay_text() {
    let text = "é{steps.a}{steps.b}".to_owned();
    let backwards = std::ops::Range { start: 30, end: 20 };
    let parts = [1..4, 2..11, 5..11, 11..20, 20..99, backwards];
    let expanded = Expanded::from_parts(text, parts);
    assert_eq!(expanded.places(), [2..11, 11..20]);
}

/// Texts rich in braces and names.
fn braces() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec![
            "{",
            "}",
            "{{",
            "}}",
            "steps.",
            "a",
            "b",
            ".",
            "previous_output",
            "error",
            "{a}",
            "{b}",
            "{steps.a}",
            "{steps.a.b}",
            "{previous_output}",
            "{error}",
            " ",
            "é",
            "\n",
            "\u{10348}",
        ]),
        0..24,
    )
    .prop_map(|pieces| pieces.concat())
}

proptest! {
    /// The expected text is built from the places in the template alone, so
    /// whatever the value holds, it comes out as it went in.
    #[test]
    fn what_is_substituted_is_never_scanned_again(template in braces(), value in braces()) {
        let mut expected = String::new();
        let mut done = 0;
        for (place, _) in references(&template) {
            expected.push_str(&template[done..place.start]);
            expected.push_str(&value);
            done = place.end;
        }
        expected.push_str(&template[done..]);

        let text = render(&template, LIMIT, |_| Some(Cow::Borrowed(value.as_str())));

        prop_assert_eq!(text, Ok(expected));
    }

    #[test]
    fn unknown_braces_stay(template in braces()) {
        prop_assert_eq!(render(&template, LIMIT, |_| None), Ok(template));
    }

    #[test]
    fn any_text_at_all_renders(template in ".*", value in ".*") {
        let text = render(&template, LIMIT, |_| Some(Cow::Borrowed(value.as_str())));
        prop_assert!(text.is_ok());
    }

    /// An argument goes in at submit, an answer when the step runs: neither is
    /// scanned at either time.
    #[test]
    fn an_argument_is_data_when_the_step_runs_too(
        template in braces(),
        argument in braces(),
        answer in braces(),
    ) {
        let expanded = Expanded::new(&template, LIMIT, |r| match r {
            Reference::Argument(_) => Fill::Data(Cow::Borrowed(argument.as_str())),
            _ => Fill::Later,
        })
        .expect("short");
        let text = expanded.render(LIMIT, |_| Some(Cow::Borrowed(answer.as_str())));

        let at_once = render(&template, LIMIT, |r| match r {
            Reference::Argument(_) => Some(Cow::Borrowed(argument.as_str())),
            _ => Some(Cow::Borrowed(answer.as_str())),
        });
        prop_assert_eq!(text, at_once);
    }

    #[test]
    fn an_expanded_text_survives_being_stored(template in braces(), argument in braces()) {
        let expanded = Expanded::new(&template, LIMIT, |r| match r {
            Reference::Argument(_) => Fill::Data(Cow::Borrowed(argument.as_str())),
            _ => Fill::Later,
        })
        .expect("short");
        let again = Expanded::from_parts(
            expanded.text().to_owned(),
            expanded.places().iter().cloned(),
        );
        prop_assert_eq!(again, expanded);
    }
}

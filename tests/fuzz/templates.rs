//! The pass over a template, against one that is too simple to be wrong.

use std::borrow::Cow;

use claudepool::chain::template::{Reference, render};

use crate::mutate::{Corpus, fuzz};

const LIMIT: usize = 2048;

const WORDS: &[&[u8]] = &[
    b"{",
    b"}",
    b"{{",
    b"}}",
    b"{}",
    b"{previous_output}",
    b"{error}",
    b"{x}",
    b"{steps.a}",
    b"{steps.a.b}",
    b"{steps.",
    b".",
    b"steps",
    b"\xc3\xa4",
    b"\xf0\x9f\xa6\x80",
    b"\"",
    b"\n",
    b" ",
    b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

fn corpus() -> Corpus<'static> {
    let inputs = [
        "Review {previous_output} of {steps.plan} with {steps.plan.branch}: {error}",
        "fn main() { println!(\"{x}\"); } {{steps.a}} ${{ github.ref }}",
        "{steps.{steps.a}.b} {a-b_c} { a } {a",
        "",
    ];
    Corpus {
        inputs: inputs.map(Into::into).into(),
        words: WORDS,
    }
}

fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !text.is_empty() && text.len() <= 64 && text.chars().all(fits)
}

/// What stands for a reference; it holds references, which must stay.
fn value(inner: &str) -> Option<&'static str> {
    let known = match inner.split('.').collect::<Vec<_>>()[..] {
        ["steps", step] => is_name(step),
        ["steps", step, variable] => is_name(step) && is_name(variable),
        // Some arguments are declared, some are not.
        [name] => is_name(name) && (!name.starts_with('a') || name == "previous_output"),
        _ => false,
    };
    known.then_some("<{previous_output}{x}>")
}

/// Brace by brace: a pair with no brace between is looked up.
fn simple(template: &str) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        rest = &rest[open..];
        let inner = rest[1..].find(['{', '}']).map(|end| &rest[1..=end]);
        let closed = inner.filter(|inner| rest[1 + inner.len()..].starts_with('}'));
        match closed.and_then(|inner| Some((inner, value(inner)?))) {
            Some((inner, value)) => {
                out.push_str(value);
                rest = &rest[inner.len() + 2..];
            }
            None => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

fn lookup(reference: Reference<'_>) -> Option<Cow<'static, str>> {
    let inner = match reference {
        Reference::PreviousOutput => "previous_output".to_owned(),
        Reference::Error => "error".to_owned(),
        Reference::Step(step) => format!("steps.{step}"),
        Reference::Variable(step, variable) => format!("steps.{step}.{variable}"),
        Reference::Argument(name) => name.to_owned(),
    };
    value(&inner).map(Cow::Borrowed)
}

#[test]
fn templates_of_any_text_render_as_the_simple_way_does() {
    fuzz("templates_of_any_text", &corpus(), |input, _| {
        let template = String::from_utf8_lossy(input);

        let rendered = render(&template, LIMIT, lookup);

        let simple = simple(&template);
        if simple.len() > LIMIT {
            assert!(rendered.is_err(), "{} bytes", simple.len());
        } else {
            assert_eq!(rendered.as_deref(), Ok(simple.as_str()));
        }
    });
}

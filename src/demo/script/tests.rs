use serde_json::json;

use super::*;

fn texts(answer: &Answer) -> String {
    let text = |b: &Block| match b {
        Block::Text(pieces) => Some(joined(pieces)),
        _ => None,
    };
    answer.blocks.iter().filter_map(text).collect()
}

fn played(prompt: &str) -> Vec<Answer> {
    answers(&parse(prompt), false)
}

#[test]
fn a_prompt_without_directives_is_repeated() {
    let answers = played("/help me");

    assert_eq!(texts(&answers[0]), "You said: /help me");
    assert_eq!(answers[0].end, End::Turn);
}

#[test]
fn the_default_answer_repeats_only_the_first_characters() {
    let answers = played(&"é".repeat(1000));

    assert_eq!(texts(&answers[0]), format!("You said: {}", "é".repeat(200)));
}

#[test]
fn a_blank_before_the_first_directive_does_not_hide_it() {
    assert_eq!(texts(&played(" ::echo hi")[0]), "hi");
}

#[test]
fn lines_that_are_not_directives_are_left_out() {
    assert_eq!(texts(&played("please\n::echo hi\nthanks")[0]), "hi");
}

#[test]
fn texts_in_a_row_are_one_block_of_one_message() {
    let answers = played("::echo a\n::echo b");

    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].blocks.len(), 1);
    assert_eq!(texts(&answers[0]), "a\nb");
}

#[test]
fn a_tool_ends_the_message_and_the_rest_follows_in_the_next() {
    let answers = played("::echo before\n::bash ls -l | wc\n::echo after");

    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0].end, End::ToolUse);
    assert_eq!(
        answers[0].blocks[1],
        Block::Tool {
            name: "Bash".to_owned(),
            input: json!({"command": "ls -l | wc", "description": "run it"}),
        }
    );
    assert_eq!(texts(&answers[1]), "after");
}

#[test]
fn a_script_that_ends_with_a_tool_says_done() {
    let answers = played("::read /etc/hosts");

    assert_eq!(texts(&answers[1]), "done");
    assert_eq!(texts(&answer_at(&answers, 7)), "done");
}

#[test]
fn text_has_exactly_the_bytes_asked_for_in_small_deltas() {
    let answers = played("::text 1000");

    let Block::Text(pieces) = &answers[0].blocks[0] else {
        panic!("not a text: {answers:?}");
    };
    assert_eq!(joined(pieces).len(), 1000);
    assert!(pieces.iter().all(|p| p.text.len() <= 64));
}

#[test]
fn slow_waits_between_its_deltas() {
    let answers = played("::slow 3 20");

    let Block::Text(pieces) = &answers[0].blocks[0] else {
        panic!("not a text: {answers:?}");
    };
    let pauses: Vec<u64> = pieces.iter().map(|p| p.pause_ms).collect();
    assert_eq!(pauses, [0, 20, 20]);
    assert_eq!(joined(pieces), "tick 1 tick 2 tick 3 ");
}

#[test]
fn json_is_a_tool_call_only_if_the_request_offers_it() {
    let steps = parse("::json {\"a\":1}");

    assert_eq!(texts(&answers(&steps, false)[0]), "{\"a\":1}");
    assert_eq!(
        answers(&steps, true)[0].blocks,
        [Block::Tool {
            name: STRUCTURED_OUTPUT.to_owned(),
            input: json!({"a": 1}),
        }]
    );
}

#[test]
fn an_error_stands_before_the_message_it_belongs_to() {
    let answers = played("::bash true\n::error-times 2 529\n::echo ok");

    assert!(answers[0].faults.is_empty());
    assert_eq!(
        answers[1].faults,
        [Fault {
            kind: FaultKind::Status {
                code: 529,
                retry_after_s: None,
            },
            times: Some(2),
        }]
    );
    assert_eq!(texts(&answers[1]), "ok");
}

#[test]
fn tokens_are_what_the_script_says_or_a_quarter_of_the_lengths() {
    let said = &played("::echo hi\n::tokens 7 9")[0];
    let guessed = &played("::text 400")[0];

    let usage = |input, output| Usage { input, output };
    assert_eq!(said.usage_for(4000), usage(7, 9));
    assert_eq!(guessed.usage_for(4000), usage(1000, 100));
}

#[test]
fn a_slip_in_a_directive_shows_in_the_answer() {
    assert_eq!(
        texts(&played("::slow many")[0]),
        "bad directive: ::slow many"
    );
    assert_eq!(texts(&played("::drop x")[0]), "bad directive: ::drop x");
}

#[test]
fn an_unknown_directive_is_kept_where_it_stood() {
    let answers = played("::echo a\n::exit 3\n::echo b");

    assert_eq!(
        answers[0].blocks[1],
        Block::Other {
            name: "exit".to_owned(),
            rest: "3".to_owned(),
        }
    );
    assert_eq!(answers[0].blocks.len(), 3);
}

#[test]
fn a_stream_that_hangs_says_first_what_stood_before() {
    let answers = played("::echo a\n::hang");

    assert_eq!(texts(&answers[0]), "a");
    assert_eq!(answers[0].end, End::Hang);
}

use std::time::Duration;

use serde_json::{Value, json};

use super::super::protocol::parse;
use super::message::PIECE;
use super::*;
use crate::agent::{TurnEnd, TurnError};

/// A conversation whose lines are given as JSON.
struct Talk {
    conversation: Conversation,
    out: VecDeque<Observation>,
}

fn talk() -> Talk {
    let mut conversation = Conversation::default();
    conversation.in_force.permission_mode = "dontAsk".into();
    conversation.in_force.working_dir = Some("/work".into());
    Talk {
        conversation,
        out: VecDeque::new(),
    }
}

/// With a turn under way whose message is `ours`.
fn in_turn() -> Talk {
    let mut talk = talk();
    talk.conversation.begin("ours");
    talk.hear(init("s1"));
    talk.out.clear();
    talk
}

fn init(session: &str) -> Value {
    json!({"type": "system", "subtype": "init", "session_id": session, "model": "opus",
        "permissionMode": "dontAsk", "cwd": "/work"})
}

fn stream(event: Value) -> Value {
    json!({"type": "stream_event", "event": event})
}

fn text_delta(text: &str) -> Value {
    stream(json!({"type": "content_block_delta", "index": 0,
        "delta": {"type": "text_delta", "text": text}}))
}

fn message_start(id: &str) -> Value {
    stream(
        json!({"type": "message_start", "message": {"id": id, "model": "opus",
        "usage": {"input_tokens": 10, "output_tokens": 1}}}),
    )
}

fn message_delta(reason: &str) -> Value {
    stream(
        json!({"type": "message_delta", "delta": {"stop_reason": reason},
        "usage": {"output_tokens": 5}}),
    )
}

fn assistant(id: &str, content: Value) -> Value {
    json!({"type": "assistant", "message": {"id": id, "model": "opus", "content": content,
        "stop_reason": null, "usage": {"input_tokens": 10, "output_tokens": 1}}})
}

fn text(text: &str) -> Value {
    json!([{"type": "text", "text": text}])
}

fn result(fields: Value) -> Value {
    let mut line = json!({"type": "result", "subtype": "success", "is_error": false,
        "result": "hello", "session_id": "s1", "stop_reason": "end_turn"});
    for (name, value) in fields.as_object().unwrap() {
        line[name] = value.clone();
    }
    line
}

impl Talk {
    fn hear(&mut self, line: Value) {
        let line = parse(line.to_string().as_bytes());
        self.conversation.line(line, &mut self.out);
    }

    fn texts(&self) -> Vec<&str> {
        let texts = self.out.iter().filter_map(|o| match o {
            Observation::TextDelta { text, .. } => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    fn end(&mut self) -> TurnEnd {
        match self.out.pop_back() {
            Some(Observation::TurnEnded(end)) => *end,
            other => panic!("the turn did not end: {other:?}"),
        }
    }
}

#[test]
fn streamed_text_is_told_once() {
    let mut talk = in_turn();

    talk.hear(message_start("m1"));
    talk.hear(text_delta("hel"));
    talk.hear(text_delta("lo"));
    talk.hear(assistant("m1", text("hello")));
    talk.hear(message_delta("end_turn"));
    talk.hear(result(json!({})));

    assert_eq!(talk.texts(), ["hel", "lo"]);
    let end = talk.end();
    assert_eq!((end.output.as_str(), end.turns), ("hello", 1));
    assert_eq!(
        talk.out.pop_back(),
        Some(Observation::Message {
            id: "m1".into(),
            model: "opus".into(),
            stop_reason: "end_turn".into(),
            input_tokens: 10,
            output_tokens: 5,
        })
    );
}

#[test]
fn text_that_comes_whole_is_told_too() {
    let mut talk = in_turn();

    talk.hear(assistant("m1", text("one ")));
    talk.hear(assistant(
        "m1",
        json!([{"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "x"}}]),
    ));
    talk.hear(json!({"type": "user", "message": {"content": [
        {"type": "tool_result", "tool_use_id": "t", "content": "ok"}]}}));
    talk.hear(assistant("m2", text("two")));
    talk.hear(result(json!({})));

    assert_eq!(talk.texts(), ["one ", "two"]);
    assert_eq!(talk.end().turns, 2);
    let reasons: Vec<_> = talk
        .out
        .iter()
        .filter_map(|o| match o {
            Observation::Message { stop_reason, .. } => Some(stop_reason.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(reasons, ["tool_use", "end_turn"]);
}

#[test]
fn a_stream_that_starts_again_voids_its_text() {
    let mut talk = in_turn();

    talk.hear(message_start("m1"));
    talk.hear(text_delta("half"));
    talk.hear(message_start("m2"));
    talk.hear(text_delta("whole"));

    let kinds: Vec<_> = talk
        .out
        .iter()
        .map(|o| matches!(o, Observation::Retrying { .. }))
        .collect();
    assert_eq!(kinds, [false, true, false]);
}

#[test]
fn a_text_that_comes_whole_after_a_lost_stream_replaces_it() {
    let mut talk = in_turn();

    talk.hear(message_start("m1"));
    talk.hear(text_delta("half"));
    talk.hear(assistant("m2", text("whole")));

    assert!(matches!(talk.out[1], Observation::Retrying { .. }));
    assert_eq!(talk.texts(), ["half", "whole"]);
}

#[test]
fn a_long_text_is_split_between_characters() {
    let mut talk = in_turn();
    let long = "é".repeat(100_000);

    talk.hear(message_start("m1"));
    talk.hear(text_delta(&long));

    let texts = talk.texts();
    assert!(texts.len() > 1 && texts.iter().all(|t| t.len() <= PIECE));
    assert_eq!(texts.concat(), long);
}

#[test]
fn a_success_that_is_an_error_is_a_failure() {
    let mut talk = in_turn();

    talk.hear(result(json!({"is_error": true, "api_error_status": 429,
        "terminal_reason": "api_error", "result": "API Error"})));

    let end = talk.end();
    assert_eq!(
        end.error,
        Some(TurnError {
            subtype: "success".into(),
            terminal_reason: "api_error".into(),
            api_status: Some(429),
            message: "API Error".into(),
        })
    );
    assert_eq!(end.output, "");
}

fn totals(dollars: f64, input: i64) -> Value {
    json!({"total_cost_usd": dollars,
        "modelUsage": {"opus": {"inputTokens": input, "costUSD": dollars}}})
}

#[test]
fn cost_is_a_difference_of_running_totals() {
    let mut talk = in_turn();
    talk.hear(result(totals(0.010, 100)));
    let first = talk.end();
    talk.conversation.begin("ours");
    talk.hear(init("s1"));
    talk.hear(result(totals(0.015, 160)));
    let second = talk.end();

    assert_eq!(
        (first.cost, second.cost),
        (Microdollars(10_000), Microdollars(5_000))
    );
    assert_eq!(
        (first.usage[0].input_tokens, second.usage[0].input_tokens),
        (100, 60)
    );
}

#[test]
fn a_resumed_conversation_does_not_pay_its_past_again() {
    let mut talk = in_turn();
    talk.conversation.base.dollars = 0.020;

    talk.hear(result(totals(0.032, 100)));

    assert_eq!(talk.end().cost, Microdollars(12_000));
}

#[test]
fn what_the_cli_itself_tells_of_the_turn_is_believed() {
    let mut talk = in_turn();
    let mut fields = totals(0.5, 1000);
    fields["model_usage_since_last_result"] = json!({"opus": {"inputTokens": 7, "costUSD": 0.001}});

    talk.hear(result(fields));

    let end = talk.end();
    assert_eq!(
        (end.cost, end.usage[0].input_tokens),
        (Microdollars(1_000), 7)
    );
}

#[test]
fn a_turn_that_the_cli_began_is_not_ours() {
    let mut talk = in_turn();

    talk.hear(result(
        json!({"origin": {"kind": "task-notification"}, "total_cost_usd": 0.3}),
    ));
    talk.hear(result(
        json!({"user_message_uuids": ["another"], "total_cost_usd": 0.4}),
    ));
    assert!(talk.out.is_empty());
    talk.hear(result(
        json!({"user_message_uuids": ["ours"], "total_cost_usd": 0.5}),
    ));

    assert_eq!(talk.end().cost, Microdollars(100_000));
    assert!(talk.conversation.unclean().is_some());
}

#[test]
fn a_result_out_of_nowhere_is_nobodys() {
    let mut talk = in_turn();
    talk.hear(result(json!({})));
    talk.out.clear();

    talk.hear(result(json!({})));

    assert!(talk.out.is_empty() && talk.conversation.unclean().is_some());
}

#[test]
fn a_turn_under_other_settings_than_dialled_is_a_violation() {
    for (field, value) in [
        ("model", "haiku"),
        ("permissionMode", "bypassPermissions"),
        ("cwd", "/elsewhere"),
    ] {
        let mut talk = talk();
        talk.conversation.in_force.model = Some("opus".into());
        talk.conversation.begin("ours");
        let mut init = init("s1");
        init[field] = json!(value);

        talk.hear(init);

        assert!(matches!(talk.out[0], Observation::Violation(_)), "{field}");
    }
}

#[test]
fn a_rate_limit_is_told_beside_the_retry() {
    let mut talk = in_turn();

    talk.hear(
        json!({"type": "system", "subtype": "api_retry", "attempt": 1, "max_retries": 10,
        "retry_delay_ms": 1134, "error_status": 429, "error": "rate_limit"}),
    );
    talk.hear(
        json!({"type": "rate_limit_event", "rate_limit_info": {"status": "rejected",
        "resetsAt": 1_795_512_000, "rateLimitType": "five_hour"}}),
    );
    talk.hear(json!({"type": "rate_limit_event", "rate_limit_info": {"status": "allowed"}}));

    assert!(matches!(
        talk.out[0],
        Observation::Retrying { retry: 1, delay, .. } if delay == Duration::from_millis(1134)
    ));
    assert!(matches!(
        talk.out[1],
        Observation::RateLimited {
            resets_at: None,
            ..
        }
    ));
    let Observation::RateLimited { resets_at, .. } = &talk.out[2] else {
        panic!("{:?}", talk.out[2]);
    };
    assert_eq!((*resets_at, talk.out.len()), (Some(1_795_512_000), 3));
}

#[test]
fn the_clis_own_words_about_a_failure_are_no_answer() {
    let mut talk = in_turn();
    let mut line = assistant("e", text("API Error: 500"));
    line["message"]["model"] = json!("<synthetic>");

    talk.hear(line);

    assert!(talk.out.is_empty());
}

/// The lines of a reset, as far as they are wanted.
fn reset(talk: &mut Talk, change: impl Fn(&mut Vec<Value>)) -> Result<(), String> {
    let mut lines = vec![
        json!({"type": "conversation_reset"}),
        json!({"type": "system", "subtype": "background_tasks_changed", "tasks": []}),
        init("s2"),
        result(json!({"local_command": "clear", "session_id": "s2", "total_cost_usd": 0})),
    ];
    change(&mut lines);
    talk.conversation.begin_reset("clear");
    for line in lines {
        talk.hear(line);
    }
    talk.conversation.reset_result().expect("the reset is over")
}

fn after_a_turn() -> Talk {
    let mut talk = in_turn();
    talk.hear(result(totals(0.010, 100)));
    talk
}

#[test]
fn a_confirmed_reset_starts_the_totals_again() {
    let mut talk = after_a_turn();

    assert_eq!(reset(&mut talk, |_| {}), Ok(()));

    talk.conversation.begin("ours");
    talk.hear(init("s2"));
    talk.hear(result(totals(0.004, 30)));
    assert_eq!(talk.end().cost, Microdollars(4_000));
    assert_eq!(talk.conversation.unclean(), None);
}

#[test]
fn a_reset_with_any_doubt_is_none() {
    type Doubt = (&'static str, fn(&mut Vec<Value>));
    let doubts: [Doubt; 9] = [
        ("not confirmed", |lines| drop(lines.remove(0))),
        ("background tasks not told", |lines| drop(lines.remove(1))),
        ("background tasks left", |lines| {
            lines[1]["tasks"] = json!([{"task_id": "b"}])
        }),
        ("no new conversation", |lines| drop(lines.remove(2))),
        ("the old conversation", |lines| {
            lines[2] = init("s1");
            lines[3]["session_id"] = json!("s1");
        }),
        ("another model", |lines| lines[2]["model"] = json!("haiku")),
        ("another mode", |lines| {
            lines[2]["permissionMode"] = json!("plan")
        }),
        ("another directory", |lines| {
            lines[2]["cwd"] = json!("/work/sub")
        }),
        ("not run", |lines| lines[3]["local_command"] = Value::Null),
    ];

    for (doubt, change) in doubts {
        let mut talk = after_a_turn();
        assert!(reset(&mut talk, change).is_err(), "{doubt}");
        assert!(talk.conversation.unclean().is_some(), "{doubt}");
    }
}

#[test]
fn what_outlives_a_reset_makes_the_process_unclean() {
    let tool = |name: &str, input: Value| {
        assistant(
            "m",
            json!([{"type": "tool_use", "id": "t", "name": name, "input": input}]),
        )
    };
    let lasting = [
        tool("CronCreate", json!({})),
        tool("mcp__files__write", json!({})),
        tool("SomethingNew", json!({})),
        tool("Bash", json!({"command": "x", "run_in_background": true})),
        json!({"type": "system", "subtype": "background_tasks_changed", "tasks": [{}]}),
        json!({"type": "system", "subtype": "status", "permissionMode": "plan"}),
        json!({"type": "system", "subtype": "model_fallback"}),
        json!({"type": "command_lifecycle", "state": "started", "wakeup_source": "x"}),
        json!({"type": "conversation_reset"}),
        json!(["noise"]),
    ];

    for line in lasting {
        let mut talk = in_turn();
        talk.hear(line.clone());
        assert!(talk.conversation.unclean().is_some(), "{line}");
    }
    let mut talk = in_turn();
    talk.hear(tool(
        "Bash",
        json!({"command": "x", "run_in_background": false}),
    ));
    assert_eq!(talk.conversation.unclean(), None);
}

#[test]
fn only_a_tool_or_a_turn_that_failed_may_have_left_processes() {
    let end = |is_error: bool| {
        json!({"type": "result", "subtype": if is_error { "error_during_execution" } else { "success" },
            "is_error": is_error, "session_id": "s1", "total_cost_usd": 0.1, "usage": {}})
    };
    let mut plain = in_turn();
    plain.hear(text_delta("hello"));
    plain.hear(end(false));
    assert!(!plain.conversation.may_have_children());

    let mut with_tool = in_turn();
    with_tool.hear(
        json!({"type": "assistant", "message": {"id": "m", "content": [
        {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "sleep 9 &"}}]}}),
    );
    with_tool.hear(end(false));
    assert!(with_tool.conversation.may_have_children());

    let mut interrupted = in_turn();
    interrupted.hear(end(true));
    assert!(interrupted.conversation.may_have_children());
}

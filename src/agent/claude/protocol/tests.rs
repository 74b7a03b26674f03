use proptest::prelude::*;
use serde_json::json;

use super::*;

fn line(value: serde_json::Value) -> Line {
    parse(value.to_string().as_bytes())
}

#[test]
fn unknown_types_and_fields_pass_by() {
    for unknown in [
        json!({}),
        json!({"type": "brand_new", "payload": [1, 2]}),
        json!({"type": "system", "subtype": "brand_new"}),
        json!({"type": "system", "subtype": "ui_invalidate", "event": "ui.render"}),
        json!({"type": "command_lifecycle", "state": "queued", "command_uuid": "u"}),
        json!({"type": 7}),
    ] {
        assert_eq!(line(unknown.clone()), Line::Other, "{unknown}");
    }
}

#[test]
fn a_field_of_another_type_counts_as_absent() {
    let Line::Outcome(outcome) = line(json!({
        "type": "result", "subtype": "success", "is_error": "no", "result": 7,
        "usage": "none", "modelUsage": [], "total_cost_usd": "a lot", "api_error_status": "x",
        "permission_denials": {"a": 1}, "user_message_uuids": [1, "ours"], "origin": "me",
    })) else {
        panic!("a result is a result");
    };

    assert_eq!(
        *outcome,
        Outcome {
            subtype: "success".into(),
            messages: vec!["ours".into()],
            ..Outcome::default()
        }
    );
}

#[test]
fn half_a_surrogate_pair_does_not_lose_the_line() {
    let cut = br#"{"type":"user","message":{"content":[{"type":"tool_result",
        "tool_use_id":"t","content":"a\ud83d b\ude00 \ud83d\ude00 \\ud83d"}]}}"#;

    let Line::ToolResults(results) = parse(cut) else {
        panic!("the line is readable");
    };

    assert_eq!(results[0].output, "a\u{FFFD} b\u{FFFD} \u{1F600} \\ud83d");
}

#[test]
fn invalid_utf_8_is_replaced() {
    let parsed = parse(b"{\"type\":\"result\",\"result\":\"a\xff\xfeb\"}");

    assert!(matches!(parsed, Line::Outcome(o) if o.text == "a\u{FFFD}\u{FFFD}b"));
}

#[test]
fn stray_text_is_told_from_a_broken_line() {
    for noise in [
        &b"warning: something"[..],
        b"[1]",
        b"\"text\"",
        b"\xff\xfe\x00",
    ] {
        assert_eq!(parse(noise), Line::Noise);
    }
    for broken in [&b"{\"type\":\"resu"[..], b" {", b"{\"a\":1}{\"b\":2}"] {
        assert_eq!(parse(broken), Line::Broken);
    }
    let deep = [vec![b'{'; 1], vec![b'['; 100_000]].concat();
    assert_eq!(parse(&deep), Line::Broken);
}

#[test]
fn a_tools_blocks_are_told_by_their_text_or_their_kind() {
    let Line::ToolResults(results) = line(json!({"type": "user", "message": {"content": [
        {"type": "tool_result", "tool_use_id": "t", "is_error": true, "content": [
            {"type": "text", "text": "one"}, {"type": "image", "source": {}},
        ]},
    ]}})) else {
        panic!("tool results");
    };

    assert_eq!(results[0].output, "one\n[image]");
    assert!(results[0].is_error);
}

#[test]
fn tokens_read_count_the_cached_ones() {
    let parsed = line(
        json!({"type": "stream_event", "event": {"type": "message_start",
        "message": {"id": "m", "model": "x", "usage": {"input_tokens": 1,
            "cache_read_input_tokens": 20, "cache_creation_input_tokens": 300,
            "output_tokens": 4}}}}),
    );

    let usage = Tokens {
        input: Some(321),
        output: Some(4),
    };
    let (id, model) = ("m".into(), "x".into());
    assert_eq!(
        parsed,
        Line::Stream(Stream::MessageStart { id, model, usage }, String::new())
    );
}

#[test]
fn a_reset_time_in_milliseconds_is_recognised() {
    for at in [1_795_512_000_i64, 1_795_512_000_123] {
        let parsed = line(json!({"type": "rate_limit_event", "rate_limit_info": {
            "status": "rejected", "resetsAt": at, "rateLimitType": "five_hour"}}));

        let limit = RateLimit {
            rejected: true,
            resets_at: Some(1_795_512_000),
            kind: "five_hour".into(),
        };
        assert_eq!(parsed, Line::RateLimit(limit));
    }
}

const RESULT: &str = r#"{"type":"result","subtype":"success","is_error":false,"result":"é\ud83d\ude00",
"total_cost_usd":0.01,"modelUsage":{"m":{"inputTokens":1,"costUSD":0.01}},"errors":["x"]}"#;

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        parse(&bytes);
    }

    #[test]
    fn no_damage_to_a_line_makes_it_panic(at in 0..RESULT.len(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = RESULT.as_bytes().to_vec();
        bytes[at] = byte;
        if cut { bytes.truncate(at); }
        parse(&bytes);
    }

    #[test]
    fn no_escapes_make_it_panic(text in "(\\\\u[dD][89a-fA-F][0-9]{2}|\\\\|\\\\u|é|x|\\\\u00e9)*") {
        parse(format!("{{\"type\":\"result\",\"result\":\"{text}\"}}").as_bytes());
    }
}

#[test]
fn numbers_beyond_all_counting_do_not_overflow() {
    let line = br#"{"type":"stream_event","event":{"type":"message_delta","usage":{
        "input_tokens":9223372036854775807,"cache_read_input_tokens":1e308}}}"#;

    let Line::Stream(Stream::MessageDelta { usage, .. }, _) = parse(line) else {
        panic!("a message's end");
    };

    assert!(usage.input.is_some_and(|input| input > 0));
}

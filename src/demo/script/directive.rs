//! One line of a script.

use serde_json::{Value, json};

use super::{End, Fault, FaultKind, Piece, Step, Usage, filler, piece};

/// The step of a line, without its `::`.
pub(super) fn read(line: &str) -> Step {
    let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
    let words: Vec<&str> = rest.split_whitespace().collect();
    let step = match name.trim_end() {
        "echo" => Some(Step::Text(vec![piece(rest.to_owned())])),
        "text" => words
            .first()
            .and_then(|n| n.parse().ok())
            .map(|n| Step::Text(filler(n))),
        "slow" => slow(&words),
        "think" => Some(Step::Think(rest.to_owned())),
        "bash" => Some(tool(
            "Bash",
            json!({"command": rest, "description": "run it"}),
        )),
        "read" => Some(tool("Read", json!({"file_path": rest.trim()}))),
        "write" => {
            let (path, content) = rest.split_once(' ').unwrap_or((rest, ""));
            Some(tool(
                "Write",
                json!({"file_path": path, "content": content}),
            ))
        }
        "tool" => any_tool(rest),
        "json" => serde_json::from_str(rest).ok().map(Step::Json),
        "error" => words.first().and_then(|s| s.parse().ok()).map(|code| {
            let retry_after_s = words.get(1).and_then(|s| s.parse().ok());
            let kind = FaultKind::Status {
                code,
                retry_after_s,
            };
            Step::Fault(Fault { kind, times: None })
        }),
        "error-times" => error_times(&words),
        "limit" => Some(always(FaultKind::Limit)),
        "silent" => Some(always(FaultKind::Silent)),
        "refuse" => Some(Step::End(End::Refusal)),
        "hang" => Some(Step::End(End::Hang)),
        "drop" => times(&words).map(|times| Step::End(End::Drop { times })),
        "model-error" => times(&words).map(|times| Step::End(End::Overloaded { times })),
        "tokens" => tokens(&words),
        name => Some(Step::Other {
            name: name.to_owned(),
            rest: rest.to_owned(),
        }),
    };
    // A slip in a script shows in the answer instead of being guessed at.
    step.unwrap_or_else(|| Step::Text(vec![piece(format!("bad directive: ::{line}"))]))
}

fn always(kind: FaultKind) -> Step {
    Step::Fault(Fault { kind, times: None })
}

fn tool(name: &str, input: Value) -> Step {
    Step::Tool {
        name: name.to_owned(),
        input,
    }
}

fn any_tool(rest: &str) -> Option<Step> {
    let (name, input) = rest.split_once(' ').unwrap_or((rest, "{}"));
    let input: Value = serde_json::from_str(input).ok()?;
    (!name.is_empty()).then(|| tool(name, input))
}

/// No word: every time. `None`: not a number.
fn times(words: &[&str]) -> Option<Option<u32>> {
    words
        .first()
        .map(|n| n.parse().ok())
        .map_or(Some(None), |n: Option<u32>| n.map(Some))
}

fn error_times(words: &[&str]) -> Option<Step> {
    let [times, code, ..] = words else {
        return None;
    };
    Some(Step::Fault(Fault {
        kind: FaultKind::Status {
            code: code.parse().ok()?,
            retry_after_s: words.get(2).and_then(|s| s.parse().ok()),
        },
        times: Some(times.parse().ok()?),
    }))
}

fn tokens(words: &[&str]) -> Option<Step> {
    let [input, output] = words else { return None };
    Some(Step::Tokens(Usage {
        input: input.parse().ok()?,
        output: output.parse().ok()?,
    }))
}

fn slow(words: &[&str]) -> Option<Step> {
    let [count, pause] = words else { return None };
    let count: u32 = count.parse().ok()?;
    let pause_ms: u64 = pause.parse().ok()?;
    let tick = |n| Piece {
        text: format!("tick {n} "),
        pause_ms: if n == 1 { 0 } else { pause_ms },
    };
    Some(Step::Text((1..=count.min(1_000_000)).map(tick).collect()))
}

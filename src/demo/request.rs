//! What a request asks for, found among all that the CLI puts around it. Pure.

use serde_json::Value;

use super::script::STRUCTURED_OUTPUT;

/// The place of a request in the turn of its prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The last text that a user really wrote.
    pub prompt: String,
    /// How many messages of the assistant follow it.
    pub answered: usize,
}

/// Finds the prompt. A request without one has an empty prompt.
pub fn asked(body: &Value) -> Asked {
    let mut answered = 0;
    let messages = body["messages"].as_array().map_or(&[][..], Vec::as_slice);
    for message in messages.iter().rev() {
        match message["role"].as_str() {
            Some("assistant") => answered += 1,
            Some("user") => {
                if let Some(prompt) = prompt_of(&message["content"]) {
                    return Asked {
                        prompt: prompt.to_owned(),
                        answered,
                    };
                }
            }
            _ => {}
        }
    }
    Asked {
        prompt: String::new(),
        answered,
    }
}

/// Whether the request offers the tool for structured output.
pub fn offers_structured_output(body: &Value) -> bool {
    let tools = body["tools"].as_array().map_or(&[][..], Vec::as_slice);
    tools.iter().any(|tool| tool["name"] == STRUCTURED_OUTPUT)
}

fn prompt_of(content: &Value) -> Option<&str> {
    match content {
        Value::String(text) => Some(text.as_str()).filter(|text| written_by_a_user(text)),
        Value::Array(blocks) => blocks
            .iter()
            .rev()
            .filter(|block| block["type"] == "text")
            .filter_map(|block| block["text"].as_str())
            .find(|text| written_by_a_user(text)),
        _ => None,
    }
}

/// The CLI adds texts of its own to the user's messages; each opens with a mark.
fn written_by_a_user(text: &str) -> bool {
    const MARKS: [&str; 8] = [
        "<system-reminder>",
        "<local-command-",
        "<command-name>",
        "<bash-",
        "[Request interrupted by user",
        "[structured-output-enforce]",
        "Your response above was stopped by a safety classifier",
        "Caveat: The messages below",
    ];
    let text = text.trim_start();
    !text.is_empty() && !MARKS.iter().any(|mark| text.starts_with(mark))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(text: &str) -> Value {
        json!({"type": "text", "text": text})
    }

    #[test]
    fn the_prompt_is_found_among_reminders() {
        let body = json!({"messages": [
            {"role": "user", "content": [text("<system-reminder>\nx"), text("::echo hi")]},
            {"role": "system", "content": [text("# Environment")]},
        ]});

        assert_eq!(
            asked(&body),
            Asked {
                prompt: "::echo hi".to_owned(),
                answered: 0
            }
        );
    }

    #[test]
    fn a_tool_result_is_no_prompt_and_its_call_counts_as_answered() {
        let body = json!({"messages": [
            {"role": "user", "content": "::bash true"},
            {"role": "assistant", "content": [{"type": "tool_use", "name": "Bash"}]},
            {"role": "user", "content": [
                {"type": "tool_result", "content": "ok"}, text("<system-reminder>x"),
            ]},
        ]});

        assert_eq!(
            asked(&body),
            Asked {
                prompt: "::bash true".to_owned(),
                answered: 1
            }
        );
    }

    #[test]
    fn a_prompt_after_an_interrupt_is_the_one_that_counts() {
        let body = json!({"messages": [
            {"role": "user", "content": "::bash true"},
            {"role": "assistant", "content": [{"type": "tool_use", "name": "Bash"}]},
            {"role": "user", "content": [
                {"type": "tool_result", "content": "rejected"},
                text("[Request interrupted by user for tool use]"),
                text("::echo again"),
            ]},
        ]});

        assert_eq!(
            asked(&body),
            Asked {
                prompt: "::echo again".to_owned(),
                answered: 0
            }
        );
    }

    #[test]
    fn a_nudge_for_structured_output_goes_on_with_the_same_prompt() {
        let body = json!({"messages": [
            {"role": "user", "content": "::echo hi"},
            {"role": "assistant", "content": [text("hi")]},
            {"role": "user", "content": [text("[structured-output-enforce] You MUST")]},
        ]});

        assert_eq!(
            asked(&body),
            Asked {
                prompt: "::echo hi".to_owned(),
                answered: 1
            }
        );
    }
}

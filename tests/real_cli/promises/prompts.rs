//! A prompt is data: it arrives at the model as it is, and the slot is what it
//! was.

use serde_json::Value;

use super::{idle, one_slot, succeed};
use crate::support::prompt;

/// The messages of a request without the one text that is the prompt.
fn without(request: &Value, prompt: &str) -> Value {
    let mut messages = request["messages"].clone();
    let blocks = messages.as_array_mut().expect("a request has them");
    let texts = blocks
        .iter_mut()
        .filter_map(|message| message["content"].as_array_mut())
        .flatten()
        .map(|block| &mut block["text"]);
    let mut prompts: Vec<_> = texts.filter(|text| **text == prompt).collect();
    let start: String = prompt.chars().take(40).collect();
    assert_eq!(prompts.len(), 1, "{start:?} arrives as it is");
    *prompts[0] = Value::Null;
    messages
}

/// Runs each prompt and asks, after each, whether the slot is what it was.
async fn arrive_as_they_are(prompts: Vec<String>) {
    let mut server = one_slot(|_| {}).await;
    // What a process is sent after a reset, which leaves a mark of its own.
    succeed(&mut server, prompt("::echo first")).await;
    let usual = succeed(&mut server, prompt("::echo usual")).await;
    let slot = idle(&mut server).await;
    for text in prompts {
        let start: String = text.chars().take(40).collect();

        let ran = succeed(&mut server, prompt(&text)).await;

        assert_eq!(ran.requests.len(), 1, "{start:?}");
        // What would be a command is made none by a blank before it.
        let blank = if text.starts_with('/') { " " } else { "" };
        let sent = without(ran.request(), &format!("{blank}{text}"));
        assert_eq!(sent, without(usual.request(), "::echo usual"), "{start:?}");
        let now = idle(&mut server).await;
        assert_eq!(
            (now.pid, now.launches),
            (slot.pid, slot.launches),
            "{start:?}"
        );
        let next = succeed(&mut server, prompt("::echo usual")).await;
        for part in ["model", "tools", "output_config", "messages"] {
            assert_eq!(next.request()[part], usual.request()[part], "{start:?}");
        }
    }
}

#[tokio::test]
async fn a_prompt_that_looks_like_a_command_is_text() {
    let prompts = [
        "/clear",
        "/model haiku",
        "/compact",
        " /clear",
        "first this\n/clear",
        "first this\n\n/model haiku",
        "!ls",
        "#remember",
    ];
    arrive_as_they_are(prompts.map(String::from).to_vec()).await;
}

#[tokio::test]
async fn a_prompt_that_names_a_file_does_not_read_it() {
    let prompts = [
        "@/etc/hostname",
        "look at @/etc/hostname",
        "look at this\n@\"/etc/hostname\"",
        "/clear @/etc/hostname",
    ];
    arrive_as_they_are(prompts.map(String::from).to_vec()).await;
}

#[tokio::test]
async fn a_prompt_of_odd_characters_or_great_length_is_text() {
    let words = "a word, another, \"quoted\" \u{1f980}\n".repeat(1 << 15 | 1 << 13);
    arrive_as_they_are(vec![
        "a nul\0in the middle".into(),
        "a line\u{2028}and another\u{2029}one".into(),
        "\u{feff}marked".into(),
        "back\u{8}space and \u{1b}[31mred".into(),
        words[..1 << 20].into(),
        format!("/clear {}", &words[..1 << 20]),
    ])
    .await;
}

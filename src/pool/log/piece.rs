//! No entry of a log is long, whatever a process says. Pure.

use super::{cut, floor};
use crate::pb;
use crate::pb::event::Kind;

/// Longest id, name or sentence in an entry.
const WORD_BYTES_MAX: usize = 1024;

/// Whether it tells of the task's state, so that it is kept when the log is
/// full.
pub(super) fn changes_state(kind: &Kind) -> bool {
    match kind {
        Kind::Queued(_)
        | Kind::Requeued(_)
        | Kind::Started(_)
        | Kind::Cancelling(_)
        | Kind::LogTruncated(_)
        | Kind::RateLimited(_)
        | Kind::Retrying(_)
        | Kind::StepStarted(_)
        | Kind::StepFinished(_)
        | Kind::Finished(_) => true,
        Kind::TextDelta(_)
        | Kind::ThinkingDelta(_)
        | Kind::ToolUse(_)
        | Kind::ToolResult(_)
        | Kind::Message(_)
        | Kind::Usage(_) => false,
    }
}

/// The same in entries of at most about `max` bytes: texts are split, the rest
/// is cut.
pub(super) fn pieces(kind: Kind, max: usize) -> Vec<Kind> {
    let word = |text: &mut String| *text = cut(std::mem::take(text), WORD_BYTES_MAX).0;
    let mut kind = kind;
    match &mut kind {
        Kind::TextDelta(delta) => {
            word(&mut delta.parent_tool_use_id);
            let texts = split(&delta.text, max);
            return texts
                .map(|text| {
                    Kind::TextDelta(pb::TextDelta {
                        text,
                        parent_tool_use_id: delta.parent_tool_use_id.clone(),
                    })
                })
                .collect();
        }
        Kind::ThinkingDelta(delta) => {
            word(&mut delta.parent_tool_use_id);
            let texts = split(&delta.text, max);
            return texts
                .map(|text| {
                    Kind::ThinkingDelta(pb::ThinkingDelta {
                        text,
                        parent_tool_use_id: delta.parent_tool_use_id.clone(),
                    })
                })
                .collect();
        }
        Kind::ToolUse(tool) => {
            word(&mut tool.tool_use_id);
            word(&mut tool.name);
            word(&mut tool.parent_tool_use_id);
        }
        Kind::ToolResult(tool) => word(&mut tool.tool_use_id),
        Kind::Message(message) => {
            word(&mut message.message_id);
            word(&mut message.model);
            word(&mut message.stop_reason);
        }
        Kind::RateLimited(limit) => word(&mut limit.message),
        Kind::Retrying(retry) => word(&mut retry.error),
        // Not said by a process.
        Kind::Queued(_)
        | Kind::Requeued(_)
        | Kind::Started(_)
        | Kind::Cancelling(_)
        | Kind::LogTruncated(_)
        | Kind::Usage(_)
        | Kind::StepStarted(_)
        | Kind::StepFinished(_)
        | Kind::Finished(_) => {}
    }
    vec![kind]
}

/// A text in pieces that end between characters.
fn split(text: &str, max: usize) -> impl Iterator<Item = String> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at_checked(floor(rest, max))?;
        rest = after;
        (!piece.is_empty()).then(|| piece.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn whatever_a_process_says_no_entry_is_long_and_no_text_is_lost() {
        const MAX: usize = 64 * 1024;
        let long = "é".repeat(100_000);
        let id = || long.clone();
        for kind in [
            Kind::TextDelta(pb::TextDelta {
                text: long.clone(),
                parent_tool_use_id: id(),
            }),
            Kind::ThinkingDelta(pb::ThinkingDelta {
                text: long.clone(),
                parent_tool_use_id: id(),
            }),
            Kind::ToolUse(pb::ToolUse {
                tool_use_id: id(),
                name: id(),
                parent_tool_use_id: id(),
                ..pb::ToolUse::default()
            }),
            Kind::ToolResult(pb::ToolResult {
                tool_use_id: id(),
                ..pb::ToolResult::default()
            }),
            Kind::Message(pb::MessageFinished {
                message_id: id(),
                model: id(),
                stop_reason: id(),
                ..pb::MessageFinished::default()
            }),
            Kind::RateLimited(pb::RateLimited {
                message: id(),
                ..pb::RateLimited::default()
            }),
            Kind::Retrying(pb::Retrying {
                error: id(),
                ..pb::Retrying::default()
            }),
        ] {
            let is_text = matches!(kind, Kind::TextDelta(_) | Kind::ThinkingDelta(_));
            let mut text = String::new();
            for piece in pieces(kind, MAX) {
                if let Kind::TextDelta(pb::TextDelta { text: next, .. })
                | Kind::ThinkingDelta(pb::ThinkingDelta { text: next, .. }) = &piece
                {
                    text.push_str(next);
                }
                let event = pb::Event {
                    kind: Some(piece),
                    ..pb::Event::default()
                };
                assert!(event.encoded_len() < MAX + 4 * WORD_BYTES_MAX);
            }
            assert!(!is_text || text == long);
        }
    }
}

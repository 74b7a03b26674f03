//! What the agent says, as its task's log has it.

use std::time::Duration;

use super::DENIALS_MAX;
use crate::agent::Observation;
use crate::clock::Timestamp;
use crate::pb;
use crate::pb::event::Kind;
use crate::pool::log::cut_piece;

/// What an observation leaves in the log; `None`: nothing.
pub fn log_entry(said: Observation, now: Timestamp) -> Option<Kind> {
    Some(match said {
        Observation::TextDelta {
            text,
            parent_tool_use_id,
        } => Kind::TextDelta(pb::TextDelta {
            text,
            parent_tool_use_id,
        }),
        Observation::ThinkingDelta {
            text,
            parent_tool_use_id,
        } => Kind::ThinkingDelta(pb::ThinkingDelta {
            text,
            parent_tool_use_id,
        }),
        Observation::ToolUse {
            id,
            name,
            input_json,
            parent_tool_use_id,
        } => {
            let (input_json, input_truncated) = cut_piece(input_json);
            Kind::ToolUse(pb::ToolUse {
                tool_use_id: id,
                name,
                input_json,
                input_truncated,
                parent_tool_use_id,
            })
        }
        Observation::ToolResult {
            id,
            is_error,
            output,
        } => {
            let (output, output_truncated) = cut_piece(output);
            Kind::ToolResult(pb::ToolResult {
                tool_use_id: id,
                is_error,
                output,
                output_truncated,
            })
        }
        Observation::Message {
            id,
            model,
            stop_reason,
            input_tokens,
            output_tokens,
        } => Kind::Message(pb::MessageFinished {
            message_id: id,
            model,
            stop_reason,
            input_tokens,
            output_tokens,
        }),
        Observation::Retrying {
            retry,
            max_retries,
            delay,
            api_status,
            error,
        } => Kind::Retrying(pb::Retrying {
            retry,
            max_retries,
            delay: prost_types::Duration::try_from(delay).ok(),
            api_status,
            error,
        }),
        Observation::RateLimited { resets_at, message } => Kind::RateLimited(pb::RateLimited {
            until: Some(
                resets_at
                    .map_or(now.after(Duration::from_secs(60)), |seconds| {
                        Timestamp(seconds.saturating_mul(1_000_000))
                    })
                    .to_proto(),
            ),
            estimated: resets_at.is_none(),
            message,
        }),
        Observation::Cost(spent) => Kind::Usage(pb::UsageUpdate {
            cost_microdollars: spent.cost.0,
            usage: spent.usage.into_iter().take(DENIALS_MAX).collect(),
        }),
        Observation::TurnStarted { .. }
        | Observation::TurnEnded(_)
        | Observation::ProcessEnded(_)
        | Observation::Violation(_)
        | Observation::Alive => return None,
    })
}

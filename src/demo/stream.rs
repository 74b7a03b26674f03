//! A message as a stream of events, with its pauses and its breaks.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::script::{Answer, End, Usage};
use super::standin::response;
use super::wire;

/// Wait before a connection is cut, so that what was sent before gets out.
const CUT_PAUSE_MS: u64 = 20;

/// What is sent next on a stream.
enum Frame {
    Chunk { text: String, pause_ms: u64 },
    Hang,
    Cut,
}

/// The stream of `answer` as message `id`.
pub(super) fn message(
    id: &str,
    model: &str,
    answer: &Answer,
    usage: Usage,
    stop: CancellationToken,
) -> Response {
    let chunk = |event: &Value, pause_ms| Frame::Chunk {
        text: wire::sse(event),
        pause_ms,
    };
    let mut frames = VecDeque::from([chunk(&wire::message_start(id, model, usage), 0)]);
    let cut_short = matches!(
        answer.end,
        End::Hang | End::Drop { .. } | End::Overloaded { .. }
    );
    let last = answer.blocks.len().checked_sub(1);
    for (index, block) in answer.blocks.iter().enumerate() {
        let mut timed = wire::block_events(index, block, &wire::tool_id(id, index));
        if cut_short && Some(index) == last {
            timed.pop();
        }
        frames.extend(timed.iter().map(|t| chunk(&t.event, t.pause_ms)));
    }
    match answer.end {
        End::Turn | End::ToolUse | End::Refusal => {
            frames.extend(
                wire::message_end(answer.end, usage)
                    .iter()
                    .map(|e| chunk(e, 0)),
            );
        }
        End::Hang => frames.push_back(Frame::Hang),
        End::Drop { .. } => frames.push_back(Frame::Cut),
        End::Overloaded { .. } => {
            frames.push_back(chunk(&wire::error("overloaded_error", "Overloaded"), 0));
        }
    }
    events(frames, stop)
}

/// A stream that breaks off before its first event.
pub(super) fn cut(stop: CancellationToken) -> Response {
    events(VecDeque::from([Frame::Cut]), stop)
}

fn events(frames: VecDeque<Frame>, stop: CancellationToken) -> Response {
    let stream = futures_util::stream::unfold((frames, stop), |(mut frames, stop)| async move {
        let cut = || Err(io::Error::from(io::ErrorKind::ConnectionReset));
        let item = match frames.pop_front()? {
            Frame::Chunk { text, pause_ms: 0 } => Ok(text),
            Frame::Chunk { text, pause_ms } => {
                let pause = tokio::time::sleep(Duration::from_millis(pause_ms));
                match stop.run_until_cancelled(pause).await {
                    Some(()) => Ok(text),
                    None => cut(),
                }
            }
            Frame::Hang => {
                stop.cancelled().await;
                cut()
            }
            Frame::Cut => {
                tokio::time::sleep(Duration::from_millis(CUT_PAUSE_MS)).await;
                cut()
            }
        };
        if item.is_err() {
            frames.clear();
        }
        Some((item, (frames, stop)))
    });
    response(200, "text/event-stream", Body::from_stream(stream))
}

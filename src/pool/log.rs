//! What an attempt says, on its way to the task's log.
//!
//! One append is under way at a time; what arrives meanwhile joins the next.
//! While somebody reads there is no timer: on a fast disk every piece is its own
//! append, on a slow one they gather. While nobody does they wait a moment for
//! more, since each append is a commit; the end takes along what still waits.
//! An append that fails is made again, in its order, when the store answers:
//! nothing is left out, and what may not wait in memory is not read from the
//! agent.

mod pen;
mod piece;

use std::future::pending;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use self::pen::Pen;
use self::piece::{changes_state, pieces};
use super::inner::Inner;
use crate::money::Microdollars;
use crate::pb;
use crate::pb::event::Kind;
use crate::store::{Committed, Fence, Note, SessionNote, StoreError};
use crate::task::Task;

/// Bytes that may wait for the append under way; above it the agent is not read.
const PENDING_BYTES_MAX: usize = 1024 * 1024;
/// How long entries that nobody waits for may gather, and how many bytes.
const GATHER: Duration = Duration::from_millis(100);
const GATHER_BYTES_MAX: usize = 64 * 1024;
/// Longest text of one event, in bytes.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a stored entry besides its kind, at most: sequence and time.
const ENTRY_BYTES: u64 = 32;
/// Bytes kept free beyond the limit of a log for what changes the state: a
/// process that announces retries for ever must not fill the disk either.
const RESERVE_BYTES: u64 = 256 * 1024;

type Append = BoxFuture<'static, Result<Committed, StoreError>>;

/// The pen of one attempt.
pub(super) struct Log {
    fence: Fence,
    pending: Vec<Kind>,
    pending_bytes: usize,
    note: Note,
    under_way: Option<Append>,
    /// Since when the oldest entry waits.
    waits_since: Option<Instant>,
    size: Size,
    /// Sequence of the last entry that is known to be written.
    last: u64,
    /// Whether something will not be written any more.
    broken: bool,
}

/// How long a task's log is and may be, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    written: u64,
    limit: u64,
    /// Whether the reader was told that the rest is missing.
    truncated: bool,
}

impl Size {
    /// Of a claimed task's log, before its attempt says anything.
    pub async fn of(inner: &Inner, task: &Task) -> Self {
        let written = match task.attempt {
            // It holds its making and the claim.
            0 | 1 => 0,
            _ => inner
                .store
                .log_bytes(task.id)
                .await
                .unwrap_or_else(|error| {
                    warn!(?error, "the length of a log cannot be read");
                    0
                }),
        };
        Self {
            written,
            limit: inner.options.log_bytes_max,
            truncated: false,
        }
    }

    /// Whether an entry still fits; it is counted if it does.
    fn admits(&mut self, kind: &Kind) -> bool {
        let limit = match changes_state(kind) {
            true => self.limit.saturating_add(RESERVE_BYTES),
            false if self.truncated => return false,
            false => self.limit,
        };
        let length = self.written + kind.encoded_len() as u64 + ENTRY_BYTES;
        let fits = length <= limit;
        if fits {
            self.written = length;
        }
        fits
    }
}

impl Log {
    /// Of an attempt that begins: `task` as it was claimed.
    pub fn new(task: &Task, size: Size) -> Self {
        Self {
            fence: Fence {
                task: task.id,
                attempt: task.attempt,
            },
            size,
            pending: Vec::new(),
            pending_bytes: 0,
            note: Note::default(),
            under_way: None,
            waits_since: None,
            last: task.last_sequence,
            broken: false,
        }
    }

    /// Whether more may be said now.
    pub fn has_room(&self) -> bool {
        self.pending_bytes < PENDING_BYTES_MAX
    }

    /// Says something, in as many entries as it takes. What does not fit into
    /// the log is dropped, and the first time the log tells so.
    pub fn push(&mut self, kind: Kind) {
        for kind in pieces(kind, PIECE_BYTES_MAX) {
            if self.size.admits(&kind) {
                self.join(kind);
            } else if !self.size.truncated {
                self.size.truncated = true;
                self.join(Kind::LogTruncated(pb::LogTruncated {
                    limit_bytes: i64::try_from(self.size.limit).unwrap_or(i64::MAX),
                }));
            }
        }
    }

    fn join(&mut self, kind: Kind) {
        self.pending_bytes += kind.encoded_len();
        self.waits_since.get_or_insert_with(Instant::now);
        match (self.pending.last_mut(), kind) {
            (Some(Kind::TextDelta(last)), Kind::TextDelta(next))
                if last.parent_tool_use_id == next.parent_tool_use_id
                    && last.text.len() + next.text.len() <= PIECE_BYTES_MAX =>
            {
                last.text.push_str(&next.text);
            }
            (Some(Kind::ThinkingDelta(last)), Kind::ThinkingDelta(next))
                if last.parent_tool_use_id == next.parent_tool_use_id
                    && last.text.len() + next.text.len() <= PIECE_BYTES_MAX =>
            {
                last.text.push_str(&next.text);
            }
            (_, kind) => self.pending.push(kind),
        }
    }

    /// Notes the attempt's cost so far; it is written with the next append.
    pub fn cost(&mut self, cost: Microdollars) {
        self.note.cost = Some(cost);
    }

    /// Notes the attempt's session: needed if it is interrupted.
    pub fn session(&mut self, id: &str, offset: i64) {
        self.note.session = Some(SessionNote {
            id: id.to_owned(),
            offset,
        });
    }

    /// Begins the next append, if none is under way and there is something.
    pub fn flush(&mut self, inner: &Inner) {
        let noted = self.note != Note::default();
        let nothing = self.pending.is_empty() && !noted;
        if self.under_way.is_some() || nothing || self.gathers(inner) {
            return;
        }
        let events = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        self.waits_since = None;
        let pen = Pen::new(inner, self.fence, self.last);
        let note = std::mem::take(&mut self.note);
        self.under_way = Some(Box::pin(pen.write(events, note)));
    }

    /// Whether more is waited for: nobody reads, and a crash may cost so much.
    fn gathers(&self, inner: &Inner) -> bool {
        // What was paid must be known after a crash.
        self.note == Note::default()
            && self.pending_bytes < GATHER_BYTES_MAX
            && self
                .waits_since
                .is_some_and(|since| since.elapsed() < GATHER)
            && !inner.hub.is_followed(self.fence.task)
    }

    /// Waits for the append under way, or until what has gathered is to be
    /// written (`None`); for ever if there is neither. Safe to drop and call
    /// again. It fails only if the attempt is over or the pool stops.
    pub async fn written(&mut self) -> Option<Result<Committed, StoreError>> {
        match (self.under_way.as_mut(), self.waits_since) {
            (Some(append), _) => {
                let written = append.await;
                self.under_way = None;
                match &written {
                    Ok(committed) => {
                        let last = committed.entries.last();
                        self.last = last.map_or(self.last, |entry| entry.sequence);
                    }
                    Err(error) => self.broken |= error.is_outage(),
                }
                Some(written)
            }
            (None, Some(since)) => {
                sleep_until(since + GATHER).await;
                None
            }
            (None, None) => pending().await,
        }
    }

    /// Waits for the append under way, if any, and gives what was not begun.
    /// `None`: something before it was not written, for the pool stops.
    pub async fn finish(mut self, inner: &Inner) -> Option<Vec<Kind>> {
        if self.under_way.is_some()
            && let Some(Ok(committed)) = self.written().await
        {
            inner.hub.publish(&committed, None);
        }
        (!self.broken).then_some(self.pending)
    }
}

/// Cuts a text at a character's end; tells whether it was cut.
pub(super) fn cut(mut text: String, max: usize) -> (String, bool) {
    if text.len() <= max {
        return (text, false);
    }
    text.truncate(floor(&text, max));
    (text, true)
}

/// The longest length up to `max` at which `text` can be cut.
pub(super) fn floor(text: &str, max: usize) -> usize {
    let fits = |at: &usize| text.is_char_boundary(*at);
    (0..=max.min(text.len())).rev().find(fits).unwrap_or(0)
}

/// Longest tool input or output in the log.
pub(super) fn cut_piece(text: String) -> (String, bool) {
    cut(text, PIECE_BYTES_MAX)
}

//! The messages of a turn: what is said, told once and in pieces.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::super::protocol::{Assistant, Block, Stream, Tokens};
use crate::agent::Observation;

/// Longest piece of text in one observation, in bytes. Longer ones are split.
pub(super) const PIECE: usize = 64 * 1024;
/// Subagents whose messages are looked after at a time. More do not happen.
const OPEN_MAX: usize = 256;

/// A turn under way.
#[derive(Debug, Default)]
pub(super) struct Turn {
    pub message: String,
    pub started: bool,
    pub model: String,
    pub messages: i32,
    /// Messages being streamed, by whose subagent's.
    open: BTreeMap<String, Open>,
}

/// A message being written.
#[derive(Debug, Default)]
struct Open {
    id: String,
    model: String,
    tokens: Tokens,
    streamed: bool,
    told: bool,
    complete: bool,
}

impl Turn {
    /// The turn that our message with this id begins.
    pub(super) fn of(message: &str) -> Self {
        Self {
            message: message.to_owned(),
            ..Self::default()
        }
    }

    /// What was told since the last message counts no more.
    pub(super) fn void(&mut self) {
        self.open.clear();
    }

    fn bound(&mut self) {
        if self.open.len() > OPEN_MAX {
            self.open.clear();
        }
    }

    /// Takes in an event of a stream.
    pub(super) fn stream(
        &mut self,
        event: Stream,
        parent: String,
        out: &mut VecDeque<Observation>,
    ) {
        self.bound();
        match event {
            Stream::MessageStart { id, model, usage } => {
                let open = Open {
                    id,
                    model,
                    tokens: usage,
                    streamed: true,
                    ..Open::default()
                };
                if let Some(before) = self.open.insert(parent, open) {
                    before.voided(out);
                }
            }
            Stream::Text(text) => {
                self.open.entry(parent.clone()).or_default().told = true;
                split(text, |text| {
                    out.push_back(Observation::TextDelta {
                        text,
                        parent_tool_use_id: parent.clone(),
                    });
                });
            }
            Stream::Thinking(text) => split(text, |text| {
                out.push_back(Observation::ThinkingDelta {
                    text,
                    parent_tool_use_id: parent.clone(),
                });
            }),
            Stream::MessageDelta { stop_reason, usage } => {
                if let Some(open) = self.open.get_mut(&parent) {
                    open.tokens = open.tokens.or(usage);
                    let message = open.complete(stop_reason.unwrap_or_default());
                    self.push_message(message, &parent, out);
                }
            }
            Stream::Other => {}
        }
    }

    /// Takes in finished content of a message.
    pub(super) fn assistant(
        &mut self,
        message: Assistant,
        parent: String,
        out: &mut VecDeque<Observation>,
    ) {
        self.bound();
        // The CLI's own words about a failure: they are in the result.
        let synthetic = message.model == "<synthetic>";
        let streamed = self
            .open
            .get(&parent)
            .is_some_and(|open| open.id == message.id && open.streamed);
        if !streamed && !synthetic {
            match self.open.get(&parent) {
                Some(open) if open.id == message.id => {}
                Some(open) if open.streamed => open.voided(out),
                Some(_) => self.flush(None, out),
                None => {}
            }
            let open = self.open.entry(parent.clone()).or_default();
            *open = Open {
                id: message.id,
                model: message.model,
                tokens: message.usage,
                told: true,
                ..Open::default()
            };
        }
        for block in message.content {
            match block {
                Block::Text(text) if !streamed && !synthetic => split(text, |text| {
                    out.push_back(Observation::TextDelta {
                        text,
                        parent_tool_use_id: parent.clone(),
                    });
                }),
                Block::Thinking(text) if !streamed => split(text, |text| {
                    out.push_back(Observation::ThinkingDelta {
                        text,
                        parent_tool_use_id: parent.clone(),
                    });
                }),
                Block::Text(_) | Block::Thinking(_) => {}
                Block::ToolUse { id, name, input } => out.push_back(Observation::ToolUse {
                    id,
                    name,
                    input_json: input.to_string(),
                    parent_tool_use_id: parent.clone(),
                }),
            }
        }
        if let (false, false, Some(reason)) = (streamed, synthetic, message.stop_reason)
            && let Some(open) = self.open.get_mut(&parent)
        {
            let message = open.complete(reason);
            self.push_message(message, &parent, out);
        }
    }

    /// Messages that came whole tell no end: it shows in what follows.
    pub(super) fn flush(&mut self, stop_reason: Option<&str>, out: &mut VecDeque<Observation>) {
        let whole = |(_, open): &(&String, &mut Open)| !open.streamed && !open.complete;
        let messages: Vec<_> = self
            .open
            .iter_mut()
            .filter(whole)
            .map(|(parent, open)| {
                let reason = stop_reason.unwrap_or_default().to_owned();
                (open.complete(reason), parent.clone())
            })
            .collect();
        for (message, parent) in messages {
            self.push_message(message, &parent, out);
        }
    }

    fn push_message(
        &mut self,
        message: Observation,
        parent: &str,
        out: &mut VecDeque<Observation>,
    ) {
        if let (Observation::Message { model, .. }, true) = (&message, parent.is_empty()) {
            self.messages += 1;
            self.model.clone_from(model);
        }
        out.push_back(message);
    }
}

impl Open {
    fn complete(&mut self, stop_reason: String) -> Observation {
        self.complete = true;
        Observation::Message {
            id: self.id.clone(),
            model: self.model.clone(),
            stop_reason,
            input_tokens: self.tokens.input.unwrap_or_default(),
            output_tokens: self.tokens.output.unwrap_or_default(),
        }
    }

    /// The message is not going on: what was told of it is void. The CLI tries
    /// again without a word after some failures.
    fn voided(&self, out: &mut VecDeque<Observation>) {
        if self.told && !self.complete {
            out.push_back(Observation::Retrying {
                retry: 1,
                max_retries: 0,
                delay: Duration::ZERO,
                api_status: None,
                error: "stream_restarted".into(),
            });
        }
    }
}

impl Tokens {
    /// These counts, overruled by later ones. A count of zero read is none: the
    /// end of a message often tells only what was written.
    fn or(self, later: Self) -> Self {
        Self {
            input: later.input.filter(|input| *input > 0).or(self.input),
            output: later.output.or(self.output),
        }
    }
}

/// Splits on character boundaries.
fn split(text: String, mut piece: impl FnMut(String)) {
    if text.len() <= PIECE {
        if !text.is_empty() {
            piece(text);
        }
        return;
    }
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let mut at = PIECE.min(rest.len());
        while !rest.is_char_boundary(at) {
            at -= 1;
        }
        let (head, tail) = rest.split_at(at);
        piece(head.to_owned());
        rest = tail;
    }
}

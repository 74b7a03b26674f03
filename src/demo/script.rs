//! From the text of a prompt to what is played for it.
//!
//! Every line that begins with `::` is a directive, played in order; a prompt
//! without one gets a short default answer. Pure: no clock, no I/O.

use serde_json::Value;

/// What one directive asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// `::echo`, `::text`, `::slow`: text, in pieces.
    Text(Vec<Piece>),
    /// `::think`: a thinking block.
    Think(String),
    /// `::bash`, `::read`, `::write`, `::tool`: a tool call; ends the message.
    Tool {
        /// The tool's name.
        name: String,
        /// Its input.
        input: Value,
    },
    /// `::json`: structured output; ends the message.
    Json(Value),
    /// `::error`, `::error-times`, `::limit`, `::silent`: no message at all.
    Fault(Fault),
    /// `::refuse`, `::hang`, `::drop`, `::model-error`: how the message ends.
    End(End),
    /// `::tokens`: the usage to report.
    Tokens(Usage),
    /// A directive this grammar does not know; the scripted CLI has some more.
    Other {
        /// The word after `::`.
        name: String,
        /// The rest of the line.
        rest: String,
    },
}

/// One delta of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The text of the delta.
    pub text: String,
    /// Milliseconds to wait before it is sent.
    pub pause_ms: u64,
}

/// Tokens of one API message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens read.
    pub input: u64,
    /// Tokens written.
    pub output: u64,
}

/// An answer that is not a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// How many requests meet it before the script goes on. Unset: all.
    pub times: Option<u32>,
}

/// The kinds of answers that are not messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// An HTTP error of this status.
    Status {
        /// The HTTP status.
        code: u16,
        /// Seconds in the `retry-after` header.
        retry_after_s: Option<u64>,
    },
    /// The usage limit of an account: 429, rejected for an hour.
    Limit,
    /// Nothing is answered until the client goes.
    Silent,
}

/// How a message ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// The model has said all it had to say.
    #[default]
    Turn,
    /// The model waits for a tool's result.
    ToolUse,
    /// The model refuses.
    Refusal,
    /// Nothing more is sent until the client goes.
    Hang,
    /// The connection is cut.
    Drop {
        /// For how many requests; after that the message ends well. Unset: all.
        times: Option<u32>,
    },
    /// An `overloaded_error` event.
    Overloaded {
        /// For how many requests; after that the message ends well. Unset: all.
        times: Option<u32>,
    },
}

/// One part of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// A thinking block.
    Thinking(String),
    /// A text block.
    Text(Vec<Piece>),
    /// A tool call.
    Tool {
        /// The tool's name.
        name: String,
        /// Its input.
        input: Value,
    },
    /// An unknown directive, where it stood.
    Other {
        /// The word after `::`.
        name: String,
        /// The rest of the line.
        rest: String,
    },
}

/// The answer to one API request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// What is met, in this order, before the message itself.
    pub faults: Vec<Fault>,
    /// The message.
    pub blocks: Vec<Block>,
    /// How it ends.
    pub end: End,
    /// The usage to report. Unset: from the lengths.
    pub usage: Option<Usage>,
}

/// The tool by which the CLI asks for structured output.
pub const STRUCTURED_OUTPUT: &str = "StructuredOutput";

/// Longest text `::text` makes.
const TEXT_BYTES_MAX: usize = 64 << 20;
/// Bytes of one delta of `::text`.
const DELTA_BYTES: usize = 64;
/// Bytes said before a cut, if the script says nothing.
const CUT_BYTES: usize = 256;
/// Characters of the prompt that the default answer repeats.
const ECHO_CHARS: usize = 200;

/// The steps of `prompt`.
pub fn parse(prompt: &str) -> Vec<Step> {
    // A prompt that begins with a slash is sent with a blank before it.
    let prompt = prompt.strip_prefix(' ').unwrap_or(prompt);
    let steps: Vec<Step> = prompt
        .lines()
        .filter_map(|line| line.strip_prefix("::"))
        .map(directive::read)
        .collect();
    if steps.is_empty() {
        return vec![Step::Text(default_answer(prompt))];
    }
    steps
}

/// The steps of `prompt` as answers to the requests of one turn, in order.
/// `structured` tells whether the request offers [`STRUCTURED_OUTPUT`].
pub fn answers(steps: &[Step], structured: bool) -> Vec<Answer> {
    let mut done = Vec::new();
    let mut now = Answer::default();
    for step in steps {
        match step {
            Step::Text(pieces) => add_text(&mut now.blocks, pieces),
            Step::Think(text) => now.blocks.push(Block::Thinking(text.clone())),
            Step::Fault(fault) => now.faults.push(fault.clone()),
            Step::Tokens(usage) => now.usage = Some(*usage),
            Step::Other { name, rest } => now.blocks.push(Block::Other {
                name: name.clone(),
                rest: rest.clone(),
            }),
            Step::Json(value) if !structured => {
                add_text(&mut now.blocks, &[piece(value.to_string())]);
            }
            Step::Json(value) => {
                now.call(STRUCTURED_OUTPUT, value);
                done.push(std::mem::take(&mut now));
            }
            Step::Tool { name, input } => {
                now.call(name, input);
                done.push(std::mem::take(&mut now));
            }
            Step::End(end) => now.end = *end,
        }
    }
    let speaks = |b: &Block| matches!(b, Block::Text(_));
    if matches!(now.end, End::Drop { .. } | End::Overloaded { .. }) && now.blocks.is_empty() {
        now.blocks.push(Block::Text(filler(CUT_BYTES)));
    }
    if now.end == End::Turn && !now.blocks.iter().any(speaks) {
        now.blocks.push(Block::Text(vec![piece("done".to_owned())]));
    }
    done.push(now);
    done
}

/// The answer at place `index` of a script that may have ended before. A model
/// that refused refuses again.
pub fn answer_at(answers: &[Answer], index: usize) -> Answer {
    if let Some(last) = answers.last()
        && last.end == End::Refusal
        && index >= answers.len()
    {
        return last.clone();
    }
    answers.get(index).cloned().unwrap_or_else(|| Answer {
        blocks: vec![Block::Text(vec![piece("done".to_owned())])],
        ..Answer::default()
    })
}

impl Answer {
    fn call(&mut self, name: &str, input: &Value) {
        self.blocks.push(Block::Tool {
            name: name.to_owned(),
            input: input.clone(),
        });
        if self.end == End::Turn {
            self.end = End::ToolUse;
        }
    }

    /// Tokens to report for a request of `request_bytes`: what the script says,
    /// or a quarter of the lengths.
    pub fn usage_for(&self, request_bytes: usize) -> Usage {
        self.usage.unwrap_or_else(|| Usage {
            input: (request_bytes as u64 / 4).max(1),
            output: (self.blocks.iter().map(Block::len).sum::<usize>() as u64 / 4).max(1),
        })
    }
}

impl Block {
    fn len(&self) -> usize {
        match self {
            Block::Thinking(text) => text.len(),
            Block::Text(pieces) => pieces.iter().map(|p| p.text.len()).sum(),
            Block::Tool { name, input } => name.len() + input.to_string().len(),
            Block::Other { .. } => 0,
        }
    }
}

/// The whole text of `pieces`.
pub fn joined(pieces: &[Piece]) -> String {
    pieces.iter().map(|p| p.text.as_str()).collect()
}

/// `text` as one piece, sent at once.
pub fn piece(text: String) -> Piece {
    Piece { text, pause_ms: 0 }
}

/// Texts that follow each other are one block, a line each.
fn add_text(blocks: &mut Vec<Block>, pieces: &[Piece]) {
    if let Some(Block::Text(before)) = blocks.last_mut() {
        before.push(piece("\n".to_owned()));
        before.extend_from_slice(pieces);
    } else {
        blocks.push(Block::Text(pieces.to_vec()));
    }
}

/// `bytes` of words, the same ones every time.
fn filler(bytes: usize) -> Vec<Piece> {
    const WORDS: &str = "the quick brown fox jumps over a lazy dog while seven wizards brew tea ";
    let text: String = WORDS
        .chars()
        .cycle()
        .take(bytes.min(TEXT_BYTES_MAX))
        .collect();
    pieces(&text, DELTA_BYTES)
}

fn default_answer(prompt: &str) -> Vec<Piece> {
    let start: String = prompt.chars().take(ECHO_CHARS).collect();
    pieces(&format!("You said: {start}"), DELTA_BYTES)
}

/// `text` cut into pieces of at most `size` bytes, never within a character.
fn pieces(text: &str, size: usize) -> Vec<Piece> {
    let mut out = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(boundary(rest, size));
        out.push(piece(head.to_owned()));
        rest = tail;
    }
    out
}

/// The last place at or before `at` where `text` can be cut.
pub(super) fn boundary(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at)
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0)
}

mod directive;
#[cfg(test)]
mod tests;

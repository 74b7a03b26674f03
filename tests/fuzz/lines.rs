//! What a process writes: cut into lines, parsed, and made sense of.

use claudepool::agent::Observation;
use claudepool::agent::claude::lines::{Cut, Lines};
use claudepool::agent::claude::observed;
use claudepool::agent::claude::protocol::{Line, parse};

use crate::memory::peak;
use crate::mutate::{Corpus, Rng, fuzz};

/// Longest line here. Long enough for most, short enough to be passed.
const LINE_BYTES_MAX: usize = 4096;
/// Longest text of an observation.
const PIECE_MAX: usize = 64 * 1024;
/// What an input may take, as a multiple of its length: a JSON value of two
/// bytes is one of dozens in memory.
const BLOAT_MAX: usize = 256;

const GOOD: &[u8] =
    b"{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"good\",\"model\":\"m\",\
    \"permissionMode\":\"plan\",\"cwd\":\"/\"}";

const WORDS: &[&[u8]] = &[
    b"\n", b"\r\n", b"\0", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\\udc00", b"\\u0000", b"\"", b"\\",
    b"{", b"}", b"[", b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", b"null", b"true", b":", b",", b"\"type\":\"result\"",
    b"\"type\":\"assistant\"", b"\"type\":\"stream_event\"", b"\"subtype\":\"init\"", b"\"tool_use\"",
    b"\"usage\":{\"input_tokens\":9223372036854775807,\"cache_read_input_tokens\":9223372036854775807}",
    b"\"total_cost_usd\":1e308", b"\"modelUsage\":{\"m\":{\"inputTokens\":-9223372036854775808}}",
    b"\"parent_tool_use_id\":\"t\"", b"\"origin\":{\"kind\":\"x\"}",
];

fn corpus() -> Corpus<'static> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/lines");
    let mut inputs: Vec<Vec<u8>> = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let text = std::fs::read(entry.unwrap().path()).unwrap();
        inputs.extend(text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec));
        inputs.push(text);
    }
    inputs.sort();
    Corpus {
        inputs,
        words: WORDS,
    }
}

/// A line, or `None`: one that was too long.
type Seen = Option<Vec<u8>>;

/// What a reader makes of bytes that come in pieces of any size.
fn read(input: &[u8], rng: &mut Rng, mut tell: impl FnMut(Option<&[u8]>)) {
    let mut lines = Lines::new(LINE_BYTES_MAX);
    let mut rest = input;
    while !rest.is_empty() {
        let (mut piece, later) = rest.split_at(1 + rng.below(rest.len()));
        rest = later;
        while !piece.is_empty() {
            match lines.feed(&mut piece) {
                Some(Cut::Line(line)) => tell(Some(line)),
                Some(Cut::TooLong) => tell(None),
                None => {}
            }
        }
    }
}

/// The same, from the whole.
fn expected(input: &[u8]) -> Vec<Seen> {
    let mut lines: Vec<&[u8]> = input.split_inclusive(|byte| *byte == b'\n').collect();
    // What has no end yet is told only if it is too long already.
    lines.pop_if(|last| !last.ends_with(b"\n") && last.len() <= LINE_BYTES_MAX);
    let seen = |line: &[u8]| (line.len() <= LINE_BYTES_MAX).then(|| line.trim_ascii_end().to_vec());
    lines.into_iter().map(seen).collect()
}

#[test]
fn lines_of_any_bytes_are_read_and_no_good_one_is_lost() {
    fuzz("lines_of_any_bytes", &corpus(), |input, rng| {
        let mut input = input.to_vec();
        input.push(b'\n');
        input.extend(GOOD);
        input.push(b'\n');

        let mut seen: Vec<Seen> = Vec::new();
        read(&input, rng, |line| seen.push(line.map(<[u8]>::to_vec)));
        assert_eq!(seen, expected(&input));
        // By the reader alone: a line, and a piece that goes on beyond its end.
        let held = peak(|| read(&input, rng, |_| {}));
        let most = 8 * LINE_BYTES_MAX + 2 * input.len();
        assert!(held <= most, "{held} bytes held");

        let mut lines: Vec<Line> = Vec::new();
        for line in seen.iter().flatten() {
            let held = peak(|| drop(parse(line)));
            assert!(held <= BLOAT_MAX * (line.len() + 64), "{held} bytes held");
            lines.push(parse(line));
        }
        let Some(Line::Init(init)) = lines.last() else {
            panic!("the good line is lost: {:?}", lines.last());
        };
        assert_eq!(init.session_id, "good");

        for said in observed(lines) {
            if let Observation::TextDelta { text, .. } | Observation::ThinkingDelta { text, .. } =
                said
            {
                assert!(
                    (1..=PIECE_MAX).contains(&text.len()),
                    "{} bytes",
                    text.len()
                );
            }
        }
    });
}

//! Cuts a byte stream into lines, in bounded memory.

use std::io::BufRead;

/// Lines kept no longer than this hold on to their buffer.
const KEEP: usize = 1 << 20;

/// A line being put together. A line longer than the limit is skipped to its
/// end, and only its existence is told, at once: it may have no end.
pub struct Lines {
    line: Vec<u8>,
    line_bytes_max: usize,
    complete: bool,
    skipping: bool,
}

/// What a piece of input completed.
#[derive(Debug, PartialEq, Eq)]
pub enum Cut<'a> {
    /// A line, without its end.
    Line(&'a [u8]),
    /// A line that is too long; what is left of it is skipped.
    TooLong,
}

impl Lines {
    /// Lines of at most `line_bytes_max` bytes, their end included.
    pub fn new(line_bytes_max: usize) -> Self {
        Self {
            line: Vec::new(),
            line_bytes_max,
            complete: false,
            skipping: false,
        }
    }

    /// Takes from `input` up to the end of a line. `None`: `input` is used up.
    pub fn feed(&mut self, input: &mut &[u8]) -> Option<Cut<'_>> {
        if std::mem::take(&mut self.complete) {
            self.line.clear();
            self.line.shrink_to(KEEP);
        }
        if self.skipping {
            let before = *input;
            let skipped = input.skip_until(b'\n').expect("a slice can be read");
            self.skipping = !before[..skipped].ends_with(b"\n");
            return None;
        }
        input
            .read_until(b'\n', &mut self.line)
            .expect("a slice can be read");
        let ended = self.line.ends_with(b"\n");
        if self.line.len() > self.line_bytes_max {
            self.line = Vec::new();
            self.skipping = !ended;
            return Some(Cut::TooLong);
        }
        self.complete = ended;
        ended.then(|| Cut::Line(self.line.trim_ascii_end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(lines: &mut Lines, pieces: &[&[u8]]) -> Vec<String> {
        let mut out = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            while !input.is_empty() {
                match lines.feed(&mut input) {
                    Some(Cut::Line(line)) => out.push(String::from_utf8_lossy(line).into_owned()),
                    Some(Cut::TooLong) => out.push("<too long>".into()),
                    None => {}
                }
            }
        }
        out
    }

    #[test]
    fn lines_come_out_whole_however_they_arrive() {
        let mut lines = Lines::new(100);

        let out = cut(&mut lines, &[b"a", b"b\ncd\r\n\n", b"e", b"\n", b"half"]);

        assert_eq!(out, ["ab", "cd", "", "e"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_in_bounded_memory() {
        let mut lines = Lines::new(10);

        let piece = [b'x'; 1000];
        let mut out = Vec::new();
        for _ in 0..1000 {
            out.extend(cut(&mut lines, &[&piece]));
            assert!(lines.line.capacity() <= 4096);
        }
        out.extend(cut(&mut lines, &[b"tail\nnext\n01234567890\nok\n"]));

        assert_eq!(out, ["<too long>", "next", "<too long>", "ok"]);
    }
}

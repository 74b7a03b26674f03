//! One left-to-right pass over a template. Pure.
//!
//! A template is scanned once, when it is accepted. From then on it is an
//! [`Expanded`] text: the text together with the places that are still to be
//! replaced. What is put into it, then or later, is never scanned, so neither an
//! argument nor a model's answer can refer to anything.

use std::borrow::Cow;
use std::ops::Range;

/// Longest name of a step, variable or argument, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// What a pair of braces in a template may stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reference<'a> {
    /// `{previous_output}`: the text of the step before.
    PreviousOutput,
    /// `{steps.NAME}`: the text of an earlier step.
    Step(&'a str),
    /// `{steps.NAME.VAR}`: a variable of an earlier step.
    Variable(&'a str, &'a str),
    /// `{error}`: the failure's message, in a recovery prompt.
    Error,
    /// `{NAME}`: an argument, where one of that name is declared.
    Argument(&'a str),
}

impl<'a> Reference<'a> {
    /// From what stands between braces; `None`: it is plain text.
    pub fn parse(inner: &'a str) -> Option<Self> {
        match inner {
            "previous_output" => return Some(Self::PreviousOutput),
            "error" => return Some(Self::Error),
            _ => {}
        }
        if let Some(path) = inner.strip_prefix("steps.") {
            return match path.split_once('.') {
                None => is_name(path).then_some(Self::Step(path)),
                Some((step, var)) => {
                    (is_name(step) && is_name(var)).then_some(Self::Variable(step, var))
                }
            };
        }
        is_name(inner).then_some(Self::Argument(inner))
    }
}

/// Whether `text` may name a step, a variable or an argument: letters, digits,
/// `_` and `-`, 1 to 64 bytes.
pub fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// A rendered text would be longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text would be longer than {limit} bytes")]
pub struct TooLong {
    /// The most it may be, in bytes.
    pub limit: usize,
}

/// Every pair of braces that may be a reference, in order, with its place.
/// Whether one of them means anything where it stands is the caller's decision.
pub fn references(template: &str) -> Vec<(Range<usize>, Reference<'_>)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(open) = template[at..].find('{').map(|i| at + i) {
        // A brace, as any character of a name, is one byte, so these indices
        // lie between characters.
        at = open + 1;
        let rest = &template[at..];
        let end = rest
            .bytes()
            .take(LONGEST + 1)
            .position(|b| b == b'}' || b == b'{');
        if let Some(len) = end
            && rest.as_bytes()[len] == b'}'
            && let Some(reference) = Reference::parse(&rest[..len])
        {
            at += len + 1;
            found.push((open..at, reference));
        }
    }
    found
}

/// Longest text between braces that can be a reference.
const LONGEST: usize = "steps.".len() + NAME_BYTES_MAX + 1 + NAME_BYTES_MAX;

/// What becomes of a reference when a template is expanded.
#[derive(Clone, Debug)]
pub enum Fill<'a> {
    /// It means nothing here: it stays as the text it is.
    Text,
    /// It is replaced when the step runs.
    Later,
    /// It is replaced now, by data.
    Data(Cow<'a, str>),
    /// It is replaced now, by a text with places of its own.
    Nested(&'a Expanded),
}

/// A text and the places in it that are still to be replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    text: String,
    places: Vec<Range<usize>>,
}

impl Expanded {
    /// Expands a template: `fill` says what each reference becomes. Nothing it
    /// gives is scanned.
    pub fn new<'a>(
        template: &str,
        limit: usize,
        mut fill: impl FnMut(Reference<'_>) -> Fill<'a>,
    ) -> Result<Self, TooLong> {
        let mut out = Self::default();
        let mut done = 0;
        for (place, reference) in references(template) {
            let filled = match fill(reference) {
                Fill::Text => continue,
                filled => filled,
            };
            out.push(&template[done..place.start], limit)?;
            done = place.end;
            let start = out.text.len();
            match filled {
                Fill::Text => {}
                Fill::Later => {
                    out.push(&template[place], limit)?;
                    out.places.push(start..out.text.len());
                }
                Fill::Data(data) => out.push(&data, limit)?,
                Fill::Nested(inner) => {
                    out.push(&inner.text, limit)?;
                    out.places
                        .extend(inner.places.iter().map(|p| start + p.start..start + p.end));
                }
            }
        }
        out.push(&template[done..], limit)?;
        Ok(out)
    }

    /// From its parts as they were stored. A place that is no reference, lies
    /// outside the text or within an earlier place is dropped: it stays text.
    pub fn from_parts(text: String, places: impl IntoIterator<Item = Range<usize>>) -> Self {
        let mut out = Self {
            text,
            places: Vec::new(),
        };
        for place in places {
            let free = out.places.last().is_none_or(|p| p.end <= place.start);
            if free && out.reference(&place).is_some() {
                out.places.push(place);
            }
        }
        out
    }

    /// The text, with every place as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The places that are still to be replaced, in order.
    pub fn places(&self) -> &[Range<usize>] {
        &self.places
    }

    /// What the places stand for, in order.
    pub fn references(&self) -> impl Iterator<Item = Reference<'_>> {
        self.places.iter().filter_map(|p| self.reference(p))
    }

    /// The final text. A place for which `lookup` knows nothing stays as it is.
    pub fn render<'a>(
        &self,
        limit: usize,
        lookup: impl Fn(Reference<'_>) -> Option<Cow<'a, str>>,
    ) -> Result<String, TooLong> {
        let mut out = Self::default();
        let mut done = 0;
        for place in &self.places {
            if let Some(value) = self.reference(place).and_then(&lookup) {
                out.push(&self.text[done..place.start], limit)?;
                out.push(&value, limit)?;
                done = place.end;
            }
        }
        out.push(&self.text[done..], limit)?;
        Ok(out.text)
    }

    fn reference(&self, place: &Range<usize>) -> Option<Reference<'_>> {
        let inner = self.text.get(place.clone())?;
        Reference::parse(inner.strip_prefix('{')?.strip_suffix('}')?)
    }

    fn push(&mut self, piece: &str, limit: usize) -> Result<(), TooLong> {
        if self.text.len().saturating_add(piece.len()) > limit {
            return Err(TooLong { limit });
        }
        self.text.push_str(piece);
        Ok(())
    }
}

/// Scans a template and renders it at once; see [`Expanded::render`].
pub fn render<'a>(
    template: &str,
    limit: usize,
    lookup: impl Fn(Reference<'_>) -> Option<Cow<'a, str>>,
) -> Result<String, TooLong> {
    Expanded::new(template, limit, |reference| {
        lookup(reference).map_or(Fill::Text, Fill::Data)
    })
    .map(|expanded| expanded.text)
}

#[cfg(test)]
mod tests;

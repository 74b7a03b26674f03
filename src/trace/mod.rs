//! W3C trace context: whose trace a call belongs to, its tasks and their
//! attempts.
//!
//! What a caller sends as `traceparent` and `tracestate` is kept with the task, so
//! that an attempt belongs to the caller's trace however long it waited and
//! whichever server runs it. With the feature `otel` spans are exported under it.

mod spans;

use std::fmt;
use std::sync::Arc;

use tracing::Span;
use tracing::field::display;

pub use spans::{adopt, of, waited};

/// Longest `tracestate` that is kept, in bytes: what W3C asks of everybody. A
/// longer one is left out, which never harms the trace itself.
const STATE_BYTES_MAX: usize = 512;

/// Length of a `traceparent` of version 00.
const PARENT_BYTES: usize = 55;

/// A place in somebody's trace: `traceparent` of version 00 and, if there is one,
/// a space and `tracestate`.
#[derive(Clone, PartialEq, Eq)]
pub struct TraceContext(Arc<str>);

impl TraceContext {
    /// From the two headers; `None`: malformed, which is as if there were none.
    pub fn parse(parent: &str, state: Option<&str>) -> Option<Self> {
        let parent = known_part(parent)?;
        let state = state.map(str::trim).filter(|state| is_state(state));
        Some(Self(match state {
            Some(state) => format!("{parent} {state}").into(),
            None => parent.into(),
        }))
    }

    /// As it was stored.
    pub fn from_stored(text: &str) -> Option<Self> {
        match text.split_once(' ') {
            Some((parent, state)) => Self::parse(parent, Some(state)),
            None => Self::parse(text, None),
        }
    }

    /// As it is stored: `traceparent`, a space and `tracestate` if there is one.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The `traceparent` header.
    pub fn parent(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
    }

    /// The `tracestate` header; empty: none.
    pub fn state(&self) -> &str {
        self.0.split_once(' ').map_or("", |(_, state)| state)
    }

    /// The trace's id, 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        self.0.get(3..35).unwrap_or_default()
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says of the call under way, where its span is, which task it is about.
pub fn about(task: impl fmt::Display) {
    Span::current().record("task_id", display(task));
}

/// What we understand of a `traceparent`, as version 00.
fn known_part(parent: &str) -> Option<String> {
    let parent = parent.trim();
    let mut parts = parent.splitn(5, '-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let nonzero = |text: &str| text.bytes().any(|b| b != b'0');
    let well_formed = hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
    // A later version may say more; version 00 says nothing more.
    let of_version = match version {
        "00" => parent.len() == PARENT_BYTES,
        "ff" => false,
        _ => true,
    };
    (well_formed && of_version && nonzero(trace) && nonzero(span))
        .then(|| format!("00-{trace}-{span}-{flags}"))
}

fn is_state(state: &str) -> bool {
    (1..=STATE_BYTES_MAX).contains(&state.len())
        && state.contains('=')
        && state.bytes().all(|b| (b' '..=b'~').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_the_same_after_it_was_stored() {
        for state in [None, Some("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7")] {
            let context = TraceContext::parse(PARENT, state).expect("well formed");

            assert_eq!(context.parent(), PARENT);
            assert_eq!(context.state(), state.unwrap_or_default());
            assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
            assert_eq!(TraceContext::from_stored(context.as_str()), Some(context));
        }
    }

    #[test]
    fn what_is_malformed_is_as_if_it_were_not_there() {
        for parent in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
        ] {
            assert_eq!(TraceContext::parse(parent, None), None, "{parent}");
        }
    }

    #[test]
    fn a_later_version_is_understood_as_far_as_it_goes() {
        let later = PARENT.replacen("00", "01", 1) + "-what-comes";

        let context = TraceContext::parse(&later, None).expect("understood");

        assert_eq!(context.parent(), PARENT);
    }

    #[test]
    fn a_state_that_is_too_long_or_no_text_is_left_out() {
        for state in ["", "no-pair", "a=\u{1b}[2J", &"a=b,".repeat(200)] {
            let context = TraceContext::parse(PARENT, Some(state)).expect("the parent is well");

            assert_eq!(context.state(), "", "{state:?}");
        }
    }
}

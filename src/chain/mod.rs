//! Chains: what a chain may look like, and what follows each of its steps.
//!
//! Pure: no I/O, no clock, no randomness. [`accept`] turns the steps of a call
//! into the chain as it runs, [`standing`] says where a chain is from how its
//! steps ended, [`Progress`] folds a chain's log into what callers see. A step is
//! an ordinary task: its retries, its budget and its recovery after a crash are
//! the task's own and never looked at here.
//!
//! Templates are scanned once, when a chain is accepted; see [`template`].

mod accept;
mod arguments;
mod next;
mod progress;
pub mod template;
mod variables;
mod walk;

pub use accept::{Limits, Skills, accept, check};
pub use arguments::{Arguments, bind};
pub use next::{Ending, Next, Outcome, Standing, StepEnd, needs, next, result, standing};
pub use progress::Progress;
pub use variables::{is_path, variables};

/// Most steps of a chain.
pub const STEPS_MAX: usize = 100;
/// Most bytes of a step's text in a result; ReadOutput of its task gives all.
pub const STEP_OUTPUT_BYTES_MAX: usize = 16 * 1024;

/// The beginning of `text`, at most `max` bytes, cut between characters.
pub fn beginning(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The end of `text`, at most `max` bytes, cut between characters.
pub fn ending(text: &str, max: usize) -> &str {
    let mut start = text.len().saturating_sub(max);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!((beginning("aé", 2), ending("éa", 2)), ("a", "a"));
        assert_eq!((beginning("aé", 3), ending("éa", 9)), ("aé", "éa"));
        assert_eq!((beginning("", 1), ending("é", 0)), ("", ""));
    }
}

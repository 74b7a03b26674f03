//! Which tools run: while one does, silence is its own.

use std::collections::HashMap;

use tracing::field::Empty;
use tracing::{Span, info_span};

use crate::agent::Observation;

/// Most calls looked after, and the longest id of one. No agent comes near; what
/// is above it does not count as running.
const CALLS_MAX: usize = 1024;
const ID_BYTES_MAX: usize = 256;
/// Longest name of a tool in a trace, in characters.
const NAME_CHARS_MAX: usize = 64;

/// The tool calls under way, each with its span.
#[derive(Debug, Default)]
pub(super) struct Tools {
    calls: HashMap<String, Span>,
}

impl Tools {
    /// Takes in what the agent said.
    pub fn saw(&mut self, said: &Observation) {
        match said {
            Observation::ToolUse { id, name, .. }
                if self.calls.len() < CALLS_MAX && id.len() <= ID_BYTES_MAX =>
            {
                self.calls.insert(id.clone(), span(name));
            }
            Observation::ToolResult { id, is_error, .. } => {
                if let Some(span) = self.calls.remove(id)
                    && *is_error
                {
                    span.record("otel.status_code", "ERROR");
                }
            }
            // What was called since the last message is void, as its text.
            Observation::Retrying { .. } => self.calls.clear(),
            _ => {}
        }
    }

    /// Whether a tool runs.
    pub fn any_runs(&self) -> bool {
        !self.calls.is_empty()
    }
}

/// From the call to the answer. What the tool is given is nobody's business.
fn span(name: &str) -> Span {
    let name: String = name.chars().take(NAME_CHARS_MAX).collect();
    info_span!("tool", otel.name = %format_args!("tool {name}"), tool = %name, otel.status_code = Empty)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn call(id: &str) -> Observation {
        Observation::ToolUse {
            id: id.into(),
            name: "Bash".into(),
            input_json: "{}".into(),
            parent_tool_use_id: String::new(),
        }
    }

    fn answer(id: &str) -> Observation {
        Observation::ToolResult {
            id: id.into(),
            is_error: false,
            output: String::new(),
        }
    }

    fn running(said: &[Observation]) -> bool {
        let mut tools = Tools::default();
        for said in said {
            tools.saw(said);
        }
        tools.any_runs()
    }

    #[test]
    fn a_tool_runs_from_its_call_to_its_answer() {
        assert!(!running(&[]));
        assert!(running(&[call("a"), call("b"), answer("a")]));
        assert!(!running(&[call("a"), answer("a"), answer("unknown")]));
        assert!(running(&[answer("unknown"), call("a")]));
    }

    #[test]
    fn a_call_that_is_void_does_not_run() {
        let retry = Observation::Retrying {
            retry: 1,
            max_retries: 10,
            delay: Duration::ZERO,
            api_status: None,
            error: String::new(),
        };

        assert!(!running(&[call("a"), retry]));
    }

    #[test]
    fn calls_without_end_take_no_memory_without_end() {
        let mut tools = Tools::default();
        for n in 0..10_000 {
            tools.saw(&call(&n.to_string()));
        }

        assert_eq!(tools.calls.len(), CALLS_MAX);
    }
}

//! What operators say.

use std::time::Duration;

use clap::Args;

use super::{Remote, duration};

#[derive(Args)]
pub(in crate::cli) struct StatusArgs {
    /// Go on, a snapshot per change.
    #[arg(long)]
    pub(in crate::cli) watch: bool,
    /// Print the configuration in force instead.
    #[arg(long, conflicts_with = "watch")]
    pub(in crate::cli) config: bool,
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
}

#[derive(Args)]
pub(in crate::cli) struct SlotsArgs {
    /// Replace this slot's process instead, after the task it runs.
    #[arg(long, value_name = "SLOT")]
    pub(in crate::cli) restart: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
}

#[derive(Args)]
pub(in crate::cli) struct ScaleArgs {
    /// How many slots there shall be: N, or +N or -N from what there is.
    #[arg(allow_hyphen_values = true, value_parser = scale)]
    pub(in crate::cli) slots: Scale,
    /// How long leaving slots may finish their tasks before these go back to
    /// the queue, for instance 30s [default: as long as it takes].
    #[arg(long, value_parser = duration)]
    pub(in crate::cli) timeout: Option<Duration>,
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
}

/// How the number of slots is to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Scale {
    To(i32),
    Up(i32),
    Down(i32),
}

fn scale(text: &str) -> Result<Scale, String> {
    let (of, digits): (fn(i32) -> Scale, _) = match text.as_bytes().first() {
        Some(b'+') => (Scale::Up, &text[1..]),
        Some(b'-') => (Scale::Down, &text[1..]),
        _ => (Scale::To, text),
    };
    match digits.parse::<u16>() {
        Ok(count) => Ok(of(i32::from(count))),
        Err(_) => Err("say a number of slots, or for instance +2 or -2".to_owned()),
    }
}

#[derive(Args)]
pub(in crate::cli) struct BudgetArgs {
    /// The new limit in US dollars of everything ever spent, or none
    /// [default: show it].
    #[arg(value_parser = limit)]
    pub(in crate::cli) limit: Option<Limit>,
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
}

/// A limit of spending.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::cli) enum Limit {
    None,
    Dollars(f64),
}

fn limit(text: &str) -> Result<Limit, String> {
    match text {
        "none" => Ok(Limit::None),
        _ => text
            .trim_start_matches('$')
            .parse()
            .map(Limit::Dollars)
            .map_err(|_| "say an amount in US dollars, or none".to_owned()),
    }
}

#[derive(Args)]
pub(in crate::cli) struct PauseArgs {
    /// Why, for whoever looks at the status.
    #[arg(default_value = "")]
    pub(in crate::cli) reason: String,
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
}

#[derive(Args)]
pub(in crate::cli) struct DrainArgs {
    /// Longest wait for work under way [default: the server's].
    #[arg(long, value_parser = duration)]
    pub(in crate::cli) deadline: Option<Duration>,
    #[command(flatten)]
    pub(in crate::cli) remote: Remote,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_a_number_or_a_difference() {
        assert_eq!(scale("4"), Ok(Scale::To(4)));
        assert_eq!(scale("+2"), Ok(Scale::Up(2)));
        assert_eq!(scale("-1"), Ok(Scale::Down(1)));
        for wrong in ["", "+", "two", "--1", "1.5", "+-1"] {
            assert!(scale(wrong).is_err(), "{wrong}");
        }
    }
}

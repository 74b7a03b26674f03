//! Money, exact.

use std::fmt;

/// Money in millionths of a US dollar. Never a float: sums must be exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Microdollars(pub i64);

impl Microdollars {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// `None` on overflow: a wrapped sum would lift every budget.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The sum, held at the largest amount instead of wrapping.
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, never below zero.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0).max(0))
    }

    /// From the CLI's dollars, which are floats: rounded to the nearest
    /// millionth; what is no number or negative counts as nothing.
    pub fn from_dollars(dollars: f64) -> Self {
        // `as` saturates, so no float can wrap.
        Self((dollars * 1e6).round().max(0.0) as i64)
    }

    /// For people: `$0.0123`.
    pub fn dollars(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl fmt::Display for Microdollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${:.4}", self.dollars())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_float_that_is_no_number_costs_nothing() {
        assert_eq!(Microdollars::from_dollars(f64::NAN), Microdollars::ZERO);
        assert_eq!(Microdollars::from_dollars(-1.0), Microdollars::ZERO);
        assert_eq!(
            Microdollars::from_dollars(0.0214905),
            Microdollars(21_491),
            "rounded to the nearest millionth"
        );
    }

    #[test]
    fn a_sum_that_would_wrap_is_refused() {
        assert_eq!(Microdollars(i64::MAX).checked_add(Microdollars(1)), None);
    }
}

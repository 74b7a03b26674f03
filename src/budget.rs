//! Reserve, settle, release: what money does. Pure.
//!
//! A reservation sets an attempt's cap aside before it starts; a settlement
//! books what it cost and releases the rest. The ledger is append-only, and its
//! sum is the spend that is shown.

use crate::money::Microdollars;

/// A movement of money. Kept for ever, also when its task is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Set aside for an attempt that starts.
    Reserve(Microdollars),
    /// An attempt ended: its reservation is released and its cost booked. The
    /// cost may be above the reservation (overrun): by the request in flight.
    Settle {
        /// What had been reserved.
        reserved: Microdollars,
        /// What it cost.
        cost: Microdollars,
        /// Whether the cost is the last known one, because the attempt ended
        /// without telling.
        estimated: bool,
    },
    /// An earlier attempt had cost so much more than was booked for it, as its
    /// session told when it was resumed.
    Correct(Microdollars),
}

impl Entry {
    /// What it adds to the money spent.
    pub fn spent(self) -> Microdollars {
        match self {
            Entry::Reserve(_) => Microdollars::ZERO,
            Entry::Settle { cost, .. } | Entry::Correct(cost) => cost,
        }
    }
}

/// The pool's money at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Funds {
    /// Sum of every settlement.
    pub spent: Microdollars,
    /// Sum of every reservation that is not settled.
    pub reserved: Microdollars,
    /// The most that may be spent; `None`: no limit.
    pub limit: Option<Microdollars>,
}

impl Funds {
    /// Whether `amount` more can be reserved.
    pub fn covers(&self, amount: Microdollars) -> bool {
        match self.limit {
            None => true,
            Some(limit) => self
                .spent
                .checked_add(self.reserved)
                .and_then(|sum| sum.checked_add(amount))
                .is_some_and(|sum| sum <= limit),
        }
    }

    /// Whether `amount` could be reserved if nothing else were.
    pub fn could_ever_cover(&self, amount: Microdollars) -> bool {
        Self {
            reserved: Microdollars::ZERO,
            ..*self
        }
        .covers(amount)
    }

    /// The funds after a movement; `None`: a reservation that they do not cover.
    pub fn book(self, entry: Entry) -> Option<Self> {
        match entry {
            Entry::Reserve(amount) if !self.covers(amount) => None,
            Entry::Reserve(_) | Entry::Settle { .. } | Entry::Correct(_) => Some(self.after(entry)),
        }
    }

    /// The funds after a movement.
    pub fn after(mut self, entry: Entry) -> Self {
        self.spent = self.spent.saturating_add(entry.spent());
        match entry {
            Entry::Reserve(amount) => self.reserved = self.reserved.saturating_add(amount),
            Entry::Settle { reserved, .. } => {
                self.reserved = self.reserved.saturating_sub(reserved);
            }
            Entry::Correct(_) => {}
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn usd_cents(cents: i64) -> Microdollars {
        Microdollars(cents * 10_000)
    }

    #[test]
    fn no_reservation_is_made_above_the_budget() {
        let funds = Funds {
            spent: usd_cents(40),
            reserved: usd_cents(10),
            limit: Some(usd_cents(60)),
        };
        assert!(funds.covers(usd_cents(10)));
        assert!(!funds.covers(usd_cents(11)));
        assert!(funds.could_ever_cover(usd_cents(20)));
        assert!(!funds.could_ever_cover(usd_cents(21)));
        assert!(!funds.covers(Microdollars(i64::MAX)), "no wrap");
    }

    #[test]
    fn a_settlement_releases_the_reservation_and_books_the_cost() {
        let funds = Funds::default()
            .after(Entry::Reserve(usd_cents(50)))
            .after(Entry::Settle {
                reserved: usd_cents(50),
                cost: usd_cents(7),
                estimated: false,
            });
        assert_eq!(funds.reserved, Microdollars::ZERO);
        assert_eq!(funds.spent, usd_cents(7));
    }
}

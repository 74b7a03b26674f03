//! What an attempt cost.

use super::{Ended, How};
use crate::money::Microdollars;
use crate::task::Bill;

impl Ended {
    /// With what earlier attempts are now known to have cost besides.
    pub fn with_correction(self, correction: Microdollars) -> Self {
        Self { correction, ..self }
    }

    /// What it cost, by its own word or as far as is known.
    pub(super) fn bill(&self) -> Bill {
        let turn = match &self.how {
            How::Turn(end, _) | How::Stopped(_, Some((end, _))) => Some(end),
            How::Stopped(_, None)
            | How::Died(_)
            | How::Violation(_)
            | How::NoProcess(_)
            | How::Workspace(_) => None,
        };
        let known = self.known.clone().unwrap_or_default();
        match turn {
            Some(end) => Bill {
                cost: end.cost.max(known.cost),
                estimated: false,
                correction: self.correction,
                usage: end.usage.clone(),
            },
            None => Bill {
                cost: known.cost,
                // Without a turn nothing was asked of the model.
                estimated: self.known.is_some(),
                correction: self.correction,
                usage: known.usage,
            },
        }
    }
}

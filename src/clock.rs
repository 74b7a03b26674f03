//! The only source of now.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment, in microseconds since the Unix epoch. Microseconds are what every
/// store keeps, so a moment read back equals the one written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This moment plus `d`, held at the end of time instead of wrapping.
    pub fn after(self, d: Duration) -> Self {
        let micros = i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// This moment minus `d`.
    pub fn before(self, d: Duration) -> Self {
        let micros = i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros))
    }

    /// From `earlier` to this moment; zero if it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// On the wire.
    pub fn to_proto(self) -> prost_types::Timestamp {
        prost_types::Timestamp {
            seconds: self.0.div_euclid(1_000_000),
            nanos: (self.0.rem_euclid(1_000_000) * 1_000) as i32,
        }
    }

    /// From the wire, cut to microseconds; `None` outside the years 1 to 9999.
    pub fn from_proto(t: &prost_types::Timestamp) -> Option<Self> {
        const YEAR_1: i64 = -62_135_596_800;
        const YEAR_9999: i64 = 253_402_300_799;
        if !(YEAR_1..=YEAR_9999).contains(&t.seconds) || !(0..1_000_000_000).contains(&t.nanos) {
            return None;
        }
        Some(Self(t.seconds * 1_000_000 + i64::from(t.nanos) / 1_000))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}µs", self.0)
    }
}

/// Tells the time. A value, so that tests can set it.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    offset: Option<(SystemTime, tokio::time::Instant)>,
}

impl Clock {
    /// The system's time.
    pub fn system() -> Self {
        Self { offset: None }
    }

    /// A clock that follows tokio's, so that it stands still and leaps with a
    /// paused runtime.
    pub fn tokio() -> Self {
        Self {
            offset: Some((Self::read(), tokio::time::Instant::now())),
        }
    }

    /// The same, and it is `start` now: a run can be repeated to the
    /// microsecond.
    pub fn tokio_from(start: Timestamp) -> Self {
        let micros = u64::try_from(start.0).unwrap_or(0);
        Self {
            offset: Some((
                UNIX_EPOCH + Duration::from_micros(micros),
                tokio::time::Instant::now(),
            )),
        }
    }

    #[allow(clippy::disallowed_methods)]
    fn read() -> SystemTime {
        SystemTime::now()
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        let time = match self.offset {
            None => Self::read(),
            Some((start, instant)) => start + instant.elapsed(),
        };
        let micros = time
            .duration_since(UNIX_EPOCH)
            .map(|d| d.as_micros())
            .unwrap_or(0);
        Timestamp(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_survives_the_wire_to_the_microsecond() {
        for t in [
            Timestamp(0),
            Timestamp(1),
            Timestamp(-1),
            Timestamp(1_700_000_000_123_456),
        ] {
            assert_eq!(Timestamp::from_proto(&t.to_proto()), Some(t));
        }
    }

    #[test]
    fn a_moment_that_is_none_is_refused() {
        for (seconds, nanos) in [(i64::MAX, 0), (0, -1), (0, 1_000_000_000)] {
            assert_eq!(
                Timestamp::from_proto(&prost_types::Timestamp { seconds, nanos }),
                None
            );
        }
    }
}

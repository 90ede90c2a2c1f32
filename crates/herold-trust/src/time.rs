//! Points in time as an argument.
//!
//! Nothing in this crate reads a clock: whoever calls passes the time in. A point in time is
//! milliseconds since the Unix epoch, the unit of the Matrix specification's timestamps
//! (Client-Server API, "Common concepts, timestamps"). All arithmetic saturates, because half of the
//! points compared come from a server or from a clock that was set back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The point `millis` milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The point `span` later, cut to whole milliseconds; the last representable point when there
    /// is no later one.
    #[must_use]
    pub fn saturating_add(self, span: Duration) -> Self {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// The time that has passed since `earlier`; zero when `earlier` is in fact later.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_went_back_gives_a_span_of_zero() {
        let (early, late) = (Timestamp::from_millis(1_000), Timestamp::from_millis(3_500));
        assert_eq!(late.saturating_since(early), Duration::from_millis(2_500));
        assert_eq!(early.saturating_since(late), Duration::ZERO);
    }

    #[test]
    fn adding_a_huge_span_stops_at_the_end_of_time() {
        let point = Timestamp::from_millis(7);
        assert_eq!(point.saturating_add(Duration::MAX).as_millis(), u64::MAX);
        assert_eq!(point.saturating_add(Duration::from_micros(2_999)).as_millis(), 9);
    }

    #[test]
    fn a_timestamp_is_a_bare_number_in_json() {
        assert_eq!(serde_json::to_string(&Timestamp::from_millis(12)).unwrap(), "12");
    }
}

//! [`Pace`]: a bound on how often an endpoint is called, whatever else goes wrong.

use std::time::Duration;

use tokio::time::Instant;

/// How many calls may follow each other without a pause.
const BURST: u32 = 10;

/// The time between calls after that.
const INTERVAL: Duration = Duration::from_millis(167);

/// Lets ten calls through at once and then six a second: never more than thirty in three seconds.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When the calls so far would be over had they kept the interval.
    paid_until: Option<Instant>,
}

impl Pace {
    /// Takes the next turn: how long to wait for it.
    pub(crate) fn next(&mut self, now: Instant) -> Duration {
        let paid = self.paid_until.map_or(now, |paid| paid.max(now)) + INTERVAL;
        self.paid_until = Some(paid);
        paid.saturating_duration_since(now + INTERVAL * BURST)
    }
}

/// Waits for a turn; a turn that is there already costs nothing.
pub(crate) async fn wait(pause: Duration) {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_three_seconds_have_more_than_thirty_calls() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let mut now = start;
        let mut calls = Vec::new();
        for _ in 0..200 {
            now += pace.next(now);
            calls.push(now);
        }
        for (index, first) in calls.iter().enumerate() {
            let within = |call: &&Instant| **call - *first < Duration::from_secs(3);
            assert!(calls[index..].iter().take_while(within).count() <= 30);
        }
        assert_eq!(calls[9], start, "a burst is let through");
    }

    #[test]
    fn after_a_pause_calls_go_through_again() {
        let now = Instant::now();
        let mut pace = Pace::default();
        for _ in 0..50 {
            pace.next(now);
        }
        assert_eq!(pace.next(now + Duration::from_secs(60)), Duration::ZERO);
    }
}

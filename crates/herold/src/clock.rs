//! [`Clock`] and [`OsEntropy`]: where time and randomness come from, so that both can be injected.

use std::time::{SystemTime, UNIX_EPOCH};

use herold_crypto::Entropy;
use herold_trust::Timestamp;

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// The time now. It may jump either way; that is harmless.
    fn now(&self) -> Timestamp;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The operating system's random generator: the one to use in production.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        // A generator that cannot deliver must not return: what would come back is no secret.
        while getrandom::fill(out).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_is_past_2020() {
        assert!(SystemClock.now() > Timestamp::from_millis(1_577_836_800_000));
    }

    #[test]
    fn the_system_entropy_fills_everything_and_differs() {
        let (mut first, mut second) = ([0; 64], [0; 64]);
        OsEntropy.fill(&mut first);
        OsEntropy.fill(&mut second);
        assert_ne!(first, second);
        assert!(first[48..].iter().any(|byte| *byte != 0));
    }
}

//! [`Context`]: the time and the randomness of one step, given by the caller.

use std::time::Duration;

use herold_crypto::Entropy;
use herold_trust::Timestamp;

/// Nothing is put off for longer than this at a time.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// What a step may know of the world outside: the time and random bytes.
pub struct Context<'a> {
    /// The time of the step. Going back in time is harmless.
    pub now: Timestamp,
    /// Randomness for transaction ids and jitter. (Key material comes from the crypto core.)
    pub entropy: &'a mut dyn Entropy,
}

impl Context<'_> {
    /// `length` random bytes as lower-case hexadecimal text.
    pub(crate) fn random_hex(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length];
        self.entropy.fill(&mut bytes);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A random number below `bound`; 0 if `bound` is 0.
    pub(crate) fn random_below(&mut self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.entropy.fill(&mut bytes);
        u64::from_le_bytes(bytes).checked_rem(bound).unwrap_or(0)
    }

    /// When to try again after `failures` failures in a row: doubling from one second to two minutes,
    /// plus up to a quarter at random, and never before what the server asked for.
    pub(crate) fn retry_at(&mut self, failures: u32, retry_after: Option<u64>) -> Timestamp {
        let base = 1000_u64 << failures.saturating_sub(1).min(7);
        let delay = base.min(120_000);
        let delay = delay.saturating_add(self.random_below(delay / 4));
        // A server cannot put a client off for longer than an hour at a time.
        let delay = Duration::from_millis(delay.max(retry_after.unwrap_or(0))).min(LONGEST_DELAY);
        self.now.saturating_add(delay)
    }
}

//! The source of randomness that callers inject.
//!
//! The ratchets draw from the operating system by themselves; what this crate draws beyond them
//! (attachment keys) comes through [`Entropy`], so that simulations can be repeated.

use std::fmt;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// A source of random bytes.
///
/// In production it must be the operating system's generator. There is no error: an
/// implementation that cannot deliver must not return.
pub trait Entropy {
    /// Fills all of `out` with fresh random bytes.
    fn fill(&mut self, out: &mut [u8]);
}

/// Thirty-two fresh bytes for a key.
pub(crate) fn secret_bytes(entropy: &mut dyn Entropy) -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    entropy.fill(&mut *bytes);
    bytes
}

/// Repeatable bytes for tests and simulations. **Never in production**: whoever knows the 64-bit
/// seed knows every key drawn from it.
///
/// The stream is SHA-256 in counter mode over the seed.
pub struct SeededEntropy {
    seed: u64,
    counter: u64,
}

impl SeededEntropy {
    /// Starts the stream that belongs to `seed`; the same seed gives the same bytes.
    pub fn new(seed: u64) -> Self {
        Self { seed, counter: 0 }
    }
}

impl fmt::Debug for SeededEntropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeededEntropy(..)")
    }
}

impl Entropy for SeededEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            let mut hash = Sha256::new();
            hash.update(b"herold seeded entropy");
            hash.update(self.seed.to_be_bytes());
            hash.update(self.counter.to_be_bytes());
            self.counter = self.counter.wrapping_add(1);
            let block: Zeroizing<[u8; 32]> = Zeroizing::new(hash.finalize().into());
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_stream_and_another_seed_another() {
        let draw = |seed| {
            let mut bytes = [0; 77];
            SeededEntropy::new(seed).fill(&mut bytes);
            bytes
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn the_stream_never_repeats_a_block() {
        let mut entropy = SeededEntropy::new(1);
        let (mut first, mut second) = ([0; 8], [0; 8]);
        entropy.fill(&mut first);
        entropy.fill(&mut second);
        assert_ne!(first, second);
    }

    #[test]
    fn debug_does_not_show_the_seed() {
        assert_eq!(format!("{:?}", SeededEntropy::new(4711)), "SeededEntropy(..)");
    }
}

//! The randomness of keys, made repeatable: the same seed makes the same keys in every process.
//!
//! vodozemac draws key material from the operating system. A program built with
//! `--cfg getrandom_backend="custom"` that hands getrandom's call on to [`fill`] draws it from here
//! instead: a counter put through a mixing function. `cargo xtask sim` builds so. Without that option a
//! run is repeatable but for the keys it makes. One thread at a time.

use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0);

/// Begins a run.
pub fn restart(seed: u64) {
    STATE.store(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), Ordering::Relaxed);
    // The generator that vodozemac uses is seeded once for a thread unless it is told to.
    #[cfg(getrandom_backend = "custom")]
    let _seeded = rand::rng().reseed();
}

/// Fills `bytes` (SplitMix64).
pub fn fill(bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        let mut z = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        chunk.copy_from_slice(&z.to_le_bytes()[..chunk.len()]);
    }
}

//! The randomness of keys, made repeatable: the same input does the same in every process.
//!
//! Key material is drawn from the operating system. Built with `--cfg getrandom_backend="custom"`, as
//! `cargo xtask fuzz` builds, it is drawn from here instead: a counter put through a mixing function, set
//! back at the beginning of each run. Without that option a run is repeatable but for the keys it makes.
//! OpenSSL, below SQLCipher, has a generator of its own, so the bytes of a store's pages always differ.

use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0);

/// Begins a run.
pub fn restart(seed: u64) {
    go_back(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
}

/// Where a run is, to go back to with [`go_back`].
#[must_use]
pub fn position() -> u64 {
    let position = STATE.load(Ordering::Relaxed);
    reseed();
    position
}

/// Goes back, to draw the same once more.
pub fn go_back(position: u64) {
    STATE.store(position, Ordering::Relaxed);
    reseed();
}

/// The generator that vodozemac uses is seeded from here, once for a thread unless it is told to.
fn reseed() {
    if cfg!(getrandom_backend = "custom") {
        rand::rng().reseed().expect("this module does not fail");
    }
}

/// The next 64 bits (SplitMix64).
fn next() -> u64 {
    let mut z = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills `bytes`.
fn fill(bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        let random = next().to_le_bytes();
        chunk.copy_from_slice(&random[..chunk.len()]);
    }
}

/// What getrandom calls.
///
/// # Safety
/// `dest` is valid for writes of `len` bytes.
#[cfg(getrandom_backend = "custom")]
#[unsafe(no_mangle)]
unsafe extern "Rust" fn __getrandom_v03_custom(
    dest: *mut u8,
    len: usize,
) -> Result<(), getrandom::Error> {
    // SAFETY: getrandom's contract for this function; the bytes are initialised first.
    let bytes = unsafe {
        std::ptr::write_bytes(dest, 0, len);
        std::slice::from_raw_parts_mut(dest, len)
    };
    fill(bytes);
    Ok(())
}

/// Randomness of the protocol's own, which is an argument everywhere.
pub struct Entropy;

impl herold_crypto::Entropy for Entropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        fill(bytes);
    }
}

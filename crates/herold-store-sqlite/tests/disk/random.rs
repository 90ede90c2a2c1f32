//! Numbers that a seed decides, so that what failed once fails again.

/// Steele, Lea and Flood's SplitMix64.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    /// Whether something with so many chances in a hundred is so.
    pub fn percent(&mut self, chances: usize) -> bool {
        self.below(100) < chances
    }
}

/// Whether the tests may take their time (`HEROLD_LONG=1`, `cargo xtask test --long`).
pub fn long() -> bool {
    std::env::var_os("HEROLD_LONG").is_some_and(|value| !value.is_empty() && value != "0")
}

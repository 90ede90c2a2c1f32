//! Counting tests, whoever ran them.

use std::fmt;
use std::ops::AddAssign;

/// How many tests there were.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Tally {
    /// Whether something ran and nothing failed.
    pub fn good(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }

    /// Reads the closing line of libtest (`test result: ok. 3 passed; 0 failed; 1 ignored; ..`) or of
    /// nextest (`Summary [ 1.2s] 4 tests run: 3 passed (1 slow), 1 failed, 2 skipped`).
    pub fn from_line(line: &str) -> Option<Self> {
        // An indented result is one that nextest quotes from a test that failed.
        if !line.starts_with("test result: ") && !line.trim_start().starts_with("Summary [") {
            return None;
        }
        let mut tally = Self::default();
        let words: Vec<&str> =
            line.split([' ', ';', ',', '(', ')']).filter(|w| !w.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<u64>() else { continue };
            match pair[1] {
                "passed" => tally.passed += count,
                "failed" | "timed" | "exec" => tally.failed += count,
                "ignored" | "skipped" => tally.skipped += count,
                _ => {}
            }
        }
        Some(tally)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn both_closing_lines_are_understood() {
        let libtest = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.1s";
        assert_eq!(Tally::from_line(libtest), Some(Tally { passed: 3, failed: 2, skipped: 1 }));
        let nextest = "     Summary [   0.007s] 9 tests run: 6 passed (1 slow), 1 failed, 1 timed out, 1 exec failed, 7 skipped";
        assert_eq!(Tally::from_line(nextest), Some(Tally { passed: 6, failed: 3, skipped: 7 }));
        for line in ["test a::b ... ok", "    test result: FAILED. 0 passed; 1 failed; 0 ignored"] {
            assert_eq!(Tally::from_line(line), None);
        }
    }

    #[test]
    fn nothing_run_is_not_good() {
        assert!(!Tally::default().good());
    }
}

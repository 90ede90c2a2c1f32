//! [`shrink`]: the shortest schedule that still fails.

use std::time::{Duration, Instant};

use super::Action;

/// Leaves actions out for as long as `fails` holds, in ever smaller pieces, for `limit` at most.
///
/// The clock is the machine's, so what a slow machine gives may be longer, never wrong.
#[must_use]
pub fn shrink(
    mut actions: Vec<Action>,
    limit: Duration,
    fails: &mut dyn FnMut(&[Action]) -> bool,
) -> Vec<Action> {
    let end = Instant::now() + limit;
    let mut piece = actions.len().div_ceil(2);
    while piece > 0 && !actions.is_empty() {
        let mut start = 0;
        let mut shorter = false;
        while start < actions.len() {
            if Instant::now() > end {
                return actions;
            }
            let mut candidate = actions.clone();
            candidate.drain(start..(start + piece).min(actions.len()));
            if fails(&candidate) {
                actions = candidate;
                shorter = true;
            } else {
                start += piece;
            }
        }
        if piece > 1 || !shorter {
            piece /= 2;
        }
    }
    actions
}

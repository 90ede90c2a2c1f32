//! What standard error shows while something takes its time.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// Nothing is shown of what is over by then.
const PATIENCE: Duration = Duration::from_millis(400);

/// Shows, or does not show, what is going on.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    shown: bool,
    live: bool,
}

impl Progress {
    /// Shows progress unless `quiet`; as a line that counts the seconds if standard error is a terminal.
    pub fn new(quiet: bool) -> Self {
        Self { shown: !quiet, live: io::stderr().is_terminal() }
    }

    /// Waits for `work`, showing `what` meanwhile.
    pub async fn during<T>(self, what: &str, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        if !self.shown {
            return work.await;
        }
        let began = Instant::now();
        if let Ok(done) = tokio::time::timeout(PATIENCE, &mut work).await {
            return done;
        }
        if !self.live {
            say(&format!("herold: {what} ...\n"));
            return work.await;
        }
        loop {
            say(&format!("\rherold: {what} ... {} s", began.elapsed().as_secs()));
            if let Ok(done) = tokio::time::timeout(Duration::from_secs(1), &mut work).await {
                // The line goes: what comes next begins at its start.
                say("\r\u{1b}[K");
                return done;
            }
        }
    }

    /// What was being waited for was given up: its line is not to stay half written.
    pub fn interrupted(self) {
        if self.shown && self.live {
            say("\r\u{1b}[K");
        }
    }

    /// Says something in passing.
    pub fn note(self, text: &str) {
        if self.shown {
            say(&format!("herold: {text}\n"));
        }
    }
}

/// Standard error may be gone; then there is nobody to tell.
fn say(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

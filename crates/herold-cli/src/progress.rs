//! What standard error shows while something takes its time.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use herold::Lengthy;

/// Nothing is shown of what is over by then.
const PATIENCE: Duration = Duration::from_millis(400);

/// Shows, or does not show, what is going on.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    shown: bool,
    live: bool,
}

/// How far work is, as it tells itself.
#[derive(Clone, Default)]
pub struct Count(Arc<Mutex<Option<herold::Progress>>>);

impl Count {
    /// Has work count here.
    pub fn of<T>(&self, work: Lengthy<T>) -> Lengthy<T> {
        let count = self.clone();
        work.on_progress(move |progress| *count.lock() = Some(progress))
    }

    fn lock(&self) -> MutexGuard<'_, Option<herold::Progress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.lock() {
            None => Ok(()),
            Some(herold::Progress { done, total: None }) => write!(f, "{done} room keys, "),
            Some(herold::Progress { done, total: Some(total) }) => {
                write!(f, "{done} of {total} room keys, ")
            }
        }
    }
}

impl Progress {
    /// Shows progress unless `quiet`; as a line that counts the seconds if standard error is a terminal.
    pub fn new(quiet: bool) -> Self {
        Self { shown: !quiet, live: io::stderr().is_terminal() }
    }

    /// Waits for `work`, showing `what` meanwhile.
    pub async fn during<T>(self, what: &str, work: impl IntoFuture<Output = T>) -> T {
        self.counting(what, &Count::default(), work).await
    }

    /// As [`during`](Self::during); also shows how far it is.
    pub async fn counting<T>(
        self,
        what: &str,
        count: &Count,
        work: impl IntoFuture<Output = T>,
    ) -> T {
        let mut work = std::pin::pin!(work.into_future());
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
            say(&format!("\rherold: {what} ... {count}{} s", began.elapsed().as_secs()));
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

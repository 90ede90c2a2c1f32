//! Why a command or a scenario ended early.

use std::fmt;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something did not work.
#[derive(Debug)]
pub enum Error {
    /// It was tried and went wrong.
    Failed(String),
    /// The peer under test does not offer it.
    Unsupported(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text) | Self::Unsupported(text) => f.write_str(text),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Failed(format!("not the JSON that was expected: {error}"))
    }
}

/// A failure with this text.
///
/// # Errors
///
/// Always.
pub fn fail<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::Failed(text.into()))
}

/// Fails with `what` unless `holds`.
///
/// # Errors
///
/// [`Error::Failed`] when `holds` is false.
pub fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { fail(what()) }
}

/// Says what was being done when something failed.
pub trait Context<T> {
    /// Puts `doing` before the error's text.
    ///
    /// # Errors
    ///
    /// The error that was there.
    fn context(self, doing: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl fmt::Display) -> Result<T> {
        self.map_err(|error| match error.into() {
            Error::Failed(text) => Error::Failed(format!("{doing}: {text}")),
            Error::Unsupported(text) => Error::Unsupported(format!("{doing}: {text}")),
        })
    }
}

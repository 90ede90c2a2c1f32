//! [`Lengthy`]: work that tells how far it is.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

use crate::ClientError;

/// How far lengthy work is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// As many room keys are done.
    pub done: usize,
    /// Of so many, if that is known.
    pub total: Option<usize>,
}

/// Whoever wants to know how far it is.
pub(crate) type Report = Box<dyn FnMut(Progress) + Send>;

type Work<T> = Pin<Box<dyn Future<Output = Result<T, ClientError>> + Send>>;

/// Lengthy work: it is done when this is awaited, and to its end also if that is given up.
#[must_use = "nothing is done before it is awaited"]
pub struct Lengthy<T> {
    begin: Box<dyn FnOnce(Report) -> Work<T> + Send>,
    report: Report,
}

impl<T> Lengthy<T> {
    pub(crate) fn new<F>(begin: impl FnOnce(Report) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<T, ClientError>> + Send + 'static,
    {
        Self { begin: Box::new(|report| Box::pin(begin(report))), report: Box::new(|_| ()) }
    }

    /// Has this called as the work goes on, on a thread that does the work: it must not wait for anything.
    pub fn on_progress(mut self, report: impl FnMut(Progress) + Send + 'static) -> Self {
        self.report = Box::new(report);
        self
    }
}

impl<T> IntoFuture for Lengthy<T> {
    type Output = Result<T, ClientError>;
    type IntoFuture = Work<T>;

    fn into_future(self) -> Work<T> {
        (self.begin)(self.report)
    }
}

impl<T> std::fmt::Debug for Lengthy<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lengthy").finish_non_exhaustive()
    }
}

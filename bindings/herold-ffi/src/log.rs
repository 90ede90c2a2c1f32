//! The log: what Herold's own crates say, into the app's sink. What other libraries say is left out;
//! they may print headers or bodies when asked for detail. Herold's own never log a secret or a message.

use std::{
    fmt::{self, Write},
    sync::{
        Arc, Once, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tracing::{
    Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};

use crate::{
    HeroldError,
    callback::{CallbackFailed, Caller},
    host::guarded,
};

/// How many lines may wait for the sink.
const QUEUE: usize = 1024;

/// The longest line, in bytes.
const MAX_LINE: usize = 4096;

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum LogLevel {
    /// What must not happen.
    Error,
    /// What should be looked at.
    Warn,
    /// What happens.
    Info,
    /// For developers.
    Debug,
    /// Everything.
    Trace,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct LogRecord {
    /// How important it is.
    pub level: LogLevel,
    /// The part of Herold that says it.
    pub target: String,
    /// What it says. Without secrets and messages.
    pub text: String,
    /// How many lines were lost just before it because the sink was too slow.
    pub dropped: u64,
}

/// Takes the log. Called on a thread of its own, one line after the other.
#[uniffi::export(with_foreign)]
pub trait LogSink: Send + Sync {
    /// Takes a line.
    ///
    /// # Errors
    /// Whatever the app raises; it is ignored.
    fn log(&self, record: LogRecord) -> Result<(), CallbackFailed>;
}

/// Sends the log of all clients to a sink, in place of the last one; to nowhere without one.
///
/// # Errors
/// [`HeroldError::Bug`] if there is no thread for it.
#[uniffi::export(default(sink = None))]
pub fn set_log_sink(level: LogLevel, sink: Option<Arc<dyn LogSink>>) -> Result<(), HeroldError> {
    guarded(|| {
        let start = |sink: Arc<dyn LogSink>| -> Result<Log, HeroldError> {
            let call = move |record| drop(sink.log(record));
            let caller = Caller::start("herold-log", QUEUE, call)
                .map_err(|_| HeroldError::internal("the log's thread could not be started"))?;
            Ok(Log { level: level.into(), caller, dropped: AtomicU64::new(0) })
        };
        let log = sink.map(start).transpose()?;
        let last =
            std::mem::replace(&mut *LOG.write().unwrap_or_else(PoisonError::into_inner), log);
        drop(last);
        static INSTALL: Once = Once::new();
        // A host written in Rust may have its own already, which then has the log.
        INSTALL.call_once(|| drop(tracing::subscriber::set_global_default(ToSink)));
        tracing::callsite::rebuild_interest_cache();
        Ok(())
    })
}

/// Where the log goes now.
static LOG: RwLock<Option<Log>> = RwLock::new(None);

struct Log {
    level: LevelFilter,
    caller: Caller<LogRecord>,
    /// Lines lost since the last one that was not.
    dropped: AtomicU64,
}

impl Log {
    fn take(&self, level: LogLevel, target: &str, text: String) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        let record = LogRecord { level, target: target.to_owned(), text, dropped };
        if !self.caller.offer(record) {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        }
    }
}

/// Looks at the log as it is now.
fn with_log<T>(look: impl FnOnce(&Log) -> T) -> Option<T> {
    LOG.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(look)
}

/// What `tracing` gives the lines to.
struct ToSink;

impl Subscriber for ToSink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let ours =
            metadata.target().split("::").next().is_some_and(|crate_name| {
                crate_name == "herold" || crate_name.starts_with("herold_")
            });
        ours && metadata.is_event() && with_log(|log| metadata.level() <= &log.level) == Some(true)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(with_log(|log| log.level).unwrap_or(LevelFilter::OFF))
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        let level = LogLevel::from(*event.metadata().level());
        with_log(|log| log.take(level, event.metadata().target(), line.0));
    }

    // Spans are not looked at.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// The message, then the fields.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut part = String::new();
        let _ = match field.name() {
            "message" => write!(part, "{value:?}"),
            name => write!(part, " {name}={value:?}"),
        };
        // The message comes last when it has arguments.
        if field.name() == "message" {
            self.0.insert_str(0, &part);
        } else {
            self.0.push_str(&part);
        }
        if self.0.len() > MAX_LINE {
            self.0.truncate(self.0.floor_char_boundary(MAX_LINE));
        }
    }
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::ERROR => Self::Error,
            Level::WARN => Self::Warn,
            Level::INFO => Self::Info,
            Level::DEBUG => Self::Debug,
            _ => Self::Trace,
        }
    }
}

//! The log: on standard error, and only what Herold's own crates say. Other libraries may print
//! headers or bodies when they are asked for detail; Herold's own never log a secret or a message.

use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// The variable with the level.
const VARIABLE: &str = "HEROLD_LOG";

/// Begins to log.
pub fn start() {
    let level = std::env::var(VARIABLE)
        .ok()
        .and_then(|level| level.trim().parse().ok())
        .unwrap_or(LevelFilter::WARN);
    let to_stderr = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_filter(Targets::new().with_target("herold", level));
    // A second call, as tests make, changes nothing.
    let _ = tracing_subscriber::registry().with(to_stderr).try_init();
}

//! Herold for other languages: Kotlin, Swift and Python, by uniffi.
//!
//! Translation only: records, objects and enums, which stand for those of [`herold`]. The rules:
//!
//! - A method that touches the store or the network is `async`. Its work is done on the client's own
//!   threads, never on the caller's.
//! - Errors are [`HeroldError`], whose variants say what the app should do. A panic is one too, and
//!   leaves the client usable.
//! - There are three callbacks, [`WakeUp`], [`LogSink`] and [`ProgressSink`]. Each is called on a thread of its own, so
//!   one that is slow or fails holds up nothing but itself. Events are not called back but pulled.
//! - [`Client::close`] frees threads, files, sockets and the store's lock. What is called after it is
//!   [`HeroldError::Closed`].
//! - Ids are strings outside and parsed at the border; lengths and sizes are bounded there.
//! - Passwords and store keys are wiped when no longer needed. uniffi's transfer buffers and the other
//!   language's own strings cannot be.

#![allow(
    clippy::result_large_err,
    reason = "an error goes to another language once, field by field; uniffi knows no boxes"
)]
#![deny(unsafe_code)]

#[cfg(not(panic = "unwind"))]
compile_error!(
    "a panic must become an error, not the end of the app: build with panic = \"unwind\""
);

mod callback;
mod client;
mod config;
mod dehydration;
mod error;
mod event;
mod host;
mod input;
mod keys;
mod log;
mod notice;
#[cfg(feature = "provoke-panic")]
mod provoke;
mod recovery;
mod rooms;
mod timeline;
mod verification;

pub use callback::{CallbackFailed, WakeUp};
pub use client::Client;
pub use config::{ClientConfig, Deployment, LeastTrust, Lifetimes, Policy, Recipients, StoreKey};
pub use dehydration::{DehydrationStatus, Rehydrated};
pub use error::HeroldError;
pub use event::{Event, NumberedEvent};
pub use host::end_everything;
pub use keys::{
    BackupStatus, Forgotten, Imported, Progress, ProgressSink, Retention, SharedHistory,
    rekey_store,
};
pub use log::{LogLevel, LogRecord, LogSink, set_log_sink};
pub use notice::{DropReason, Notice};
pub use recovery::{
    Authentication, AuthenticationChallenge, Missing, NextStage, Recovery, RecoveryChange,
    RecoverySecret, RecoveryState,
};
pub use rooms::{
    Device, Download, HistoryVisibility, IdentityState, Member, Membership, Room, RoomPreset,
    RoomSettings, UserDevices,
};
pub use timeline::{Content, Shield, ShieldReason, TextKind, TimelineEvent, WhyUnreadable};
pub use verification::{
    Verification, VerificationAction, VerificationEmoji, VerificationState, emoji_name,
};

use herold::SecretString;

uniffi::setup_scaffolding!("herold");

// A password or passphrase: a string outside, wiped memory in here from the first moment.
uniffi::custom_type!(SecretString, String, {
    remote,
    try_lift: |text| Ok(SecretString::new(text)),
    lower: |secret| secret.as_str().to_owned(),
});

/// The version of this library.
#[uniffi::export]
#[must_use]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

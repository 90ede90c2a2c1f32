//! The Herold SDK: an end-to-end-encrypted Matrix client.
//!
//! Two layers, for two kinds of host:
//!
//! - [`Engine`]: the state machine on its store, without threads, tasks or network: load, step,
//!   commit, release. A simulation or a host with an own event loop drives it.
//! - [`Client`]: login, rooms, sending and receiving over a [`Transport`], on tokio.
//!
//! Invariants:
//!
//! - Nothing leaves the engine before what it depends on is in the store.
//! - The client keeps caches, tasks and ids of requests under way, nothing else. A future that is
//!   dropped, or a process that is killed, loses nothing.
//! - The store's lock is never held while a request is under way.
//! - Access tokens, passwords and keys are in no URL, log line or error text.
//!
//! ```no_run
//! # async fn demo() -> Result<(), herold::ClientError> {
//! use std::time::Duration;
//!
//! use herold::{ClientBuilder, SecretString};
//!
//! let client = ClientBuilder::new()
//!     .memory_store()
//!     .homeserver("https://matrix.example.org")
//!     .login("alice", SecretString::new("correct horse".to_owned()), None)
//!     .await?;
//! client.start_sync()?;
//! client.wait_ready(Duration::from_secs(30)).await?;
//! for (room_id, _) in client.rooms()? {
//!     client.send_text(&room_id, "Hello").await?;
//! }
//! client.close().await
//! # }
//! ```

#![forbid(unsafe_code)]

mod account_data;
mod authenticate;
mod builder;
mod client;
mod clock;
mod dehydration;
mod deployment;
mod devices;
mod engine;
mod error;
mod history;
mod homeserver;
mod http;
mod import;
mod key_backup;
mod key_file;
mod login;
mod media;
mod outcomes;
mod pace;
mod progress;
mod pump;
mod receive;
mod recovery;
mod retention;
mod rooms;
mod secret_storage;
mod send;
mod session;
mod sync;
mod tasks;
#[cfg(test)]
mod test_support;
mod threads;
mod transport;
mod turns;
mod verification;

pub use authenticate::{
    Authentication, AuthenticationAnswer, AuthenticationChallenge, AuthenticationStage,
};
pub use builder::ClientBuilder;
pub use client::{Changes, Client};
pub use clock::{Clock, OsEntropy, SystemClock};
pub use dehydration::Rehydrated;
pub use deployment::Deployment;
pub use engine::{Engine, EngineError};
pub use error::ClientError;
pub use history::SharedHistory;
pub use http::{HttpOptions, HttpTransport};
pub use import::{Opened, import_room_keys};
pub use media::Download;
pub use progress::{Lengthy, Progress};
pub use recovery::{
    EnableStep, Missing, RecoverStep, Recovery, RecoverySecret, RecoveryState, RecoveryStates,
};
pub use rooms::{CreateRoom, RoomPreset};
pub use threads::Threads;
pub use transport::{Exchange, Transport, TransportError, TransportRequest, TransportResponse};

pub use herold_crypto::{
    AttachmentError, Curve25519PublicKey, Ed25519PublicKey, Entropy, IdentityKeys, KeyFileError,
    RecoveryKeyError, SecretBytes, SecretStorageError, SecretString, SessionId,
};
pub use herold_machine::{
    Answer, AppEvent, BackupStatus, Body, ClearBody, DehydrationStatus, DeviceView, DropReason,
    Forgotten, Health, HistoryRefusal, HttpRequest, Imported, MachineError, Method, Notice,
    Outgoing, Piece, RestoredKey, Retention, RetentionCursor, RoomEvent, SyncMode, SyncPosition,
    SyncReport, ToDeviceOutcome, ToDeviceRecipient, ToDeviceResult, UserDevices, Utd,
    VerificationAction, VerificationView, Workers,
};
pub use herold_store::{
    Changed, MemoryStore, Store, StoreError,
    records::{
        HistoryVisibility, LoginRecord, MemberRecord, Membership, QueueRecord, QueueState,
        RecoveryChange, RehydrationOutcome, RehydrationRefusal, RoomRecord,
    },
};
pub use herold_store_sqlite::{PassphraseCost, RollbackGuard, SqliteStore, StoreKey, StoreOptions};
pub use herold_trust::{
    CancelCode, DecryptTrust, Device, Emoji, EncryptionSettings, Identity, IdentityState,
    Lifetimes, Methods, Policy, PolicyDenied, PolicyFloor, Recipients, Shield, ShieldReason,
    ShortAuthString, Timestamp, VerificationState, VerifiedKey,
};
pub use ruma::{
    DeviceId, EventId, OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedTransactionId, OwnedUserId,
    RoomId, TransactionId, UserId,
};

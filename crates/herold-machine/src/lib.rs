//! The end-to-end-encryption state machine.
//!
//! [`Machine`] decides; it does no I/O, reads no clock, spawns nothing and holds no lock. What it knows
//! is in a session store, which it reads through a [`herold_store::Snapshot`]; what it decides comes
//! back as a [`Step`], whose outputs can be read only after its changes have been committed.
//!
//! The order of calls:
//!
//! 1. [`Machine::create`] once for a device, or [`Machine::adopt`] for another client's, then [`Machine::load`] in every process.
//! 2. Inputs as they come: [`Machine::handle_sync`] or [`Machine::handle_sliding_sync`],
//!    [`Machine::handle_answer`], and the commands.
//! 3. After each committed step, [`Machine::advance`] until it changes nothing.
//! 4. [`Machine::requests`] names the HTTP requests to make now; each answer, or its absence, goes to
//!    [`Machine::handle_answer`]. Requests are derived from *committed* state alone: after a kill the
//!    same come again, with the same transaction ids and the same bytes.
//! 5. [`Machine::next_timeout`] says when to look at the requests again if nothing else happens.
//!
//! A step that returns an error has changed nothing. Data from outside that is wrong never makes a step
//! fail as a whole: it ends as a [`Notice`].

#![forbid(unsafe_code)]

mod account;
mod adopt;
mod ahead;
mod app_to_device;
mod claims;
mod context;
mod dehydration;
mod devices;
mod error;
mod event;
mod grace;
mod health;
mod history;
mod history_import;
mod history_share;
mod hot;
mod key_answers;
mod key_backup;
mod key_requests;
mod machine;
mod messages;
mod olm;
mod outgoing;
mod own_identity;
mod queue;
mod request;
mod restored;
mod retention;
mod retired;
mod room_keys;
mod rooms;
mod secrets;
mod share;
mod signatures;
mod sliding;
mod step;
mod sync;
mod timeline;
mod to_device;
mod txn;
mod unseen;
mod verification;
mod view;
mod wire;
mod workers;

pub use adopt::{Adopted, AdoptedDevice, AdoptedIdentity, Adoption};
pub use app_to_device::{ToDeviceOutcome, ToDeviceRecipient, ToDeviceResult};
pub use context::Context;
pub use dehydration::DehydrationStatus;
pub use error::MachineError;
pub use event::{AppEvent, AppEventRecord, ClearBody, DropReason, Notice, RoomEvent, Utd};
pub use health::{
    DevicesHealth, Health, OlmHealth, OwnKeysHealth, QueueHealth, RoomKeysHealth, SendingHealth,
    SyncHealth, Wait,
};
pub use history::HistoryRefusal;
pub use history_share::HistoryBundle;
pub use key_backup::BackupStatus;
pub use machine::{DeviceView, Machine, UserDevices};
pub use request::{Answer, Body, HttpRequest, Method, Outgoing, RequestId, percent_encode};
pub use restored::{BackupEntry, Imported, RestoredKey, backup_entries, room_entries};
pub use retention::{Forgotten, Retention, RetentionCursor};
pub use sliding::SyncMode;
pub use step::{Durable, Outputs, Pending, Step};
pub use sync::{SyncPosition, SyncReport};
pub use verification::{VerificationAction, VerificationView};
pub use workers::{Piece, Workers};

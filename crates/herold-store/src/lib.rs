//! The session store's contract.
//!
//! A store keeps *records* (typed, see [`records`]) in *tables* (see [`Table`]): an ordered map from
//! key bytes to value bytes for each table. Everything the protocol needs to survive a kill is in it:
//! the account, Olm and Megolm sessions, device lists, rooms, the send queue, the numbered events an
//! app has not taken yet, and the sync token.
//!
//! Invariants every store keeps, checked by the suite in `conformance` (cargo feature `conformance`,
//! for tests only):
//!
//! - **All or nothing.** A [`ChangeSet`] is applied whole, in order, or not at all.
//! - **Durable when it says so.** When [`Store::commit`] returns `Ok` for [`Durability::Full`], the
//!   changes survive a power loss; for [`Durability::Process`] they survive the death of the process.
//! - **An error is not an absence.** A row that cannot be read is an error, never `None`.
//! - **Exact bytes.** Keys and values come back as they went in: quotes, zero bytes, any length.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(missing_docs))]

mod change_set;
mod changed;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod key;
mod memory;
mod record;
pub mod records;
mod store;

pub use change_set::{Change, ChangeSet, Durability};
pub use changed::Changed;
pub use key::{KeyError, KeyReader, RecordKey, prefix_end};
pub use memory::MemoryStore;
pub use record::{Record, Table};
pub use store::{ScanControl, Snapshot, SnapshotExt, Store, StoreError};

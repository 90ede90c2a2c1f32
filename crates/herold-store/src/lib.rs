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
//!
//! # A store of one's own
//!
//! A store implements [`Snapshot`] (three kinds of read) and [`Store`] (commit). It knows nothing of records: to it they
//! are bytes in [`Table`]s, and most of them are secret, so what goes to a medium is encrypted and authenticated, or
//! the medium is. Beyond what the suite can test, it owes these:
//!
//! - **Power loss.** A commit that asks for [`Durability::Full`] has synchronised all it wrote *and* every
//!   name it made (the folder's entry, too) before it returns. Commits of [`Durability::Process`] may be lost
//!   then, but only from the end: what is left is what the first so many commits made. A ratchet that goes back
//!   encrypts two messages with one key.
//! - **Never an empty store by mistake.** A medium that cannot be read, a wrong key and a part that is missing
//!   are errors of the opening. Only where nothing ever was there is nothing.
//! - **An `Err` has changed nothing**, not even for the next opening. A commit of which the store cannot say
//!   whether it is on the medium must not be reported as failed and come back later: either it is taken back for
//!   certain, or the store refuses everything from then on and the next opening decides.
//! - **One holder.** Two processes that commit to one store at once are locked out or take turns; the loser
//!   gets [`StoreError::Locked`].
//! - **No secrets in errors** or `Debug` output.
//!
//! Its tests call `store_conformance!`, with the cargo feature `conformance`. This one passes it:
//!
//! ```
#![doc = include_str!("../examples/file_store.rs")]
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(missing_docs))]

// The example of the documentation goes through the suite as well.
#[cfg(test)]
extern crate self as herold_store;
#[cfg(test)]
#[allow(dead_code, missing_docs)]
#[path = "../examples/file_store.rs"]
mod file_store;

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

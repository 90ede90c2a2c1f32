//! Takes an account over from a matrix-sdk-crypto SQLite store (0.18): the device goes on as the same device, under Herold.
//!
//! The order of calls: [`Source::open`] with the folder and its passphrase or key, [`Source::read`], then
//! [`Found::dry_run`] to see what would come over, or [`Found::write`] to make the new store. The [`Report`] says what was
//! taken, and of everything that was not, why.
//!
//! Invariants:
//!
//! - The source is read, byte by byte, and never written: not even SQLite sees its files, only a copy in memory.
//! - The new store is there whole or not at all: it is made beside its place and gets its name at the end.
//! - Every value is checked against what it depends on: public keys against private ones, ids against keys, rows against
//!   the ids they are filed under, signatures against keys. A value that does not check is left out, and the rest is taken.
//! - No trust comes over but what can be proved anew ([`herold_machine::Machine::adopt`]).
//! - No bytes in the source make it panic.
//!
//! **The old client must not be started again.** Two programs that share an Olm session each advance it without the other,
//! so each would lose what is sent to the other; and one-time keys that one has used up the other still offers.
//!
//! What does not come over, on purpose: sync tokens (rooms are read anew, and lists of devices count as outdated), outbound
//! room keys (no message index is ever used twice), requests under way, hashes of Olm messages (another format), and what
//! another client believed without a proof.

#![forbid(unsafe_code)]

mod error;
mod image;
mod read;
mod report;
mod source;
mod values;
mod write;

pub use error::MigrateError;
pub use read::Found;
pub use report::{Kind, Left, Reason, Report};
pub use source::{Source, SourceKey, SourceSecret};
pub use write::Target;

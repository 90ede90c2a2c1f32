//! The session store on disk: SQLCipher behind the contract of `herold-store`.
//!
//! A store is a directory of these files:
//!
//! | file | holds |
//! | --- | --- |
//! | `herold.db` | the rows, every page encrypted and authenticated (AES-256-CBC, HMAC-SHA-512) |
//! | `herold.db-wal` | committed pages not yet moved into `herold.db`, encrypted in the same way |
//! | `herold.salt` | how the store key opens the store: salt, passphrase cost, key check, wrapped data key |
//! | `herold.mark` | how much the write-ahead log has to hold at least |
//! | `herold.lock` | the process lock, and who holds it |
//! | `herold.turn` | the turnstile of those who wait for a shared store; empty |
//!
//! Invariants beyond the contract's:
//!
//! - **Never a silently new store.** [`SqliteStore::open`] makes nothing. A store of which a file is
//!   missing, cut, swapped or changed is [`StoreError::Corrupt`](herold_store::StoreError::Corrupt).
//! - **A wrong key is told from damage.** The key check stands outside the database and has a check sum
//!   of its own.
//! - **A lost log is noticed.** SQLite takes a missing or cut write-ahead log for an empty one and goes
//!   back in time without a word, and a ratchet that goes back in time encrypts two messages with one
//!   key. `herold.mark` says what has to be there. What no file can show is the whole directory put back
//!   to an earlier day.
//! - **Shared, one at a time.** With [`StoreOptions::shared`] processes take turns:
//!   [`suspend`](herold_store::Store::suspend) lets go of every lock, [`resume`](herold_store::Store::resume) takes them
//!   again and tells which rows others have changed.
//! - **Nothing in clear.** Row keys and values are in encrypted pages only; temporary tables stay in
//!   memory; error texts and `Debug` output hold neither keys nor rows.

#![forbid(unsafe_code)]

mod commit;
mod error;
mod files;
mod header;
mod inspect;
mod journal;
mod key;
mod lock;
mod mark;
mod open;
mod read;
mod resident;
mod schema;
mod share;
mod wal;

#[cfg(test)]
mod tests;

pub use key::{PassphraseCost, StoreKey, StoreOptions};
pub use open::SqliteStore;

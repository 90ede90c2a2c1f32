//! The session store on disk: SQLCipher behind the contract of `herold-store`.
//!
//! A store is a directory of these files:
//!
//! | file | holds |
//! | --- | --- |
//! | `herold.db` | the rows, every page encrypted and authenticated (AES-256-CBC, HMAC-SHA-256; HMAC-SHA-512 if its key file has version 1) |
//! | `herold.db-wal` | committed pages not yet moved into `herold.db`, encrypted in the same way |
//! | `herold.salt` | how the store key opens the store: salt, passphrase cost, key check, wrapped data key |
//! | `herold.mark` | how much the write-ahead log has to hold at least |
//! | `herold.lock` | the process lock, and who holds it |
//! | `herold.turn` | the turnstile of those who wait for a shared store; empty |
//! | `herold.db.new`, `herold.salt.new` | only while a store is made or re-keyed, or when that was cut short |
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
//!   to an earlier day; a host with secure hardware can ([`RollbackGuard`]).
//! - **What was durable survives a power loss**, on a medium that keeps no more than was synchronised. The
//!   tests' own medium forgets everything else, in any order (`tests/disk/power.rs`).
//! - **Shared, one at a time.** With [`StoreOptions::shared`] processes take turns:
//!   [`suspend`](herold_store::Store::suspend) lets go of every lock, [`resume`](herold_store::Store::resume) takes them
//!   again and tells which rows others have changed. If another has re-keyed the store meanwhile, taking it again is
//!   [`StoreError::WrongKey`](herold_store::StoreError::WrongKey): no commit goes to a database that is no longer the
//!   store's.
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
mod rekey;
mod resident;
mod rollback;
mod schema;
mod share;
mod wal;

#[cfg(all(test, target_os = "linux"))]
mod memory_tests;
#[cfg(test)]
mod tests;

pub use inspect::Versions;
pub use key::{PassphraseCost, StoreKey, StoreOptions};
pub use open::SqliteStore;
pub use rollback::RollbackGuard;
pub use wal::{LogFrame, walk_log};

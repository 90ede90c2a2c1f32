//! The sealed counter: how a host with secure hardware notices a store that was put back to an earlier day.
//!
//! Every file of a store can be put back at once, and nothing in them can show it. A host that can keep one small
//! number where nobody puts it back (a TPM, a secure enclave, a server of its own) gives the store a
//! [`RollbackGuard`]. The store keeps the same number among its encrypted rows. Raising it goes in this order:
//!
//! 1. the number in the store, in a commit that is on the medium before anything else happens;
//! 2. the guard's.
//!
//! So after a kill between the two the store is ahead, which is no fault: [`SqliteStore::open`] only refuses a store
//! whose number is *below* the guard's.
//!
//! It is raised at each opening, with every so many fully durable commits ([`RollbackGuard::every`]; the number then
//! goes with the commit, in a page that it writes anyway) and at closing. At opening, so that a copy from before an
//! opening never opens again, however little was done since; at closing, so that a copy taken while the store was open
//! does not either; in between, so that a session that ends with a kill can be taken back by no more than
//! that many commits. Checkpoints do not count: what they move was committed before.
//!
//! A store that processes take turns with is looked at whenever it is taken again, and refused in the same way. It is
//! not raised at each turn, which would wear the hardware out: each process counts its own commits, over all of its turns.

use std::{fmt, path::Path, sync::Arc};

use herold_store::StoreError;
use rusqlite::{Connection, OptionalExtension, params};

use crate::{SqliteStore, error::from_sqlite, open::Held, schema::OWN_ROW};

/// A number that is kept where nobody can put it back. One guard is for one store: a second store, or one
/// made anew, never lowers it.
pub trait RollbackGuard: fmt::Debug + Send + Sync {
    /// The number last raised to; 0 if there was none yet.
    ///
    /// # Errors
    /// [`StoreError::Io`] if it cannot be read. The store is not opened then.
    fn sealed(&self) -> Result<u64, StoreError>;

    /// Raises the number to `to`, and returns when it is kept for good. A number that is higher already stays.
    ///
    /// # Errors
    /// [`StoreError::Io`] if it could not be raised. An opening fails then; later on it is tried again with the next
    /// commit, and closing fails if it still cannot be done.
    fn raise(&self, to: u64) -> Result<(), StoreError>;

    /// The most fully durable commits that may be made before the number is raised again: what a kill and a
    /// copy from before it can take back unnoticed. At least 1. By default 64, a handful of raises in an hour of
    /// lively conversation: such hardware takes 10 to 100 ms for one, and some wears out.
    fn every(&self) -> u32 {
        64
    }
}

/// A store's guard, and how it stands with it.
pub(crate) struct Rollback {
    guard: Arc<dyn RollbackGuard>,
    /// Fully durable commits since the number in the store was raised.
    commits: u32,
    /// The number that the guard is still to be raised to.
    owed: Option<u64>,
}

impl Rollback {
    pub(crate) fn new(guard: &Arc<dyn RollbackGuard>) -> Self {
        Self { guard: Arc::clone(guard), commits: 0, owed: None }
    }

    /// Refuses a store that is older than the guard knows.
    pub(crate) fn check(&self, connection: &Connection) -> Result<(), StoreError> {
        let sealed = self.guard.sealed()?;
        let found = read(connection)?;
        if found < sealed { Err(StoreError::RolledBack { found, sealed }) } else { Ok(()) }
    }

    /// Raises both numbers.
    fn raise(&mut self, held: &mut Held, log: &Path) -> Result<(), StoreError> {
        held.set_synchronous(true)?;
        let to = read(&held.connection)?.saturating_add(1);
        held.log_is_empty = false;
        write(&held.connection, to)?;
        held.marked = held.demand_log(log).is_ok();
        self.raised(to)
    }

    /// Whether the number is raised with the fully durable commit that is being made; called in its transaction.
    pub(crate) fn raise_with(&self, connection: &Connection) -> Result<Option<u64>, StoreError> {
        if self.commits.saturating_add(1) < self.guard.every() {
            return Ok(None);
        }
        let to = read(connection)?.saturating_add(1);
        write(connection, to).map(|()| Some(to))
    }

    /// A commit is done, and the number was raised with it if there is one.
    pub(crate) fn committed(&mut self, full: bool, raised: Option<u64>) {
        self.commits = self.commits.saturating_add(u32::from(full));
        // What fails here is tried again.
        let _ = match raised {
            Some(to) => self.raised(to),
            None => self.settle(),
        };
    }

    fn raised(&mut self, to: u64) -> Result<(), StoreError> {
        self.commits = 0;
        self.owed = Some(to);
        self.settle()
    }

    /// Has the guard raised to what is in the store already.
    fn settle(&mut self) -> Result<(), StoreError> {
        if let Some(to) = self.owed {
            self.guard.raise(to)?;
            self.owed = None;
        }
        Ok(())
    }
}

/// Gives a store that is being made the number it begins with, so that it is never taken for an older one.
pub(crate) fn begin(
    connection: &Connection,
    guard: Option<&Arc<dyn RollbackGuard>>,
) -> Result<(), StoreError> {
    guard.map_or(Ok(()), |guard| write(connection, guard.sealed()?))
}

/// The number in the store; 0 if there is none.
fn read(connection: &Connection) -> Result<u64, StoreError> {
    let read = || -> rusqlite::Result<Option<Vec<u8>>> {
        connection
            .prepare_cached("SELECT v FROM t_shared WHERE k = ?1")?
            .query_row(params![OWN_ROW], |row| row.get(0))
            .optional()
    };
    match read().map_err(|error| from_sqlite(&error, "reading the counter"))? {
        None => Ok(0),
        Some(bytes) => <[u8; 8]>::try_from(bytes)
            .map(u64::from_be_bytes)
            .map_err(|_| StoreError::Corrupt("the counter".to_owned())),
    }
}

fn write(connection: &Connection, number: u64) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO t_shared(k, v) VALUES (?1, ?2)")
        .and_then(|mut put| put.execute(params![OWN_ROW, number.to_be_bytes()]))
        .map(|_| ())
        .map_err(|error| from_sqlite(&error, "raising the counter"))
}

impl SqliteStore {
    /// Refuses a store that is older than the guard knows, and raises both numbers.
    pub(crate) fn meet_guard(&mut self) -> Result<(), StoreError> {
        let (Some(rollback), Some(held)) = (&mut self.rollback, &mut self.held) else {
            return Ok(());
        };
        rollback.check(&held.connection)?;
        rollback.raise(held, &self.files.log())
    }

    /// Raises both numbers, if anything was committed since they were.
    pub(crate) fn part_from_guard(&mut self) -> Result<(), StoreError> {
        match (&mut self.rollback, &mut self.held) {
            (Some(rollback), Some(held)) if rollback.commits > 0 && !held.broken => {
                rollback.raise(held, &self.files.log())
            }
            (Some(rollback), _) => rollback.settle(),
            (None, _) => Ok(()),
        }
    }
}
